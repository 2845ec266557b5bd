"""EVaLP's two players on the latent groups of a hierarchy: of each group an energy and a sampler, given what is above.

    F(eps) = sum_l f_l(eps_l, c_l),      g(eps) = prod_l g_l(eps_l | c_l),      eps_l = G_l(eta_l; c_l),  eta ~ N(0, I)

with c_l the features of the frozen top-down network above group l, and G_l a RealNVP that c_l steers. What the energies
mean, one by one or as a whole, and what a sampler is told of those below it, is a prior's own affair.
"""

from __future__ import annotations

from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn

from priors.api import Between, Hierarchy, OneOf, PriorConfig
from priors.parts.conditional import ConditionalEnergy, ConditionalFlow, widths_of
from priors.parts.hierarchies import GroupByGroup
from priors.parts.standard_normal import log_standard_normal

LOG_EVERY = 20  # rounds
SPACE: dict[str, Between | OneOf] = {
    "learning_rate": Between(5e-5, 2e-3, "a decade below the usual 5e-4 to four times it"),
    "kl_weight": OneOf((1e-3, 0.03, 0.3, 1.0), "from a sampler that follows the energy to one that aims at p"),
    "gp_weight": Between(1.0, 20.0, "a decade below the usual 10 to twice it"),
}


class GroupPlayersConfig(PriorConfig):
    """`steps` counts energy steps; samplers take one step after every `energy_steps` of them.

    Blocks have convolutions of `conv_widths`, vectors a perceptron of two layers of `energy_width`.
    """

    steps: int = Field(3_000, ge=1)
    batch_size: int = Field(64, ge=1)
    energy_steps: int = Field(2, ge=1)
    energy_width: int = Field(128, ge=1)
    conv_widths: tuple[int, ...] = Field((32, 32), min_length=1)
    couplings: int = Field(4, ge=1)
    sampler_width: int = Field(32, ge=1)
    learning_rate: float = Field(5e-4, gt=0)
    sampler_learning_rate: float = Field(5e-4, gt=0)
    gp_weight: float = Field(10.0, ge=0)
    kl_weight: float = Field(1.0, ge=0)


def divergence_from_base(noise: Tensor, eps: Tensor, log_det: Tensor) -> Tensor:
    """KL(g || N(0, I)) in nats, estimated at eps = G(noise), with log|det dG/dnoise| (n,)."""
    return (log_standard_normal(noise) - log_det - log_standard_normal(eps)).mean()


class GroupPlayers(GroupByGroup):
    """A prior that owns the two players, and draws by the samplers, in one walk down the hierarchy."""

    config: GroupPlayersConfig

    def __init__(
        self, latent_shape: tuple[int, ...], config: GroupPlayersConfig, hierarchy: Hierarchy | None = None
    ) -> None:
        super().__init__(latent_shape, config, hierarchy)
        self.energies, self.samplers = nn.ModuleList(), nn.ModuleList()
        for shape, context in zip(self.shapes, self.context_shapes):
            widths = widths_of(shape, config.conv_widths, config.energy_width, depth=2)
            width = config.sampler_width if len(shape) == 3 else config.energy_width
            self.energies.append(ConditionalEnergy(shape, context, widths))
            self.samplers.append(ConditionalFlow(shape, context, config.couplings, width))
        self.network_evaluations = len(self.shapes)
        # at full KL weight a 1-Lipschitz energy tilts N(0, I) by one nat per unit of distance, and no more
        self.learns = {"ring": 0.6} if config.kl_weight >= 1 else {}

    def players(self) -> tuple[list[ConditionalEnergy], list[ConditionalFlow]]:
        """The energy, and the sampler, of each group."""
        return cast(tuple[list[ConditionalEnergy], list[ConditionalFlow]], (list(self.energies), list(self.samplers)))

    def draw_below(self, number: int, context: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(len(context), *self.shapes[number], generator=generator, device=generator.device)
        return self.players()[1][number].push(noise, context)[0]

    def log_prob_by_group(self, z: Tensor) -> Tensor:
        given = zip(self.players()[1], self.apart(z), self.contexts(z))
        return torch.stack([sampler.log_prob(eps, context) for sampler, eps, context in given], 1)

    def log_prob(self, z: Tensor) -> Tensor:
        """Density of the samplers."""
        return self.log_prob_by_group(z).sum(1)
