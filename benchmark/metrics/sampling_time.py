"""Sampling time: the prior alone, and prior plus decoder, with what explains it beside it.

Warmed up, synchronised with the device, repeated until the protocol's count or its seconds, at least 3 times.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from benchmark.metrics.api import Metric, hookimpl

if TYPE_CHECKING:
    from benchmark.evaluation import Evaluation

LEAST_REPEATS = 3


def durations(run: Callable[[], Any], device: torch.device, repeats: int, seconds: float) -> list[float]:
    """Seconds of each call of `run` after one that is not counted."""

    def timed() -> float:
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    timed()
    taken: list[float] = []
    while len(taken) < LEAST_REPEATS or (len(taken) < repeats and sum(taken) < seconds):
        taken.append(timed())
    return taken


class SamplingTime(Metric):
    name = "sampling_time"
    reads = ("timing_batches", "timing_repeats", "timing_seconds")
    machine_bound = True

    def measure(self, evaluation: Evaluation) -> dict[str, Any]:
        protocol, generator = evaluation.protocol, evaluation.stream("timing")
        source, decode = evaluation.source, evaluation.backbone.decode
        values: dict[str, Any] = {}
        for batch in protocol.timing_batches:
            runs = {
                "prior": lambda: source.sample(batch, generator),
                "images": lambda: decode(source.sample(batch, generator), generator),
            }
            for what, run in runs.items():
                taken = durations(
                    torch.no_grad()(run), evaluation.device, protocol.timing_repeats, protocol.timing_seconds
                )
                low, median, high = statistics.quantiles(taken, n=4, method="inclusive")
                values[f"{what}_seconds_{batch}"] = median
                values[f"{what}_seconds_{batch}_quartiles"] = [low, high]
                values[f"{what}_repeats_{batch}"] = len(taken)
        values["network_evaluations"] = source.network_evaluations
        values["parameters"] = sum(parameter.numel() for parameter in source.parameters())
        return values | source.diagnostics(generator)


@hookimpl
def register_metrics() -> list[type[Metric]]:
    return [SamplingTime]
