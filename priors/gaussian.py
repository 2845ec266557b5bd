"""The prior a VAE is trained with: p(z) = N(0, I). Nothing to fit; the row every other prior has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from priors.api import AggregatePosterior, LatentPrior, Progress, hookimpl
from priors.parts.standard_normal import log_standard_normal


class Gaussian(LatentPrior):
    name = "gaussian"
    group = "closed_form"
    learns = {"standard": 0.005}
    network_evaluations = 0
    replayable = True

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
