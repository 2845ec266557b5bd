"""Extraction time: what the protocol's extractor takes for images of this bundle. It belongs to no prior.

It is measured once a seed, with the aggregate posterior, and stands above the table.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch

from benchmark.machine.stopwatch import measure_durations
from benchmark.metrics.api import Column, Evaluation, Facts, Metric, hookimpl

IMAGES = 100


class ExtractionTime(Metric):
    name = "extraction_time"
    reads = ("extractor", "timing_repeats", "timing_seconds")
    reference_rows = ("aggregate_posterior",)
    machine_bound = True
    values = ("extraction_images", "extraction_seconds", "extraction_seconds_quartiles", "extraction_repeats")

    @classmethod
    def columns(cls, protocol: Any) -> list[Column]:
        return []  # it stands above the table

    def applies(self, facts: Facts) -> bool:
        return facts.is_reference

    @torch.no_grad()
    def measure(self, evaluation: Evaluation) -> dict[str, Any]:
        protocol = evaluation.protocol
        images = evaluation.decoded(evaluation.held_out.sample(IMAGES, evaluation.stream("timing")), "timing")
        evaluation.features_of(images)  # warmed up
        taken = measure_durations(
            lambda: evaluation.features_of(images),
            evaluation.device,
            protocol.timing_repeats,
            protocol.timing_seconds,
        )
        low, median, high = statistics.quantiles(taken, n=4, method="inclusive")
        return {
            "extraction_images": IMAGES,
            "extraction_seconds": median,
            "extraction_seconds_quartiles": [low, high],
            "extraction_repeats": len(taken),
        }


@hookimpl
def register_metrics() -> list[type[Metric]]:
    return [ExtractionTime]
