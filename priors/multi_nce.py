"""Multi-stage NCE: a chain of classifiers, each against what the one before left (Xiao and Han 2022, arXiv 2209.08739).

    p_k(z) proportional to r_k(z) p_(k-1)(z),      p_0 = N(0, I),      r_k = exp(logit_k) = exp(-f_k)

One classifier, as of `ncp`, between q_agg and a distant N(0, I) is easy to train and tells little where neither has
mass. Here stage k is trained to tell z ~ q_agg from z ~ p_(k-1), which is nearer to q_agg each time, and the log-ratios
add up:  log q_agg - log N(z; 0, I) = -sum_k f_k(z)  at the optimum of each, up to a constant where one is not there.

The authors draw the negatives by short-run Langevin. Here p_k is sampling-importance-resampling from p_(k-1), with
`proposals` from N(0, I) at the first stage and `later_proposals` at the others, whose ratios are nearly flat; the
negatives of a stage are a pool of such draws, and `sample` resamples in the same way through all stages, so that each
classifier also learns what the resampling before it missed. Errors add up as log-ratios do: a stage whose held-out
cross-entropy is not below log 2 is dropped, and the chain ends there. `energy` is that of the product, to which the
draws come as the proposals grow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from priors.api import AggregatePosterior, Between, LatentPrior, OneOf, PriorConfig, Progress, hookimpl
from priors.ncp import classifier_loss
from priors.parts import sir
from priors.parts.early_stopping import BestState
from priors.parts.energies import ConvEnergy, Energy, Form, MLPEnergy
from priors.parts.graphs import without_python
from priors.parts.optimisers import fused_adam
from priors.parts.standard_normal import log_standard_normal

VALIDATE_EVERY = 200  # steps
LEAST_GAIN = 1e-3  # nats below log 2: a smaller gain is no more than the held-out draws' own scatter

#: n draws (n, d) from a generator
Draw = Callable[[int, torch.Generator], Tensor]


class MultiNCEConfig(PriorConfig):
    """`steps` are those of each stage; `pool` and `held_out` draws of a stage are the negatives of the next one.

    `patience` counts validations (one in 200 steps) without a better held-out cross-entropy.
    """

    stages: int = Field(3, ge=1)
    steps: int = Field(5_000, ge=1)
    batch_size: int = Field(256, ge=1)
    pool: int = Field(20_000, ge=1)
    held_out: int = Field(10_000, ge=1)
    network: Form = "mlp"
    width: int = Field(256, ge=1)
    depth: int = Field(3, ge=1)
    conv_widths: tuple[int, ...] = Field((64, 128, 256, 128), min_length=1)
    learning_rate: float = Field(1e-3, gt=0)
    patience: int = Field(10, ge=1)
    proposals: int = Field(100, ge=1)
    later_proposals: int = Field(4, ge=1)


class MultiNCE(LatentPrior):
    name = "multi_nce"
    group = "energy"
    by_default = False
    Config = MultiNCEConfig
    config: MultiNCEConfig
    recipes = {
        "mnist": (16, {}),
        "cifar10": (128, {}),
        "celeba64": (64, {}),
        "celeba64-preview": (64, {"learning_rate": 1e-4}),  # as of ncp: its 7,000 images are soon learned by heart
    }
    block_recipes = {
        "mnist": (128, {"network": "conv", "conv_widths": (32, 64, 64, 32), "steps": 2_000, "batch_size": 128}),
        "celeba64": (1_280, {"network": "conv", "pool": 4_000, "held_out": 2_000, "proposals": 30}),
        "cifar10": (5_120, {"network": "conv", "pool": 4_000, "held_out": 2_000, "proposals": 30}),
    }
    space = {
        "learning_rate": Between(3e-5, 3e-3, "the recipes take 1e-4 and 1e-3; half a decade is left to either side"),
        "width": OneOf((128, 256, 512), "the usual width, half of it and twice"),
        "depth": OneOf((2, 3), "the usual three hidden layers and one less"),
        "stages": OneOf((2, 3), "the usual three and one less; a fourth draws with four times as many passes"),
    }
    quick = {"stages": 2, "steps": 300, "batch_size": 128, "pool": 4_000, "held_out": 4_000, "proposals": 30}
    learns = {"ring": 0.1}
    used: Tensor

    def __init__(self, latent_shape: tuple[int, ...], config: MultiNCEConfig) -> None:
        super().__init__(latent_shape, config)
        self.features = math.prod(latent_shape)

        def make() -> Energy:
            if config.network == "conv":
                return ConvEnergy(latent_shape, config.conv_widths, constant=True)
            return MLPEnergy(self.features, config.width, config.depth, constant=True)

        self.energies = nn.ModuleList(make() for _ in range(config.stages))
        self.register_buffer("used", torch.zeros((), dtype=torch.int64))
        m, c = config.proposals, config.later_proposals
        # resampling of a stage draws all stages before it for each proposal; fewer where the chain ended early
        self.network_evaluations = m * c ** (config.stages - 1) + sum(c**k for k in range(1, config.stages))

    def fit(self, posterior: AggregatePosterior, generator: torch.Generator, progress: Progress) -> dict[str, Any]:
        config, facts = self.config, dict[str, Any]()
        held_out = posterior.val.sample(config.held_out, generator).flatten(1)
        negatives: Draw = partial(self._draw, 0)
        held_out_negatives = negatives
        for stage in range(config.stages):
            fresh = held_out_negatives(config.held_out, generator)
            best = self._fit_stage(stage, posterior, negatives, (held_out, fresh), generator, progress)
            facts |= {f"held_out_bce_{stage + 1}": best.value, f"best_step_{stage + 1}": best.step}
            if best.value > math.log(2) - LEAST_GAIN:
                break
            weighted = self._weighted(stage, held_out_negatives)
            size = sir.mean_effective_sample_size(weighted, self._proposals(stage), generator)
            facts[f"effective_sample_size_{stage + 1}"] = size
            self.used += 1
            if stage + 1 < config.stages:
                negatives, held_out_negatives = (
                    _pool(self._resample(stage, draw, n, generator))
                    for draw, n in ((negatives, config.pool), (held_out_negatives, config.held_out))
                )
        with torch.no_grad():
            for energy in self.energies[int(self.used) :]:  # a ratio of one
                for parameter in energy.parameters():
                    parameter.zero_()
        return {**facts, "stages": int(self.used)}

    def _fit_stage(
        self,
        stage: int,
        posterior: AggregatePosterior,
        negatives: Draw,
        held_out: tuple[Tensor, Tensor],
        generator: torch.Generator,
        progress: Progress,
    ) -> BestState:
        """Train one classifier; `held_out` are draws of either class."""
        config, energy = self.config, self._energy(stage)
        optimiser = fused_adam(energy.parameters(), config.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
        best = BestState(energy, config.patience)
        before, total = stage * config.steps, config.stages * config.steps

        def step() -> Tensor:
            z_q = posterior.train.sample(config.batch_size, generator).flatten(1)
            loss = classifier_loss(energy, z_q, negatives(config.batch_size, generator))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            return loss.detach()

        step = without_python(step, generator)
        for index in range(1, config.steps + 1):
            loss = step()
            schedule.step()
            if index % VALIDATE_EVERY == 0 or index == config.steps:
                with torch.no_grad():
                    bce = classifier_loss(energy, *held_out).item()
                progress(before + index, total, bce=loss.item(), held_out_bce=bce)
                if best.exhausted(bce, before + index, "held-out cross-entropy"):
                    break
        best.restore()
        return best

    def _energy(self, stage: int) -> Energy:
        energy = self.energies[stage]
        assert isinstance(energy, Energy)
        return energy

    def _proposals(self, stage: int) -> int:
        return self.config.later_proposals if stage else self.config.proposals

    def _weighted(self, stage: int, draw: Draw) -> sir.Weighted:
        """Sets of proposals, which `draw` makes, with a stage's log-ratios."""
        m, energy = self._proposals(stage), self._energy(stage)

        @torch.no_grad()
        def weighted(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            z = draw(n * m, generator)
            return z.unflatten(0, (n, m)), -energy(z).view(n, m)

        return weighted

    def _resample(self, stage: int, draw: Draw, n: int, generator: torch.Generator) -> Tensor:
        """n latents (n, d) by a stage's ratio out of proposals that `draw` makes."""
        return sir.sample(self._weighted(stage, draw), n, self._proposals(stage), generator)

    def _draw(self, stages: int, n: int, generator: torch.Generator) -> Tensor:
        """n draws (n, d) after so many stages: N(0, I) after none."""
        if stages == 0:
            return torch.randn(n, self.features, generator=generator, device=generator.device)
        return self._resample(stages - 1, partial(self._draw, stages - 1), n, generator)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return self._draw(int(self.used), n, generator).unflatten(1, self.latent_shape)

    def diagnostics(self, generator: torch.Generator) -> dict[str, float]:
        """Effective sample size of the first stage, whose proposals come the longest way."""
        if not self.used:
            return {}
        weighted = self._weighted(0, partial(self._draw, 0))
        return {"effective_sample_size": sir.mean_effective_sample_size(weighted, self.config.proposals, generator)}

    def energy(self, z: Tensor) -> Tensor:
        tilt = torch.stack([energy(z.flatten(1)) for energy in self.energies]).sum(0)
        return tilt - log_standard_normal(z)


def _pool(z: Tensor) -> Draw:
    """Draws out of z (m, d), with replacement."""
    return lambda n, generator: z[torch.randint(len(z), (n,), generator=generator, device=z.device)]


@hookimpl
def register_priors() -> list[type[LatentPrior]]:
    return [MultiNCE]
