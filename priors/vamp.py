"""VampPrior behind a frozen encoder: K pseudo-images, learned through it (Tomczak and Welling 2018, arXiv 1705.07120).

    p(z) = 1/K sum_k q(z|u_k),      maximise  E[log p(z)]  over the images u_k,  z ~ q_agg

As q_agg is the mixture of the posteriors of all images, p is that of a few images that need not exist. The authors
learn u_k together with the VAE; here encoder and decoder stay as they are. `mixture` learns the Gaussians themselves,
and weights: its family contains this one, so that the difference of the two rows is what the encoder's shape costs, or
what it is worth where images are few.

It is the only prior that is given the backbone, and only while it is fitted: no image of the data set is opened.
Pseudo-images start as decoded draws of q_agg, where the authors take training images, and stay in [0, 1] by a sigmoid.
What is kept are the K means and standard deviations, so that sampling and density need no network.

Every step encodes all K images, so it takes many draws to be worth it. Adam, cosine decay, the best state by held-out
likelihood.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from priors.api import AggregatePosterior, Between, FrozenVAE, LatentPrior, PriorConfig, Progress, hookimpl
from priors.parts.draws import finite_draws
from priors.parts.early_stopping import BestState
from priors.parts.graphs import without_python
from priors.parts.mixtures import draw, log_density
from priors.parts.optimisers import fused_adam

VALIDATE_EVERY = 25  # steps
HELD_OUT = 10_000  # draws in the held-out likelihood
DARKEST = 0.01  # of 1, of a pixel at the start: at 0 and 1 the sigmoid has no slope


class VampConfig(PriorConfig):
    """`components` pseudo-images; `patience` counts validations without a better likelihood (one in 25 steps)."""

    components: int = Field(500, ge=1)
    steps: int = Field(300, ge=1)
    batch_size: int = Field(2_000, ge=1)
    learning_rate: float = Field(0.3, gt=0)
    patience: int = Field(10, ge=1)


class Vamp(LatentPrior):
    name = "vamp"
    group = "closed_form"
    by_default = False
    Config = VampConfig
    config: VampConfig
    recipes = {
        "mnist": (16, {}),
        "cifar10": (128, {}),
        "celeba64": (64, {"components": 100}),
        "celeba64-preview": (64, {"components": 100}),
    }
    space = {
        "components": Between(50, 500, "from half of the fewest of the recipes to the most"),
        "learning_rate": Between(0.03, 1.0, "a decade below the usual 0.3 to half a decade above it"),
    }
    quick = {"components": 100, "steps": 100}
    # with steps as long as images need, for widths that are those of the target's posteriors
    learns = {"ring": 0.15, "mixture": 0.25, "banana": 0.1}
    network_evaluations = 0
    needs_backbone = True
    means: Tensor
    scales: Tensor

    def __init__(self, latent_shape: tuple[int, ...], config: VampConfig) -> None:
        super().__init__(latent_shape, config)
        d = math.prod(latent_shape)
        self.register_buffer("means", torch.zeros(config.components, d))
        self.register_buffer("scales", torch.ones(config.components, d))

    def fit(self, posterior: AggregatePosterior, generator: torch.Generator, progress: Progress) -> dict[str, Any]:
        config, backbone = self.config, posterior.backbone
        if backbone is None:
            raise TypeError("vamp needs the frozen encoder, and this aggregate posterior has draws alone")
        held_out = finite_draws(posterior.val, HELD_OUT, generator)
        logits = self.start(posterior, backbone, generator).requires_grad_()
        optimiser = fused_adam([logits], config.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)

        def encode() -> tuple[Tensor, Tensor]:
            mean, std = backbone.encode(logits.sigmoid())
            return mean.flatten(1), std.flatten(1)

        def step() -> Tensor:
            z = posterior.train.sample(config.batch_size, generator).flatten(1)
            loss = -density_of_equal(z, *encode()).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            return loss.detach()

        best = BestState(self, config.patience)
        step = without_python(step, generator)
        for taken in range(1, config.steps + 1):
            loss = step()
            schedule.step()
            if taken % VALIDATE_EVERY == 0 or taken == config.steps:
                with torch.no_grad():
                    means, scales = encode()
                    if (scales == 0).any():
                        raise ValueError(
                            "vamp is a mixture of posteriors, and these have no width: their encoder is deterministic; "
                            "the prior mixture learns widths, too"
                        )
                    self.means.copy_(means)
                    self.scales.copy_(scales)
                    nll = -self.log_prob(held_out).mean().item()
                progress(taken, config.steps, nll=loss.item(), held_out_nll=nll)
                if best.exhausted(nll, taken, "held-out likelihood"):
                    break
        best.restore()
        return {"held_out_nll": best.value, "best_step": best.step}

    @torch.no_grad()
    def start(self, posterior: AggregatePosterior, backbone: FrozenVAE, generator: torch.Generator) -> Tensor:
        """Logits (K, C, H, W) of pseudo-images: decoded draws of q_agg."""
        z = posterior.train.sample(self.config.components, generator)
        return backbone.decode(z, generator).clamp(DARKEST, 1 - DARKEST).logit()

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return draw(n, equal_weights(self.means), self.means, self.scales, generator).unflatten(1, self.latent_shape)

    def log_prob(self, z: Tensor) -> Tensor:
        return density_of_equal(z.flatten(1), self.means, self.scales)

    def energy(self, z: Tensor) -> Tensor:
        return -self.log_prob(z)


def equal_weights(means: Tensor) -> Tensor:
    """1/K for each of the means (K, d)."""
    return means.new_full((len(means),), 1 / len(means))


def density_of_equal(z: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    """log p (n,) at z (n, d) of components (K, d) that weigh the same."""
    return log_density(z, equal_weights(means), means, scales)


@hookimpl
def register_priors() -> list[type[LatentPrior]]:
    return [Vamp]
