"""Sliced Wasserstein-2 distance between a prior and held-out q_agg (Bonneel et al. 2015).

    SW_2^2 = mean over directions t of W_2^2(t . x, t . y),    W_2^2(a, b) = mean_i (a_(i) - b_(i))^2

over 500 directions, uniform on the sphere and the same for all rows; in one dimension the optimal transport of
equally many points is to sort them. Reported is the root, in units of the latents. Finite samples make it positive
for equal distributions too; n is the same for all rows, and `aggregate_posterior` shows the floor.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmark.metrics.api import LATENT_SETTINGS, Column, Evaluation, Metric, hookimpl, projected

DIRECTIONS = 500


def directions(d: int, generator: torch.Generator) -> Tensor:
    """Unit vectors (d, DIRECTIONS), float64, uniform on the sphere."""
    drawn = torch.randn(d, DIRECTIONS, generator=generator, device=generator.device, dtype=torch.float64)
    return drawn / drawn.norm(dim=0)


def sliced_wasserstein(x: Tensor, y: Tensor, along: Tensor) -> float:
    """SW_2 of two samples (n, d) over the columns of `along` (d, p)."""
    x, y = ((part.double() @ along).sort(0).values for part in (x, y))
    return (x - y).square().mean().sqrt().item()


class SlicedWasserstein(Metric):
    name = "sliced_wasserstein"
    reads = LATENT_SETTINGS
    reference_rows = ("aggregate_posterior",)

    @classmethod
    def columns(cls, protocol: Any) -> list[Column]:
        whole = [Column("sliced_wasserstein", "sliced W₂", "latents", better="lower")]
        return whole + projected(whole)

    def measure(self, evaluation: Evaluation) -> dict[str, float]:
        values = {}
        for suffix, drawn, real in evaluation.latent_pairs("sliced wasserstein"):
            along = directions(drawn.shape[1], evaluation.shared_stream("sliced wasserstein directions"))
            values[f"sliced_wasserstein{suffix}"] = sliced_wasserstein(drawn, real, along)
        return values


@hookimpl
def register_metrics() -> list[type[Metric]]:
    return [SlicedWasserstein]
