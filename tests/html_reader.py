"""What a page of HTML holds: its tags, links and tables."""

from html.parser import HTMLParser


class Reader(HTMLParser):
    """Tags that are open, what they ask for, ids and links to them, and the cells of each table."""

    def __init__(self, text):
        super().__init__()
        self.open, self.asked, self.ids, self.links, self.tags, self.tables = [], [], set(), set(), [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append(tag)
        self.asked += [given[name] for name in ("src", "data", "srcset", "action") if name in given]
        self.asked += [given["href"]] if tag == "link" else []
        self.ids |= {given["id"]} if "id" in given else set()
        self.links |= {given["href"][1:]} if tag == "a" and given.get("href", "").startswith("#") else set()
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in ("meta", "link", "input", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, text):
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += text
