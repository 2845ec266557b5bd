"""Maximum mean discrepancy between two samples (Gretton et al. 2012).

    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)

unbiased, so it can be negative. Two kernels, each a sum over bandwidths s:

    imq  k = sum_s s / (s + |x - y|^2)         rbf  k = sum_s exp(-|x - y|^2 / (2 s))
"""

from __future__ import annotations

import torch
from torch import Tensor

KERNELS = ("imq", "rbf")
#: bandwidths, as multiples of the median squared distance within the real sample
BANDWIDTHS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


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
        bandwidths = [factor * median for factor in BANDWIDTHS]
    pooled = torch.cat([z, real])
    matrix = kernel_matrix(squared_distances(pooled, pooled), kernel, bandwidths)
    first = torch.zeros(len(pooled), 1, dtype=matrix.dtype, device=matrix.device)
    first[: len(z)] = 1
    return mmd_squared(matrix, first).item()
