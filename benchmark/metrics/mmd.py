"""Maximum mean discrepancy between a prior and held-out q_agg, in latent space (Gretton et al. 2012).

    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)

unbiased, so it can be negative, and reported unclipped. Two kernels, each a sum over bandwidths s = c * median
squared distance within held-out q_agg (a fixed draw, so that all priors and seeds share them):

    imq  k = sum_s s / (s + |x - y|^2)         rbf  k = sum_s exp(-|x - y|^2 / (2 s))

One z per image, distinct images. The p-value is of a permutation test: the share of random relabellings of the
pooled latents with an MMD^2 at least as large.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmark.metrics.api import LATENT_SETTINGS, Metric, hookimpl
from benchmark.protocol import Protocol
from benchmark.streams import stream

if TYPE_CHECKING:
    from benchmark.evaluation import Evaluation
    from benchmark.job import Workspace
    from benchmark.plan import Job

KERNELS = ("imq", "rbf")


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """(n, d), (m, d) -> (n, m), float64."""
    x, y = x.double(), y.double()
    return (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).clamp_min_(0)


def median_squared_distance(x: Tensor) -> float:
    """Median over the distinct pairs of rows of x (n, d)."""
    rows, columns = torch.triu_indices(len(x), len(x), 1, device=x.device)
    return squared_distances(x, x)[rows, columns].median().item()


def kernel_matrix(distances: Tensor, kernel: str, bandwidths: list[float]) -> Tensor:
    """The sum over bandwidths of one of `KERNELS`, elementwise on squared distances."""
    total = torch.zeros_like(distances)
    for s in bandwidths:
        total += s / (s + distances) if kernel == "imq" else torch.exp(distances / (-2 * s))
    return total


def mmd_squared(kernel: Tensor, first: Tensor) -> Tensor:
    """Unbiased MMD^2 between two halves of a pooled sample, for many labellings at once.

    `kernel` (2n, 2n) is symmetric; `first` (2n, p), of zeros and ones, says for each of p labellings which n
    points are the first sample. Returns (p,).
    """
    kernel = kernel.clone().fill_diagonal_(0)
    n = len(kernel) // 2
    second = 1 - first
    with_first = kernel @ first
    within_first, across = (first * with_first).sum(0), (second * with_first).sum(0)
    within_second = kernel.sum() - within_first - 2 * across
    return (within_first + within_second) / (n * (n - 1)) - 2 * across / (n * n)


def permutation_test(kernel: Tensor, permutations: int, generator: torch.Generator) -> tuple[float, float]:
    """MMD^2 of the first half of a pooled sample against the second, and its permutation p-value."""
    n = len(kernel) // 2
    first = torch.zeros(2 * n, permutations + 1, dtype=kernel.dtype, device=kernel.device)
    first[:n, 0] = 1
    scores = torch.rand(2 * n, permutations, generator=generator, device=kernel.device)
    first[:, 1:].scatter_(0, scores.argsort(0)[:n], 1)
    values = mmd_squared(kernel, first)
    # a relabelling with the observed value counts, also where rounding says otherwise
    exceeding = (values[1:] >= values[0] - 1e-12 * values[0].abs()).sum().item()
    return values[0].item(), (1 + exceeding) / (1 + permutations)


def mmd_between(z: Tensor, real: Tensor, kernel: str = KERNELS[0], bandwidths: list[float] | None = None) -> float:
    """Unbiased MMD^2 between two samples of equal size (n, d); bandwidths are those of `real` where none are given."""
    if bandwidths is None:
        median = median_squared_distance(real)
        bandwidths = [factor * median for factor in Protocol.model_fields["mmd_bandwidths"].default]
    pooled = torch.cat([z, real])
    matrix = kernel_matrix(squared_distances(pooled, pooled), kernel, bandwidths)
    first = torch.zeros(len(pooled), 1, dtype=matrix.dtype, device=matrix.device)
    first[: len(z)] = 1
    return mmd_squared(matrix, first).item()


def shared_bandwidths(evaluation: Evaluation, axes: Tensor | None = None) -> list[float]:
    """Those of all rows and seeds of a table: from a fixed draw of held-out q_agg, or its coordinates on `axes`."""
    protocol = evaluation.protocol
    generator = stream(evaluation.device, "mmd bandwidth")
    fixed = evaluation.held_out.one_each(protocol.mmd_latents, generator).flatten(1)
    median = median_squared_distance(fixed if axes is None else fixed @ axes)
    return [factor * median for factor in protocol.mmd_bandwidths]


class MMD(Metric):
    name = "mmd"
    reads = (*LATENT_SETTINGS, "mmd_bandwidths", "mmd_permutations")
    reference_rows = ("aggregate_posterior",)  # the reconstruction row would meet its own images

    def measure(self, evaluation: Evaluation) -> dict[str, float]:
        return self.compared(evaluation, *next(evaluation.latent_pairs("mmd")))

    def compared(self, evaluation: Evaluation, suffix: str, drawn: Tensor, real: Tensor) -> dict[str, float]:
        """Value and p-value of each kernel for one of the `latent_pairs`."""
        bandwidths = shared_bandwidths(evaluation, evaluation.principal_axes if suffix else None)
        pooled = torch.cat([drawn, real])
        distances = squared_distances(pooled, pooled)
        values = {}
        for kernel in KERNELS:
            matrix = kernel_matrix(distances, kernel, bandwidths)
            generator = evaluation.stream("mmd permutations")
            value, p = permutation_test(matrix, evaluation.protocol.mmd_permutations, generator)
            values |= {f"mmd_{kernel}{suffix}": value, f"mmd_{kernel}{suffix}_p": p}
        return values


class ProjectedMMD(MMD):
    """The same on principal axes: of spatial latents, whose distances in full concentrate. A metric of its own, so
    that what was recorded of the other stays."""

    name = "mmd_pca64"

    def applies(self, job: Job, work: Workspace) -> bool:
        return len(work.bundle.latent_shape) == 3

    def measure(self, evaluation: Evaluation) -> dict[str, float]:
        _, projected = evaluation.latent_pairs("mmd")
        return self.compared(evaluation, *projected)


@hookimpl
def register_metrics() -> list[type[Metric]]:
    return [MMD, ProjectedMMD]
