"""NCP-VAE's own form: one classifier a latent group, given the groups above it (Aneja et al. 2021, arXiv 2010.02917).

    p(z) = prod_l r_l(eps_l, c_l) N(eps_l; 0, I) / Z_l(c_l),      r_l = exp(logit_l)

eps_l is group l in standard deviations from its mean given the groups above, c_l what the frozen top-down network has
there. Classifier l tells eps_l of q_agg (1) from N(0, I) (0) below the same c_l, which is that of the draw of q_agg:
at its optimum r_l = q_agg(eps_l | c_l) / N(eps_l; 0, I). All train at once, by the mean of their cross-entropies, as by
the chain rule the groups' divergences add up.

Sampling is group by group on a walk down the network: M proposals from N(0, I), one drawn by the weight r_l at the
context that the groups drawn above it make. `ncp` on all groups at once is another model: one ratio of the whole
vector, whose proposals have to be right in all groups at a time. The paper's sizes are for 30 groups of 32 x 32 images;
those here are the suite's own.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from priors.api import (
    AggregatePosterior,
    Between,
    Hierarchy,
    LatentPrior,
    OneOf,
    PriorConfig,
    Progress,
    hookimpl,
    sampling_setting,
)
from priors.parts import sir
from priors.parts.conditional import ConditionalEnergy, widths_of
from priors.parts.early_stopping import BestState
from priors.parts.graphs import without_python
from priors.parts.hierarchies import GroupByGroup
from priors.parts.optimisers import fused_adam
from priors.parts.standard_normal import log_standard_normal

VALIDATE_EVERY = 100  # steps
HELD_OUT = 1_000  # draws of either class in the held-out cross-entropy


class NCPGroupsConfig(PriorConfig):
    """Blocks have convolutions of `conv_widths`, vectors a perceptron of `depth` layers of `width`.

    `patience` counts validations (one in 100 steps) without a better held-out cross-entropy. `proposals`: of a group.
    """

    steps: int = Field(2_000, ge=1)
    batch_size: int = Field(128, ge=1)
    width: int = Field(256, ge=1)
    depth: int = Field(2, ge=1)
    conv_widths: tuple[int, ...] = Field((32, 32), min_length=1)
    learning_rate: float = Field(1e-3, gt=0)
    patience: int = Field(10, ge=1)
    proposals: int = sampling_setting(50, ge=1)


def classifier_loss(energy: ConditionalEnergy, eps_q: Tensor, eps_0: Tensor, context: Tensor) -> Tensor:
    """Binary cross-entropy in nats of logit = -f: eps (n, *shape) of q_agg against N(0, I) below the same contexts."""
    value = energy(torch.stack([eps_q, eps_0], 1).flatten(0, 1), energy.read(context)).view(-1, 2)
    return (F.softplus(value[:, 0]).mean() + F.softplus(-value[:, 1]).mean()) / 2


class NCPGroups(GroupByGroup):
    name = "ncp_groups"
    group = "energy"
    by_default = False
    Config = NCPGroupsConfig
    config: NCPGroupsConfig
    space = {
        "learning_rate": Between(1e-4, 3e-3, "a decade below the usual 1e-3 to half a decade above it"),
        "proposals": OneOf((20, 50, 200), "less than half of the usual fifty, and four times as many"),
    }
    quick = {"steps": 400, "proposals": 50}
    block_quick = {"steps": 200, "proposals": 20}
    long_quick = {"steps": 150, "proposals": 10}
    learns = {"ring": 0.1, "banana": 0.1, "standard": 0.005}

    def __init__(
        self, latent_shape: tuple[int, ...], config: NCPGroupsConfig, hierarchy: Hierarchy | None = None
    ) -> None:
        super().__init__(latent_shape, config, hierarchy)
        self.energies = nn.ModuleList(
            ConditionalEnergy(
                shape, context, widths_of(shape, config.conv_widths, config.width, config.depth), constant=True
            )
            for shape, context in zip(self.shapes, self.context_shapes)
        )
        self.network_evaluations = config.proposals * len(self.shapes)

    def fit(self, posterior: AggregatePosterior, generator: torch.Generator, progress: Progress) -> dict[str, Any]:
        config, device = self.config, posterior.device
        self.measure_features(posterior, generator)
        optimiser = fused_adam(self.energies.parameters(), config.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)

        def examples(z: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
            """Of each group: eps of q_agg, of N(0, I), and what is above."""
            eps_0 = torch.randn(z.shape, generator=generator, device=device)
            return list(zip(self.apart(z), self.apart(eps_0), self.contexts(z)))

        held_out = examples(posterior.val.sample(HELD_OUT, generator))
        best = BestState(self, config.patience)

        def take_step() -> Tensor:
            batch = examples(posterior.train.sample(config.batch_size, generator))
            loss = torch.stack(self._losses(batch)).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            return loss.detach()

        take_step = without_python(take_step, generator)
        for step in range(1, config.steps + 1):
            loss = take_step()
            schedule.step()
            if step % VALIDATE_EVERY == 0 or step == config.steps:
                with torch.no_grad():
                    each = [loss.item() for loss in self._losses(held_out)]
                bce = sum(each) / len(each)
                by_group = {f"held_out_bce_{number}": value for number, value in enumerate(each)}
                progress(step, config.steps, bce=loss.item(), held_out_bce=bce, **by_group)
                if best.exhausted(bce, step, "held-out cross-entropy"):
                    break
        best.restore()
        return {"held_out_bce": best.value, "best_step": best.step}

    def _losses(self, examples: list[tuple[Tensor, Tensor, Tensor]]) -> list[Tensor]:
        return [classifier_loss(energy, *of) for energy, of in zip(self._energies(), examples)]

    def _energies(self) -> list[ConditionalEnergy]:
        """Of each group."""
        return cast(list[ConditionalEnergy], list(self.energies))

    @torch.no_grad()
    def draw_below(self, number: int, context: Tensor, generator: torch.Generator) -> Tensor:
        """By SIR; so many proposals at a time."""
        size = max(sir.CHUNK[generator.device.type] // self.config.proposals, 1)
        drawn = [sir.resample(*self._weighted(number, part, generator), generator) for part in context.split(size)]
        return torch.cat(drawn).unflatten(1, self.shapes[number])

    def _weighted(self, number: int, context: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """M proposals below each of n contexts (n, M, d), and their log-weights (n, M)."""
        energy, shape, m = self._energies()[number], self.shapes[number], self.config.proposals
        eps = torch.randn(len(context) * m, *shape, generator=generator, device=generator.device)
        log_weights = -energy(eps, energy.read(context))
        return eps.view(len(context), m, -1), log_weights.view(-1, m)

    @torch.no_grad()
    def diagnostics(self, generator: torch.Generator) -> dict[str, float]:
        """The effective sample size of a group's proposals, on the mean over groups, below those of the model's own."""
        found: list[Tensor] = []

        def draw(number: int, context: Tensor, generator: torch.Generator) -> Tensor:
            proposals, log_weights = self._weighted(number, context, generator)
            found.append(sir.effective_sample_size(log_weights).mean())
            return sir.resample(proposals, log_weights, generator).unflatten(1, self.shapes[number])

        self.descend(sir.SETS, generator, draw)
        return {"effective_sample_size": torch.stack(found).mean().item()}

    def energy(self, z: Tensor) -> Tensor | None:
        """Of one group alone: of several Z_l hangs on the groups above, so that log p is not known up to a constant."""
        if len(self.shapes) > 1:
            return None
        (f,), (eps,), (context,) = self._energies(), self.apart(z), self.contexts(z)
        return f(eps, f.read(context)) - log_standard_normal(z)


@hookimpl
def register_priors() -> list[type[LatentPrior]]:
    return [NCPGroups]
