"""Flow matching: a velocity that carries noise to latents along straight lines on average (arXiv 2210.02747).

    minimise  E |v(x_t, t) - (z - e)|^2,      x_t = (1 - t) e + t z,      z ~ q_agg,  e ~ N(0, I),  t ~ U(0, 1)

The minimum is the mean velocity of all lines through a point, and dx/dt = v(x, t) from t = 0 to 1 turns N(0, I) into
q_agg. Noise and latents are paired at random, or inside each batch so that the squared distances add up to the least
(arXiv 2302.00482), which straightens the paths; each t comes with 1 - t. Latents are whitened. Adam, cosine decay, a
moving average of the weights, the best state by held-out loss.

`sample` solves the equation with a few steps of Heun, two passes each. That has no density at hand, so there is no
`log_prob`; `ode_log_prob` is the density of the equation itself, which is what many steps would draw from.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from priors.api import AggregatePosterior, LatentPrior, Progress, hookimpl, sampling_setting
from priors.parts.assignment import assign
from priors.parts.draws import finite_draws
from priors.parts.probability_flow import heun, log_density
from priors.parts.regression import HELD_OUT, RegressionConfig, regress
from priors.parts.residual import ResidualMLP
from priors.parts.whitening import WHITEN_FROM, Whitening


class FlowMatchingConfig(RegressionConfig):
    """`pairing`: which noise goes with which latent of a batch; `heun_steps`: steps of the solver, two passes each."""

    pairing: Literal["independent", "optimal"] = "independent"
    heun_steps: int = sampling_setting(9, ge=1)


class FlowMatching(LatentPrior):
    name = "flow_matching"
    group = "many_pass"
    Config = FlowMatchingConfig
    config: FlowMatchingConfig
    recipes = {
        "mnist": (16, {}),
        "cifar10": (128, {"width": 512, "steps": 4_000}),
        "celeba64": (64, {"width": 384}),
        "celeba64-preview": (64, {"width": 384, "steps": 4_000}),
    }
    quick = {"steps": 1_000, "width": 128}
    replayable = True
    learns = {"ring": 0.05, "mixture": 0.1, "banana": 0.05, "narrow": 0.01, "standard": 0.005, "block": 0.2}

    def __init__(self, latent_shape: tuple[int, ...], config: FlowMatchingConfig) -> None:
        super().__init__(latent_shape, config)
        d = math.prod(latent_shape)
        self.network_evaluations = 2 * config.heun_steps
        self.whitening = Whitening(d)
        self.network = ResidualMLP(d, config.width, config.blocks)

    def velocity(self, x: Tensor, time: float) -> Tensor:
        """dx/dt (n, d) of whitened latents x (n, d): noise at time 0, latents at time 1."""
        return self.network(x, x.new_full((1, 1), time))

    def fit(self, posterior: AggregatePosterior, generator: torch.Generator, progress: Progress) -> dict[str, Any]:
        self.whitening.measure(finite_draws(posterior.train, WHITEN_FROM, generator))
        pair = pair_optimally if self.config.pairing == "optimal" else pair_as_drawn

        def lines(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            """Points on lines from noise to z (n, *shape): where (n, d), when (n, 1), and the velocity there (n, d)."""
            white = self.whitening(z.flatten(1))
            noise, white = pair(torch.randn(white.shape, generator=generator, device=white.device), white)
            time = antithetic_times(len(z), generator)
            return (1 - time) * noise + time * white, time, white - noise

        def loss(network: nn.Module) -> Tensor:
            x, time, velocity = lines(posterior.train.sample(self.config.batch_size, generator))
            return (network(x, time) - velocity).square().mean()

        held_out = finite_draws(posterior.val, HELD_OUT, generator).float()
        x, time, velocity = (torch.cat(each) for each in zip(*map(lines, held_out.split(self.config.batch_size))))

        def loss_held_out(network: nn.Module) -> Tensor:
            return (network(x, time) - velocity).square().mean()

        replay = generator if pair is pair_as_drawn else None  # the assignment is the CPU's
        return regress(self.network, loss, loss_held_out, self.config, progress, replay)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        noise = torch.randn(n, len(self.whitening.mean), generator=generator, device=generator.device)
        white = heun(self.velocity, noise, equal_steps(self.config.heun_steps))
        return self.whitening.inverse(white).unflatten(1, self.latent_shape)

    @torch.no_grad()
    def ode_log_prob(self, z: Tensor, steps: int = 100) -> Tensor:
        """log p (n,) in nats at z (n, *latent_shape) of the equation, solved back with `steps` steps.

        What `sample` draws comes near it as its own steps become many; 2 x steps x d passes a latent.
        """
        white = self.whitening(z.flatten(1))
        return log_density(self.velocity, white, equal_steps(steps)) + self.whitening.log_det()


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
