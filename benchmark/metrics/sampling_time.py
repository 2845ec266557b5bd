"""Sampling time: the prior alone, and prior plus decoder, with what explains it beside it.

Warmed up, synchronised with the device, repeated until the protocol's count or its seconds, at least 3 times. Each
repeat draws latents and decodes those: a slow prior is not drawn from twice.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmark.metrics.api import Metric, hookimpl

if TYPE_CHECKING:
    from benchmark.evaluation import Evaluation

LEAST_REPEATS = 3


def durations(
    stages: Sequence[Callable[[], Any]], device: torch.device, repeats: int, seconds: float
) -> list[list[float]]:
    """Seconds until the end of each stage, for each time that all are run, after one time that is not counted.

    On a GPU they are those of CUDA events, so that what a stage has only queued is counted as its own.
    """

    def timed_on_cpu() -> list[float]:
        start, ends = time.perf_counter(), []
        for stage in stages:
            stage()
            ends.append(time.perf_counter() - start)
        return ends

    def timed_on_gpu() -> list[float]:
        start, *ends = (torch.cuda.Event(enable_timing=True) for _ in range(len(stages) + 1))
        torch.cuda.synchronize(device)
        start.record()
        for stage, end in zip(stages, ends):
            stage()
            end.record()
        torch.cuda.synchronize(device)
        return [start.elapsed_time(end) / 1_000 for end in ends]

    timed = timed_on_gpu if device.type == "cuda" else timed_on_cpu
    timed()
    taken: list[list[float]] = []
    while len(taken) < LEAST_REPEATS or (len(taken) < repeats and sum(ends[-1] for ends in taken) < seconds):
        taken.append(timed())
    return taken


class SamplingTime(Metric):
    name = "sampling_time"
    version = 2
    reads = ("timing_batches", "timing_repeats", "timing_seconds")
    machine_bound = True

    @torch.no_grad()
    def measure(self, evaluation: Evaluation) -> dict[str, Any]:
        protocol, generator = evaluation.protocol, evaluation.stream("timing")
        source, decode = evaluation.source, evaluation.backbone.decode
        values: dict[str, Any] = {}
        for batch in protocol.timing_batches:
            drawn: list[Tensor] = []
            stages = [
                lambda: drawn.append(source.sample(batch, generator)),
                lambda: decode(drawn.pop(), generator),
            ]
            taken = durations(stages, evaluation.device, protocol.timing_repeats, protocol.timing_seconds)
            for what, seconds in zip(("prior", "images"), zip(*taken)):
                low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
                values[f"{what}_seconds_{batch}"] = median
                values[f"{what}_seconds_{batch}_quartiles"] = [low, high]
            values[f"repeats_{batch}"] = len(taken)
        values["network_evaluations"] = source.network_evaluations
        values["parameters"] = sum(parameter.numel() for parameter in source.parameters())
        return values | source.diagnostics(generator)


@hookimpl
def register_metrics() -> list[type[Metric]]:
    return [SamplingTime]
