"""Kernel inception distance: the unbiased MMD^2 of features under a cubic kernel (Binkowski et al. 2018).

    k(x, y) = (x . y / d + 1)^3
    KID = mean_{i != j} k(g_i, g_j) + mean_{i != j} k(r_i, r_j) - 2 mean_{i, j} k(g_i, r_j)

Over the whole pair of samples at once, which is what the usual mean over random subsets estimates with more
variance. Unbiased, so it can be negative, and reported unclipped; it does not depend on n but by its noise.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from benchmark.metrics.api import IMAGE_ROWS, IMAGE_SETTINGS, Column, Evaluation, Metric, hookimpl


def kernel_distance(generated: Tensor, real: Tensor) -> float:
    """KID between features (n, d) and (m, d), accumulated in float64."""
    generated, real = generated.double(), real.double()

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T).div_(x.shape[1]).add_(1).pow_(3)

    def among(x: Tensor) -> Tensor:
        pairs = kernel(x, x)
        return (pairs.sum() - pairs.trace()) / (len(x) * (len(x) - 1))

    return (among(generated) + among(real) - 2 * kernel(generated, real).mean()).item()


class KID(Metric):
    name = "kid"
    reads = IMAGE_SETTINGS
    reference_rows = IMAGE_ROWS

    @classmethod
    def columns(cls, protocol: Any) -> list[Column]:
        return [
            Column("kid", "KID ×10³", "images", scale=1000, better="lower"),
            Column("kid", "gap closed in KID", "images", better="higher", shows="gap"),
        ]

    def measure(self, evaluation: Evaluation) -> dict[str, float]:
        return {"kid": kernel_distance(*evaluation.feature_pair)}


@hookimpl
def register_metrics() -> list[type[Metric]]:
    return [KID]
