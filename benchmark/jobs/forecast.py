"""What a run would do, and about how long that takes by what was recorded: nothing is computed."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from benchmark.jobs.fit import is_kept
from benchmark.jobs.identity import Job
from benchmark.jobs.pending import Ledger
from benchmark.jobs.workspace import Workspace
from benchmark.store.sealed import content_hash


@dataclass
class Forecast:
    """One row's share of a run. `seconds` is of what has a recorded time, `unknown` counts what has none.

    `fits`: those that are to be made; `again` of them are recorded, but no longer kept, and scores need them.
    """

    label: str
    seeds: int = 0
    fits: int = 0
    again: int = 0
    measurements: int = 0
    recorded: int = 0
    seconds: float = 0.0
    unknown: int = 0


def forecast(jobs: Iterable[Job], work: Workspace, ledger: Ledger, records: list[dict[str, Any]]) -> list[Forecast]:
    """One forecast a row, in the order of the jobs. A fit that rows share, by settings of sampling, is the first's."""
    times = _recorded_seconds(records)
    rows: dict[str, Forecast] = {}
    fitted: set[str] = set()
    for job in jobs:
        row = rows.setdefault(job.row.label, Forecast(job.row.label))
        todo = ledger.find_pending(job, work, work.metrics)
        fit = bool(job.row.prior and todo) and job.fit_id not in fitted and not is_kept(job)
        if fit:
            fitted.add(job.fit_id)
        row.seeds += 1
        row.fits += fit
        row.again += fit and not todo.fit
        row.measurements += len(todo.metrics)
        row.recorded += todo.recorded
        for kind in [*(["fit"] if fit else []), *(metric.name for metric in todo.metrics)]:
            seconds = next((times[key] for key in _keys(job.facts(), kind) if key in times), None)
            row.seconds += seconds or 0.0
            row.unknown += seconds is None
    return list(rows.values())


def total(rows: Iterable[Forecast]) -> tuple[float, int]:
    """Seconds of all that has a recorded time, and how much has none."""
    rows = list(rows)
    return sum(row.seconds for row in rows), sum(row.unknown for row in rows)


def _keys(row: dict[str, Any], kind: str) -> Iterable[tuple[Any, ...]]:
    """Whose time is taken for a fit or a score, the nearest first: this row's, this prior's, this prior's elsewhere."""
    bundle = row["bundle"], content_hash(row.get("groups"))
    yield *bundle, row["budget"], row["device"], row["label"], kind
    yield *bundle, row["budget"], row["device"], row["prior"], kind
    # a reference row has no budget: images of any size and number would stand for it, as other latents for groups
    if row["budget"] is not None and "groups" not in row:
        yield row["budget"], row["device"], row["prior"], kind


def _recorded_seconds(records: list[dict[str, Any]]) -> dict[tuple[Any, ...], float]:
    """Mean seconds of what was recorded, under each of `_keys`."""
    found: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for record in records:
        if record["status"] != "ok":
            continue
        seconds = record["values"].get("fit_seconds") if record["kind"] == "fit" else record.get("seconds")
        if seconds is not None:
            for key in _keys(record["row"], record["kind"]):
                found[key].append(seconds)
    return {key: statistics.fmean(values) for key, values in found.items()}
