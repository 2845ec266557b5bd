"""Latent Flow: maximum likelihood of a normalising flow on q_agg (Generative Latent Flow, arXiv 1905.10485).

    minimise  -E[log p_flow(z)],  z ~ q_agg

with the very RealNVP class that EVaLP uses as its sampler, at the same sizes, so that the two rows differ by their
objective alone. Adam 1e-3, weight decay 2e-5, early stop on held-out likelihood; ActNorm starts from data.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from priors.api import AggregatePosterior, Between, LatentPrior, PriorConfig, Progress, Split, hookimpl, later_setting
from priors.parts.early_stopping import BestState
from priors.parts.energies import Form
from priors.parts.flows import CouplingFlow, Flow
from priors.parts.graphs import without_python
from priors.parts.image_flows import ImageFlow
from priors.parts.optimisers import fused_adam

VALIDATE_EVERY = 250  # steps
HELD_OUT = 10_000  # draws in the held-out likelihood
INITIALISE_FROM = 2_000  # draws that set ActNorm


class LatentFlowConfig(PriorConfig):
    """`patience` counts validations (one in 250 steps) without a better held-out likelihood."""

    steps: int = Field(20_000, ge=1)
    batch_size: int = Field(256, ge=1)
    network: Form = later_setting("mlp")
    couplings: int = Field(2, ge=1)
    width: int = Field(128, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(2e-5, ge=0)
    patience: int = Field(20, ge=1)


class LatentFlow(LatentPrior):
    name = "latent_flow"
    group = "flows"
    Config = LatentFlowConfig
    config: LatentFlowConfig
    recipes = {
        "mnist": (16, {}),
        "cifar10": (128, {"couplings": 4, "width": 512}),
        "celeba64": (64, {"couplings": 4, "width": 256}),
    }
    block_recipes = {
        "mnist": (128, {"network": "conv", "couplings": 3, "width": 32, "steps": 5_000}),
        "celeba64": (1_280, {"network": "conv", "couplings": 3, "width": 64}),
        "cifar10": (5_120, {"network": "conv", "couplings": 3, "width": 64}),
    }
    long_recipes = {"mnist": (1_792, {"couplings": 4, "width": 256, "steps": 4_000})}
    space = {
        "learning_rate": Between(1e-4, 3e-3, "a decade below Adam's usual 1e-3 to half a decade above it"),
        "couplings": Between(2, 6, "two are the fewest of the recipes, and six take about three times as long"),
        "weight_decay": Between(1e-6, 1e-3, "the usual 2e-5, with more than a decade to either side"),
    }
    quick = {"steps": 1_200}
    block_quick = {"steps": 400}
    long_quick = {"steps": 300}
    learns = {"ring": 0.3, "mixture": 0.3, "banana": 0.05, "narrow": 0.01, "standard": 0.005, "block": 0.2}

    replayable = True

    def __init__(self, latent_shape: tuple[int, ...], config: LatentFlowConfig) -> None:
        super().__init__(latent_shape, config)
        self.flow: Flow
        if config.network == "conv":
            self.flow = ImageFlow(latent_shape, config.couplings, config.width)
        else:
            self.flow = CouplingFlow(math.prod(latent_shape), config.couplings, config.width)

    def fit(self, posterior: AggregatePosterior, generator: torch.Generator, progress: Progress) -> dict[str, Any]:
        config, flow = self.config, self.flow
        flow.initialise(posterior.train.sample(INITIALISE_FROM, generator).flatten(1))
        likelihood = LikelihoodSteps(self)
        held_out = posterior.val.sample(HELD_OUT, generator).flatten(1)
        best = BestState(flow, config.patience)

        take_step = without_python(lambda: likelihood.take(posterior.train, generator), generator)
        for step in range(1, config.steps + 1):
            loss = take_step()
            if step % VALIDATE_EVERY == 0 or step == config.steps:
                with torch.no_grad():
                    nll = -flow.log_prob(held_out).mean().item()
                progress(step, config.steps, nll=loss.item(), held_out_nll=nll)
                if best.exhausted(nll, step, "held-out likelihood"):
                    break
        best.restore()
        return {"held_out_nll": best.value, "best_step": best.step}

    def updates(self) -> LikelihoodSteps:
        return LikelihoodSteps(self)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        noise = torch.randn(n, self.flow.features, generator=generator, device=generator.device)
        return self.flow.push(noise)[0].unflatten(1, self.latent_shape)

    def log_prob(self, z: Tensor) -> Tensor:
        return self.flow.log_prob(z.flatten(1))

    def energy(self, z: Tensor) -> Tensor:
        return -self.log_prob(z)


class LikelihoodSteps:
    """Steps of maximum likelihood; in joint training ActNorm starts as the identity, as q_agg starts near N(0, I)."""

    steps = 1
    steepest = math.inf  # the likelihood is exact, and the entropy of q in the VAE's loss keeps it from collapse

    def __init__(self, prior: LatentFlow) -> None:
        self._flow, config = prior.flow, prior.config
        self._batch_size = config.batch_size
        self._optimiser = fused_adam(self._flow.parameters(), config.learning_rate, weight_decay=config.weight_decay)

    def take(self, draws: Split, generator: torch.Generator) -> Tensor:
        """One step; returns minus the mean log-likelihood before it."""
        loss = -self._flow.log_prob(draws.sample(self._batch_size, generator).flatten(1)).mean()
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return self._optimiser.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._optimiser.load_state_dict(state)


@hookimpl
def register_priors() -> list[type[LatentPrior]]:
    return [LatentFlow]
