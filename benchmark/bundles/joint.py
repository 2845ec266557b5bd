"""A prior p that is trained with its VAE: KL(q(z|x) || p) in the place of KL(q(z|x) || N(0, I)), and p with it.

    KL(q || p) = KL(q || N(0, I)) + E_q[t(z)],    t(z) = log N(z; 0, I) - log p(z) = energy(z) + log N(z; 0, I) + const

For every batch of images: (1) an update of p on draws of their posteriors, which stand still for it (EVaLP's: steps of
the energy, then one of the sampler); (2) a step of encoder and decoder on  error + kl_weight (KL(q || N(0, I)) +
gamma E_q[t(z)]).  gamma rises evenly from 0, where training begins, to 1 after its first third. Of t the encoder has
the gradient in z alone, cut to the length that the prior calls `steepest`: EVaLP's penalty holds its energy's at one
nat per unit, so that no posterior is pulled harder than that. Everything else is the plain training, whose noise and
order these draws leave as they are: with gamma = 0 it is that, bit for bit.

What may go wrong is that posteriors shrink to where the prior is easy: rate and active units fall and the distortion
rises. `watch` logs it after each epoch.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backbones.api import Backbone, Pull
from backbones.training import posterior
from benchmark.errors import UsageError
from benchmark.progress import track
from benchmark.scores.mmd import mmd_between
from benchmark.settings import validate
from benchmark.streams import drawing, seeded_globals
from priors.api import AggregatePosterior, Diverged, LatentPrior, PosteriorSplit, Updates
from priors.parts.standard_normal import log_standard_normal

#: the share of training after which the prior pulls with its whole weight
RAMP = 1 / 3
#: a latent whose posterior mean has no larger variance over images is not active (Burda et al. 2016)
INACTIVE = 0.01
HOLE_LATENTS = 2_000


class TrainingFailed(UsageError):
    """A training whose loss, or whose prior, is no longer finite: an outcome of the method."""


@dataclass(frozen=True)
class PriorChoice:
    """A prior as it was asked for: its class, the settings that were typed, and of a plugin's the source's hash."""

    cls: type[LatentPrior]
    settings: dict[str, Any]
    source: str | None = None

    def require(self, backbone_class: type[Backbone]) -> None:
        """Raise `UsageError` where one of the two cannot be trained with the other, before images are read for long."""
        validate(self.cls.Config, self.settings, f"prior {self.cls.name}")
        if self.cls.updates is LatentPrior.updates:
            raise UsageError(
                f"prior {self.cls.name} cannot be trained with a VAE: it has no `updates` (evalp, latent_flow and "
                "mcmc_ebm have)"
            )
        if "pull" not in inspect.signature(backbone_class.loss).parameters:
            raise UsageError(
                f"backbone {backbone_class.name} cannot be trained with a prior: its loss takes no `pull` (conv_vae's "
                "does)"
            )

    def build(
        self,
        dataset: str,
        latent_shape: tuple[int, ...],
        seed: int,
        device: torch.device,
        goes_on: dict[str, Any] | None = None,
    ) -> LatentPrior:
        """A prior that is not fitted, with the recipe of the data set under the settings that were typed.

        `goes_on`: in the place of the recipe all settings of the one that it is to go on from.
        """
        below = self.cls.recipe(dataset, latent_shape)[0] if goes_on is None else goes_on
        config = validate(self.cls.Config, {**below, **self.settings}, f"prior {self.cls.name}")
        with seeded_globals(device, "initialisation", seed):
            return self.cls(latent_shape, config).to(device).train()

    def identity(self) -> dict[str, Any]:
        """What decides its training, as JSON has it."""
        return {"name": self.cls.name, "version": self.cls.version, "settings": self.settings, "source": self.source}


def fit_to(prior: LatentPrior, backbone: Backbone, train: Tensor, val: Tensor, seed: int) -> None:
    """Fit it as usual to the posteriors of uint8 images, before it is trained with their VAE.

    Raises `TrainingFailed`.
    """
    device = train.device
    draws = AggregatePosterior(PosteriorSplit(*posterior(backbone, train)), PosteriorSplit(*posterior(backbone, val)))
    with track(f"{prior.name} on the backbone as it is") as progress, drawing(device, "fit", seed) as generator:
        try:
            prior.fit(draws, generator, progress)
        except Diverged as error:
            raise TrainingFailed(f"prior {prior.name}: its fit diverged: {error}") from error


def ramp(share: float) -> float:
    """gamma when `share` of training is done."""
    return min(1.0, share / RAMP)


def whole(share: float) -> float:
    """gamma where a joint training goes on from an earlier one."""
    return 1.0


class JointPrior:
    """The companion of a backbone that a prior is; `weight`: share of training -> gamma."""

    def __init__(self, prior: LatentPrior, weight: Callable[[float], float] = ramp) -> None:
        updates = prior.updates()
        assert updates is not None, "a prior without updates is refused before"
        self.prior, self._weight = prior, weight
        self._updates: Updates = updates

    def pull(self, share: float, generator: torch.Generator) -> Pull:
        gamma = self._weight(share)

        def pull(mean: Tensor, std: Tensor, z: Tensor) -> Tensor:
            self._updates.take(PosteriorSplit(mean.detach(), std.detach()), generator)
            return gamma * tilt(self.prior, z, self._updates.steepest) if gamma else z.new_zeros(())

        return pull

    @torch.no_grad()
    def watch(self, backbone: Backbone, images: Tensor) -> dict[str, float]:
        """The state of q and how far the prior is from it, of uint8 validation images.

        `active_units`; `std`, the mean of q's; `hole`, the MMD^2 (imq) of the prior's draws and those of q_agg; where
        the prior has a density, `rate` = E[log q(z|x) - log p(z)] in nats. The validation loss has the rate and the
        distortion under N(0, I).
        """
        mean, std = posterior(backbone, images)
        n, q = min(len(mean), HOLE_LATENTS), PosteriorSplit(mean, std)
        with drawing(mean.device, "watch") as noise:
            z = q.one_each(n, noise)
            drawn = self.prior.sample(n, noise)
        watched = {
            "active_units": float(active_units(mean)),
            "std": std.mean().item(),
            "hole": mmd_between(drawn.flatten(1), z.flatten(1)),
        }
        log_prob = self.prior.log_prob(z)
        if log_prob is not None:
            watched["rate"] = -q.mean_entropy() - log_prob.double().mean().item()
        bad = [name for name, value in watched.items() if not math.isfinite(value)]
        return {name: value for name, value in watched.items() if name not in bad}  # JSON has no infinite numbers

    def state_dict(self) -> dict[str, Any]:
        return {"prior": self.prior.state_dict(), "updates": self._updates.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.prior.load_state_dict(state["prior"])
        self._updates.load_state_dict(state["updates"])


def active_units(mean: Tensor) -> int:
    """How many latents' posterior means (n, *latent_shape) vary over images."""
    return int((mean.flatten(1).var(0) > INACTIVE).sum())


def tilt(prior: LatentPrior, z: Tensor, steepest: float = math.inf) -> Tensor:
    """The mean of t over z (n, *latent_shape) in nats, up to t's constant; its gradient in z is cut to `steepest`.

    Nothing of it reaches the prior's own parameters.
    """
    at = z.detach().requires_grad_()
    with torch.enable_grad():
        energy = prior.energy(at)
        assert energy is not None, "a prior with updates has an energy"
        values = energy + log_standard_normal(at)
        (slope,) = torch.autograd.grad(values.sum(), at)
    if steepest < math.inf:
        slope = slope.flatten(1).renorm(2, 0, steepest).view_as(slope)
    along = (slope * z).flatten(1).sum(1).mean()
    return values.detach().mean() + along - along.detach()
