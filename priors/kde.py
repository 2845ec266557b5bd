"""A kernel density estimate (Rosenblatt 1956, Parzen 1962): a Gaussian around each of K latents of training images.

    p(z) = 1/K sum_k N(z; z_k, h^2 diag(s^2)),      z_k ~ q_agg

with s the standard deviations of q_agg, and one bandwidth h: that of the highest likelihood on draws of the validation
images, among those below. Nothing is learned but h; the `kept` latents are the model, and every one is of a training
image, so that its samples are those images' neighbours. The memorisation scores say how near: h towards zero is replay.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from priors.api import AggregatePosterior, Diverged, LatentPrior, PriorConfig, Progress, hookimpl
from priors.parts.draws import finite_draws
from priors.parts.mixtures import log_density

BANDWIDTHS = [0.03 * 1.15**step for step in range(30)]  # 0.03 to 1.7 standard deviations
HELD_OUT = 2_000  # draws in the held-out likelihood


class KDEConfig(PriorConfig):
    """`kept` latents are the state, so many numbers for each dimension."""

    kept: int = Field(10_000, ge=2)


class KDE(LatentPrior):
    name = "kde"
    group = "closed_form"
    by_default = False
    Config = KDEConfig
    config: KDEConfig
    block_recipes = {"mnist": (128, {}), "celeba64": (1_280, {"kept": 5_000}), "cifar10": (5_120, {"kept": 2_000})}
    quick = {"kept": 1_000}
    # in many dimensions, what kernels add to the variance is what remains
    learns = {"ring": 0.05, "mixture": 0.3, "banana": 0.05, "narrow": 0.05}
    network_evaluations = 0
    points: Tensor
    widths: Tensor

    def __init__(self, latent_shape: tuple[int, ...], config: KDEConfig) -> None:
        super().__init__(latent_shape, config)
        d = math.prod(latent_shape)
        self.register_buffer("points", torch.zeros(config.kept, d))
        self.register_buffer("widths", torch.ones(d))

    @torch.no_grad()
    def fit(self, posterior: AggregatePosterior, generator: torch.Generator, progress: Progress) -> dict[str, Any]:
        points = finite_draws(posterior.train, self.config.kept, generator)
        held_out = finite_draws(posterior.val, HELD_OUT, generator)
        std = points.std(0)
        self.points.copy_(points)
        tried: dict[float, float] = {}
        for step, bandwidth in enumerate(BANDWIDTHS, 1):
            self.widths.copy_(bandwidth * std)
            tried[bandwidth] = -self.log_prob(held_out).mean().item()
            progress(step, len(BANDWIDTHS), bandwidth=bandwidth, held_out_nll=tried[bandwidth])
        best = min(tried, key=lambda bandwidth: tried[bandwidth])
        if not math.isfinite(tried[best]):
            raise Diverged("no bandwidth has a finite held-out likelihood")
        self.widths.copy_(best * std)
        return {"bandwidth": best, "held_out_nll": tried[best]}

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(self.points), (n,), generator=generator, device=generator.device)
        noise = torch.randn(n, len(self.widths), generator=generator, device=generator.device)
        return (self.points[chosen] + self.widths * noise).unflatten(1, self.latent_shape)

    def log_prob(self, z: Tensor) -> Tensor:
        equal = self.points.new_full((len(self.points),), 1 / len(self.points))
        return log_density(z.flatten(1), equal, self.points, self.widths.expand_as(self.points))

    def energy(self, z: Tensor) -> Tensor:
        return -self.log_prob(z)


@hookimpl
def register_priors() -> list[type[LatentPrior]]:
    return [KDE]
