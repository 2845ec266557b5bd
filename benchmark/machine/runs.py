"""What a run costs: the peak of its memory, and its seconds again and again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmark.machine.peak_memory import peak_memory
from benchmark.machine.stopwatch import measure_durations


@dataclass(frozen=True)
class Runs:
    """`seconds` of each repeat."""

    peak_bytes: int
    seconds: list[float]


def measure_runs(run: Callable[[], Any], device: torch.device, repeats: int, seconds: float) -> Runs:
    """Run once for its peak of memory, which warms it up; then again and again for its time.

    On a GPU it is run before that as well: what libraries allocate there once is seen, and is not the run's.
    """
    if device.type == "cuda":
        run()
    peak = peak_memory(run, device)
    return Runs(peak, measure_durations(run, device, repeats, seconds))
