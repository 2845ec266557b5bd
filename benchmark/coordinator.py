"""Stage 2: a request -> jobs -> tasks -> records -> leaderboard. It owns the records and the tables made from them.

Scores come first, with every fit, as many tasks at once as the executor takes, each with one thread: how a sum is split
among threads decides its last digit, and so a number would hang on the machine. Timings come last, one task alone with
all threads; a fit that is recorded and no longer in the cache is made again before them, as it was made at first.
Whoever is at a job claims it, so that commands in several shells, or on several machines, share the work.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from benchmark.executors.api import Executor, Loss
from benchmark.jobs.fit import is_kept
from benchmark.jobs.forecast import Forecast, forecast, total
from benchmark.jobs.identity import Job, class_identity
from benchmark.jobs.marks import Marks
from benchmark.jobs.pending import Pending, identity_of
from benchmark.jobs.task import Outcome, Task
from benchmark.live import LiveTable
from benchmark.metrics.api import FIT, Metric
from benchmark.progress import format_seconds, say
from benchmark.report.board import Board
from benchmark.request import Resolved
from benchmark.store.in_force import note_in_force
from benchmark.store.places import made_folders, open_claims, sharing
from benchmark.store.provenance import provenance
from benchmark.store.sealed import remove_leftovers


@dataclass(frozen=True)
class Finished:
    """`failed` counts jobs, and rows that were left out.

    `table` is the run's own table, in markdown; `summary` the line below it.
    """

    failed: int
    table: str
    summary: str


def run(resolved: Resolved) -> Finished:
    """Do everything that is not recorded, rewriting the tables on the way."""
    started = time.perf_counter()
    board = Board(resolved.results, resolved.ledger.store)
    with sharing(resolved.results if resolved.shared else None):
        failed = do_jobs(resolved, board)
        table = board.finish(resolved.work.bundle.id[:16], resolved.work.protocol.hash)
    left_out = len(resolved.left_out) + len(resolved.broken)
    fine = f"{len(resolved.jobs) - failed.jobs} jobs fine, {failed.jobs} failed"
    fine += f", {left_out} left out" if left_out else ""
    took = f"{time.perf_counter() - started:.1f} s"
    return Finished(
        failed.jobs + left_out + failed.gone, table, f"{fine}, {took}: {resolved.results / 'leaderboard.md'}"
    )


@dataclass(frozen=True)
class Failed:
    """How many jobs failed, and how many records that were made are no longer there."""

    jobs: int
    gone: int


def do_jobs(resolved: Resolved, board: Board) -> Failed:
    """What `run` does before it draws the pictures and shows its table."""
    jobs, work, results = resolved.jobs, resolved.work, resolved.results
    for note in resolved.notes:
        say(note)
    work.protocol.save(results, work.bundle.id[:16])
    if work.bundle.groups is None:  # a note is of a bundle's usual latents: of others the newest records are in force
        note_in_force(
            results,
            work.protocol.budget,
            [job.facts() for job in jobs],
            {metric.name: class_identity(work.registry, type(metric)) for metric in work.metrics},
        )
    for folder in (results, *made_folders()):
        remove_leftovers(folder)
    provenance(work.device)  # the state of the code is read once, and belongs to the start of the run
    say(_announced(resolved))
    for sentence in resolved.left_out:
        say(f"left out: {sentence}")
    running = _Running(resolved, board)
    try:
        running.finish()
    except BaseException:  # Ctrl-C above all: what is measured is shown
        board.write()
        raise
    for sentence in resolved.broken:  # said when it was met, and here, where it is not scrolled away
        say(f"left out: {sentence}")
    gone = running.count_gone()
    if gone:
        say(f"{gone} records are no longer in {results / 'records'}: it was removed or emptied while the run went on")
    return Failed(len(running.failed), gone)


@dataclass(eq=False)
class _Piece:
    """A job with the metrics of one stage; `number` is its place among all pieces, `index` its job's among all jobs."""

    number: int
    index: int
    job: Job
    metrics: list[Metric]
    threads: int
    later: list[Metric] = field(default_factory=list)  # those of the stage after, which are to find its fit
    again: bool = False  # its fit was recorded, and gone
    started: float = 0.0
    doing: str = FIT
    losses: Counter[str] = field(default_factory=Counter)  # by what it was doing
    given_up: set[str] = field(default_factory=set)  # what failed in this run, and so is not tried again in it
    measured: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class _Running:
    """Submits what is due and records what comes of it: the owner of the executor's tasks."""

    def __init__(self, resolved: Resolved, board: Board) -> None:
        self._resolved, self._board = resolved, board
        self._work, self._ledger = resolved.work, resolved.ledger
        self._flying: dict[int, _Piece] = {}
        self._queue: deque[_Piece] = deque()
        self._unfit: set[str] = set()  # ids of fits that failed in this run
        self.failed: set[int] = set()
        self._recorded: list[Path] = []
        self._stages = self._make_stages()
        self._count = sum(map(len, self._stages))
        self._live = LiveTable({})
        self._claims = open_claims()
        self._marks: Marks | None = None  # where a job may end this process

    def finish(self) -> None:
        """Do all that there is to do."""
        due = [[piece for piece in stage if self._is_due(piece)] for stage in self._stages]
        if not any(due):
            return
        if all(self._stages):
            say(f"{self._count} steps: the scores of all jobs, then their timings")
        if expected := _expected(forecast_of(self._resolved)):
            say(expected)
        self._live = LiveTable(Counter(piece.job.row.label for stage in due for piece in stage))
        shown, executing = self._live.shown(), self._resolved.executor(self, self._resolved.terms)
        with shown, closing(self._claims), executing as executor:
            if executor.in_this_process:
                self._marks = Marks(self._resolved.results)
                due = [self._put_back(stage) for stage in due]
            for stage, alone in zip(due, (False, True)):
                self._queue.extend(stage)
                while self._queue or self._flying:
                    while len(self._flying) < (1 if alone else executor.capacity) and self._submit_next(executor):
                        pass
                    if self._flying:
                        executor.wait()
                    elif self._queue:  # another command is at all of them
                        time.sleep(self._claims.look_again)

    def count_gone(self) -> int:
        """How many of the records that this run made are no longer there."""
        return sum(not path.exists() for path in self._recorded)

    def _put_back(self, stage: list[_Piece]) -> list[_Piece]:
        """The jobs at which earlier runs ended without a word come last: the others are not to wait behind them."""
        assert self._marks is not None
        left = {piece.number: said for piece in stage if (said := self._marks.find(piece.job))}
        for piece in stage:
            if piece.number in left:
                say(f"{piece.job.row.label} seed {piece.job.seed}: {left[piece.number]}; it is done last")
        return sorted(stage, key=lambda piece: piece.number in left)

    def _make_stages(self) -> tuple[list[_Piece], list[_Piece]]:
        """Scores, with every fit; and timings."""
        scores = [metric for metric in self._work.metrics if not metric.machine_bound]
        timings = [metric for metric in self._work.metrics if metric.machine_bound]
        jobs, threads = self._resolved.jobs, torch.get_num_threads()
        first = [(index, job) for index, job in enumerate(jobs) if job.row.prior or _have(scores, job)]
        second = [(index, job) for index, job in enumerate(jobs) if _have(timings, job)]
        return (
            [_Piece(number, *of, scores, 1, timings) for number, of in enumerate(first, 1)],
            [_Piece(number, *of, timings, threads) for number, of in enumerate(second, 1 + len(first))],
        )

    def _is_due(self, piece: _Piece) -> bool:
        pending = self._find_pending(piece)
        if pending.failures and piece.index not in self.failed:  # it may be of a stage before
            piece.failures += pending.failures
            if not pending:
                self._conclude(piece)
        return bool(pending)

    def _find_pending(self, piece: _Piece) -> Pending:
        """What is not recorded of a piece, and did not fail in this run."""
        if piece.job.fit_id in self._unfit:
            return Pending()
        pending = self._ledger.find_pending(piece.job, self._work, piece.metrics)
        pending.metrics = [metric for metric in pending.metrics if metric.name not in piece.given_up]
        if not pending and piece.later and piece.job.row.prior and not is_kept(piece.job):
            pending.again = bool(self._ledger.find_pending(piece.job, self._work, piece.later).metrics)
        return pending

    def _submit_next(self, executor: Executor) -> bool:
        """Submit the first piece that nobody else is at; False where there is none."""
        for _ in range(len(self._queue)):
            piece = self._queue.popleft()
            if not self._claims.take(piece.job.fit_id, f"{piece.job.row.label} seed {piece.job.seed}"):
                self._queue.append(piece)
                continue
            pending = self._find_pending(piece)  # again: whoever had claimed it may have done it
            if not pending:
                self._claims.release(piece.job.fit_id)
                self._live.skip(piece.job.row.label)
                if piece.failures or piece.measured:
                    self._conclude(piece)
                continue
            names = tuple(metric.name for metric in pending.metrics)
            piece.started = piece.started or time.perf_counter()
            piece.again = pending.again
            piece.doing = FIT if piece.job.row.prior else names[0]
            self._flying[piece.number] = piece
            self._live.begin(piece.number, piece.job.row.label, piece.job.seed)
            self._live.move(piece.number, piece.doing)
            recorded = bool(piece.job.row.prior) and not pending.fit
            if self._marks:
                self._marks.set(piece.job, piece.doing)
            limit = self._resolved.limits.get(piece.job.row.label)
            executor.submit(piece.number, Task(piece.job, self._work, names, piece.threads, recorded, limit))
            return True
        return False

    def began(self, number: int, kind: str) -> None:
        self._flying[number].doing = kind
        self._live.move(number, kind)
        self._claims.tell(self._flying[number].job.fit_id, kind)
        if self._marks:
            self._marks.set(self._flying[number].job, kind)

    def made(self, number: int, kind: str, content: dict[str, Any]) -> None:
        piece = self._flying[number]
        self._record(piece, kind, content)
        if kind != FIT and content["status"] == "ok":
            piece.measured.append(kind)

    def said(self, line: str) -> None:
        say(line)

    def done(self, number: int, outcome: Outcome) -> None:
        piece = self._flying.pop(number)
        if self._marks:
            self._marks.remove(piece.job)
        self._claims.release(piece.job.fit_id)
        piece.failures += outcome.failures
        self._live.end(number, done=True, failed=bool(piece.failures))
        if outcome.unfit:
            self._unfit.add(piece.job.fit_id)
        self._conclude(piece)
        self._board.refresh()

    def lost(self, number: int, loss: Loss) -> None:
        """Once more, if it may have been chance; else it is recorded, and the rest of the piece goes on."""
        piece = self._flying.pop(number)
        self._claims.release(piece.job.fit_id)
        self._live.end(number, done=False, failed=False)
        piece.losses[piece.doing] += 1
        if loss.status == "crashed" and piece.losses[piece.doing] == 1:
            say(f"{piece.job.row.label} seed {piece.job.seed}: {piece.doing}: {loss.reason}; tried once more")
        else:
            reason = f"{loss.reason}, twice" if loss.status == "crashed" else loss.reason
            content = {"status": loss.status, "reason": reason, "output": loss.output}
            self._record(piece, piece.doing, {**content, "provenance": provenance(self._work.device)})
            piece.failures.append(f"{piece.doing} {loss.status}: {reason}")
        self._queue.appendleft(piece)

    def _record(self, piece: _Piece, kind: str, content: dict[str, Any]) -> None:
        job = piece.job
        if content["status"] != "ok":
            piece.given_up.add(kind)
            if kind == FIT:
                self._unfit.add(job.fit_id)
        metric = next((metric for metric in piece.metrics if metric.name == kind), None)
        identity = job.fit_identity if metric is None else identity_of(job, metric, self._work)
        record = self._ledger.store.put(job.facts(), kind, identity, content)
        self._recorded.append(self._ledger.store.path(job.facts(), kind, record["id"]))

    def _conclude(self, piece: _Piece) -> None:
        """Say what became of a piece."""
        told = ["fitted again"] if piece.again and not piece.failures else []
        told += [f"measured {', '.join(piece.measured)}"] if piece.measured else []
        told += [f"FAILED {failure}" for failure in piece.failures]
        if piece.failures:
            self.failed.add(piece.index)
        if told:
            seconds = f", {time.perf_counter() - piece.started:.1f} s" if piece.started else ""
            job = piece.job
            say(f"[{piece.number}/{self._count}] {job.row.label} seed {job.seed}: {'; '.join(told)}{seconds}")


