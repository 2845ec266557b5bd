"""Words of strangers, as a line, a page and a terminal can have them.

Names, reasons and headings come from plugins, cards and records, and may hold anything: what a terminal or a page would
obey is shown, not done. Plain words come out as they went in.
"""

from __future__ import annotations

import re

#: characters of somebody's words that are shown
LONGEST = 1_000
#: what markdown or HTML would take for more than the character: all of it outside of words and of brackets of settings
_MARKUP = re.compile(r"[\\|`*~$]|(?<!\w)_|_(?!\w)|<(?=[A-Za-z/!?])|(?<=])(?=\()|(?<=!)(?=\[)")


def printable(text: str) -> str:
    """Control characters, which a terminal would obey, and what no encoding has, by their codes."""
    if text.isascii() and text.isprintable():  # most often
        return text
    shown = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
    return shown.encode(errors="backslashreplace").decode()


def one_line(text: object, longest: int = LONGEST) -> str:
    """Anybody's words in one line of printable characters; of more than `longest` the rest is counted alone."""
    words = str(text)
    shown = printable(" ".join(words[: 2 * longest].split()))
    if len(shown) <= longest and len(words) <= 2 * longest:
        return shown
    return f"{shown[:longest]} ... ({len(words):,} characters)"


def without_kind(said: str) -> str:
    """What pydantic quotes of a validator's exception, without the kind of exception that it puts before it."""
    return said.removeprefix("Value error, ").removeprefix("Assertion failed, ")


def in_markdown(text: object, longest: int = LONGEST) -> str:
    """Anybody's words as text of a markdown page, in a cell of a table too."""
    return _MARKUP.sub(lambda found: "&lt;" if found[0] == "<" else f"\\{found[0]}", one_line(text, longest))


def in_code(text: object, longest: int = LONGEST) -> str:
    """Anybody's words between backticks of a markdown page."""
    return "`" + one_line(text, longest).replace("`", "'") + "`"
