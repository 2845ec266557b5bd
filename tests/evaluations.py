"""Evaluations without a run: a source of latents, held-out posteriors, and a backbone in name only."""

import itertools
from types import SimpleNamespace

import torch
from draws import CPU
from posteriors import narrowing

from benchmark.jobs.evaluation import Evaluation
from benchmark.protocol import Protocol
from priors.api import LatentPrior, PosteriorSplit, PriorConfig

#: what the names of values on principal axes end in
SUFFIX = "_pca64"
fits = itertools.count()  # latents are kept by identity: every source has one of its own


class Scaled(LatentPrior):
    """Draws N(shift, scale^2 I)."""

    name = "scaled"

    def __init__(self, latent_shape, scale: float, shift: float = 0.0) -> None:
        super().__init__(latent_shape, PriorConfig())
        self.scale, self.shift = scale, shift

    def fit(self, posterior, generator, progress) -> None: ...

    def sample(self, n, generator):
        return self.shift + self.scale * torch.randn(n, *self.latent_shape, generator=generator)


def evaluation(source, held_out: PosteriorSplit, seed: int = 0, train=None, **settings) -> Evaluation:
    protocol = Protocol(
        preset="quick",
        version=2,
        budget="quick",
        split="test",
        extractor={},
        features=2,
        score="FD",
        generated=10,
        reference=10,
        preparation="",
        mmd_latents=settings.pop("mmd_latents", 40),
        mmd_permutations=50,
        timing_seconds=settings.pop("timing_seconds", 1.0),
        **settings,
    )
    shape = held_out._mean.shape[1:]
    backbone = SimpleNamespace(latent_shape=tuple(shape), decode=lambda z, generator: z.sigmoid())
    return Evaluation(source, {"fit": next(fits)}, backbone, held_out, None, None, protocol, seed, CPU, train)


def spatial_evaluation(source=None, shape=(4, 5, 6), seed=0, **settings) -> Evaluation:
    """One of latents C x H x W, which are compared on principal axes too."""
    return evaluation(source or Scaled(shape, 1.3), narrowing(*shape), seed, **{"mmd_latents": 100, **settings})
