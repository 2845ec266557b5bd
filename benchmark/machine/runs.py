"""What a run costs: the peak of its memory, and its seconds again and again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmark.machine.peak_memory import peak_memory
from benchmark.machine.stopwatch import measure_durations
from priors.parts.graphs import WARM_UP, without_python


@dataclass(frozen=True)
class Runs:
    """`seconds` of each repeat; `replayed`: of each replay of a CUDA graph of it, where that was asked for."""

    peak_bytes: int
    seconds: list[float]
    replayed: list[float] = field(default_factory=list)


def measure_runs(
    run: Callable[[], Any],
    device: torch.device,
    repeats: int,
    seconds: float,
    replay: torch.Generator | None = None,
) -> Runs:
    """Run once for its peak of memory, which warms it up; then again and again for its time.

    On a GPU it is run before that as well: what libraries allocate there once is seen, and is not the run's. With
    `replay`, the generator that it draws from, it is timed once more there as a graph: eager, small kernels wait for
    Python, and what is timed is Python.
    """
    if device.type == "cuda":
        run()
    peak = peak_memory(run, device)
    taken = Runs(peak, measure_durations(run, device, repeats, seconds))
    if device.type == "cuda" and replay is not None:
        replayed = without_python(run, replay)
        for _ in range(WARM_UP + 1):
            replayed()
        taken.replayed.extend(measure_durations(replayed, device, repeats, seconds))
    return taken
