"""Sampling time: the prior alone, the decoder alone, and their sum, with what explains it beside it.

Each warmed up, its peak memory taken, synchronised with the device, repeated until the protocol's count
or its seconds, at least 3 times. The two are timed apart: taken in turns, the decoder leaves the prior a cold cache,
half as slow again on a CPU. The decoder is the same for all rows, and is timed once for those of a seed: two rows then
differ by their priors alone. On a GPU a prior that is `replayable` is timed a second time as a CUDA graph, since the
eager time of small networks is Python's.
"""

from __future__ import annotations

import statistics
from fnmatch import fnmatchcase
from typing import Any

import torch

from benchmark.metrics.api import Column, Evaluation, Metric, hookimpl

#: names of what is measured here, and so of no prior's diagnostics
MEASURED = (
    "network_evaluations",
    "parameters",
    *(f"{part}_{of}_*" for part in ("prior", "replayed", "decode", "images") for of in ("seconds", "repeats")),
    *(f"{part}_peak_bytes_*" for part in ("prior", "decode")),
)


class SamplingTime(Metric):
    name = "sampling_time"
    version = 3
    reads = ("timing_batches", "timing_repeats", "timing_seconds")
    machine_bound = True
    values = (*MEASURED, "effective_sample_size")

    @classmethod
    def columns(cls, protocol: Any) -> list[Column]:
        batches, largest = protocol.timing_batches, protocol.timing_batches[-1]
        parts = {"latents": "prior", "latents by graph": "replayed", "decoding": "decode"}

        def time(heading: str, part: str, batch: int, group: str) -> Column:
            return Column(f"{part}_seconds_{batch}", heading, group, unit=f"ms / {batch:,}", shows="time")

        return [
            time("latents", "prior", largest, "main"),
            time("images", "images", largest, "main"),
            Column("network_evaluations", "network evaluations", "main", shows="count"),
            Column("parameters", "parameters", "main", shows="count"),
            *(time(heading, part, batch, "time") for heading, part in parts.items() for batch in batches),
            *(
                Column(f"{part}_peak_bytes_{largest}", heading, "time", unit=f"peak MB / {largest:,}", scale=1e-6)
                for heading, part in parts.items()
                if part != "replayed"
            ),
        ]

    @torch.no_grad()
    def measure(self, evaluation: Evaluation) -> dict[str, Any]:
        protocol, generator = evaluation.protocol, evaluation.stream("timing")
        source, values = evaluation.source, dict[str, Any]()
        for batch in protocol.timing_batches:
            measured = {
                "prior": evaluation.measure_draws(batch, generator),
                "decode": evaluation.measure_decoding(batch),
            }
            quartiles = {}
            for what, runs in measured.items():
                values[f"{what}_peak_bytes_{batch}"] = runs.peak_bytes
                quartiles[what] = statistics.quantiles(runs.seconds, n=4, method="inclusive")
                values[f"{what}_repeats_{batch}"] = len(runs.seconds)
            if replayed := measured["prior"].replayed:
                quartiles["replayed"] = statistics.quantiles(replayed, n=4, method="inclusive")
            quartiles["images"] = [sum(both) for both in zip(quartiles["prior"], quartiles["decode"])]
            for what, (low, median, high) in quartiles.items():
                values[f"{what}_seconds_{batch}"] = median
                values[f"{what}_seconds_{batch}_quartiles"] = [low, high]
        values["network_evaluations"] = source.network_evaluations
        values["parameters"] = sum(parameter.numel() for parameter in source.parameters())
        told = source.diagnostics(evaluation.stream("diagnostics"))  # not after as many draws as the clock let through
        measured_here = [name for name in told if any(fnmatchcase(str(name), each) for each in MEASURED)]
        if measured_here:
            raise TypeError(f"diagnostics returned {measured_here[0]}, which is measured: call it something else")
        return values | told


@hookimpl
def register_metrics() -> list[type[Metric]]:
    return [SamplingTime]
