"""Fréchet distance between generated and real images, among features: the score of a table (`scores/frechet.py`)."""

from __future__ import annotations

from benchmark.metrics.api import IMAGE_ROWS, IMAGE_SETTINGS, Evaluation, Metric, hookimpl
from benchmark.scores.frechet import feature_statistics, frechet_distance


class Frechet(Metric):
    name = "fd"
    reads = IMAGE_SETTINGS
    reference_rows = IMAGE_ROWS

    def measure(self, evaluation: Evaluation) -> dict[str, float]:
        reference = evaluation.reference.statistics(evaluation.device)
        return {"fd": frechet_distance(feature_statistics(evaluation.features), reference)}


@hookimpl
def register_metrics() -> list[type[Metric]]:
    return [Frechet]
