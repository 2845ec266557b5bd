"""Fréchet distance between generated and real images, among features: the score of a table (`scores/frechet.py`)."""

from __future__ import annotations

from typing import Any

from benchmark.metrics.api import IMAGE_ROWS, IMAGE_SETTINGS, Column, Evaluation, Metric, hookimpl
from benchmark.scores.frechet import feature_statistics, frechet_distance


class Frechet(Metric):
    name = "fd"
    reads = IMAGE_SETTINGS
    reference_rows = IMAGE_ROWS

    @classmethod
    def columns(cls, protocol: Any) -> list[Column]:
        return [
            Column("fd", protocol.score, "main", better="lower"),
            Column("fd", "gap closed", "main", better="higher", shows="gap"),
            Column("fd", protocol.score, "spread", shows="spread"),
        ]

    def measure(self, evaluation: Evaluation) -> dict[str, float]:
        reference = evaluation.reference.statistics(evaluation.device)
        return {"fd": frechet_distance(feature_statistics(evaluation.features), reference)}


@hookimpl
def register_metrics() -> list[type[Metric]]:
    return [Frechet]
