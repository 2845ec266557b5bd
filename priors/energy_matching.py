"""Energy Matching: one scalar field, first regressed, then contrasted (Balcerak et al. 2025, arXiv 2504.10612).

Phase 1 is flow matching by a gradient field that knows no time. Noise z_0 and latents z_1 ~ q_agg are paired in each
batch by optimal transport, the assignment of least squared distance:

    minimise  E|-grad V(z_t) - (z_1 - z_0)|^2,      z_t = (1 - t) z_0 + t z_1,  t ~ U(0, 1)

Phase 2 goes on with that loss and adds a contrast, for which the model is p(z) proportional to exp(-V(z) / T):

    ... + contrast_weight (E[V(z_1)] - E[V(z_-)])

z_- are ends of Langevin chains, z <- z - s grad V + sqrt(2 s T) noise, half of them from latents and half from noise:

    from noise     `chain` steps that are one unit of the flow's time, without noise, and as many with it
    from latents   the steps with noise alone

`sample` is the chain from noise: what V is as a flow brings it near, and what it is as an energy keeps it there. So the
model is an energy that is mostly trained by regression, without chains.

A field without time can lead from noise to latents only where the one lies outside the other, as it does in images.
Latents of a VAE fill the place of N(0, I), so the noise here is `noise_scale` times as wide: the flow leads inward, and
what it leaves behind is a V that holds latents together.

The gradient of V is trained, for which V must be smooth: `priors/parts/smooth_energies.py`. There is no density: that
of the energy, which `energy` gives, is reached by long chains only.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from priors.api import AggregatePosterior, Between, Diverged, LatentPrior, OneOf, PriorConfig, Progress, hookimpl
from priors.parts.assignment import assign
from priors.parts.smooth_energies import SmoothEnergy

LOG_EVERY = 50  # steps
BETAS = (0.9, 0.95)  # of Adam


class EnergyMatchingConfig(PriorConfig):
    """`steps` of phase 1, `contrast_steps` of phase 2; `chain` Langevin steps are one unit of time."""

    steps: int = Field(10_000, ge=1)
    contrast_steps: int = Field(600, ge=0)
    batch_size: int = Field(128, ge=2)
    width: int = Field(256, ge=1)
    depth: int = Field(3, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    contrast_learning_rate: float = Field(1e-4, gt=0)
    contrast_weight: float = Field(1.0, ge=0)
    noise_scale: float = Field(3.0, gt=0)
    temperature: float = Field(1.0, gt=0)
    chain: int = Field(40, ge=1)


class EnergyMatching(LatentPrior):
    name = "energy_matching"
    group = "energy"
    by_default = False
    Config = EnergyMatchingConfig
    config: EnergyMatchingConfig
    recipes = {"mnist": (16, {}), "cifar10": (128, {}), "celeba64": (64, {}), "celeba64-preview": (64, {})}
    block_recipes = {"mnist": (128, {}), "celeba64": (1_280, {}), "cifar10": (5_120, {})}
    space = {
        "learning_rate": Between(3e-4, 3e-3, "half a decade to either side of Adam's usual 1e-3"),
        "contrast_learning_rate": Between(3e-5, 3e-4, "half a decade to either side of the usual 1e-4"),
        "noise_scale": Between(2.0, 5.0, "noise is to start outside the latents, which fill the place of N(0, I)"),
        "temperature": Between(0.3, 3.0, "half a decade to either side of 1, where the field is an energy in nats"),
        "chain": OneOf((20, 40, 80), "the usual 40 steps, half of them and twice, at twice the passes"),
    }
    quick = {"steps": 800, "contrast_steps": 60, "chain": 20}
    block_quick = {"steps": 300, "contrast_steps": 30}
    learns = {"ring": 0.2, "mixture": 0.3}

    def __init__(self, latent_shape: tuple[int, ...], config: EnergyMatchingConfig) -> None:
        super().__init__(latent_shape, config)
        self.features = math.prod(latent_shape)
        self.field = SmoothEnergy(self.features, config.width, config.depth)
        self.network_evaluations = 2 * config.chain

    def fit(self, posterior: AggregatePosterior, generator: torch.Generator, progress: Progress) -> None:
        config = self.config
        self._train(config.steps, config.learning_rate, False, posterior, generator, progress)
        self._train(config.contrast_steps, config.contrast_learning_rate, True, posterior, generator, progress)

    def _train(
        self,
        steps: int,
        learning_rate: float,
        contrasted: bool,
        posterior: AggregatePosterior,
        generator: torch.Generator,
        progress: Progress,
    ) -> None:
        """One phase: the regression, in the second with the contrast."""
        config, field, parameters = self.config, self.field, list(self.field.parameters())
        optimiser = torch.optim.Adam(parameters, learning_rate, BETAS, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
        before, total = (config.steps if contrasted else 0), config.steps + config.contrast_steps

        def step(z_0: Tensor, z_1: Tensor) -> tuple[Tensor, Tensor]:
            """The losses of matching and contrast."""
            loss = matching = matching_loss(field, z_0, z_1, generator)
            contrast = torch.zeros_like(matching)
            if contrasted:
                contrast = field(z_1).mean() - field(self._negatives(z_1, generator)).mean()
                loss = matching + config.contrast_weight * contrast
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters)):
                parameter.grad = gradient
            optimiser.step()
            return matching.detach(), contrast.detach()

        for index in range(1, steps + 1):
            values = step(*self._pairs(posterior, generator))  # outside, as assignments are the CPU's
            schedule.step()
            if index % LOG_EVERY == 0 or index == steps:
                matching, contrast = (value.item() for value in values)
                if not math.isfinite(matching + contrast):
                    raise Diverged(f"matching {matching:.3g} and contrast {contrast:.3g} after {before + index} steps")
                progress(before + index, total, matching=matching, contrast=contrast)

    def _pairs(self, posterior: AggregatePosterior, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A batch of noise and of latents (n, d) in pairs."""
        z_1 = posterior.train.sample(self.config.batch_size, generator).flatten(1)
        z_0 = self._noise(len(z_1), generator)
        return z_0, z_1[assign(z_0, z_1)]

    @torch.no_grad()
    def _negatives(self, z_1: Tensor, generator: torch.Generator) -> Tensor:
        """Ends of chains (n, d), half of them from latents."""
        half = len(z_1) // 2
        arrived = self._flow(self._noise(len(z_1) - half, generator))
        return self._langevin(torch.cat([z_1[:half], arrived]), generator)

    def _noise(self, n: int, generator: torch.Generator) -> Tensor:
        z = torch.randn(n, self.features, generator=generator, device=generator.device)
        return self.config.noise_scale * z

    def _flow(self, z: Tensor) -> Tensor:
        """One unit of time without noise, by Euler's rule."""
        for _ in range(self.config.chain):
            z = z - self.field.slope(z) / self.config.chain
        return z

    def _langevin(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """One unit of time at the temperature."""
        size = 1 / self.config.chain
        scale = math.sqrt(2 * size * self.config.temperature)
        for _ in range(self.config.chain):
            noise = torch.randn(z.shape, generator=generator, device=z.device)
            z = z - size * self.field.slope(z) + scale * noise
        return z

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return self._langevin(self._flow(self._noise(n, generator)), generator).unflatten(1, self.latent_shape)

    def energy(self, z: Tensor) -> Tensor:
        return self.field(z.flatten(1)) / self.config.temperature


def matching_loss(field: SmoothEnergy, z_0: Tensor, z_1: Tensor, generator: torch.Generator) -> Tensor:
    """Mean square in each coordinate of  grad V(z_t) + z_1 - z_0,  at one random t for each pair (n, d)."""
    t = torch.rand(len(z_0), 1, generator=generator, device=z_0.device)
    return (field.slope((1 - t) * z_0 + t * z_1) + z_1 - z_0).square().mean()


@hookimpl
def register_priors() -> list[type[LatentPrior]]:
    return [EnergyMatching]
