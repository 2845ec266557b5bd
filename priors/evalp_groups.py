"""EVaLP with one model a latent group, given the groups above it: conditional energies, samplers and bounds.

    p(z) = prod_l exp(-f_l(eps_l, c_l)) N(eps_l; 0, I) / Z_l(c_l)
    log Z_l(c) = max over g_l(.|c) of  -E_g[f_l(eps, c)] - KL(g_l(.|c) || N(0, I))

eps_l is group l in standard deviations from its mean given the groups above, c_l what the frozen top-down network has
there. By the chain rule KL(q_agg || p) = sum_l E_q(z_<l)[KL(q_agg(z_l|z_<l) || p_l(.|z_<l))] all groups train at once
from draws of q_agg, whose own groups above are their contexts (teacher forcing), each as `evalp` does:

    energy    minimise  E[f(eps_q, c)] - E[f(eps_g, c)] + gp_weight E[(|grad_eps f(eps^, c)| - 1)^2]
    sampler   minimise  E[f(G(eta, c), c)] + kl_weight KL(g(.|c) || N(0, I)),        eps_g = G(eta, c), eta ~ N(0, I)

with eps^ between eps_q and eps_g at the same c, and G a RealNVP that c steers. Drawing walks down the network, one pass
of a sampler a group. A share `own_contexts` of a sampler's batch is below groups of the model's own instead, as it will
be when drawing; an energy cannot be, since nobody has posteriors there. The log has of each group `upper`, for any
sampler an upper bound of E_q[log p_l(eps_l | c_l) - log N(eps_l; 0, I)].

This is another model than `evalp_joint`, whose one energy is normalised as a whole, as is that of `evalp` on all groups
at once: an energy on group 1 alone moves group 0 there, to where it leaves group 1 low energies, and does not move it
here. As Z_l hangs on c_l, log p is not known up to a constant, and there is no `energy` of several groups.
NCP-VAE has the same form with classifiers (`ncp_groups`); EVaLP's paper has the top group alone, and leaves all open.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from priors.api import AggregatePosterior, LatentPrior, OneOf, Progress, hookimpl
from priors.parts.conditional import ConditionalEnergy, ConditionalFlow
from priors.parts.divergence import require_finite
from priors.parts.graphs import without_python
from priors.parts.group_players import LOG_EVERY, SPACE, GroupPlayers, GroupPlayersConfig, divergence_from_base
from priors.parts.optimisers import Adam
from priors.parts.standard_normal import log_standard_normal


class EVaLPGroupsConfig(GroupPlayersConfig):
    """`own_contexts`: share of a sampler's batch that is below draws of the samplers above."""

    own_contexts: float = Field(0.0, ge=0, le=1)


def energy_loss(
    energy: ConditionalEnergy, eps_q: Tensor, eps_g: Tensor, a: Tensor, context: Tensor, gp_weight: float
) -> tuple[Tensor, Tensor]:
    """The loss of one group's energy, and its mean squared excess (|grad_eps f| - 1)^2.

    eps (n, *shape) of q and of the sampler below the same context (n, *context_shape); a (n, 1) in [0, 1].
    """
    read = energy.read(context)
    value = energy(torch.stack([eps_q, eps_g], 1).flatten(0, 1), read).view(-1, 2)
    a = a.view(-1, *[1] * (eps_q.dim() - 1))
    slope = energy.slope(a * eps_q + (1 - a) * eps_g, read)
    penalty = (torch.linalg.vector_norm(slope, dim=1) - 1).square().mean()
    return (value[:, 0] - value[:, 1]).mean() + gp_weight * penalty, penalty


def sampler_loss(
    energy: ConditionalEnergy, sampler: ConditionalFlow, noise: Tensor, context: Tensor, kl_weight: float
) -> tuple[Tensor, Tensor]:
    """The loss of one group's sampler, and KL(g(.|c) || N(0, I)) in nats, both at G(noise, c), noise (n, *shape)."""
    eps, log_det = sampler.push(noise, context)
    kl = divergence_from_base(noise, eps, log_det)
    return energy(eps, energy.read(context)).mean() + kl_weight * kl, kl


