"""Precision, recall, density and coverage: do two samples lie in each other's neighbourhoods?

The ball B(x) of a point reaches to its k-th nearest neighbour in its own sample, itself not counted; k = 5. For n
generated g and m real r:

    precision  share of g within some B(r)
    recall     share of r within some B(g)
    density    mean over g of the number of balls B(r) around it, over k
    coverage   share of r whose B(r) holds some g

Precision and recall as Kynkaanniemi et al. 2019 have them, density and coverage as Naeem et al. 2020; balls are closed.
A prior that keeps to one mode has a low coverage. For large samples of one distribution density is 1 and coverage
1 - 2^-k on average. Of images among features, of latents in latent space, and of spatial ones on principal axes too.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from benchmark.metrics.api import (
    IMAGE_ROWS,
    IMAGE_SETTINGS,
    LATENT_SETTINGS,
    Column,
    Evaluation,
    Metric,
    hookimpl,
    projected,
)
from benchmark.scores.mmd import squared_distances

K = 5
SCORES = ("precision", "recall", "density", "coverage")


def squared_radii(x: Tensor, k: int) -> Tensor:
    """Squared distance (n,) of each row of x (n, d) to its k-th nearest other row; the farthest where k >= n."""
    distances = squared_distances(x, x).fill_diagonal_(0)  # itself comes first, and counts for one
    return distances.kthvalue(min(k + 1, len(x)), dim=1).values


def neighbourhood_scores(generated: Tensor, real: Tensor, k: int = K) -> dict[str, float]:
    """The four scores of two samples (n, d) and (m, d). Quadratic in n: three matrices of distances, one at a time."""
    centre = real.double().mean(0)  # far from the origin distances would cancel
    generated, real = generated - centre, real - centre
    of_generated, of_real = squared_radii(generated, k), squared_radii(real, k)
    distances = squared_distances(generated, real)
    within_real, within_generated = distances <= of_real, distances <= of_generated[:, None]
    return {
        "precision": within_real.any(1).double().mean().item(),
        "recall": within_generated.any(0).double().mean().item(),
        "density": within_real.sum().item() / (max(min(k, len(real) - 1), 1) * len(generated)),
        "coverage": within_real.any(0).double().mean().item(),
    }


class ImageNeighbours(Metric):
    name = "neighbours"
    reads = IMAGE_SETTINGS
    reference_rows = IMAGE_ROWS

    @classmethod
    def columns(cls, protocol: Any) -> list[Column]:
        return [Column(name, name, "images", better="higher") for name in SCORES]

    def measure(self, evaluation: Evaluation) -> dict[str, float]:
        return neighbourhood_scores(*evaluation.feature_pair)


class LatentNeighbours(Metric):
    name = "latent_neighbours"
    reads = LATENT_SETTINGS
    reference_rows = ("aggregate_posterior",)

    @classmethod
    def columns(cls, protocol: Any) -> list[Column]:
        whole = [Column(f"latent_{name}", name, "latents", better="higher") for name in SCORES]
        return whole + projected(whole)

    def measure(self, evaluation: Evaluation) -> dict[str, float]:
        return {
            f"latent_{name}{suffix}": value
            for suffix, drawn, real in evaluation.latent_pairs("neighbours")
            for name, value in neighbourhood_scores(drawn, real).items()
        }


@hookimpl
def register_metrics() -> list[type[Metric]]:
    return [ImageNeighbours, LatentNeighbours]
