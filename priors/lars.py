"""Learned accept/reject sampling: N(0, I) resampled by a network (Bauer and Mnih 2019, arXiv 1810.11428).

A proposal z ~ N(0, I) is accepted with probability a(z) = sigmoid(-f(z)), and the T-th one, if it comes to that, as it
is. What is drawn so has the density

    p(z) = N(z; 0, I) [ (1 - alpha) a(z) / Z + alpha ],      Z = E[a(z)],  z ~ N(0, I),      alpha = (1 - Z)^(T - 1)

and the network is fitted by maximising E[log p(z)], z ~ q_agg. In every step Z is a mean over `proposals` fresh
draws. One such mean is a poor divisor: the value is that of a moving average, the gradient that of the present mean,

    Z = Z_now + stop_gradient(Z_average - Z_now)

It is the likelihood-trained twin of `ncp`: the same base and the same network. There the ratio to N(0, I) has no bound
and is resampled; here it has the bound 1 / Z, and T draws reach no further than a ratio of about T: the more q_agg and
N(0, I) differ, and so the more dimensions, the larger is alpha, and at alpha = 1 this is N(0, I).

After the fit Z is estimated once more, by `normaliser_draws`. `log_prob` is exact up to the error of that estimate,
which the facts give. One latent costs (1 - alpha) / Z passes through the network on average, at most T - 1: whoever was
accepted proposes no more.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from priors.api import AggregatePosterior, Between, LatentPrior, OneOf, PriorConfig, Progress, hookimpl
from priors.parts.early_stopping import BestState
from priors.parts.energies import ConvEnergy, Energy, Form, MLPEnergy
from priors.parts.graphs import without_python
from priors.parts.optimisers import fused_adam
from priors.parts.standard_normal import log_standard_normal

VALIDATE_EVERY = 200  # steps
HELD_OUT = 10_000  # draws of q_agg in the held-out likelihood
HELD_OUT_PROPOSALS = 20_000  # draws of N(0, I) in its Z
DECAY = 0.99  # of the moving average of Z
FIRST = 0.5  # what it starts from
CHUNK = 50_000  # proposals in memory at a time, after the fit


class LARSConfig(PriorConfig):
    """`patience` counts validations (one in 200 steps) without a better held-out likelihood."""

    steps: int = Field(3_000, ge=1)
    batch_size: int = Field(256, ge=1)
    proposals: int = Field(1_024, ge=1)
    truncation: int = Field(100, ge=2)
    network: Form = "mlp"
    width: int = Field(512, ge=1)
    depth: int = Field(3, ge=1)
    conv_widths: tuple[int, ...] = Field((64, 128, 256, 128), min_length=1)
    learning_rate: float = Field(1e-3, gt=0)
    patience: int = Field(10, ge=1)
    normaliser_draws: int = Field(1_000_000, ge=2)


class LARS(LatentPrior):
    name = "lars"
    group = "energy"
    by_default = False
    Config = LARSConfig
    config: LARSConfig
    recipes = {
        "mnist": (16, {}),
        "cifar10": (128, {}),
        "celeba64": (64, {}),
        "celeba64-preview": (64, {"learning_rate": 1e-4}),  # as ncp: its 7,000 images are soon learned by heart
    }
    block_recipes = {
        "mnist": (
            128,
            {
                "network": "conv",
                "conv_widths": (32, 64, 64, 32),
                "steps": 2_000,
                "batch_size": 128,
                "proposals": 256,
                "normaliser_draws": 100_000,
            },
        ),
        "celeba64": (1_280, {"network": "conv", "proposals": 256, "normaliser_draws": 100_000}),
        "cifar10": (5_120, {"network": "conv", "proposals": 256, "normaliser_draws": 100_000}),
    }
    space = {
        "learning_rate": Between(
            1e-4, 3e-3, "from the smallest of the recipes to half a decade above Adam's usual 1e-3"
        ),
        "width": OneOf((128, 256, 512), "the usual 512, half of it and a quarter: a pass costs less"),
        "depth": OneOf((2, 3), "the usual three hidden layers and one less"),
        "truncation": OneOf(
            (30, 100, 300), "the usual 100, about the largest ratio to N(0, I), and half a decade to either side"
        ),
    }
    quick = {"steps": 400, "width": 256, "proposals": 512}
    # a bounded ratio to N(0, I) cannot reach what is narrow or scattered in 16 dimensions
    learns = {"ring": 0.1, "banana": 0.1, "standard": 0.005, "block": 0.7}
    acceptance_rate: Tensor

    def __init__(self, latent_shape: tuple[int, ...], config: LARSConfig) -> None:
        super().__init__(latent_shape, config)
        self.features = math.prod(latent_shape)
        self.energy_network: Energy
        if config.network == "conv":
            self.energy_network = ConvEnergy(latent_shape, config.conv_widths, constant=True)
        else:
            self.energy_network = MLPEnergy(self.features, config.width, config.depth, constant=True)
        self.register_buffer("acceptance_rate", torch.tensor(FIRST))

    @property
    def network_evaluations(self) -> int:  # type: ignore[override]
        """Passes through the network that one latent costs on average."""
        return round(((1 - self.forced_share()) / self.acceptance_rate).item())

    def forced_share(self) -> Tensor:
        """alpha, the share of latents whose first T - 1 proposals were all rejected."""
        return (1 - self.acceptance_rate) ** (self.config.truncation - 1)

    def fit(self, posterior: AggregatePosterior, generator: torch.Generator, progress: Progress) -> dict[str, Any]:
        config, energy = self.config, self.energy_network
        optimiser = fused_adam(energy.parameters(), config.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
        held_out = posterior.val.sample(HELD_OUT, generator).flatten(1)
        noise = self.propose(HELD_OUT_PROPOSALS, generator)
        average = torch.full((), FIRST, device=posterior.device)
        best = BestState(energy, config.patience)

        def step() -> Tensor:
            z = posterior.train.sample(config.batch_size, generator).flatten(1)
            log_a = self.log_acceptance(torch.cat([z, self.propose(config.proposals, generator)]))
            of_data, of_proposals = log_a[: len(z)], log_a[len(z) :]
            now = of_proposals.exp().mean()
            average.lerp_(now.detach(), 1 - DECAY)
            rate = now + (average - now).detach()
            loss = -(log_standard_normal(z) + log_ratio(of_data, rate, config.truncation)).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            return loss.detach()

        step = without_python(step, generator)
        for done in range(1, config.steps + 1):
            loss = step()
            schedule.step()
            if done % VALIDATE_EVERY == 0 or done == config.steps:
                with torch.no_grad():
                    self.acceptance_rate.copy_(self.log_acceptance(noise).exp().mean())
                    nll = -self.log_prob(held_out).mean().item()
                progress(done, config.steps, nll=loss.item(), held_out_nll=nll)
                if best.exhausted(nll, done, "held-out likelihood"):
                    break
        best.restore()
        error = self.estimate_acceptance_rate(generator)
        return {
            "held_out_nll": best.value,
            "best_step": best.step,
            "acceptance_rate": self.acceptance_rate.item(),
            "acceptance_rate_relative_error": error,
            "forced_share": self.forced_share().item(),
        }

    @torch.no_grad()
    def estimate_acceptance_rate(self, generator: torch.Generator) -> float:
        """Set Z to the mean of a(z) over fresh proposals; the relative standard error of that mean."""
        n = self.config.normaliser_draws
        sizes = [min(CHUNK, n - start) for start in range(0, n, CHUNK)]
        a = torch.cat([self.log_acceptance(self.propose(size, generator)).double().exp() for size in sizes])
        self.acceptance_rate.copy_(a.mean())
        return (a.std() / a.mean() / math.sqrt(n)).item()

    def propose(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws (n, d) of N(0, I)."""
        return torch.randn(n, self.features, generator=generator, device=generator.device)

    def log_acceptance(self, z: Tensor) -> Tensor:
        """Log a(z) (n,) at z (n, d)."""
        return F.logsigmoid(-self.energy_network(z))

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        z, pending = self.propose(n, generator), torch.arange(n, device=generator.device)
        for _ in range(self.config.truncation - 1):
            uniform = torch.rand(len(pending), generator=generator, device=generator.device)
            pending = pending[uniform.log() >= self.log_acceptance(z[pending])]
            if not len(pending):
                break
            z[pending] = self.propose(len(pending), generator)
        return z.unflatten(1, self.latent_shape)

    def log_prob(self, z: Tensor) -> Tensor:
        z = z.flatten(1)
        return log_standard_normal(z) + log_ratio(self.log_acceptance(z), self.acceptance_rate, self.config.truncation)

    def energy(self, z: Tensor) -> Tensor:
        return -self.log_prob(z)


def log_ratio(log_a: Tensor, rate: Tensor, truncation: int) -> Tensor:
    """Log of p(z) / N(z; 0, I) = (1 - alpha) a / Z + alpha, of log a (n,) and Z, in nats."""
    log_alpha = (truncation - 1) * torch.log1p(-rate)
    return torch.logaddexp((-torch.expm1(log_alpha)).log() + log_a - rate.log(), log_alpha)


@hookimpl
def register_priors() -> list[type[LatentPrior]]:
    return [LARS]
