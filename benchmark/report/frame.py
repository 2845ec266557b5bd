"""The values of all tables, tidy: a line a value, and each with its source, the fit itself or a metric.

What a fit says of itself and what a metric measured may bear one name; they are told apart by the source.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.metrics.api import FIT
from benchmark.report.selection import Selection, select
from benchmark.store.records import RecordStore

if TYPE_CHECKING:
    import pandas as pd

LARGEST = 1e150
COLUMNS = [
    "dataset",
    "backbone",
    "backbone_seed",
    "bundle",
    "row",
    "prior",
    "seed",
    "metric",
    "source",
    "value",
    "preset",
    "protocol",
    "split",
    "extractor",
    "score",
    "device",
]
#: what tells the lines of `results_frame` apart
SORTED_BY = [
    "dataset",
    "backbone",
    "backbone_seed",
    "bundle",
    "protocol",
    "device",
    "row",
    "seed",
    "source",
    "metric",
]


def tidy_values(selection: Selection) -> Iterator[tuple[str, str, int, str, str, Any]]:
    """One line a value of a table: row, prior, seed, metric, source, value, as `results_frame` has them.

    Values are as records hold them (numbers, lists, strings). Where a metric has several versions, the newest record's
    value stands.
    """
    newest: dict[tuple[str, int, str, str], tuple[Any, str]] = {}
    for record in selection.measured:
        row = record["row"]
        told = {FIT: selection.facts(record), record["kind"]: record["values"]}
        for source, values in told.items():
            for name, value in values.items():
                newest[row["label"], row["seed"], name, source] = value, row["prior"]
    for (label, seed, name, source), (value, prior) in newest.items():
        yield label, prior, seed, name, source, value


def is_number(value: Any) -> bool:
    """Whether it can be averaged: a number whose square is a float."""
    return isinstance(value, (int, float)) and abs(value) < LARGEST


def results_frame(results: Path, store: RecordStore | None = None) -> pd.DataFrame:
    """All numbers of a results folder, one a line, of the configuration that each row's latest run used.

    A value that several protocols share, such as a latent score under two extractors, has a line for each. Lines are
    sorted by `SORTED_BY`, whenever their records were made.

    dataset, backbone, backbone_seed, bundle   what was frozen; a bundle by the first 16 digits of its id
    row, prior, seed                           the label in the table, the prior's name, the seed of fit and draws
    metric                                     name of the value, as the metric returns it: `fd`, `mmd_imq`, ...
    source                                     the metric that measured it, or `fit` for what a fit says of itself
    value                                      float
    preset, protocol, split, extractor, score  the protocol: its preset, the first 16 digits of its hash, the reported
                                               split, the extractor's name and what its Frechet distance is called
    device                                     `cpu` or `cuda`

    Damaged records are left out, as from the tables (`python -m benchmark leaderboard` names them). `store` is that of
    the folder, where one has read of it before.
    """
    import pandas as pd  # which the tables do without

    lines: list[tuple[Any, ...]] = []
    for selection in select(results, store)[0]:
        protocol = selection.protocol
        shared = (selection.dataset, selection.backbone, selection.backbone_seed, selection.bundle)
        settings = (protocol.preset, protocol.hash[:16], protocol.split, protocol.extractor.get("name"), protocol.score)
        of_rows = (line for line in tidy_values(selection) if is_number(line[-1]))
        lines += ((*shared, *of_row, *settings, selection.device) for of_row in of_rows)
    frame = pd.DataFrame(lines, columns=COLUMNS, dtype=object)  # whole numbers stay whole
    return frame.infer_objects().astype({"value": float}).sort_values(SORTED_BY, ignore_index=True)
