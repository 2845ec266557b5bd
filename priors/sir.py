"""Sampling-importance-resampling: of M proposals, one is drawn in proportion to its weight."""

from __future__ import annotations

import torch
from torch import Tensor


def resample(proposals: Tensor, log_weights: Tensor, generator: torch.Generator) -> Tensor:
    """One of M proposals per row: (n, M, d) and (n, M) -> (n, d), with probability proportional to exp(log_weights).

    Gumbel-max, so weights need not be normalised and any range of them is safe.
    """
    uniform = torch.rand(log_weights.shape, generator=generator, device=log_weights.device)
    tiny = torch.finfo(uniform.dtype).tiny
    exponential = -uniform.clamp_min(tiny).log()
    gumbel = -exponential.clamp_min(tiny).log()
    chosen = (log_weights + gumbel).argmax(1)
    return proposals[torch.arange(len(proposals), device=chosen.device), chosen]


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2 of each row: (n, M) -> (n,), between 1 and M. Kong (1992)."""
    return (2 * log_weights.logsumexp(1) - (2 * log_weights).logsumexp(1)).exp()
