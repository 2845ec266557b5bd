"""Mixtures of Gaussians: their log-density and their draws.

    p(z) = sum_k w_k N(z; mu_k, L_k L_k^T)

A mixture is three tensors: weights (k,) that sum to one; means (k, d); and roots, lower triangular L (k, d, d) or,
where the covariances are diagonal, standard deviations (k, d).

All distances between rows and components are one matrix product, which cancels where a component is narrow; so they are
in double precision, and in chunks of rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from priors.parts.chunks import split_rows

#: numbers in memory at a time, on a CPU as many as stay in its cache; and the fewest rows worth a matrix product
CHUNK = {"cuda": 2**25, "cpu": 2**17}
FEWEST_ROWS = 64


def log_joint(z: Tensor, weights: Tensor, means: Tensor, roots: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """z (n, d) in chunks of m rows: the rows (m, d), and log w_k + log N(z; mu_k, L_k L_k^T) of each (m, k)."""
    z, weights, means, roots = z.double(), weights.double(), means.double(), roots.double()
    components, d = means.shape
    full = roots.dim() == 3
    if full:
        inverse = torch.linalg.solve_triangular(
            roots, torch.eye(d, dtype=roots.dtype, device=roots.device), upper=False
        )
        to_noise, centres = inverse.flatten(0, 1).T, (inverse @ means[:, :, None]).flatten()
        log_det = roots.diagonal(dim1=1, dim2=2).log().sum(1)
    else:
        precision = roots.square().reciprocal()
        log_det = roots.log().sum(1)
    constants = weights.log() - log_det - d / 2 * math.log(2 * math.pi)
    for rows in z.split(max(CHUNK[z.device.type] // (components * d if full else components), FEWEST_ROWS)):
        if full:
            distances = (rows @ to_noise - centres).square().unflatten(1, (components, d)).sum(2)
        else:
            ahead = rows.square() @ precision.T - 2 * rows @ (means * precision).T
            distances = ahead + (means.square() * precision).sum(1)
        yield rows, constants - distances / 2


def log_density(z: Tensor, weights: Tensor, means: Tensor, roots: Tensor) -> Tensor:
    """log p (n,) in nats at z (n, d), in the precision of z."""
    return torch.cat([joint.logsumexp(1) for _, joint in log_joint(z, weights, means, roots)]).to(z.dtype)


def choose(weights: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """n indices (n,) into weights (k,), each in proportion to its weight."""
    total = weights.double().cumsum(0)
    uniform = torch.rand(n, generator=generator, device=generator.device, dtype=total.dtype)
    return torch.searchsorted(total, uniform * total[-1], right=True).clamp_max(len(weights) - 1)


def draw(n: int, weights: Tensor, means: Tensor, roots: Tensor, generator: torch.Generator) -> Tensor:
    """n draws (n, d): a component by its weight, then its Gaussian."""
    chosen = choose(weights, n, generator)
    noise = torch.randn(n, means.shape[1], generator=generator, device=generator.device)
    if roots.dim() == 2:
        return means[chosen] + roots[chosen] * noise
    size = max(CHUNK[noise.device.type] // roots[0].numel(), 1)
    parts = zip(split_rows(chosen, size), split_rows(noise, size))
    moved = [(roots[k] @ eps[:, :, None]).squeeze(2) for k, eps in parts]
    return means[chosen] + torch.cat(moved)
