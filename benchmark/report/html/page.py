"""The page: what the markdown pages say, in tables that sort and filter, with pictures inside."""

from __future__ import annotations

import html
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader
from markdown_it import MarkdownIt
from PIL import Image

from benchmark.report.across import across_grids, find_across
from benchmark.report.choice import judge_all
from benchmark.report.draws import Draws, find_draws
from benchmark.report.first_screen import ACROSS, NO_COLUMN, headlines, legend, overview, scale
from benchmark.report.html.drawings import (
    draw_curves,
    draw_interpolations,
    draw_paretos,
    draw_strips,
    draw_views,
    embed,
)
from benchmark.report.markdown import facts_of, grids_of, remarks_of, title_of
from benchmark.report.markdown_table import Grid
from benchmark.report.sample_grids import grid_file
from benchmark.report.selection import without_parts
from benchmark.report.standing import find_standing
from benchmark.report.tables import Table, make_tables
from benchmark.report.tuned import TUNING, tuned_grids, tuned_head, unfinished
from benchmark.report.tuning import group_tunings, tuning_markdown
from benchmark.store.records import RecordStore

HERE = Path(__file__).parent
#: no raw HTML: a row may have anybody's words
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")


@dataclass(frozen=True)
class Section:
    """What the page has of one table; all but its title, name and pictures is HTML.

    `curves`, `views`: figures. `strips`, `paths`: rows of images. `missing`: rows that views and paths are without.
    """

    page: str
    title: str
    remarks: list[str]
    quality: list[str]
    further: list[str]
    facts: list[str]
    pareto: dict[str, str]
    strips: list[tuple[str, str]]
    picture: str | None
    curves: str
    views: dict[str, str]
    paths: list[tuple[str, str]]
    missing: str


def report_html(
    results: Path, figures: Path | None = None, store: RecordStore | None = None, folder: Path | None = None
) -> str:
    """The report of a results folder, one self-contained file, but for links to sample grids of the results folder.

    `figures`: where its figures are to lie, PNG and PDF. `folder`: that of the file itself (None: the results folder).
    """
    store = store or RecordStore(results / "records")  # which reads each record once
    made, damaged, in_none = make_tables(results, store)
    tables = without_parts(made)
    standing = find_standing(tables)
    across = find_across(standing.columns)
    drawn = {column.first.page for column in standing.columns}
    tests = [table for table in tables if table.protocol.split == "test"]
    tuned = group_tunings(judge_all(results, lambda: store.all()[0])[0])
    links = {table.page: _link(results / grid_file(table), folder or results) for table in tables}
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("template.html").render(
        style=(HERE / "style.css").read_text(),
        script=(HERE / "script.js").read_text(),
        scale=_inline(scale(standing.columns)) if standing.columns else NO_COLUMN,
        headlines=[_inline(line) for line in headlines(standing.columns, across)],
        overview=[_table(grid) for grid in (overview(standing.columns, across) if standing.columns else [])],
        legend=[_inline(line) for line in (legend(standing.columns, across) if standing.columns else [])],
        tuned_words=[_inline(line) for line in ([tuned_head(tuned), *unfinished(tuned)] if tuned else [])],
        tuned=[_table(grid) for grid in tuned_grids(tuned, tables)],
        apart=[(table.page, title_of(table), why) for table, why in standing.apart],
        across=[_table(grid) for grid in across_grids(across)],
        sections=[_section(table, tables, links[table.page], table.page in drawn, figures) for table in tests],
        tuning=[_section(table, tables, links[table.page], False, None) for table in tables if table not in tests],
        chosen=_chosen(tuning_markdown(tuned, tables), results) if tuned else "",
        left_out=[*damaged, *in_none],
    )


def _section(table: Table, tables: list[Table], link: str | None, drawn: bool, figures: Path | None) -> Section:
    """`link`: to its sample grid. `drawn`: it is the first table of a data set, which has its pictures inside."""
    grids = [_table(grid) for grid in grids_of(table)]
    draws = find_draws(table) if drawn else None
    return Section(
        page=table.page,
        title=title_of(table),
        remarks=[_inline(remark) for remark in remarks_of(table, tables)],
        quality=grids[:1],
        further=grids[1:],
        facts=[_inline(fact) for fact in facts_of(table)],
        pareto=draw_paretos(table, figures) if table.protocol.split == "test" else {},
        strips=draw_strips(table) if drawn else [],
        picture=None if drawn else link,
        curves=draw_curves(table, figures) if drawn else "",
        views=draw_views(table, draws, figures) if draws else {},
        paths=draw_interpolations(draws) if draws else [],
        missing=_missing(draws) if drawn else "",
    )


def _link(file: Path, folder: Path) -> str | None:
    """What a page in the folder links to a file by; None where there is no such file."""
    return quote(os.fsencode(os.path.relpath(file, folder))) if file.is_file() else None


def _missing(draws: Draws | None) -> str:
    """Which rows have no pictures of their latents, and why."""
    without = "No views of latents and interpolations, for want of draws in this machine's cache"
    if draws is None:
        return f"{without}."
    return f"{without}: {', '.join(draws.missing)}." if draws.missing else ""


def _inline(text: str) -> str:
    return _within(_MARKDOWN.renderInline(text))


def _table(grid: Grid) -> str:
    caption = f"<caption>{_inline(grid.caption)}</caption>"
    table = _MARKDOWN.render(grid.text).replace("<table>", f"<table>{caption}", 1).replace("<th ", '<th scope="col" ')
    return _within(table)


def _chosen(text: str, results: Path) -> str:
    """What tuning.md says below its title: the sentence before a table is its caption, and pictures are inside."""
    page = _MARKDOWN.render(text).replace("<th ", '<th scope="col" ')
    page = re.sub(r"<h2>(.*?)</h2>", r"<h3>\1</h3>", page)
    page = re.sub(r"<p>([^\n]*)</p>\n<table>", r'<div class="wide"><table><caption>\1</caption>', page)
    page = page.replace("</table>", "</table></div>")

    def picture(found: re.Match[str]) -> str:
        name = html.unescape(found[1])
        try:
            return f'<p><img src="{embed(Image.open(results / name))}" alt="{found[2]}"></p>'
        except OSError:  # there is none, or it is none
            return f'<p class="missing">No picture {html.escape(name)} here: <code>leaderboard</code> draws it.</p>'

    return _within(re.sub(r'<p><img src="([^"]*)" alt="([^"]*)" /></p>', picture, page))


def _within(text: str) -> str:
    """Links to pages of the results folder become links to their place in this one."""
    places: dict[str, Any] = {ACROSS: "across", TUNING: "tuning"}

    def place(found: re.Match[str]) -> str:
        page = html.unescape(found[1])
        return f'href="#{html.escape(places.get(page, Path(page).stem))}"'

    return re.sub(r'href="([^"#:]+\.md)"', place, text)
