"""Sampling time: the prior alone, the decoder alone, and their sum, with what explains it beside it.

Each warmed up, its peak memory taken, synchronised with the device, repeated until the protocol's count
or its seconds, at least 3 times. The two are timed apart: taken in turns, the decoder leaves the prior a cold cache,
half as slow again on a CPU.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from benchmark.metrics.api import Metric, hookimpl
from benchmark.metrics.peak_memory import peak_memory

if TYPE_CHECKING:
    from benchmark.evaluation import Evaluation

LEAST_REPEATS = 3


def durations(run: Callable[[], Any], device: torch.device, repeats: int, seconds: float) -> list[float]:
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


class SamplingTime(Metric):
    name = "sampling_time"
    version = 3
    reads = ("timing_batches", "timing_repeats", "timing_seconds")
    machine_bound = True

    @torch.no_grad()
    def measure(self, evaluation: Evaluation) -> dict[str, Any]:
        protocol, generator = evaluation.protocol, evaluation.stream("timing")
        source, decode = evaluation.source, evaluation.backbone.decode
        values: dict[str, Any] = {}
        for batch in protocol.timing_batches:
            z = evaluation.held_out.sample(batch, generator)  # any latents: a slow prior is not asked for them
            runs = {"prior": lambda: source.sample(batch, generator), "decode": lambda: decode(z, generator)}
            quartiles = {}
            for what, run in runs.items():
                run()  # warmed up before the peak is taken: what libraries allocate once is not the draw's
                values[f"{what}_peak_bytes_{batch}"] = peak_memory(run, evaluation.device)
                taken = durations(run, evaluation.device, protocol.timing_repeats, protocol.timing_seconds)
                quartiles[what] = statistics.quantiles(taken, n=4, method="inclusive")
                values[f"{what}_repeats_{batch}"] = len(taken)
            quartiles["images"] = [sum(both) for both in zip(*quartiles.values())]
            for what, (low, median, high) in quartiles.items():
                values[f"{what}_seconds_{batch}"] = median
                values[f"{what}_seconds_{batch}_quartiles"] = [low, high]
        values["network_evaluations"] = source.network_evaluations
        values["parameters"] = sum(parameter.numel() for parameter in source.parameters())
        return values | source.diagnostics(generator)


@hookimpl
def register_metrics() -> list[type[Metric]]:
    return [SamplingTime]
