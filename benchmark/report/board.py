"""Writes what a results folder shows: leaderboard.md, leaderboard.csv, parity.md and the pictures that they name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from benchmark.report.across import across_bundles, across_markdown, draw_critical_difference
from benchmark.report.grids import draw_grid
from benchmark.report.markdown import table_markdown
from benchmark.report.pareto import draw_pareto
from benchmark.report.parity import parity_markdown
from benchmark.report.statistics import mean_interval
from benchmark.report.tables import Table, tables
from benchmark.store.places import lock_path
from benchmark.store.sealed import content_hash, write_atomic

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
    "mean",
    "low",
    "high",
    "seeds",
]
TITLE = "# Leaderboard\n\nMade from the records in `records/` by `python -m benchmark leaderboard`.\n"


def write_tables(results: Path) -> list[str]:
    """Rewrite leaderboard.md, leaderboard.csv and parity.md from the records. Returns what is damaged, a sentence each."""
    folder = content_hash(str(results.resolve()))[:16]
    with FileLock(lock_path(f"results-{folder}")):  # two processes: the later one sees the records of both
        made, damaged, in_none = tables(results)
        sections = [table_markdown(table, made) for table in made] + across_markdown(across_bundles(made))
        text = "\n".join([TITLE, *sections, *(f"Left out: {of}\n" for of in [*damaged, *in_none])])
        write_atomic(results / "leaderboard.md", text.encode())
        parity = parity_markdown(made)
        if parity is not None:
            write_atomic(results / "parity.md", parity.encode())
        tidy = pd.DataFrame([line for table in made for line in _tidy(table)], columns=COLUMNS)
        write_atomic(results / "leaderboard.csv", tidy.to_csv(index=False, float_format="%.8g").encode())
    return damaged


def table_text(results: Path, bundle: str, protocol: str) -> str:
    """The markdown of one bundle's tables under one protocol (one a device type)."""
    made = tables(results)[0]
    shown = [table for table in made if (table.bundle, table.protocol.hash) == (bundle, protocol)]
    return "\n".join(table_markdown(table, made) for table in shown)


def write_pictures(results: Path) -> None:
    """Draw every picture that leaderboard.md shows."""
    made = tables(results)[0]
    for table in made:
        draw_grid(table, results)
        draw_pareto(table, results)
    for group in across_bundles(made):
        draw_critical_difference(group, results)


def _tidy(table: Table) -> Iterator[list[Any]]:
    shared = [table.dataset, table.backbone, table.backbone_seed, table.bundle]
    for _, row in sorted(table.rows.items()):
        numbers: dict[str, tuple[float, float, float, int]] = {}
        for metric in row.values:
            values = row.over_seeds(metric)
            if all(isinstance(value, (int, float)) for value in values):
                name = table.protocol.score if metric == "fd" else metric
                numbers[name] = (*mean_interval(values), len(values))
        gap, paired = table.gap_closed(row)
        if gap is not None:
            numbers["gap_closed"] = (*gap, paired)
        for metric, summary in sorted(numbers.items()):
            yield [*shared, row.label, row.is_reference, table.protocol.hash[:16], table.device, metric, *summary]
