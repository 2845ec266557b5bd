"""Writes what a results folder shows.

leaderboard.md, the first screen; a page a table in boards/, tuning.md of the validation split, boards/across.md and
parity.md; leaderboard.csv with all numbers; and the pictures that pages show.
"""

from __future__ import annotations

import csv
import gc
import io
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmark.report.across import across_markdown, find_across
from benchmark.report.choice import judge_all
from benchmark.report.first_screen import ACROSS, first_screen, page_of
from benchmark.report.markdown import summary_markdown, table_markdown
from benchmark.report.pareto import draw_pareto
from benchmark.report.parity import parity_markdown
from benchmark.report.pictures import is_ours
from benchmark.report.sample_grids import draw_grid
from benchmark.report.selection import without_parts
from benchmark.report.standing import find_standing
from benchmark.report.tables import FD, Table, make_tables
from benchmark.report.tuned import TUNING
from benchmark.report.tuning import Tuned, group_tunings, tuning_markdown
from benchmark.report.tuning_figures import draw_tuning
from benchmark.store.places import lock
from benchmark.store.records import RecordStore
from benchmark.store.sealed import content_hash, write_atomic
from benchmark.store.tunings import FOLDER as PLANS
from benchmark.text import one_line

COLUMNS = [
    "dataset",
    "backbone",
    "backbone_seed",
    "bundle",
    "prior",
    "reference",
    "protocol",
    "device",
    "metric",
    "source",
    "mean",
    "low",
    "high",
    "seeds",
]
#: how a page of a table begins
_BACK = "[Leaderboard](../leaderboard.md)\n\n"
_TUNING = """# Settings chosen on the validation split

"""
_BY_HAND = """# Recipes chosen by hand

On the validation split, one seed a row most often: reasons to choose, no verdicts. What was chosen is scored on test,
in [the leaderboard](leaderboard.md).
"""
#: of the time between two rewritings, at most this share goes into one
SHARE = 0.05


class Board:
    """The pages of a results folder, rewritten while records come in; a record is read once.

    `refresh` after each job, `write` where a run is interrupted, `finish` at its end.
    """

    def __init__(self, results: Path, store: RecordStore | None = None) -> None:
        """`store` is that of the folder, where one is at hand: what it has read is not read again."""
        self._results, self._store = results, store or RecordStore(results / "records")
        self._next = -float("inf")
        self.tables: list[Table] = []
        self._tuned: list[Tuned] = []

    def refresh(self) -> None:
        """`write`, unless that was done so lately that it would take more than `SHARE` of the time."""
        if time.monotonic() >= self._next:
            self.write()

    def write(self) -> list[str]:
        """Rewrite the pages and leaderboard.csv from the records. Returns what is damaged, a sentence each."""
        start = time.monotonic()
        results = self._results
        folder = content_hash(str(results.resolve()))[:16]
        # of two processes the later one sees the records of both
        with lock(f"results-{folder}"), _uncollected():
            self.tables, damaged, in_none = make_tables(results, self._store)
            self._tuned = group_tunings(judge_all(results, lambda: self._store.all()[0])[0])
            pages = make_pages(self.tables, [*damaged, *in_none], self._tuned)
            for page, text in pages.items():
                write_page(results / page, text)
            _sweep(results, {Path(page).name for page in pages})
            unbacked = TUNING not in pages and not any((results / PLANS).glob("*/*.json"))
            if unbacked and _starts_with(results / TUNING, _TUNING, _BY_HAND):
                (results / TUNING).unlink(missing_ok=True)
            lines = (line for table in self.tables for line in _tidy(table))
            write_page(results / "leaderboard.csv", _csv(lines))
        end = time.monotonic()
        self._next = end + (end - start) * (1 / SHARE - 1)
        return damaged

    def draw(self) -> list[str]:
        """Draw every picture that pages show, of the tables as they were last written.

        Returns what is left out of them, a sentence each.
        """
        left_out = []
        for table in without_parts(self.tables):
            left_out += draw_grid(table, self._results)
            draw_pareto(table, self._results)
        for tuned in self._tuned:
            draw_tuning(tuned, self._results)
        return left_out

    def finish(self, bundle: str, protocol: str) -> str:
        """`write` and `draw`. Returns the markdown of one bundle's tables under one protocol (one a type of device)."""
        self.write()
        self.draw()
        return _text(self.tables, bundle, protocol)


