"""Maximum mean discrepancy between a prior and held-out q_agg, in latent space (Gretton et al. 2012).

    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)

unbiased, so it can be negative, and reported unclipped. Two kernels, each a sum over bandwidths s = c * median
squared distance within held-out q_agg (a fixed draw, so that all priors and seeds share them):

    imq  k = sum_s s / (s + |x - y|^2)         rbf  k = sum_s exp(-|x - y|^2 / (2 s))

One z per image, distinct images. The p-value is of a permutation test: the share of random relabellings of the
pooled latents with an MMD^2 at least as large.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmark.metrics.api import LATENT_SETTINGS, Column, Evaluation, Facts, Metric, hookimpl, projected
from benchmark.scores.mmd import KERNELS, kernel_matrix, median_squared_distance, permutation_test, squared_distances


def shared_bandwidths(evaluation: Evaluation, axes: Tensor | None = None) -> list[float]:
    """Those of all rows and seeds of a table: from a fixed draw of held-out q_agg, or its coordinates on `axes`."""
    protocol = evaluation.protocol
    generator = evaluation.shared_stream("mmd bandwidth")
    fixed = evaluation.held_out.one_each(protocol.mmd_latents, generator).flatten(1)
    median = median_squared_distance(fixed if axes is None else fixed @ axes)
    return [factor * median for factor in protocol.mmd_bandwidths]


def _value(kernel: str) -> Column:
    return Column(f"mmd_{kernel}", f"MMD² {kernel} ×10³", "main", scale=1000, better="lower")


class MMD(Metric):
    name = "mmd"
    reads = (*LATENT_SETTINGS, "mmd_bandwidths", "mmd_permutations")
    reference_rows = ("aggregate_posterior",)  # the reconstruction row would meet its own images

    @classmethod
    def columns(cls, protocol: Any) -> list[Column]:
        main = [
            column
            for kernel in KERNELS
            for column in (_value(kernel), Column(f"mmd_{kernel}_p", "p", "main", digits=3, shows="median"))
        ]
        return main + [replace(_value(kernel), group="spread", better=None, shows="spread") for kernel in KERNELS]

    def measure(self, evaluation: Evaluation) -> dict[str, float]:
        return self.compared(evaluation, *next(evaluation.latent_pairs("mmd")))

    def compared(self, evaluation: Evaluation, suffix: str, drawn: Tensor, real: Tensor) -> dict[str, float]:
        """Value and p-value of each kernel for one of the `latent_pairs`."""
        bandwidths = shared_bandwidths(evaluation, evaluation.principal_axes if suffix else None)
        pooled = torch.cat([drawn, real])
        distances = squared_distances(pooled, pooled)
        values: dict[str, float] = {}
        for kernel in KERNELS:
            matrix = kernel_matrix(distances, kernel, bandwidths)
            generator = evaluation.stream("mmd permutations")
            value, p = permutation_test(matrix, evaluation.protocol.mmd_permutations, generator)
            values |= {f"mmd_{kernel}{suffix}": value, f"mmd_{kernel}{suffix}_p": p}
        return values


class ProjectedMMD(MMD):
    """The same on principal axes: of spatial latents, whose distances in full concentrate.

    A metric of its own, so that what was recorded of the other stays.
    """

    name = "mmd_pca64"
    values = tuple(f"mmd_{kernel}_pca64_p" for kernel in KERNELS)

    @classmethod
    def columns(cls, protocol: Any) -> list[Column]:
        return projected([_value(kernel) for kernel in KERNELS])

    def applies(self, facts: Facts) -> bool:
        return len(facts.latent_shape) == 3

    def measure(self, evaluation: Evaluation) -> dict[str, float]:
        _, projected = evaluation.latent_pairs("mmd")
        return self.compared(evaluation, *projected)


@hookimpl
def register_metrics() -> list[type[Metric]]:
    return [MMD, ProjectedMMD]
