"""What the coordinator costs by itself, and how far it scales.

First, `--jobs` jobs that take no time (a prior and two reference rows on the digits, as many seeds as that needs, one
score each): seconds a job from plan to last table, all that a run does but the work. Jobs are planned, looked up,
locked, submitted, recorded and shown as in any run; an executor of this file hands in contents that are ready.

Then the same run with jobs of recorded lengths: an executor keeps a clock of its own, on which a job takes what a fit
and its scores took in `--results` (drawn at random with seed 0), and the coordinator what it takes here, since the
clock stands still for nothing that it does. The table has, for 1 to 1,000 workers, the hours that the run takes, how
many times as fast that is as one worker, the share of the workers' time that is work, and what bounds it: the longest
job, or the coordinator.

    PYTHONPATH=. python tests/speed/coordinator.py --jobs 10000
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import io
import os
import random
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from benchmark import coordinator, progress
from benchmark.executors.api import Executor, Owner, Terms
from benchmark.jobs.task import Outcome
from benchmark.metrics.api import FIT
from benchmark.request import Request, resolve
from benchmark.store.places import CACHE_VARIABLE
from benchmark.store.provenance import provenance
from benchmark.store.records import RecordStore

ROWS = 3  # the Gaussian, the aggregate posterior, the reconstruction
PROVENANCE = provenance(torch.device("cpu"))
WORKERS = (1, 3, 10, 30, 100, 300, 1_000)


class Simulated(Executor):
    """Workers that exist on a clock alone."""

    name = "simulated"
    lengths: list[float] = [0.0]  # of jobs, taken in turn

    def __init__(self, owner: Owner, terms: Terms) -> None:
        super().__init__(owner, terms)
        self.clock = self.own = 0.0
        self._ends: list[tuple[float, int, Any]] = []
        self._left = time.perf_counter()
        Simulated.last = self

    def submit(self, number: int, task: Any) -> None:
        self._count_own()
        length = self.lengths[number % len(self.lengths)]
        heapq.heappush(self._ends, (self.clock + length, number, task))

    def wait(self) -> None:
        self._count_own()
        end, number, task = heapq.heappop(self._ends)
        self.clock = max(self.clock, end)
        if task.job.row.prior and not task.recorded:
            values = {"fit_seconds": 1.0}
            fit = {"status": "ok", "values": values, "parameters": 0, "note": None, "log": []}
            self.owner.made(number, FIT, {**fit, "provenance": PROVENANCE})
        for name in task.metrics:
            content = {"status": "ok", "values": {name: 1.0 + number}, "seconds": 1.0, "provenance": PROVENANCE}
            self.owner.made(number, name, content)
        self.owner.done(number, Outcome(list(task.metrics)))

    def close(self) -> None:
        self._count_own()

    def _count_own(self) -> None:
        """The clock goes on by what the coordinator did since it was last here."""
        now = time.perf_counter()
        self.clock += now - self._left
        self.own += now - self._left
        self._left = now


def run(jobs: int, workers: int) -> tuple[float, Simulated]:
    """Seconds from plan to last table, and the executor."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ[CACHE_VARIABLE] = str(Path(folder) / "cache")
        request = Request(
            bundle="digits-conv_vae",
            priors="gaussian",
            seeds=-(-jobs // ROWS),
            metrics=("fd",),
            device="cpu",
            workers=workers,
            results=Path(folder) / "results",
        )
        start = time.perf_counter()
        with contextlib.redirect_stderr(io.StringIO()):
            resolved = resolve(request)
            coordinator.run(replace(resolved, executor=Simulated))
        return time.perf_counter() - start, Simulated.last


def recorded_lengths(results: Path) -> list[float]:
    """Seconds of each recorded job: its fit, and its scores but for timings."""
    found: dict[tuple[str, ...], float] = defaultdict(float)
    records, _ = RecordStore(results / "records").all()
    for record in records:
        if record["status"] == "ok" and "machine" not in record["identity"]:
            row = record["row"]
            seconds = record["values"].get("fit_seconds") if record["kind"] == FIT else record.get("seconds")
            found[row["bundle"], row["config_hash"], str(row["seed"]), str(row["budget"])] += seconds or 0.0
    return sorted(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument("--results", type=Path, default=Path("results"), help="default: %(default)s")
    options = parser.parse_args()
    progress.redirect(lambda line: None)
    seconds, empty = run(options.jobs, 16)
    count = ROWS * -(-options.jobs // ROWS)
    print(f"{count:,} empty jobs: {seconds:.1f} s in all, {1_000 * empty.own / count:.2f} ms a job while they run\n")
    lengths = recorded_lengths(options.results)
    chosen = random.Random(0).choices(lengths, k=count)
    total, longest = sum(chosen), max(chosen)
    mean = sum(lengths) / len(lengths)
    print(f"{len(lengths)} recorded jobs: {sum(lengths) / 3_600:.1f} h of work, mean {mean:.0f} s")
    print(f"{count:,} of their lengths drawn: {total / 3_600:.1f} h of work, longest {longest:,.0f} s\n")
    rows = []
    for workers in WORKERS:
        Simulated.lengths = chosen
        _, simulated = run(options.jobs, workers)
        ideal = {"work": total / workers, "longest job": longest, "coordinator": simulated.own}
        bound = max(ideal, key=lambda name: ideal[name])
        speed = total / simulated.clock
        rows.append([workers, f"{simulated.clock / 3_600:.2f}", f"{speed:.1f}", f"{speed / workers:.0%}", bound])
    header = ["workers", "hours", "times as fast", "busy", "bound by"]
    print(tabulate(rows, header, disable_numparse=True, colalign=["right"] * 4 + ["left"]))


if __name__ == "__main__":
    main()
