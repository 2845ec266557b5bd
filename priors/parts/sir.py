"""Sampling-importance-resampling: of M proposals, one is drawn in proportion to its weight."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from priors.parts.chunks import is_open

#: proposals in memory at a time; on a CPU as many as stay in its cache between the layers of an energy network, on a
#: GPU as many as fit where a layer of convolutions makes 64k values of each
CHUNK = {"cuda": 32_768, "cpu": 8_192}

#: sets of proposals over which the effective sample size is averaged
SETS = 100

#: n sets of M proposals from a generator: (n, M, d) and their log-weights (n, M)
Weighted = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]


def resample(proposals: Tensor, log_weights: Tensor, generator: torch.Generator) -> Tensor:
    """One of M proposals per row: (n, M, d) and (n, M) -> (n, d), with probability proportional to exp(log_weights).

    Gumbel-max, so weights need not be normalised and any range of them is safe.
    """
    uniform = torch.rand(log_weights.shape, generator=generator, device=log_weights.device)
    tiny = torch.finfo(uniform.dtype).tiny
    exponential = -uniform.clamp_min(tiny).log()
    gumbel = -exponential.clamp_min(tiny).log()
    chosen = (log_weights + gumbel).argmax(1)
    return proposals[torch.arange(proposals.shape[0], device=chosen.device), chosen]


def sample(weighted: Weighted, n: int, proposals: int, generator: torch.Generator) -> Tensor:
    """n resampled latents (n, d), with at most `CHUNK` proposals in memory (one set where M is larger)."""
    sizes = _sizes(n, proposals, generator)
    drawn = resample(*weighted(sizes[0], generator), generator)
    # one tensor for all: small ones kept between large ones that come and go would fragment memory, by gigabytes
    z = torch.cat([drawn, drawn.new_empty(n - sizes[0], drawn.shape[1])])
    for start, size in zip(itertools.accumulate(sizes), sizes[1:]):
        z[start : start + size] = resample(*weighted(size, generator), generator)
    return z


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2 of each row: (n, M) -> (n,), between 1 and M. Kong (1992)."""
    return (2 * log_weights.logsumexp(1) - (2 * log_weights).logsumexp(1)).exp()


def mean_effective_sample_size(weighted: Weighted, proposals: int, generator: torch.Generator) -> float:
    """Effective sample size averaged over `SETS` sets."""
    sizes = _sizes(SETS, proposals, generator)
    return torch.cat([effective_sample_size(weighted(size, generator)[1]) for size in sizes]).mean().item()


def _sizes(n: int, proposals: int, generator: torch.Generator) -> list[int]:
    if is_open(n):
        return [n]
    chunk = max(CHUNK[generator.device.type] // proposals, 1)
    return [min(chunk, n - start) for start in range(0, n, chunk)]
