"""Drifting: a one-pass generator that follows a field of attraction and repulsion (arXiv 2602.04770).

    minimise  E|g(eps) - sg(g(eps) + V)|^2,      eps ~ N(0, I)

A batch y of the generator is drawn to a batch x of q_agg and repelled by itself; `sg` stops the gradient, so that a
step moves y along V. With d(., .) a distance over the mean of all, and for each temperature R

    a_ij = sqrt(softmax_j(-d_ij / R) softmax_i(-d_ij / R)),      i over y, j over the other y and x together
    V_i  = (sum a over other y) (sum_j a_ij x_j) - (sum a over x) (sum_j a_ij y_j)

which is divided by its root mean square and added up over R. V is the difference of two means, of nearby x and of
nearby y, times a weight. It changes its sign when x and y change places, so that it vanishes in expectation where
generator and q_agg agree; from a cloud shrunk to a point it leads outward. No member of y may repel itself.

What is normalised at the equilibrium is the noise of a batch; so the rate decays to zero. On images the authors measure
distances in learned features; latents of a VAE are such features already. There is no density.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from priors.api import AggregatePosterior, Between, Diverged, LatentPrior, OneOf, PriorConfig, Progress, hookimpl
from priors.parts.flows import MLPGenerator
from priors.parts.graphs import without_python
from priors.parts.optimisers import fused_adam

LOG_EVERY = 100  # steps
BETAS = (0.9, 0.95)  # of Adam, the authors'


class DriftingConfig(PriorConfig):
    """`batch_size` draws of the generator and as many of q_agg a step."""

    steps: int = Field(6_000, ge=1)
    batch_size: int = Field(256, ge=2)
    width: int = Field(512, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    temperatures: tuple[Annotated[float, Field(gt=0)], ...] = Field((0.02, 0.05, 0.2), min_length=1)


class Drifting(LatentPrior):
    name = "drifting"
    group = "one_pass"
    by_default = False
    Config = DriftingConfig
    config: DriftingConfig
    recipes = {"mnist": (16, {}), "cifar10": (128, {}), "celeba64": (64, {}), "celeba64-preview": (64, {})}
    block_recipes = {"mnist": (128, {}), "celeba64": (1_280, {}), "cifar10": (5_120, {})}
    space = {
        "learning_rate": Between(1e-4, 2e-3, "a decade below Adam's usual 1e-3 to twice it"),
        "temperatures": OneOf(
            ((0.01, 0.025, 0.1), (0.02, 0.05, 0.2), (0.04, 0.1, 0.4)), "the usual three, all halved and all doubled"
        ),
        "batch_size": OneOf(
            (128, 256, 384), "the usual 256, half of it and one and a half times: distances cost its square"
        ),
        "width": OneOf((256, 512, 768), "the usual width, half of it and one and a half times it"),
    }
    quick = {"steps": 600}
    block_quick = {"steps": 300}
    learns = {"ring": 0.05, "mixture": 0.2}
    replayable = True

    def __init__(self, latent_shape: tuple[int, ...], config: DriftingConfig) -> None:
        super().__init__(latent_shape, config)
        self.generator = MLPGenerator(math.prod(latent_shape), config.width)

    def fit(self, posterior: AggregatePosterior, generator: torch.Generator, progress: Progress) -> None:
        config, device = self.config, posterior.device
        parameters = list(self.generator.parameters())
        optimiser = fused_adam(parameters, config.learning_rate, betas=BETAS)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)

        def step() -> Tensor:
            """One step of the generator: the length of the shift at the last temperature."""
            x = posterior.train.sample(config.batch_size, generator).flatten(1)
            y, _ = self.generator.push(torch.randn(x.shape, generator=generator, device=device))
            force, shift = drift(y.detach(), x, config.temperatures)
            # the gradient of |y - sg(y + V)|^2 / 2 in y is -V
            gradients = torch.autograd.grad(y, parameters, -force / force.numel())
            for parameter, gradient in zip(parameters, gradients):
                parameter.grad = gradient
            optimiser.step()
            return shift.square().sum(1).mean().sqrt()

        step = without_python(step, generator)
        for index in range(1, config.steps + 1):
            value = step()
            schedule.step()
            if index % LOG_EVERY == 0 or index == config.steps:
                shift = value.item()
                if not math.isfinite(shift):
                    raise Diverged(f"the drift is not finite after {index} steps")
                progress(index, config.steps, shift=shift)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        noise = torch.randn(n, self.generator.features, generator=generator, device=generator.device)
        return self.generator.push(noise)[0].unflatten(1, self.latent_shape)


def drift(y: Tensor, x: Tensor, temperatures: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """The force (n, d) on y (n, d) from x (m, d), and the difference of means that it has at the last temperature.

    A row's affinities are taken over its largest one, and rows over the largest row: far from all data they would be
    below the smallest float.
    """
    n = len(y)
    distances = torch.cat([torch.cdist(y, y), torch.cdist(y, x)], 1)
    itself = torch.eye(*distances.shape, dtype=torch.bool, device=y.device)
    mean = distances.masked_fill(itself, 0).sum() / (distances.numel() - n)
    total = torch.zeros_like(y)
    for temperature in temperatures:
        logits = (-distances / (mean * temperature)).masked_fill(itself, -math.inf)
        logits = logits - (logits.logsumexp(0, keepdim=True) + logits.logsumexp(1, keepdim=True)) / 2
        largest = logits.amax(1, keepdim=True)
        affinity = (logits - largest).exp()
        others, data = affinity.tensor_split([n], 1)
        of_others, of_data = others.sum(1, keepdim=True), data.sum(1, keepdim=True)
        force = of_others * (data @ x) - of_data * (others @ y)
        shift = force / (of_others * of_data)
        force = force * (2 * (largest - largest.max())).exp()
        total += force / force.square().mean().sqrt()
    return total, shift


@hookimpl
def register_priors() -> list[type[LatentPrior]]:
    return [Drifting]
