"""Latent WGAN-GP: a plain network trained against a critic (Gulrajani et al. 2017, arXiv 1704.00028), on latents.

    critic       minimise  E[f(z_q)] - E[f(z_g)] + gp_weight E[(|grad f(z^)| - 1)^2],  z^ = a z_q + (1 - a) z_g
    generator    minimise  E[f(g(eps))],  eps ~ N(0, I)

z_q ~ q_agg, z_g = g(eps), a ~ U(0, 1) for each sample: at the critic's optimum, E[f(z_g)] - E[f(z_q)] is the
Wasserstein distance, which the generator shortens. f is low where latents are real, as every energy here: the sign is
the reverse of the paper's. Five critic steps a generator step, and two rates (Heusel et al. 2017, arXiv 1706.08500).

EVaLP with a plain network for a sampler and without the KL term is this very method: the objectives are its functions,
and with equal settings both give the same numbers. Here it has its usual settings and its name. One pass draws a
latent; there is no density, and f is no energy of what is drawn.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from priors.api import AggregatePosterior, Between, Diverged, LatentPrior, OneOf, PriorConfig, Progress, hookimpl
from priors.evalp import energy_gradients, sampler_loss
from priors.parts.energies import ConvEnergy, Energy, Form, MLPEnergy
from priors.parts.flows import MLPGenerator
from priors.parts.graphs import without_python
from priors.parts.optimisers import Adam

LOG_EVERY = 100  # generator steps


class LatentWGANConfig(PriorConfig):
    """`steps` counts critic steps; the generator takes one after every `critic_steps` of them.

    `network=conv` makes the critic of convolutions; the generator is a perceptron for blocks too.
    """

    steps: int = Field(60_000, ge=1)
    batch_size: int = Field(64, ge=1)
    critic_steps: int = Field(5, ge=1)
    network: Form = "mlp"
    critic_width: int = Field(256, ge=1)
    conv_widths: tuple[int, ...] = Field((64, 128, 256, 128), min_length=1)
    generator_width: int = Field(256, ge=1)
    learning_rate: float = Field(3e-4, gt=0)
    generator_learning_rate: float = Field(1e-4, gt=0)
    betas: tuple[float, float] = (0.5, 0.9)
    gp_weight: float = Field(10.0, ge=0)


class LatentWGAN(LatentPrior):
    name = "latent_wgan"
    group = "one_pass"
    by_default = False
    Config = LatentWGANConfig
    config: LatentWGANConfig
    recipes = {
        "mnist": (16, {}),
        "cifar10": (128, {"generator_width": 512}),
        "celeba64": (64, {}),
        "celeba64-preview": (64, {}),
    }
    block_recipes = {
        "mnist": (128, {"network": "conv", "conv_widths": (32, 64, 64, 32), "steps": 20_000}),
        "celeba64": (1_280, {"network": "conv", "generator_width": 512}),
        "cifar10": (5_120, {"network": "conv", "generator_width": 512}),
    }
    space = {
        "learning_rate": Between(1e-4, 1e-3, "half a decade to either side of the usual 3e-4"),
        "generator_learning_rate": Between(3e-5, 3e-4, "half a decade to either side of the usual 1e-4"),
        "critic_steps": OneOf((1, 2, 5, 10), "from one step each to twice the usual five"),
        "gp_weight": Between(1.0, 20.0, "a decade below the usual 10 to twice it"),
        "generator_width": OneOf((128, 256, 512), "those of the recipes, and half of the smaller"),
    }
    quick = {"steps": 4_000}
    block_quick = {"steps": 1_500}
    # of `ring` the quick budget leaves 4 to 108 % of the Gaussian's MMD^2 in three seeds: two players circle
    learns = {"mixture": 0.6}
    replayable = True

    def __init__(self, latent_shape: tuple[int, ...], config: LatentWGANConfig) -> None:
        super().__init__(latent_shape, config)
        features = math.prod(latent_shape)
        self.critic: Energy
        if config.network == "conv":
            self.critic = ConvEnergy(latent_shape, config.conv_widths)
        else:
            self.critic = MLPEnergy(features, config.critic_width)
        self.generator = MLPGenerator(features, config.generator_width)

    def fit(self, posterior: AggregatePosterior, generator: torch.Generator, progress: Progress) -> None:
        config, critic, parameters = self.config, self.critic, list(self.generator.parameters())
        k, batch, device = config.critic_steps, config.batch_size, posterior.device
        critic_optimiser = Adam(critic.parameters(), config.learning_rate, config.betas)
        optimiser = Adam(parameters, config.generator_learning_rate, config.betas)
        rounds = math.ceil(config.steps / k)

        def step() -> tuple[Tensor, Tensor]:
            """k critic steps and one of the generator: the gap E[f(z_g)] - E[f(z_q)] and the penalty."""
            z_q = posterior.train.sample(k * batch, generator).flatten(1)
            noise = torch.randn(z_q.shape, generator=generator, device=device)
            a = torch.rand(len(z_q), 1, generator=generator, device=device)
            with torch.no_grad():  # the generator stands still during the critic's steps: one pass serves them all
                z_g, _ = self.generator.push(noise)
            parts = torch.stack([z_q, z_g, a * z_q + (1 - a) * z_g]).unflatten(1, (k, batch))
            for z in parts.transpose(0, 1).contiguous():
                gradients, excess = energy_gradients(critic, z, config.gp_weight)
                critic_optimiser.step(gradients)
            noise = torch.randn(batch, z_q.shape[1], generator=generator, device=device)
            loss, _ = sampler_loss(critic, self.generator, noise, kl_weight=0)
            with torch.no_grad():
                gap = loss - critic(z_q[-batch:]).mean()
            optimiser.step(torch.autograd.grad(loss, parameters))
            return gap, excess.square().mean()

        step = without_python(step, generator)
        for index in range(1, rounds + 1):
            values = step()
            if index % LOG_EVERY == 0 or index == rounds:
                gap, penalty = (value.item() for value in values)
                if not math.isfinite(gap + penalty):
                    raise Diverged(f"gap {gap:.3g} and penalty {penalty:.3g} after {index * k} critic steps")
                progress(index * k, rounds * k, gap=gap, penalty=penalty)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        noise = torch.randn(n, self.generator.features, generator=generator, device=generator.device)
        return self.generator.push(noise)[0].unflatten(1, self.latent_shape)


@hookimpl
def register_priors() -> list[type[LatentPrior]]:
    return [LatentWGAN]
