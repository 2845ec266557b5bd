"""The page: what the markdown pages say, in tables that sort and filter, with pictures inside."""

from __future__ import annotations

import base64
import html
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markdown_it import MarkdownIt
from PIL import Image

from benchmark.metrics.samples import from_png
from benchmark.report.across import across_grids, find_across
from benchmark.report.first_screen import ACROSS, NO_COLUMN, TUNING, headlines, legend, overview, scale
from benchmark.report.html.figures import STYLE, as_svg, save_figure
from benchmark.report.markdown import facts_of, grids_of, remarks_of, title_of
from benchmark.report.markdown_table import Grid
from benchmark.report.pareto import make_points, pareto_figure
from benchmark.report.sample_grids import SAMPLES, grid_file
from benchmark.report.signatures import AUC, IMQ
from benchmark.report.standing import find_standing
from benchmark.report.tables import CEILING, FD, RECONSTRUCTION, ZERO_LINE, Key, Table, make_tables
from benchmark.store.records import RecordStore

HERE = Path(__file__).parent
#: the scores by which quality can be held against time, after the table's own
FURTHER: dict[str, Key] = {"KID": ("kid", "kid"), "MMD²": IMQ, "C2ST": AUC}
QUALITY = 80  # of compressed pictures, of 100
#: no raw HTML: a row may have anybody's words
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")


@dataclass(frozen=True)
class Section:
    """What the page has of one table; all but its title, name and pictures is HTML."""

    page: str
    title: str
    remarks: list[str]
    quality: list[str]
    further: list[str]
    facts: list[str]
    pareto: dict[str, str]
    strips: list[tuple[str, str]]
    picture: str | None


def report_html(results: Path, figures: Path | None = None, store: RecordStore | None = None) -> str:
    """The report of a results folder, one self-contained file. `figures`: where its figures are to lie, PNG and PDF."""
    tables, damaged, in_none = make_tables(results, store)
    standing = find_standing(tables)
    across = find_across(standing.columns)
    with_strips = {column.first.page for column in standing.columns}
    tests = [table for table in tables if table.protocol.split == "test"]
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("template.html").render(
        style=(HERE / "style.css").read_text(),
        script=(HERE / "script.js").read_text(),
        scale=_inline(scale(standing.columns)) if standing.columns else NO_COLUMN,
        headlines=[_inline(line) for line in headlines(standing.columns, across)],
        overview=[_table(grid) for grid in (overview(standing.columns, across) if standing.columns else [])],
        legend=[_inline(line) for line in (legend(standing.columns, across) if standing.columns else [])],
        apart=[(table.page, title_of(table), why) for table, why in standing.apart],
        across=[_table(grid) for grid in across_grids(across)],
        sections=[_section(table, tables, results, table.page in with_strips, figures) for table in tests],
        tuning=[_section(table, tables, results, False, None) for table in tables if table not in tests],
        left_out=[*damaged, *in_none],
    )


def _section(table: Table, tables: list[Table], results: Path, strips: bool, figures: Path | None) -> Section:
    grids = [_table(grid) for grid in grids_of(table)]
    picture = grid_file(table) if not strips and (results / grid_file(table)).is_file() else None
    return Section(
        page=table.page,
        title=title_of(table),
        remarks=[_inline(remark) for remark in remarks_of(table, tables)],
        quality=grids[:1],
        further=grids[1:],
        facts=[_inline(fact) for fact in facts_of(table)],
        pareto=_paretos(table, figures) if table.protocol.split == "test" else {},
        strips=_strips(table) if strips else [],
        picture=picture,
    )


def _paretos(table: Table, figures: Path | None) -> dict[str, str]:
    """Score -> quality against sampling time by it, for the scores that some row has together with a time."""
    import matplotlib as mpl

    drawn = {}
    for name, score in {table.protocol.score: FD, **FURTHER}.items():
        shown = make_points(table, score)
        if not shown:
            continue
        with mpl.rc_context(STYLE):
            figure = pareto_figure(table, score, name)
            said = {}
            for index, point in enumerate(shown):
                id = f"{table.page}-{score[1]}-{index}"
                figure.axes[0].plot(point.time[0], point.quality[0], "o", markersize=14, alpha=0, gid=id)
                said[id] = f"{point.label}: {point.quality[0]:.3g}, {point.time[0]:.3g} ms"
            described = "; ".join(said.values())
            drawn[name] = as_svg(figure, f"{name} against sampling time, {title_of(table)}", described, said)
        if figures is not None:
            save_figure(pareto_figure(table, score, name), figures, f"pareto-{table.page}-{score[1]}")
    return drawn


def _strips(table: Table) -> list[tuple[str, str]]:
    """What each row draws from the same noise: label, and the picture inside the page."""
    order = [RECONSTRUCTION, CEILING, ZERO_LINE, *(row.label for row in table.priors)]
    found = {label: table.rows[label].over_seeds(SAMPLES)[:1] for label in order if label in table.rows}
    return [(label, _compressed(from_png(strip[0]))) for label, strip in found.items() if strip]


def _compressed(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "WEBP", quality=QUALITY, method=6)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _inline(text: str) -> str:
    return _within(_MARKDOWN.renderInline(text))


def _table(grid: Grid) -> str:
    caption = f"<caption>{_inline(grid.caption)}</caption>"
    table = _MARKDOWN.render(grid.text).replace("<table>", f"<table>{caption}", 1).replace("<th ", '<th scope="col" ')
    return _within(table)


def _within(text: str) -> str:
    """Links to pages of the results folder become links to their place in this one."""
    places: dict[str, Any] = {ACROSS: "across", TUNING: "tuning"}

    def place(found: re.Match[str]) -> str:
        page = html.unescape(found[1])
        return f'href="#{html.escape(places.get(page, Path(page).stem))}"'

    return re.sub(r'href="([^"#:]+\.md)"', place, text)