class Played(NamedTuple):
    """What a round saw of one group: eps of q and of the sampler below the same c, KL in nats, the penalty."""

    eps_q: Tensor
    eps_g: Tensor
    context: Tensor
    kl: Tensor
    penalty: Tensor

    @torch.no_grad()
    def gap(self, energy: ConditionalEnergy) -> float:
        """E[f(eps_g, c)] - E[f(eps_q, c)] in nats."""
        read = energy.read(self.context)
        return (energy(self.eps_g, read) - energy(self.eps_q, read)).mean().item()


class EVaLPGroups(GroupPlayers):
    name = "evalp_groups"
    group = "energy"
    by_default = False
    Config = EVaLPGroupsConfig
    config: EVaLPGroupsConfig
    space = {
        **SPACE,
        "own_contexts": OneOf((0.0, 0.5), "contexts of q alone, and half of them of the model"),
    }
    quick = {"steps": 1_500}
    block_quick = {"steps": 300}
    long_quick = {"steps": 160}

    def fit(self, posterior: AggregatePosterior, generator: torch.Generator, progress: Progress) -> None:
        """Per round, draws in this order: z_q of all energy steps; of each group its noise, a and sampler's noise."""
        config, device = self.config, posterior.device
        k, batch = config.energy_steps, config.batch_size
        own = round(config.own_contexts * batch)
        energies, samplers = self.players()
        of_energies = [list(energy.parameters()) for energy in energies]
        of_samplers = list(self.samplers.parameters())
        optimisers = [Adam(parameters, config.learning_rate, betas=(0.5, 0.999)) for parameters in of_energies]
        sampler_optimiser = Adam(of_samplers, config.sampler_learning_rate, betas=(0.5, 0.999))
        self.measure_features(posterior, generator)
        rounds = math.ceil(config.steps / k)

        def play_round() -> list[Played]:
            """Of each group."""
            z = posterior.train.sample(k * batch, generator)
            eps_q, contexts = self.apart(z), self.contexts(z)
            below = [context[-batch:] for context in contexts]
            if own:
                of_own = self.contexts(self.descend(own, generator))
                below = [torch.cat([mine, there[own:]]) for mine, there in zip(of_own, below)]
            losses, played = z.new_zeros(()), list[Played]()
            for number, (energy, sampler) in enumerate(zip(energies, samplers)):
                noise = torch.randn(eps_q[number].shape, generator=generator, device=device)
                a = torch.rand(k * batch, 1, generator=generator, device=device)
                with torch.no_grad():  # the sampler stands still during the energy's steps
                    eps_g, log_det = sampler.push(noise, contexts[number])
                    kl = divergence_from_base(noise, eps_g, log_det)
                of_all = (each.split(batch) for each in (eps_q[number], eps_g, a, contexts[number]))
                for of_q, of_g, between, context in zip(*of_all):
                    loss, penalty = energy_loss(energy, of_q, of_g, between, context, config.gp_weight)
                    optimisers[number].step(torch.autograd.grad(loss, of_energies[number]))
                played.append(Played(eps_q[number], eps_g, contexts[number], kl, penalty.detach()))
                noise = torch.randn(batch, *self.shapes[number], generator=generator, device=device)
                losses = losses + sampler_loss(energy, sampler, noise, below[number], config.kl_weight)[0]
            sampler_optimiser.step(torch.autograd.grad(losses, of_samplers))
            return played

        play_round = without_python(play_round, generator)
        for index in range(rounds):
            played = play_round()
            if index % LOG_EVERY == 0 or index == rounds - 1:
                facts = dict[str, float]()
                for number, (energy, of) in enumerate(zip(energies, played)):
                    kl = of.kl.item()
                    told = {"upper": of.gap(energy) + kl, "kl": kl, "penalty": of.penalty.item()}
                    facts |= {f"{name}_{number}": value for name, value in told.items()}
                facts["upper"] = sum(facts[f"upper_{number}"] for number in range(len(energies)))
                require_finite(facts, (index + 1) * k)
                progress((index + 1) * k, rounds * k, **facts)

    def energy(self, z: Tensor) -> Tensor | None:
        """Of one group alone."""
        if len(self.shapes) > 1:
            return None
        ((f, *_), _), (eps,), (context,) = self.players(), self.apart(z), self.contexts(z)
        return f(eps, f.read(context)) - log_standard_normal(z)


@hookimpl
def register_priors() -> list[type[LatentPrior]]:
    return [EVaLPGroups]
