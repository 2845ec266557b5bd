"""Stage 2: a request -> jobs -> records -> leaderboard. It owns the records' folder and the tables made from it."""

from __future__ import annotations

import collections
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tabulate import tabulate

from benchmark.jobs.forecast import Forecast, forecast
from benchmark.jobs.identity import Job, class_identity
from benchmark.jobs.measure import Busy, Outcome, run_job
from benchmark.jobs.workspace import Workspace
from benchmark.progress import format_seconds, say
from benchmark.report.board import Board
from benchmark.request import Resolved
from benchmark.store.in_force import note_in_force
from benchmark.store.provenance import provenance


@dataclass(frozen=True)
class Finished:
    """`failed` counts jobs; `table` is the run's own table, in markdown; `summary` the line below it."""

    failed: int
    table: str
    summary: str


def run(resolved: Resolved) -> Finished:
    """Run every job that is not recorded, rewriting the tables on the way."""
    started = time.perf_counter()
    todo, work, results = resolved.jobs, resolved.work, resolved.results
    for note in resolved.notes:
        say(note)
    work.protocol.save(results, work.bundle.id[:16])
    note_in_force(
        results,
        work.protocol.budget,
        [job.facts() for job in todo],
        {metric.name: class_identity(work.registry, type(metric)) for metric in work.metrics},
    )
    provenance(work.device)  # the state of the code is read once, and belongs to the start of the run
    say(_announced(resolved))
    board, failed = Board(results, work.store), 0
    try:
        for number, job, outcome, seconds in _done(todo, work):
            failed += bool(outcome.failures)
            if outcome.measured or outcome.failures:
                say(f"[{number}/{len(todo)}] {job.row.label} seed {job.seed}: {_told(outcome)}, {seconds:.1f} s")
                board.refresh()
    except BaseException:  # Ctrl-C above all: what is measured is shown
        board.write()
        raise
    table = board.finish(work.bundle.id[:16], work.protocol.hash)
    seconds = time.perf_counter() - started
    summary = f"{len(todo) - failed} jobs fine, {failed} failed, {seconds:.1f} s: {results / 'leaderboard.md'}"
    return Finished(failed, table, summary)


def _done(todo: list[Job], work: Workspace) -> Iterator[tuple[int, Job, Outcome, float]]:
    """Each job as it is done, with its number, its outcome and its seconds; what another process is at comes last."""
    queue = collections.deque((number, job, False) for number, job in enumerate(todo, 1))
    while queue:
        number, job, wait = queue.popleft()
        start = time.perf_counter()
        try:
            outcome = run_job(job, work, wait)
        except Busy:
            queue.append((number, job, True))
        else:
            yield number, job, outcome, time.perf_counter() - start


def dry_run(resolved: Resolved) -> str:
    """What `run` would do, as a table, and about how long by what is recorded in the results folder."""
    records, _ = resolved.work.store.all()
    rows = forecast(resolved.jobs, resolved.work, records)
    header = ["row", "seeds", "fits to do", "scores to do", "scores recorded", "about"]
    body = [[row.label, row.seeds, row.fits, row.measurements, row.recorded, _about([row])] for row in rows]
    body.append(
        [
            "all",
            "",
            *(sum(getattr(row, of) for row in rows) for of in ("fits", "measurements", "recorded")),
            _about(rows),
        ]
    )
    grid = tabulate(body, header, "pipe", disable_numparse=True, colalign=("left", *["right"] * 5))
    return f"{_announced(resolved)}\n\n{grid}\n"


def _about(rows: list[Forecast]) -> str:
    unknown, seconds = sum(row.unknown for row in rows), sum(row.seconds for row in rows)
    known = format_seconds(seconds) if seconds or not unknown else ""
    return " and ".join([*([known] if known else []), *([f"{unknown} of unknown time"] if unknown else [])])


def _announced(resolved: Resolved) -> str:
    jobs, work = resolved.jobs, resolved.work
    rows, seeds = (len(set(of)) for of in ([job.row.label for job in jobs], [job.seed for job in jobs]))
    return (
        f"{len(jobs)} jobs: {rows} rows, {seeds} seeds, on {work.bundle.path.name}, {work.protocol.preset} protocol, "
        f"{work.device.type}"
    )


def _told(outcome: Outcome) -> str:
    parts = [f"measured {', '.join(outcome.measured)}"] if outcome.measured else []
    return "; ".join(parts + [f"FAILED {failure}" for failure in outcome.failures])
