"""Is only the norm wrong? A direction as N(0, I) has it, and the norms of q_agg.

    z = r u,      u uniform on the sphere,      r = |z'|,  z' ~ q_agg

The density of s = log r is that of kernels (`priors.parts.kernels`). With p_r(r) = p_s(log r) / r,

    log p(z) = log p_s(log |z|) - log A_d - d log |z|

where A_d |z|^(d-1) is the surface of the sphere of radius |z| (`priors.parts.spheres`), and one more |z| is the
Jacobian of the logarithm. All of the hole that N(0, I) has in its norms is mended, and none that it has in directions.
The suite's own question; hyperspherical priors (Davidson et al. 2018, arXiv 1804.00891) put all norms at one.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from priors.api import AggregatePosterior, LatentPrior, PriorConfig, Progress, hookimpl
from priors.parts import kernels
from priors.parts.draws import finite_draws
from priors.parts.spheres import directions, log_area

HELD_OUT = 10_000  # draws in the held-out likelihood


class RadialConfig(PriorConfig):
    """`draws` of q_agg have the norms that the density is fitted to."""

    draws: int = Field(50_000, ge=2)


class Radial(LatentPrior):
    name = "radial"
    group = "closed_form"
    by_default = False
    Config = RadialConfig
    config: RadialConfig
    quick = {"draws": 20_000}
    learns = {"ring": 0.05, "narrow": 0.01, "standard": 0.005}
    network_evaluations = 0
    centres: Tensor
    widths: Tensor

    def __init__(self, latent_shape: tuple[int, ...], config: RadialConfig) -> None:
        super().__init__(latent_shape, config)
        self.register_buffer("centres", torch.zeros(1, kernels.KERNELS))
        self.register_buffer("widths", torch.ones(1, kernels.KERNELS))

    def fit(self, posterior: AggregatePosterior, generator: torch.Generator, progress: Progress) -> None:
        z = finite_draws(posterior.train, self.config.draws, generator)
        held_out = finite_draws(posterior.val, HELD_OUT, generator)
        centres, widths = kernels.fit_kernels(*(each.norm(dim=1, keepdim=True).log() for each in (z, held_out)))
        self.centres.copy_(centres)
        self.widths.copy_(widths)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        lengths = kernels.draw(n, self.centres, self.widths, generator).exp()
        return (lengths * directions(n, math.prod(self.latent_shape), generator)).unflatten(1, self.latent_shape)

    def log_prob(self, z: Tensor) -> Tensor:
        d = math.prod(self.latent_shape)
        norm = z.flatten(1).double().norm(dim=1, keepdim=True)
        logs = norm.clamp_min(torch.finfo(norm.dtype).tiny).log()  # the origin has no logarithm, and next to no density
        density = kernels.log_density(logs, self.centres, self.widths) - log_area(d) - d * logs
        return density.squeeze(1).to(z.dtype)

    def energy(self, z: Tensor) -> Tensor:
        return -self.log_prob(z)


@hookimpl
def register_priors() -> list[type[LatentPrior]]:
    return [Radial]
