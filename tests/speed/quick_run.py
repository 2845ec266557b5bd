"""Where the wall time of the quick `run` on digits goes, phase by phase, and of a second run from its records.

The command runs in this process alone (`--workers 1`), with results and cache in a temporary folder, and with timers
around the functions that make up a run. A phase's seconds are its own: what another spends inside it is taken off.
So `metric fd` is the Fréchet distance alone, and drawing latents, decoding and features are rows of their own,
whichever metric asked for them first; `metric sampling_time` draws and decodes by itself. Imports are timed in
fresh processes (median of 3) and enter both runs; modules that a run imports later are in `plugins`. "other" is
what is left of the command. Below the table, the second run again as a process of its own, from start to exit
(median of 3).

    PYTHONPATH=. python tests/speed/quick_run.py --seeds 3
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

import benchmark.cli.app
import benchmark.coordinator
import benchmark.jobs.fit
import benchmark.jobs.pending
import benchmark.jobs.task
import benchmark.request
from benchmark.bundles.bundle import Bundle
from benchmark.bundles.reference import Reference
from benchmark.extractors.api import Features
from benchmark.jobs.evaluation import Evaluation
from benchmark.registry import Registry
from benchmark.report.board import Board
from benchmark.store.places import CACHE_VARIABLE
from benchmark.store.provenance import device_name
from benchmark.store.records import RecordStore

IMPORTS = "interpreter and imports"
#: the rows in this order, by how their names start
GROUPS = (
    *(IMPORTS, "plugins", "bundle", "reference", "planning", "fit ", "fits"),
    *("images", "metric", "records", "tables", "grid", "other"),
)


class Phases:
    """Exclusive seconds of named phases."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside = [0.0]

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._inside.append(0.0)
        start = time.perf_counter()
        try:
            yield
        finally:
            taken = time.perf_counter() - start
            self.seconds[name] += taken - self._inside.pop()
            self._inside[-1] += taken

    def time(self, owner: Any, attribute: str, name: str | Callable[..., str]) -> None:
        """From now on, calls of `owner.attribute` are the phase `name` (which may be made from the arguments)."""
        original = getattr(owner, attribute)

        @functools.wraps(original)
        def timed(*arguments: Any, **named: Any) -> Any:
            with self.phase(name if isinstance(name, str) else name(*arguments, **named)):
                return original(*arguments, **named)

        setattr(owner, attribute, timed)


def timed_phases() -> Phases:
    phases = Phases()
    for owner, attribute, name in (
        (Registry, "_read_built_in", "plugins"),
        (Registry, "_read_entry_points", "plugins"),
        (benchmark.request, "choose_bundle", "bundle: open and verify"),
        (Bundle, "backbone", "bundle: load parts"),
        (Bundle, "posterior", "bundle: load parts"),
        (benchmark.request, "_choose_extractor", "reference"),
        (Reference, "statistics", "reference"),
        (benchmark.request, "make_protocol", "planning"),
        (benchmark.request, "make_rows", "planning"),
        (benchmark.request, "make_jobs", "planning"),
        (benchmark.jobs.pending.Ledger, "find_pending", "records: look up"),
        (benchmark.jobs.fit, "_fit", lambda job, work: f"fit {job.row.label}"),
        (benchmark.jobs.task, "find_or_fit", "fits: look up"),
        (benchmark.jobs.task, "open_source", "fits: load"),
        (Evaluation, "latents", "images: draw latents"),
        (Evaluation, "decoded", "images: decode"),
        (Features, "__init__", "images: load extractor"),
        (Features, "__call__", "images: features"),
        (benchmark.jobs.task, "_measure", lambda metric, *_: f"metric {metric.name}"),
        (benchmark.jobs.task, "provenance", "records: provenance"),
        (RecordStore, "put", "records: write"),
        (Board, "write", "tables"),
        (Board, "draw", "grid"),
    ):
        phases.time(owner, attribute, name)
    return phases


def process_seconds(*arguments: str) -> float:
    """Python with these arguments from start to exit, in seconds: the median of 3."""
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def run_once(arguments: list[str], phases: Phases) -> dict[str, float]:
    """Run the command in this process; seconds by phase, "other" last. Exits where the command fails."""
    phases.seconds.clear()
    said = io.StringIO()
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        status = benchmark.cli.app.app(arguments, standalone_mode=False)
    total = time.perf_counter() - start
    if status:
        raise SystemExit(f"the run failed with status {status}:\n{said.getvalue()}")
    return {**phases.seconds, "other": total - sum(phases.seconds.values())}


def table(first: dict[str, float], second: dict[str, float]) -> str:
    names = list(dict.fromkeys([*first, *second]))
    names.sort(key=lambda name: next(place for place, group in enumerate(GROUPS) if name.startswith(group)))
    totals = [sum(run.values()) for run in (first, second)]
    rows = []
    for name in names:
        rows.append([name])
        for run, total in zip((first, second), totals):
            rows[-1] += [f"{run[name]:.2f}", f"{run[name] / total:.1%}"] if name in run else ["", ""]
    rows.append(["sum", f"{totals[0]:.2f}", "", f"{totals[1]:.2f}", ""])
    header = ["", "first run, s", "share", "second run, s", "share"]
    return tabulate(rows, header, disable_numparse=True, colalign=["left"] + ["right"] * 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="as in the command (default: %(default)s)")
    parser.add_argument("--priors", help="as in the command (default: all)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    options = parser.parse_args()
    command = ["run", "--dataset", "digits", "--budget", "quick", "--seeds", str(options.seeds)]
    command += ["--device", options.device, "--workers", "1", *(["--priors", options.priors] if options.priors else [])]
    imports, phases = process_seconds("-c", "import benchmark.cli.app, benchmark.coordinator"), timed_phases()
    with tempfile.TemporaryDirectory() as folder:
        os.environ[CACHE_VARIABLE] = str(Path(folder) / "cache")  # the variable is read at every use
        arguments = [*command, "--results", str(Path(folder) / "results")]
        first = {IMPORTS: imports, **run_once(arguments, phases)}
        second = {IMPORTS: imports, **run_once(arguments, phases)}
        own_process = process_seconds("-m", "benchmark", *arguments)
    device = torch.device(options.device)
    print(f"{device_name(device)}, {device.type}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{' '.join(command)}\n\n{table(first, second)}\n")
    print(f"second run as a process of its own: {own_process:.2f} s")


if __name__ == "__main__":
    main()
