"""The tilted Gaussian (Floto, Kremer and Nica 2023, The Tilted Variational Autoencoder, arXiv 2111.15646).

    p(z) = exp(tau |z|) N(z; 0, I) / Z(tau),      Z(tau) = E[exp(tau r)],  r ~ chi with d degrees of freedom

Its mass lies at norms near tau + d / tau for a large tau; at 0 it is N(0, I); a negative one draws it to the origin.
The authors train the VAE with it, at a tau that they set. Behind a frozen VAE, tau is that of the highest likelihood:

    d/dtau E[log p] = E_q[|z|] - E_tau[|z|] = 0

the norm's mean is matched, a monotone equation. Let m = E_q|z|. For tau = -t < 0 the density of r, which is in
proportion to r^(d-1) exp(-r^2/2 - t r), is that of Gamma(d, t) times a falling function, so that E_tau|z| <= d / t; and
by parts E_tau|z| >= tau. So tau is between -d / m and m, and bisection finds it.

Z is integrated numerically over r, in logarithms: the closed form by Kummer's functions cancels where tau < 0. One
number is fitted: `radial` beside it says what all of the norm's distribution is worth.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from priors.api import AggregatePosterior, LatentPrior, PriorConfig, Progress, hookimpl
from priors.parts.draws import finite_draws
from priors.parts.spheres import directions
from priors.parts.standard_normal import log_standard_normal

POINTS = 20_001  # of the integral over r
REACH = 12.0  # standard deviations of N(0, 1) to either side of the mode; the density of r is narrower than that
BISECTIONS = 60


class TiltedConfig(PriorConfig):
    """`draws` of q_agg have the norms that tau is fitted to."""

    draws: int = Field(50_000, ge=1)


class Tilted(LatentPrior):
    name = "tilted"
    group = "closed_form"
    by_default = False
    Config = TiltedConfig
    config: TiltedConfig
    quick = {"draws": 20_000}
    learns = {"standard": 0.005}
    network_evaluations = 0
    tau: Tensor

    def __init__(self, latent_shape: tuple[int, ...], config: TiltedConfig) -> None:
        super().__init__(latent_shape, config)
        self.features = math.prod(latent_shape)
        self.register_buffer("tau", torch.zeros(()))

    def fit(self, posterior: AggregatePosterior, generator: torch.Generator, progress: Progress) -> dict[str, float]:
        wanted = finite_draws(posterior.train, self.config.draws, generator).norm(dim=1).mean()
        low, high = -self.features / wanted, wanted
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            r, log_mass = norms(middle, self.features)
            short = (log_mass.softmax(0) * r).sum() < wanted
            low, high = torch.where(short, middle, low), torch.where(short, high, middle)
        self.tau.copy_(middle)
        return {"tau": self.tau.item(), "mean_norm": wanted.item()}

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        r, log_mass = norms(self.tau, self.features)
        below = log_mass.softmax(0).cumsum(0)
        uniform = torch.rand(n, generator=generator, device=generator.device, dtype=r.dtype)
        cell = torch.searchsorted(below, uniform).clamp_max(len(r) - 1)
        spread = torch.rand(n, generator=generator, device=generator.device, dtype=r.dtype) - 0.5
        lengths = (r[cell] + spread * (r[1] - r[0])).abs().float()
        return (lengths[:, None] * directions(n, self.features, generator)).unflatten(1, self.latent_shape)

    def log_prob(self, z: Tensor) -> Tensor:
        tilt = self.tau * z.flatten(1).norm(dim=1) - log_constant(self.tau, self.features)
        return log_standard_normal(z) + tilt.to(z.dtype)

    def energy(self, z: Tensor) -> Tensor:
        return -self.log_prob(z)


def norms(tau: Tensor, d: int) -> tuple[Tensor, Tensor]:
    """Lengths r (p,), equally spaced, and the logarithm of Z(tau) times the probability of each: (p,), doubles."""
    tau = tau.double()
    mode = (tau + (tau.square() + 4 * (d - 1)).sqrt()) / 2
    low = (mode - REACH).clamp_min(0)
    step = (mode + REACH - low) / POINTS
    # midpoints: a density that does not vanish at 0 is no exception, and no logarithm of 0 is taken
    r = low + step * (torch.arange(POINTS, device=tau.device, dtype=tau.dtype) + 0.5)
    log_chi = (d - 1) * r.log() - r.square() / 2 + (1 - d / 2) * math.log(2) - math.lgamma(d / 2)
    return r, log_chi + tau * r + step.log()


def log_constant(tau: Tensor, d: int) -> Tensor:
    """log Z(tau) in d dimensions, a double."""
    return norms(tau, d)[1].logsumexp(0)


@hookimpl
def register_priors() -> list[type[LatentPrior]]:
    return [Tilted]