@contextmanager
def _uncollected() -> Iterator[None]:
    """No search for garbage, which walks all records again and again: none of them is garbage before it is shown."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def make_pages(tables: list[Table], left_out: list[str], tuned: list[Tuned]) -> dict[str, str]:
    """Place in the results folder -> text."""
    tables = without_parts(tables)
    standing = find_standing(tables)
    across = find_across(standing.columns)
    pages = {"leaderboard.md": first_screen(standing, across, tables, left_out, tuned)}
    pages |= {page_of(of): _BACK + table_markdown(of, tables, "#", "..") for of in tables if page_of(of) != TUNING}
    if across.labels:
        pages[ACROSS] = _BACK + across_markdown(across)
    by_hand = [table_markdown(of, tables, "##", ".") for of in tables if page_of(of) == TUNING]
    parts = [_TUNING + tuning_markdown(tuned, tables)] if tuned else []
    parts += ["\n".join([_BY_HAND, *by_hand])] if by_hand else []
    if parts:
        pages[TUNING] = "\n".join(parts)
    # what papers report is of these
    recipes = [table for table in tables if not (table.protocol.settings or table.protocol.groups)]
    if (parity := parity_markdown(recipes)) is not None:
        pages["parity.md"] = parity
    return pages


def _sweep(results: Path, kept: set[str]) -> None:
    """Remove pages of ours whose table is no more, or has another name, and the pictures of each."""
    for path in (results / "boards").glob("*.md"):
        if path.name not in kept and _starts_with(path, _BACK):
            path.unlink(missing_ok=True)
            for picture in (results / folder / f"{path.stem}.png" for folder in ("samples", "pareto")):
                if is_ours(picture) and not picture.is_symlink():
                    picture.unlink(missing_ok=True)


def _starts_with(path: Path, *heads: str) -> bool:
    """Whether a page is there, and one of ours."""
    return path.is_file() and path.read_text(errors="replace").startswith(heads)


def write_page(path: Path, text: str) -> None:
    """Write a page, unless it is there as it is to be."""
    content = _encodable(text).encode()
    if not (path.is_file() and path.read_bytes() == content):
        write_atomic(path, content)


def _encodable(text: str) -> str:
    """What no encoding has, such as the name of an undecodable file, is shown by its codes."""
    return text.encode(errors="backslashreplace").decode()


def _text(made: list[Table], bundle: str, protocol: str) -> str:
    shown = [table for table in made if (table.bundle, table.protocol.hash) == (bundle, protocol)]
    return _encodable("\n".join(summary_markdown(table, made) for table in shown))


def _csv(lines: Iterable[list[Any]]) -> str:
    """`COLUMNS` and lines as CSV; floats with 8 digits, and nothing where one is no number."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_cell(value) for value in line] for line in lines)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if not isinstance(value, float):
        return one_line(value) if isinstance(value, str) else value
    return "" if math.isnan(value) else f"{value:.8g}"


def _tidy(table: Table) -> Iterator[list[Any]]:
    shared = [table.dataset, table.backbone, table.backbone_seed, table.bundle]
    protocol = table.protocol.hash[:16]
    for _, row in sorted(table.rows.items()):
        numbers = [
            (table.protocol.score if key == FD else key[1], key[0], *interval, len(row.values[key]))
            for key, interval in row.intervals.items()
        ]
        gap, paired = table.gap_closed(row)
        if gap is not None:
            numbers.append(("gap_closed", FD[0], *gap, paired))
        for metric, source, *summary in sorted(numbers, key=lambda number: number[:2]):
            yield [*shared, row.label, row.is_reference, protocol, table.device, metric, source, *summary]
