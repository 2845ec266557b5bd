"""EVaLP on all latent groups of a hierarchy at once: one normalised energy, and a flow that walks down the groups.

    p(z) = exp(-F(eps)) N(eps; 0, I) / Z,      F(eps) = sum_l f_l(eps_l, c_l)
    log Z = max over g of  -E_g[F] - KL(g || N(0, I)),      g(eps) = prod_l g_l(eps_l | c_l)

eps_l is group l in standard deviations from its mean given the groups above, and c_l what the frozen top-down network
has there, so a function of eps_<l: F is one function of all eps, and g is autoregressive over the groups, G_l a RealNVP
that c_l steers. The players take turns as in `evalp`:

    energy    minimise  E[F(eps_q)] - E[F(eps_g)] + gp_weight E[(|grad F(eps^)| - 1)^2],  eps^ = a eps_q + (1 - a) eps_g
    sampler   minimise  E[F(G(eta))] + kl_weight KL(g || N(0, I)),      eta ~ N(0, I)

The penalty has one norm over all groups, of a gradient that counts what a group does to the c of those below; the
sampler's gradient comes back up the walk, too, so that an upper group's sampler feels the energies below it. That is
the difference to `evalp_groups`, each of whose groups is normalised by itself and takes out what it would do to those
above. Z is one number here, so that `energy` is known up to it; drawing is one pass of a sampler a group.

The log has `upper` = E_g[F] - E_q[F] + KL(g || N(0, I)), for any g an upper bound of E_q[log p(z) - log N(eps; 0, I)].
EVaLP's paper has the top group alone, and leaves all at once open (arXiv 2510.00260). `jebm` is such a model, too, with
energies of z, and Langevin in the place of g.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from priors.api import AggregatePosterior, LatentPrior, Progress, hookimpl
from priors.parts.divergence import require_finite
from priors.parts.graphs import without_python
from priors.parts.group_players import LOG_EVERY, SPACE, GroupPlayers, GroupPlayersConfig, divergence_from_base
from priors.parts.optimisers import Adam
from priors.parts.standard_normal import log_standard_normal


class EVaLPJoint(GroupPlayers):
    name = "evalp_joint"
    group = "energy"
    by_default = False
    Config = GroupPlayersConfig
    config: GroupPlayersConfig
    space = SPACE
    quick = {"steps": 1_500}
    block_quick = {"steps": 300}
    long_quick = {"steps": 80}

    def fit(self, posterior: AggregatePosterior, generator: torch.Generator, progress: Progress) -> None:
        """Per round, draws in this order: z_q of all energy steps, noise group by group, a, the sampler's noise."""
        config, device = self.config, posterior.device
        k, batch = config.energy_steps, config.batch_size
        of_energies, of_samplers = list(self.energies.parameters()), list(self.samplers.parameters())
        energy_optimiser = Adam(of_energies, config.learning_rate, betas=(0.5, 0.999))
        sampler_optimiser = Adam(of_samplers, config.sampler_learning_rate, betas=(0.5, 0.999))
        self.measure_features(posterior, generator)
        rounds = math.ceil(config.steps / k)

        def play_round() -> tuple[Tensor, Tensor, Tensor, Tensor]:
            eps_q = posterior.train.sample(k * batch, generator).flatten(1)
            noise = self._draw_noise(k * batch, generator)
            a = torch.rand(k * batch, 1, generator=generator, device=device)
            with torch.no_grad():  # the sampler stands still during the energy's steps
                eps_g, _, kl = self.push(noise)
            for of_q, of_g, between in zip(eps_q.split(batch), eps_g.split(batch), a.split(batch)):
                loss, penalty = self.energy_loss(of_q, of_g, between)
                energy_optimiser.step(torch.autograd.grad(loss, of_energies))
            loss, _ = self.sampler_loss(self._draw_noise(batch, generator))
            sampler_optimiser.step(torch.autograd.grad(loss, of_samplers))
            return eps_q, eps_g, kl, penalty.detach()

        play_round = without_python(play_round, generator)
        for index in range(rounds):
            eps_q, eps_g, kl, penalty = play_round()
            if index % LOG_EVERY == 0 or index == rounds - 1:
                with torch.no_grad():
                    gap = (self.tilt(eps_g) - self.tilt(eps_q)).mean()
                facts = {"upper": (gap + kl).item(), "kl": kl.item(), "penalty": penalty.item()}
                require_finite(facts, (index + 1) * k)
                progress((index + 1) * k, rounds * k, **facts)

    def tilt(self, eps: Tensor) -> Tensor:
        """F (n,) of flat eps (n, d), through whose contexts gradients pass as well."""
        given = zip(self.players()[0], self.apart(eps), self.contexts(eps))
        return torch.stack([f(each, f.read(context)) for f, each, context in given]).sum(0)

    def push(self, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """eps (n, d) of noise (n, d) on one walk down the groups, F (n,) there, and KL(g || N(0, I)) in nats.

        Gradients pass through the walk.
        """
        energies, samplers = self.players()
        of_groups = self.apart(noise)
        tilt = log_det = noise.new_zeros(len(noise))

        def choose(number: int, context: Tensor) -> Tensor:
            nonlocal tilt, log_det
            eps, of_group = samplers[number].push(of_groups[number], context)
            tilt = tilt + energies[number](eps, energies[number].read(context))
            log_det = log_det + of_group
            return eps

        eps = self.together(self.walk_down(choose, len(noise), noise.device)).flatten(1)
        return eps, tilt, divergence_from_base(noise, eps, log_det)

    def energy_loss(self, eps_q: Tensor, eps_g: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of all energies, and its mean squared excess (|grad F| - 1)^2; eps (n, d), a (n, 1) in [0, 1]."""
        between = (a * eps_q + (1 - a) * eps_g).requires_grad_()
        (slope,) = torch.autograd.grad(self.tilt(between).sum(), between, create_graph=True)
        penalty = (torch.linalg.vector_norm(slope, dim=1) - 1).square().mean()
        of_q, of_g = self.tilt(torch.cat([eps_q, eps_g])).chunk(2)
        return (of_q - of_g).mean() + self.config.gp_weight * penalty, penalty

    def sampler_loss(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of all samplers, and KL(g || N(0, I)) in nats, both at G(noise), noise (n, d)."""
        _, tilt, kl = self.push(noise)
        return tilt.mean() + self.config.kl_weight * kl, kl

    def _draw_noise(self, n: int, generator: torch.Generator) -> Tensor:
        """Group by group, as `sample` draws it."""
        parts = [torch.randn(n, size, generator=generator, device=generator.device) for size in self.sizes]
        return torch.cat(parts, 1)

    def energy(self, z: Tensor) -> Tensor:
        return self.tilt(z.flatten(1)) - log_standard_normal(z)


@hookimpl
def register_priors() -> list[type[LatentPrior]]:
    return [EVaLPJoint]
