"""Posteriors of images that nobody encoded: of a known aggregate, in a few clusters, or ever narrower."""

import math

import torch
from draws import seeded

from priors.api import AggregatePosterior, PosteriorSplit


def gaussian_posterior(mean: torch.Tensor, std: float, n: int = 20_000) -> AggregatePosterior:
    """An aggregate posterior that is N(mean, std^2 I) up to the finite number of images."""
    inner = std / math.sqrt(2)
    splits = [
        PosteriorSplit(
            mean + inner * torch.randn(n, len(mean), generator=seeded(seed)), torch.full((n, len(mean)), inner)
        )
        for seed in (1, 2)
    ]
    return AggregatePosterior(*splits)


def clusters(n: int = 50, d: int = 4) -> AggregatePosterior:
    """Two clusters, away from N(0, I)."""
    generator = seeded(11)
    mean = torch.where(torch.arange(n)[:, None] % 2 == 0, 1.5, -1.0) + 0.2 * torch.randn(n, d, generator=generator)
    split = PosteriorSplit(mean, 0.1 + 0.1 * torch.rand(n, d, generator=generator))
    return AggregatePosterior(split, split)


def narrowing(*shape: int, n: int = 120, std: float = 0.1) -> PosteriorSplit:
    """Posteriors whose means vary less and less from one dimension to the next, about a point away from zero."""
    size = math.prod(shape)
    mean = 1 + torch.randn(n, size, generator=seeded(0)) * torch.linspace(2, 0.2, size)
    return PosteriorSplit(mean.unflatten(1, shape), torch.full((n, *shape), std))
