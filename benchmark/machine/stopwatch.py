"""Seconds that a function takes, on a CPU by the clock and on a GPU by its events."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

LEAST_REPEATS = 3


def measure_durations(run: Callable[[], Any], device: torch.device, repeats: int, seconds: float) -> list[float]:
    """Seconds of each call of `run`, which the caller has warmed up; on a GPU those of CUDA events."""

    def timed_on_cpu() -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    def timed_on_gpu() -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / 1_000

    timed = timed_on_gpu if device.type == "cuda" else timed_on_cpu
    taken: list[float] = []
    while len(taken) < LEAST_REPEATS or (len(taken) < repeats and sum(taken) < seconds):
        taken.append(timed())
    return taken
