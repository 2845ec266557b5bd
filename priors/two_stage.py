"""A second VAE on the latents of the first (Dai and Wipf 2019, arXiv 1903.05789).

    p(z) = int N(z; g(u), gamma^2 I) N(u; 0, I) du
    maximise  ELBO(z) = E_q(u|z)[log N(z; g(u), gamma^2 I)] - KL(q(u|z) || N(0, I)),      z ~ q_agg

with u as long as z, q(u|z) a diagonal Gaussian and gamma one number that is learned. The first VAE leaves the density
of images on a manifold to its decoder; the second meets latents of full dimension, for which the authors show that the
maximum over all networks has q_agg = p. Encoder and decoder are perceptrons whose input is handed to their last layer
too, as in the authors' code; gamma starts lower than theirs, which is 1. z is standardised, and all numbers that are
told are in the units of z, but gamma.

`sample` adds the noise gamma once: g(u) alone would be narrower than the model. The integral has no closed form: the
record has the held-out ELBO, a lower bound of the log-likelihood, and there is no `log_prob`. Adam on fresh draws,
cosine decay, the best state by held-out ELBO.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from priors.api import AggregatePosterior, Between, LatentPrior, OneOf, PriorConfig, Progress, hookimpl
from priors.parts.draws import finite_draws
from priors.parts.early_stopping import BestState
from priors.parts.graphs import without_python
from priors.parts.optimisers import fused_adam
from priors.parts.standard_normal import log_standard_normal
from priors.parts.whitening import SMALLEST

VALIDATE_EVERY = 250  # steps
HELD_OUT = 10_000  # draws in the held-out ELBO
SCALE_FROM = 10_000  # draws whose mean and standard deviations z is standardised by
FIRST_GAMMA = 0.25  # at 1, a standardised z is all noise from the start, and u takes long to be of use


class TwoStageConfig(PriorConfig):
    """`width` and `depth` are of the hidden layers of each network; `patience` counts validations (in 250 steps)."""

    steps: int = Field(8_000, ge=1)
    batch_size: int = Field(256, ge=1)
    width: int = Field(512, ge=1)
    depth: int = Field(3, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    patience: int = Field(10, ge=1)


class SkipPerceptron(nn.Module):
    """Hidden layers with ReLU, and a linear last one that sees the input beside them: (n, inputs) -> (n, outputs)."""

    def __init__(self, inputs: int, width: int, depth: int, outputs: int) -> None:
        super().__init__()
        sizes = [inputs, *[width] * depth]
        self.hidden = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        self.last = nn.Linear(inputs + width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        features = x
        for layer in self.hidden:
            features = F.relu(layer(features), inplace=True)
        return self.last(torch.cat([x, features], 1))


class TwoStage(LatentPrior):
    name = "two_stage"
    group = "one_pass"
    by_default = False
    Config = TwoStageConfig
    config: TwoStageConfig
    recipes = {
        "mnist": (16, {}),
        "cifar10": (128, {}),
        "celeba64": (64, {}),
        "celeba64-preview": (64, {}),
    }
    space = {
        "learning_rate": Between(1e-4, 3e-3, "a decade below Adam's usual 1e-3 to half a decade above it"),
        "width": OneOf((256, 512, 768), "the usual width, half of it and one and a half times it"),
        "depth": OneOf((2, 3, 4), "the usual three hidden layers, one less and one more"),
    }
    quick = {"steps": 1_200, "width": 128}
    replayable = True
    learns = {"ring": 0.1, "banana": 0.15, "narrow": 0.01, "standard": 0.005}
    mean: Tensor
    std: Tensor

    def __init__(self, latent_shape: tuple[int, ...], config: TwoStageConfig) -> None:
        super().__init__(latent_shape, config)
        d = math.prod(latent_shape)
        self.encoder = SkipPerceptron(d, config.width, config.depth, 2 * d)
        self.decoder = SkipPerceptron(d, config.width, config.depth, d)
        self.log_gamma = nn.Parameter(torch.tensor(math.log(FIRST_GAMMA)))
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("std", torch.ones(d))

    def elbo(self, z: Tensor, noise: Tensor) -> Tensor:
        """One-sample estimates (n,) in nats at z (n, d), with u = mean + std * noise of q(u|z), noise (n, d)."""
        x = (z - self.mean) / self.std
        u_mean, u_log_std = self.encoder(x).chunk(2, 1)
        u_std = u_log_std.exp()
        kl = 0.5 * (u_mean.square() + u_std.square() - 1).sum(1) - u_log_std.sum(1)
        residual = (x - self.decoder(u_mean + u_std * noise)) * (-self.log_gamma).exp()
        log_scale = z.shape[1] * self.log_gamma + self.std.log().sum()
        return log_standard_normal(residual) - log_scale - kl

    def fit(self, posterior: AggregatePosterior, generator: torch.Generator, progress: Progress) -> dict[str, Any]:
        config, device = self.config, posterior.device
        scale_from = finite_draws(posterior.train, SCALE_FROM, generator)
        self.mean.copy_(scale_from.mean(0))
        self.std.copy_(scale_from.std(0).clamp_min(SMALLEST))
        optimiser = fused_adam(self.parameters(), config.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)

        def draw_noise(z: Tensor) -> Tensor:
            return torch.randn(z.shape, generator=generator, device=device)

        def step() -> Tensor:
            z = posterior.train.sample(config.batch_size, generator).flatten(1)
            loss = -self.elbo(z, draw_noise(z)).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            return loss.detach()

        held_out = posterior.val.sample(HELD_OUT, generator).flatten(1)
        held_out_noise = draw_noise(held_out)  # the same each time, so that states are compared on equal terms
        best = BestState(self, config.patience)
        step = without_python(step, generator)
        for taken in range(1, config.steps + 1):
            loss = step()
            schedule.step()
            if taken % VALIDATE_EVERY == 0 or taken == config.steps:
                with torch.no_grad():
                    negative = -self.elbo(held_out, held_out_noise).mean().item()
                progress(taken, config.steps, negative_elbo=loss.item(), held_out_negative_elbo=negative)
                if best.exhausted(negative, taken, "held-out ELBO"):
                    break
        best.restore()
        return {"held_out_elbo": -best.value, "best_step": best.step, "gamma": self.log_gamma.exp().item()}

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        u, noise = torch.randn(2, n, len(self.mean), generator=generator, device=generator.device)
        x = self.decoder(u) + self.log_gamma.exp() * noise
        return (self.mean + self.std * x).unflatten(1, self.latent_shape)


@hookimpl
def register_priors() -> list[type[LatentPrior]]:
    return [TwoStage]
