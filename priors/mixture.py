"""A mixture of posteriors, learned by likelihood: VampPrior's form behind a frozen encoder.

    p(z) = sum_k w_k N(z; mu_k, diag(sigma_k^2)),      maximise  E[log p(z)],  z ~ q_agg

q_agg is itself such a mixture, 1/N sum_n q(z|x_n), with one component for each image. VampPrior (Tomczak and Welling
2018, arXiv 1705.07120) shortens it to K pseudo-inputs u_k that are learned, p(z) = 1/K sum_k q(z|u_k). Where the
encoder is frozen and its posteriors are diagonal Gaussians, u_k acts through the pair mu(u_k), sigma(u_k) alone; here
the pairs themselves are learned, and so are the weights. So the family contains VampPrior's, whatever the
pseudo-inputs, and every mixture of K training posteriors; its maximum is no lower than theirs, and neither image nor
encoder is needed.

Components start at K draws of q_agg, with the standard deviations of q_agg times K^(-1/(d+4)) (Scott's rule). Adam on
fresh draws, cosine decay, the best state by held-out likelihood. At K = N it could become q_agg: see memorisation.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from priors.api import AggregatePosterior, Between, LatentPrior, PriorConfig, Progress, hookimpl
from priors.parts.draws import finite_draws
from priors.parts.early_stopping import BestState
from priors.parts.graphs import without_python
from priors.parts.mixtures import draw, log_density
from priors.parts.optimisers import fused_adam

VALIDATE_EVERY = 250  # steps
HELD_OUT = 10_000  # draws in the held-out likelihood
LEAST = 30  # components that the targets of `check` need, other than Gaussian ones
SCALE_FROM = 10_000  # draws whose standard deviations components start from


class MixtureConfig(PriorConfig):
    """`floor` is below every standard deviation; `patience` counts validations without a better one (in 250 steps)."""

    components: int = Field(500, ge=1)
    steps: int = Field(10_000, ge=1)
    batch_size: int = Field(256, ge=1)
    learning_rate: float = Field(1e-2, gt=0)
    floor: float = Field(1e-3, gt=0)
    patience: int = Field(10, ge=1)


class PosteriorMixture(LatentPrior):
    name = "mixture"
    group = "closed_form"
    by_default = False
    Config = MixtureConfig
    config: MixtureConfig
    recipes = {
        "mnist": (16, {"components": 1_000}),  # chosen on val, as is that of the preview, which has 7,000 images
        "cifar10": (128, {}),
        "celeba64": (64, {}),
        "celeba64-preview": (64, {"components": 100}),
    }
    space = {
        "components": Between(50, 1_500, "from half of the fewest of the recipes to three times the usual 500"),
        "learning_rate": Between(1e-3, 3e-2, "a decade below the usual 1e-2 to half a decade above it"),
        "floor": Between(1e-3, 0.1, "from next to nothing to a tenth of the width of N(0, I)"),
    }
    quick = {"components": 100, "steps": 600}
    learns = {
        "ring": 0.05,
        "mixture": 0.1,
        "banana": 0.05,
        "narrow": 0.01,
        "standard": 0.005,
        "block": 0.3,
        "stairs": 0.1,
    }
    network_evaluations = 0

    def __init__(self, latent_shape: tuple[int, ...], config: MixtureConfig) -> None:
        super().__init__(latent_shape, config)
        d = math.prod(latent_shape)
        enough = config.components >= LEAST
        self.learns = {name: share for name, share in self.learns.items() if enough or name in ("narrow", "standard")}
        self.logits = nn.Parameter(torch.zeros(config.components))
        self.means = nn.Parameter(torch.zeros(config.components, d))
        self.log_scales = nn.Parameter(torch.zeros(config.components, d))

    def mixture(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (k,), means (k, d) and standard deviations (k, d)."""
        return self.logits.softmax(0), self.means, self.config.floor + self.log_scales.exp()

    def initialise(self, posterior: AggregatePosterior, generator: torch.Generator) -> None:
        """Put components at draws of q_agg."""
        spread = finite_draws(posterior.train, SCALE_FROM, generator).std(0)
        components, d = self.means.shape
        with torch.no_grad():
            self.means.copy_(finite_draws(posterior.train, components, generator))
            self.log_scales.copy_((spread * components ** (-1 / (d + 4))).clamp_min(self.config.floor).log())

    def fit(self, posterior: AggregatePosterior, generator: torch.Generator, progress: Progress) -> dict[str, Any]:
        config = self.config
        self.initialise(posterior, generator)
        optimiser = fused_adam(self.parameters(), config.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
        held_out = finite_draws(posterior.val, HELD_OUT, generator)
        best = BestState(self, config.patience)

        def take_step() -> Tensor:
            loss = -self.log_prob(posterior.train.sample(config.batch_size, generator)).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            return loss

        take_step = without_python(take_step, generator)
        for step in range(1, config.steps + 1):
            loss = take_step()
            schedule.step()
            if step % VALIDATE_EVERY == 0 or step == config.steps:
                with torch.no_grad():
                    nll = -self.log_prob(held_out).mean().item()
                progress(step, config.steps, nll=loss.item(), held_out_nll=nll)
                if best.exhausted(nll, step, "held-out likelihood"):
                    break
        best.restore()
        return {"held_out_nll": best.value, "best_step": best.step}

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return draw(n, *self.mixture(), generator).unflatten(1, self.latent_shape)

    def log_prob(self, z: Tensor) -> Tensor:
        return log_density(z.flatten(1), *self.mixture())

    def energy(self, z: Tensor) -> Tensor:
        return -self.log_prob(z)


@hookimpl
def register_priors() -> list[type[LatentPrior]]:
    return [PosteriorMixture]
