"""JEBM: one energy-based model of all latent groups, drawn from by short-run Langevin (Cui, Wu and Han 2023).

    p(z) = exp(-F(z)) prod_l p(z_l | z_<l) / Z,      F(z) = sum_l f_l(z_l)

or, in eps_l = (z_l - mu_l(z_<l)) / sigma_l(z_<l), exp(-F(z(eps))) N(eps; 0, I) / Z: an energy of every group's z, which
the frozen top-down network makes of eps. Groups are tied by that network alone, so that f_1 moves the groups above it,
too; with `evalp_groups`, which is normalised group by group, it could not.

    minimise  E_q[f_l(z_l)] - E_p[f_l(z_l)]  for each l,      eps of p by K Langevin steps of size s from N(0, I)

with gradients through the network, K times forward and backward, and the same chain as the sampler. The authors' ten
steps of 10^-5 (jcui1224/hierarchical-joint-ebm) move eps by next to nothing; here the step is larger, and energies are
the small networks of `evalp_groups`, where theirs are strided. The peer of `evalp_joint`, and of `evalp` on all groups
at once, which have one energy of eps, and a flow in the place of the chains.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from priors.api import (
    Above,
    AggregatePosterior,
    Between,
    Diverged,
    Hierarchy,
    LatentPrior,
    PriorConfig,
    Progress,
    hookimpl,
)
from priors.parts.conditional import ConditionalEnergy, widths_of
from priors.parts.graphs import without_python
from priors.parts.hierarchies import HierarchyPrior
from priors.parts.langevin import short_run
from priors.parts.optimisers import fused_adam
from priors.parts.standard_normal import log_standard_normal

LOG_EVERY = 20  # steps
#: a contrast this far from zero means that chain and posterior have parted, and that the energies run away
RUNAWAY = 1e4


class JEBMConfig(PriorConfig):
    """Blocks have convolutions of `conv_widths`, vectors a perceptron of two layers of `width`.

    `langevin_steps` is K and `step_size` s; both belong to the fit, since the model is what its chain draws.
    """

    steps: int = Field(1_000, ge=1)
    batch_size: int = Field(64, ge=1)
    width: int = Field(200, ge=1)
    conv_widths: tuple[int, ...] = Field((32, 32), min_length=1)
    learning_rate: float = Field(1e-4, gt=0)
    langevin_steps: int = Field(10, ge=1)
    step_size: float = Field(0.1, gt=0)


class JEBM(HierarchyPrior):
    name = "jebm"
    group = "energy"
    by_default = False
    Config = JEBMConfig
    config: JEBMConfig
    recipes = {"mnist": (16, {"steps": 10_000, "langevin_steps": 60, "step_size": 0.4})}
    long_recipes = {"mnist": (1_792, {"batch_size": 32})}
    space = {
        "learning_rate": Between(2e-5, 1e-3, "from the authors' rate to a decade above the usual 1e-4"),
        "step_size": Between(0.03, 0.4, "a third of the usual 0.1 to the step of `mcmc_ebm`"),
    }
    quick = {"steps": 300}
    block_quick = {"steps": 100}
    long_quick = {"steps": 40}
    learns = {"ring": 0.3}

    def __init__(self, latent_shape: tuple[int, ...], config: JEBMConfig, hierarchy: Hierarchy | None = None) -> None:
        super().__init__(latent_shape, config, hierarchy)
        self.energies = nn.ModuleList(
            ConditionalEnergy(shape, (0,), widths_of(shape, config.conv_widths, config.width, depth=2))
            for shape in self.shapes
        )
        self.network_evaluations = config.langevin_steps * len(self.shapes)

    def fit(self, posterior: AggregatePosterior, generator: torch.Generator, progress: Progress) -> None:
        config = self.config
        optimiser = fused_adam(self.energies.parameters(), config.learning_rate)

        def take_step() -> tuple[Tensor, Tensor]:
            eps_q = posterior.train.sample(config.batch_size, generator).flatten(1)
            eps_p = self._chains(config.batch_size, generator)
            with torch.no_grad():
                z_q, z_p = self.groups(eps_q), self.groups(eps_p)
            contrasts = self._values(z_q).mean(1) - self._values(z_p).mean(1)
            optimiser.zero_grad()
            contrasts.sum().backward()
            optimiser.step()
            return contrasts.detach(), eps_p

        take_step = without_python(take_step, generator)
        for step in range(1, config.steps + 1):
            contrasts, eps_p = take_step()
            if step % LOG_EVERY == 0 or step == config.steps:
                contrast = contrasts.sum().item()
                told = {f"contrast_{number}": each for number, each in enumerate(contrasts.tolist())}
                progress(step, config.steps, contrast=contrast, spread=eps_p.std().item(), **told)
                if not abs(contrast) < RUNAWAY:
                    raise Diverged(f"energies of chain and posterior parted by {contrast:.3g} in {step} steps")

    def groups(self, eps: Tensor) -> list[Tensor]:
        """Flat eps (n, d) -> z (n, *group_shape) of each group, by the network; gradients pass."""
        parts, made = self.apart(eps), list[Tensor]()

        def choose(number: int, above: Above) -> Tensor:
            made.append(above.at(parts[number]))
            return made[-1]

        self.hierarchy.walk(choose, len(eps))
        return made

    def _values(self, z: list[Tensor]) -> Tensor:
        """f_l (n,) of each group's z, one behind the other (groups, n)."""
        return torch.stack([f(each, None) for f, each in zip(self.energies, z)])

    @torch.enable_grad()
    def _gradient(self, eps: Tensor) -> Tensor:
        eps = eps.detach().requires_grad_()
        return torch.autograd.grad(self._values(self.groups(eps)).sum(), eps)[0]

    def _chains(self, n: int, generator: torch.Generator) -> Tensor:
        start = torch.randn(n, sum(self.sizes), generator=generator, device=generator.device)
        return short_run(self._gradient, start, self.config.langevin_steps, self.config.step_size, generator)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return self._chains(n, generator).unflatten(1, self.latent_shape)

    def energy(self, z: Tensor) -> Tensor:
        return self._values(self.groups(z.flatten(1))).sum(0) - log_standard_normal(z)


@hookimpl
def register_priors() -> list[type[LatentPrior]]:
    return [JEBM]
