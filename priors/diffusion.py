"""Diffusion: noise is added to latents, a network learns to take it away (EDM, Karras et al. 2022, arXiv 2206.00364).

EDM denoises z + sigma e by D(x; sigma) = c_skip x + c_out F(c_in x; ln sigma / 4), with E |D - z|^2 weighted so that F
has a loss of the same size at every sigma. Latents are whitened, so sigma_data = 1, and with sigma = tan(a) it reads

    minimise  E |v(x_a, ln sigma / 4) - (cos(a) e - sin(a) z)|^2,      x_a = cos(a) z + sin(a) e,
              z ~ q_agg,  e ~ N(0, I),  ln sigma ~ N(-0.5, 1.2^2)

where x_a = c_in (z + sigma e) and v = -F is dx_a/da (the same in Lu and Song 2024, arXiv 2410.11081; the prediction of
velocities in Salimans and Ho 2022). EDM's mean of ln sigma is -1.2 at sigma_data = 0.5; in units of sigma_data that is
about -0.5. Adam, cosine decay, a moving average of the weights, the best state by held-out loss.

`sample` solves dx/da = v from sigma = 20, where x is N(0, I) but for a 400th of its variance, down to 0 with Heun's
method in equal steps of the angle a, two passes each. EDM solves the same equation for x / cos(a) over sigma. There
the noise that has to shrink twentyfold dominates the error, and few steps leave too much of it: with the exact score of
N(0, 1), nine steps draw a variance of 1.19 (sigma from 20 to 0.02) or 1.30 (40 to 0.01). In the angle that case has no
error at all. There is no `log_prob`; `ode_log_prob` is the density of the equation, which many steps would draw from.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from priors.api import AggregatePosterior, LatentPrior, Progress, hookimpl
from priors.parts.draws import finite_draws
from priors.parts.regression import HELD_OUT
from priors.parts.velocity_priors import Examples, VelocityConfig, VelocityPrior
from priors.parts.whitening import WHITEN_FROM

LEAST_NOISE, MOST_NOISE = 0.02, 20.0  # sigma, in standard deviations of q_agg; the network is asked about no other
MEAN_LOG_NOISE, STD_LOG_NOISE = -0.5, 1.2


class Diffusion(VelocityPrior):
    name = "diffusion"
    by_default = False
    Config = VelocityConfig

    def times(self, steps: int) -> list[float]:
        return angles(steps)

    def velocity(self, x: Tensor, time: float) -> Tensor:
        """dx/da (n, d) of whitened latents x (n, d): latents at angle (time) 0, noise near a quarter turn."""
        log_noise = math.log(max(math.tan(time), LEAST_NOISE))
        return self.network(x, x.new_full((1, 1), log_noise / 4))

    def fit(self, posterior: AggregatePosterior, generator: torch.Generator, progress: Progress) -> dict[str, Any]:
        self.whitening.measure(finite_draws(posterior.train, WHITEN_FROM, generator))

        def noised(z: Tensor) -> Examples:
            """x_a of latents z (n, *shape) at a random angle (n, d), the time (n, 1), and the velocity there (n, d)."""
            white = self.whitening(z.flatten(1))
            noise = torch.randn(white.shape, generator=generator, device=white.device)
            normal = torch.randn(len(white), 1, generator=generator, device=white.device)
            log_noise = MEAN_LOG_NOISE + STD_LOG_NOISE * normal
            log_noise = log_noise.clamp(math.log(LEAST_NOISE), math.log(MOST_NOISE))
            angle = log_noise.exp().atan()
            cos, sin = angle.cos(), angle.sin()
            return cos * white + sin * noise, log_noise / 4, cos * noise - sin * white

        held_out = noised(finite_draws(posterior.val, HELD_OUT, generator).float())
        return self.regress(noised, held_out, posterior.train, generator, progress, replay=generator)


def angles(n: int) -> list[float]:
    """From the most noise to none, n equal steps apart."""
    most = math.atan(MOST_NOISE)
    return [most * (1 - step / n) for step in range(n + 1)]


@hookimpl
def register_priors() -> list[type[LatentPrior]]:
    return [Diffusion]
