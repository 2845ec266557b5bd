"""The Fréchet distance at infinitely many generated images (Chong & Forsyth 2020, arXiv 1911.07023).

The distance of n items is biased upwards by a term in 1/n that differs from prior to prior. It is taken at 8 sizes
from n/4 to n, evenly spaced, on random subsets without replacement, and the least-squares line in 1/n is read at 0.
The subsets are nested, so that all of them together cost one pass over the features. The real images stay as many
as they are: their share of the bias stays too, and is the same for all rows.

Blank where n/4 is no more than the number of features: there the law is not yet 1/n. It costs 8 decompositions of
a d x d matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.metrics.api import IMAGE_ROWS, IMAGE_SETTINGS, Column, Evaluation, Metric, Statistics, hookimpl
from benchmark.scores.frechet import frechet_distance

SIZES = 8
BLOCK = 2_000


def nested_statistics(features: Tensor, sizes: list[int]) -> Iterator[Statistics]:
    """`feature_statistics` of the first n rows for each n of `sizes` (ascending), every row read once."""
    centre = features.mean(0).double()
    total = torch.zeros_like(centre)
    products = torch.zeros(len(centre), len(centre), dtype=centre.dtype, device=centre.device)
    for start, end in zip([0, *sizes], sizes):
        for block in features[start:end].split(BLOCK):
            block = block.double() - centre
            total += block.sum(0)
            products.addmm_(block.T, block)
        mean = total / end
        yield Statistics(mean + centre, (products - end * mean.outer(mean)) / (end - 1))


def frechet_at_infinity(features: Tensor, reference: Statistics, generator: torch.Generator) -> float | None:
    """The intercept of the line through (1/n, distance of n) for features (n, d); None where they are too few."""
    n, d = features.shape
    if n // 4 <= d:
        return None
    sizes = np.linspace(n // 4, n, SIZES).astype(int).tolist()
    shuffled = features[torch.randperm(n, generator=generator, device=features.device)]
    distances = [frechet_distance(part, reference) for part in nested_statistics(shuffled, sizes)]
    return float(np.polynomial.polynomial.polyfit(1 / np.array(sizes), distances, 1)[0])


class FrechetAtInfinity(Metric):
    name = "fd_infinity"
    reads = IMAGE_SETTINGS
    reference_rows = IMAGE_ROWS

    @classmethod
    def columns(cls, protocol: Any) -> list[Column]:
        return [Column("fd_infinity", f"{protocol.score} at ∞", "images", better="lower")]

    def measure(self, evaluation: Evaluation) -> dict[str, float]:
        reference = evaluation.reference.statistics(evaluation.device)
        value = frechet_at_infinity(evaluation.features, reference, evaluation.stream("fd infinity"))
        return {} if value is None else {"fd_infinity": value}


@hookimpl
def register_metrics() -> list[type[Metric]]:
    return [FrechetAtInfinity]
