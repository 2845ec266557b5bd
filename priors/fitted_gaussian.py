"""A Gaussian with the mean and the covariance of q_agg: the maximum of the likelihood, in closed form.

    p(z) = N(z; m, S),      m = mean of z,  S = 1/n sum (z - m)(z - m)^T,      z ~ q_agg

`covariance=diagonal` keeps the variances alone. It tells what two moments are worth: beside `gaussian` it repairs place
and scale, and what a `gmm` gains over it is the shape. An "ex-post density estimation" of one component in the words
of Ghosh et al. 2020 (RAE, arXiv 1903.12436).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from priors.api import AggregatePosterior, Diverged, LatentPrior, OneOf, PriorConfig, Progress, hookimpl
from priors.parts.draws import finite_draws
from priors.parts.mixtures import log_density


class FittedGaussianConfig(PriorConfig):
    """`draws` of q_agg are what mean and covariance are taken of."""

    covariance: Literal["diagonal", "full"] = "full"
    draws: int = Field(50_000, ge=2)


class FittedGaussian(LatentPrior):
    name = "fitted_gaussian"
    group = "closed_form"
    Config = FittedGaussianConfig
    config: FittedGaussianConfig
    block_recipes = {
        "mnist": (128, {}),
        # a full covariance of that many latents is fitted to more numbers than there are draws
        "celeba64": (1_280, {"covariance": "diagonal"}),
        "cifar10": (5_120, {"covariance": "diagonal", "draws": 20_000}),
    }
    long_recipes = {"mnist": (1_792, {"draws": 30_000})}
    space = {
        "covariance": OneOf(
            ("diagonal", "full"), "both that there are: a full one takes far more draws than there are latents"
        ),
    }
    quick = {"draws": 20_000}
    learns = {"narrow": 0.01, "standard": 0.005}
    network_evaluations = 0
    mean: Tensor
    root: Tensor

    def __init__(self, latent_shape: tuple[int, ...], config: FittedGaussianConfig) -> None:
        super().__init__(latent_shape, config)
        d = math.prod(latent_shape)
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("root", torch.ones(d) if config.covariance == "diagonal" else torch.eye(d))

    def fit(self, posterior: AggregatePosterior, generator: torch.Generator, progress: Progress) -> dict[str, Any]:
        z = finite_draws(posterior.train, self.config.draws, generator)
        self.mean.copy_(z.mean(0))
        if self.config.covariance == "diagonal":
            self.root.copy_(z.std(0, correction=0))
        else:
            root, failed = torch.linalg.cholesky_ex(torch.atleast_2d(z.T.cov(correction=0)))
            if failed:
                raise Diverged(f"the covariance of {len(z):,} draws is singular")
            self.root.copy_(root)
        return {"log_determinant": 2 * self._scales().log().sum().item()}

    def _scales(self) -> Tensor:
        return self.root if self.root.dim() == 1 else self.root.diagonal()

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        noise = torch.randn(n, len(self.mean), generator=generator, device=generator.device)
        moved = self.root * noise if self.root.dim() == 1 else noise @ self.root.T
        return (self.mean + moved).unflatten(1, self.latent_shape)

    def log_prob(self, z: Tensor) -> Tensor:
        return log_density(z.flatten(1), self.mean.new_ones(1), self.mean[None], self.root[None])

    def energy(self, z: Tensor) -> Tensor:
        return -self.log_prob(z)


@hookimpl
def register_priors() -> list[type[LatentPrior]]:
    return [FittedGaussian]
