"""The uniform distribution of a Riemannian latent space (Chadebec and Allassonniere 2022, arXiv 2209.07370).

    G(z) = sum_k Sigma_k^-1 exp(-|z - c_k|^2_{Sigma_k^-1} / T^2) + ridge I
    p(z) proportional to sqrt(det G(z))^power

with |v|^2_P = v^T P v, and c_k, Sigma_k the mean and the diagonal covariance of q(z|x_k) of K training images, medoids
of all posterior means; T is the largest distance from a medoid to its nearest other. Mass lies where posteriors are
narrow. Nothing is trained. Sampling is Hamiltonian Monte Carlo from random posterior means; the method needs the
posteriors themselves, where other priors get draws.

Far from all medoids p is a constant, which has no integral: there is no `log_prob`, and long chains get lost. At the
power 1 of the paper that takes no more steps than the authors make. In their code momenta have half the standard
deviation that the acceptance takes them to have, and a flow that keeps the energy with momenta of N(0, 1/4) keeps the
power 4; here that is a setting, with the acceptance that belongs to it. (The code's gradient is another than that of
its density too.)

A chain that moves little hands its start back, which is a training image's posterior mean: `displacement`, and the
memorisation scores, say how far this is sampling at all.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from priors.api import (
    AggregatePosterior,
    Between,
    Diverged,
    GaussianSplit,
    LatentPrior,
    OneOf,
    PriorConfig,
    Progress,
    hookimpl,
    sampling_setting,
)
from priors.parts.hmc import run_chains
from priors.parts.medoids import find_medoids

CHAINS = 500  # in the diagnostics


class RiemannianConfig(PriorConfig):
    """`ridge` is lambda of the paper. `starts`: posterior means that chains start from, medoids being among them.

    With fewer images than that, the means of all are repeated. A sample is the end of a chain of `steps` transitions,
    each of `leapfrogs` steps of `step_size`; the authors' step size of 0.01 at half the momentum is 0.005.
    """

    medoids: int = Field(100, ge=2)
    starts: int = Field(5_000, ge=2)
    ridge: float = Field(0.01, gt=0)
    power: float = sampling_setting(4.0, gt=0)
    steps: int = sampling_setting(100, ge=1)
    leapfrogs: int = sampling_setting(10, ge=1)
    step_size: float = sampling_setting(0.005, gt=0)


class Riemannian(LatentPrior):
    name = "riemannian"
    group = "closed_form"
    by_default = False
    Config = RiemannianConfig
    config: RiemannianConfig
    recipes = {
        "mnist": (16, {}),
        "cifar10": (128, {"ridge": 0.1}),
        "celeba64": (64, {"ridge": 1.0}),
        "celeba64-preview": (64, {"ridge": 1.0}),
    }
    space = {
        "medoids": Between(50, 200, "half of the usual 100 to twice as many, at up to twice the cost of a chain"),
        "ridge": Between(0.01, 1.0, "from the smallest of the recipes to the largest"),
        "power": OneOf((1.0, 4.0), "that of the paper, and that which the authors' code keeps"),
    }
    quick = {"steps": 20, "starts": 1_000}
    network_evaluations = 0  # and no promise to learn: its density is that of a geometry, whatever q_agg
    centres: Tensor
    precisions: Tensor
    temperature: Tensor
    means: Tensor

    def __init__(self, latent_shape: tuple[int, ...], config: RiemannianConfig) -> None:
        super().__init__(latent_shape, config)
        d = math.prod(latent_shape)
        if config.medoids > config.starts:
            raise ValueError(f"riemannian takes medoids among its starts: {config.medoids} of {config.starts}")
        self.register_buffer("centres", torch.zeros(config.medoids, d))
        self.register_buffer("precisions", torch.ones(config.medoids, d))
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("means", torch.zeros(config.starts, d))

    @torch.no_grad()
    def fit(self, posterior: AggregatePosterior, generator: torch.Generator, progress: Progress) -> dict[str, Any]:
        if not isinstance(posterior.train, GaussianSplit):
            raise TypeError("riemannian needs the posteriors of images, and this aggregate posterior has draws alone")
        images = min(self.config.starts, len(posterior.train))
        if images < self.config.medoids:
            raise ValueError(f"riemannian takes {self.config.medoids} medoids among images, and there are {images}")
        mean, std = (each.flatten(1) for each in posterior.train.posteriors(images, generator))
        if not (mean.isfinite().all() and std.isfinite().all()):
            raise Diverged("posteriors of images are not finite")
        if not (std > 0).all():
            raise ValueError(
                "riemannian has a metric of the posteriors' precisions, 1 / std^2, and these posteriors have no width: "
                "their encoder is deterministic"
            )
        chosen = find_medoids(mean, self.config.medoids)
        between = torch.cdist(mean[chosen], mean[chosen]).fill_diagonal_(torch.inf)
        self.means.copy_(mean[torch.arange(self.config.starts, device=mean.device) % images])
        self.centres.copy_(mean[chosen])
        self.precisions.copy_(std[chosen].square().reciprocal())
        self.temperature.copy_(between.amin(1).max())
        return {"temperature": self.temperature.item()}

    def log_density(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """log p(z) = power log sqrt(det G) (n,) up to its constant at z (n, d), and its gradient (n, d).

        With w_k = exp(-|z - c_k|^2 / T^2) and P_k the precisions, the gradient is
        -power/T^2 sum_k w_k (sum_i P_ki / G_ii) P_k (z - c_k).
        """
        precisions, pull = self.precisions, self.precisions * self.centres
        distances = z.square() @ precisions.T - 2 * z @ pull.T + (pull * self.centres).sum(1)
        weights = (-distances / self.temperature.square()).exp()
        diagonal = weights @ precisions + self.config.ridge
        share = weights * (diagonal.reciprocal() @ precisions.T)
        gradient = (share @ pull - z * (share @ precisions)) / self.temperature.square()
        return self.config.power / 2 * diagonal.log().sum(1), self.config.power * gradient

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return self._chains(n, generator)[1].unflatten(1, self.latent_shape)

    def energy(self, z: Tensor) -> Tensor:
        return -self.log_density(z.flatten(1))[0]

    @torch.no_grad()
    def diagnostics(self, generator: torch.Generator) -> dict[str, float]:
        """Acceptance, and how far chains end from their starts: in latents, and over the distance of two starts."""
        starts, ends, acceptance = self._chains(CHAINS, generator)
        moved, apart = (ends - starts).norm(dim=1).mean(), (starts - starts.roll(1, 0)).norm(dim=1).mean()
        return {
            "acceptance": acceptance.item(),
            "displacement": moved.item(),
            "displacement_over_spread": (moved / apart).item(),
        }

    def _chains(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Starts and ends of n chains, each (n, d), and the share of accepted transitions."""
        config = self.config
        chosen = torch.randint(len(self.means), (n,), generator=generator, device=generator.device)
        starts = self.means[chosen]
        ends, acceptance = run_chains(
            self.log_density, starts, config.steps, config.leapfrogs, config.step_size, generator
        )
        return starts, ends, acceptance


@hookimpl
def register_priors() -> list[type[LatentPrior]]:
    return [Riemannian]
