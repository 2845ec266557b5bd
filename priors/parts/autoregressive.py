"""Autoregressive flows fitted by maximum likelihood, in whitened latents; their transforms are zuko's.

    u = (z - mean) / std,      log p(z) = log N(g(u); 0, I) + log|det dg/du| - sum_i log std_i

mean and std are those of q_agg's draws, kept as buffers. g is a chain of transforms. In each, the latents have an order
and are cut along it into groups, as many as there are `passes`. A latent goes through a monotone function, whose
parameters a masked network computes from the groups before its own: the Jacobian is triangular. Two groups are a
coupling; one group a latent is the masked autoregressive flow (Papamakarios et al. 2017, arXiv 1705.07057).

All of u is known where a density is wanted, which takes one pass. The inverse finds one group after the other, each by
a pass through the network of everything. Orders are random, and every second one is the one before it reversed, so that
two transforms in a row let no latent pass unaware of another. They and the masks are in the state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Transform
from zuko.flows.autoregressive import MaskedAutoregressiveTransform
from zuko.lazy import LazyComposedTransform

from priors.api import AggregatePosterior, LatentPrior, PriorConfig, Progress
from priors.parts.chunks import split_rows
from priors.parts.draws import finite_draws
from priors.parts.early_stopping import BestState
from priors.parts.graphs import without_python
from priors.parts.optimisers import fused_adam
from priors.parts.standard_normal import log_standard_normal

VALIDATE_EVERY = 250  # steps
HELD_OUT = 10_000  # draws in the held-out likelihood
WHITEN_FROM = 20_000  # draws whose mean and standard deviations whiten
ROWS = 1_000  # that are transformed at a time: splines of many latents take a hundred numbers a latent


class AutoregressiveConfig(PriorConfig):
    """`transforms` with networks of two hidden layers of `width`; `patience` counts validations (one in 250 steps)."""

    steps: int = Field(4_000, ge=1)
    batch_size: int = Field(256, ge=1)
    transforms: int = Field(4, ge=1)
    width: int = Field(128, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(2e-5, ge=0)
    patience: int = Field(8, ge=1)


class AutoregressiveFlow(nn.Module):
    """zuko's transforms between whitened latents and noise; flat on the outside.

    `passes`: into how many groups the latents are cut, at most one each.
    `univariate`: makes the monotone function of one latent from parameters of these `shapes`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        features: int,
        transforms: int,
        passes: int,
        width: int,
        univariate: Callable[..., Transform],
        shapes: Sequence[tuple[int, ...]],
    ) -> None:
        if features < 2:
            raise ValueError(f"an autoregressive flow needs 2 latents or more, got {features}")
        super().__init__()
        self.features, self.passes = features, min(passes, features)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.to_noise = LazyComposedTransform(
            *(
                MaskedAutoregressiveTransform(
                    features,
                    passes=self.passes,
                    order=order,
                    univariate=univariate,
                    shapes=shapes,
                    hidden_features=(width, width),
                )
                for order in random_orders(features, transforms)
            )
        )

    @torch.no_grad()
    def whiten(self, z: Tensor) -> None:
        """Set mean and std to those of z (n, d)."""
        self.mean.copy_(z.mean(0))
        self.std.copy_(z.std(0).clamp_min(1e-6))

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density (n,) in nats at z (n, d)."""
        g = self.to_noise()
        parts = []
        for u in ((z - self.mean) / self.std).split(ROWS):
            noise, log_det = g.call_and_ladj(u)
            parts.append(log_standard_normal(noise) + log_det)
        return torch.cat(parts) - self.std.log().sum()

    def push(self, noise: Tensor) -> Tensor:
        """Noise (n, d) -> latents (n, d)."""
        back = self.to_noise().inv
        return self.mean + self.std * torch.cat([back(part) for part in split_rows(noise, ROWS)])


def random_orders(features: int, n: int) -> list[Tensor]:
    """n orders, the place of each feature (d,): random ones, each followed by its reverse."""
    orders: list[Tensor] = []
    for _ in range((n + 1) // 2):
        order = torch.randperm(features)
        orders += [order, features - 1 - order]
    return orders[:n]


class AutoregressivePrior(LatentPrior):
    """What priors made of such a flow share: all but the flow.

    minimise  -E[log p(z)],  z ~ q_agg

    by Adam with weight decay on fresh draws, the learning rate falling to 0 by a cosine; the best state by held-out
    likelihood.
    """

    group = "flows"
    by_default = False
    config: AutoregressiveConfig

    def __init__(self, latent_shape: tuple[int, ...], config: AutoregressiveConfig) -> None:
        super().__init__(latent_shape, config)
        self.flow = self.make_flow(math.prod(latent_shape))
        self.network_evaluations = self.flow.passes

    def make_flow(self, features: int) -> AutoregressiveFlow:
        """The flow on this many latents, by `self.config`."""
        raise NotImplementedError

    def fit(self, posterior: AggregatePosterior, generator: torch.Generator, progress: Progress) -> dict[str, Any]:
        config, flow = self.config, self.flow
        flow.whiten(finite_draws(posterior.train, WHITEN_FROM, generator))
        held_out = posterior.val.sample(HELD_OUT, generator).flatten(1)
        optimiser = fused_adam(flow.parameters(), config.learning_rate, weight_decay=config.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
        best = BestState(flow, config.patience)

        def step() -> Tensor:
            loss = -flow.log_prob(posterior.train.sample(config.batch_size, generator).flatten(1)).mean()
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
                    nll = -flow.log_prob(held_out).mean().item()
                progress(done, config.steps, nll=loss.item(), held_out_nll=nll)
                if best.exhausted(nll, done, "held-out likelihood"):
                    break
        best.restore()
        return {"held_out_nll": best.value, "best_step": best.step}

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        noise = torch.randn(n, self.flow.features, generator=generator, device=generator.device)
        return self.flow.push(noise).unflatten(1, self.latent_shape)

    def log_prob(self, z: Tensor) -> Tensor:
        return self.flow.log_prob(z.flatten(1))

    def energy(self, z: Tensor) -> Tensor:
        return -self.log_prob(z)
