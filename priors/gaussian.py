"""The prior a VAE is trained with: p(z) = N(0, I). Nothing to fit; the row every other prior has to beat."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from priors.api import AggregatePosterior, LatentPrior, Progress, hookimpl


def log_standard_normal(z: Tensor) -> Tensor:
    """log N(z; 0, I) in nats, (n, ...) -> (n,)."""
    z = z.flatten(1)
    return -0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi))


class Gaussian(LatentPrior):
    name = "gaussian"
    learns = {"standard": 0.005}
    network_evaluations = 0

    def fit(self, posterior: AggregatePosterior, generator: torch.Generator, progress: Progress) -> None:
        pass

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randn(n, *self.latent_shape, generator=generator, device=generator.device)

    def log_prob(self, z: Tensor) -> Tensor:
        return log_standard_normal(z)

    def energy(self, z: Tensor) -> Tensor:
        return -log_standard_normal(z)


@hookimpl
def register_priors() -> list[type[LatentPrior]]:
    return [Gaussian]
