"""Flow matching: a velocity that carries noise to latents along straight lines on average (arXiv 2210.02747).

    minimise  E |v(x_t, t) - (z - e)|^2,      x_t = (1 - t) e + t z,      z ~ q_agg,  e ~ N(0, I),  t ~ U(0, 1)

The minimum is the mean velocity of all lines through a point, and dx/dt = v(x, t) from t = 0 to 1 turns N(0, I) into
q_agg. Noise and latents are paired at random, or inside each batch so that the squared distances add up to the least
(arXiv 2302.00482), which straightens the paths; each t comes with 1 - t. Latents are whitened. Adam, cosine decay, a
moving average of the weights, the best state by held-out loss.

`skip=gaussian`: the network regresses what is left of the velocity when that of N(0, I) to N(0, I) is taken off,
(2t - 1) / (t^2 + (1 - t)^2) x_t, which many latents of little structure have next to alone, and a network narrower than
they are cannot pass on.

`sample` solves the equation with a few steps of Heun, two passes each. That has no density at hand, so there is no
`log_prob`; `ode_log_prob` is the density of the equation itself, which is what many steps would draw from.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from priors.api import AggregatePosterior, LatentPrior, Progress, hookimpl, later_setting
from priors.parts.assignment import assign
from priors.parts.draws import finite_draws
from priors.parts.regression import HELD_OUT
from priors.parts.velocity_priors import Examples, VelocityConfig, VelocityPrior
from priors.parts.whitening import WHITEN_FROM


class FlowMatchingConfig(VelocityConfig):
    """`pairing`: which noise goes with which latent of a batch. `skip`: what the network need not learn."""

    pairing: Literal["independent", "optimal"] = "independent"
    skip: Literal["none", "gaussian"] = later_setting("none")


class FlowMatching(VelocityPrior):
    name = "flow_matching"
    Config = FlowMatchingConfig
    config: FlowMatchingConfig
    long_recipes = {"mnist": (1_792, {"width": 512, "steps": 4_000, "skip": "gaussian"})}

    def times(self, steps: int) -> list[float]:
        return equal_steps(steps)

    def velocity(self, x: Tensor, time: float) -> Tensor:
        """dx/dt (n, d) of whitened latents x (n, d): noise at time 0, latents at time 1."""
        velocity = self.network(x, x.new_full((1, 1), time))
        return velocity + gaussian_slope(time) * x if self.config.skip == "gaussian" else velocity

    def fit(self, posterior: AggregatePosterior, generator: torch.Generator, progress: Progress) -> dict[str, Any]:
        self.whitening.measure(finite_draws(posterior.train, WHITEN_FROM, generator))
        pair = pair_optimally if self.config.pairing == "optimal" else pair_as_drawn

        def lines(z: Tensor) -> Examples:
            """Points on lines from noise to z (n, *shape): where (n, d), when (n, 1), and the velocity there (n, d)."""
            white = self.whitening(z.flatten(1))
            noise, white = pair(torch.randn(white.shape, generator=generator, device=white.device), white)
            time = antithetic_times(len(z), generator)
            x, velocity = (1 - time) * noise + time * white, white - noise
            return x, time, velocity - gaussian_slope(time) * x if self.config.skip == "gaussian" else velocity

        draws = finite_draws(posterior.val, HELD_OUT, generator).float()
        x, time, velocity = (torch.cat(each) for each in zip(*map(lines, draws.split(self.config.batch_size))))
        replay = generator if pair is pair_as_drawn else None  # the assignment is the CPU's
        return self.regress(lines, (x, time, velocity), posterior.train, generator, progress, replay)


def gaussian_slope(time: Any) -> Any:
    """dx/dt / x at a time, or times, of the velocity that carries N(0, I) to N(0, I)."""
    return (2 * time - 1) / (time**2 + (1 - time) ** 2)


def equal_steps(n: int) -> list[float]:
    """Times from 0 to 1, n equal steps apart."""
    return [step / n for step in range(n + 1)]


def antithetic_times(n: int, generator: torch.Generator) -> Tensor:
    """(n, 1) times, each uniform on (0, 1): half of them, then one minus those, so that their mean is 1/2."""
    half = torch.rand(n - n // 2, 1, generator=generator, device=generator.device)
    return torch.cat([half, 1 - half])[:n]


def pair_as_drawn(noise: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Noise and z (n, d) as they are: independent of each other."""
    return noise, z


def pair_optimally(noise: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """The same rows (n, d) of both, z in the order whose squared distances to the noise add up to the least."""
    return noise, z[assign(noise, z)]


@hookimpl
def register_priors() -> list[type[LatentPrior]]:
    return [FlowMatching]
