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
    """Run once unmeasured, for what libraries allocate once is not the run's; then for its peak; then for its time."""
    run()
    peak = peak_memory(run, device)
    return Runs(peak, measure_durations(run, device, repeats, seconds))