def _have(metrics: list[Metric], job: Job) -> bool:
    """Whether any of these metrics is one of the job's row."""
    return any(job.row.prior or job.row.name in metric.reference_rows for metric in metrics)


def dry_run(resolved: Resolved) -> str:
    """What `run` would do, as a table, and about how long by what is recorded in the results folder."""
    for sentence in (*resolved.notes, *(f"left out: {each}" for each in resolved.left_out)):
        say(sentence)
    rows = forecast_of(resolved)
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
    again = sum(row.again for row in rows)
    gone = f"\n{again} fits are recorded and no longer in the cache: scores of them need them made again\n"
    return f"{_announced(resolved)}\n\n{grid}\n{gone if again else ''}"


def forecast_of(resolved: Resolved) -> list[Forecast]:
    """What `run` would do, a forecast a row, by the seconds that are recorded in the results folder."""
    records, _ = resolved.ledger.store.all()
    with sharing(resolved.results if resolved.shared else None):  # fits of shared results lie beside them
        return forecast(resolved.jobs, resolved.work, resolved.ledger, records)


def _about(rows: list[Forecast]) -> str:
    seconds, unknown = total(rows)
    known = format_seconds(seconds) if seconds or not unknown else ""
    return " and ".join([*([known] if known else []), *([f"{unknown} of unknown time"] if unknown else [])])


def _expected(rows: list[Forecast]) -> str:
    """About how long the work takes, in a sentence; empty where no time is recorded of any of it."""
    seconds, unknown = total(rows)
    if not seconds:
        return ""
    more = f", and {unknown:,} fits and scores more, of which none is recorded" if unknown else ""
    return f"about {format_seconds(seconds)} of work, by the seconds that are recorded{more}"


def _announced(resolved: Resolved) -> str:
    jobs, work, terms = resolved.jobs, resolved.work, resolved.terms
    rows, seeds = (len(set(of)) for of in ([job.row.label for job in jobs], [job.seed for job in jobs]))
    workers = f", {terms.workers} workers" if terms.workers > 1 else ""
    return (
        f"{len(jobs)} jobs: {rows} rows, {seeds} seeds, on {work.bundle.path.name}, {work.protocol.preset} protocol, "
        f"{work.device.type}{workers}"
    )
