"""Mean flows: the average velocity between two times, so that one pass goes all the way (arXiv 2505.13447).

With x_t = cos(t) z + sin(t) e, z ~ q_agg, e ~ N(0, I), t from 0 to a quarter turn, and the flow's velocity v(x, t), the
average over [r, t]

    u(x_t, r, t) = 1 / (t - r) integral_r^t v(x_s, s) ds      obeys      u = v - (t - r) du/dt

along the path, and x_r = x_t - (t - r) u holds exactly. The network is regressed on the right hand side,

    minimise  E |u(x_t, r, t) - stop(w - (t - r) du/dt)|^2 / stop(|.|^2 + 0.01)^power,      w = cos(t) e - sin(t) z,

du/dt by one derivative in forward mode along (w, 0, 1). In a share of each batch r = t: there it is flow matching and
needs no derivative. Latents are whitened. Adam, cosine decay, a moving average of the weights.

The paper's paths are straight, and on them u is large even where q_agg is N(0, I): a short fit, which knows short spans
before long ones, then takes all noise towards 0. On quarter circles N(0, I) stands still, and only what differs is to
be learned. Here t and r are two uniform times in order; the paper draws them from a logit-normal, with hardly a pair
near the one that `sample` asks about, and has power = 1, a weight that hangs on the draw's own error, so that the
minimum is no mean any more. On straight paths either left the latents of a mixture too near their centre.

`sample` is z = e - pi / 2 u(e, 0, pi / 2): one pass, no density. The loss says little of it, as the network is in its
own target, and a map of all noise to one point makes it small. So the state that is kept has the least energy distance
(Szekely and Rizzo 2013) between draws and held-out latents.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from priors.api import AggregatePosterior, Between, LatentPrior, OneOf, Progress, hookimpl
from priors.parts.draws import finite_draws
from priors.parts.probability_flow import directional
from priors.parts.regression import HELD_OUT, RegressionConfig, regress
from priors.parts.residual import ResidualMLP
from priors.parts.whitening import WHITEN_FROM, Whitening

SOFTENING = 0.01  # of the adaptive weight
QUARTER = math.pi / 2  # the time at which there is noise alone


class MeanFlowConfig(RegressionConfig):
    """`instantaneous`: share of a batch with r = t; `power` of the adaptive weight, 0 for none."""

    instantaneous: float = Field(0.5, ge=0, lt=1)
    power: float = Field(0.0, ge=0)


class MeanFlow(LatentPrior):
    name = "meanflow"
    group = "one_pass"
    by_default = False
    Config = MeanFlowConfig
    config: MeanFlowConfig
    recipes = {
        "mnist": (16, {}),
        "cifar10": (128, {"steps": 4_000}),
        "celeba64": (64, {"width": 384}),
        "celeba64-preview": (64, {"width": 384, "steps": 4_000}),
    }
    space = {
        "learning_rate": Between(3e-4, 3e-3, "half a decade to either side of Adam's usual 1e-3"),
        "width": OneOf((128, 256, 384), "half of the usual 256, and up to the largest of the recipes"),
        "blocks": OneOf((2, 3, 4), "the usual three, one less and one more"),
        "averaged": Between(0.01, 0.2, "a fifth of the usual 0.05 to four times it"),
        "instantaneous": OneOf(
            (0.25, 0.5, 0.75), "the usual half of a batch, and less and more of plain flow matching"
        ),
    }
    quick = {"steps": 1_000, "width": 128}
    learns = {"ring": 0.2, "mixture": 0.2, "banana": 0.1, "narrow": 0.01, "standard": 0.01, "block": 0.3}
    network_evaluations = 1
    replayable = True

    def __init__(self, latent_shape: tuple[int, ...], config: MeanFlowConfig) -> None:
        super().__init__(latent_shape, config)
        d = math.prod(latent_shape)
        self.whitening = Whitening(d)
        self.network = ResidualMLP(d, config.width, config.blocks, times=2)

    def fit(self, posterior: AggregatePosterior, generator: torch.Generator, progress: Progress) -> dict[str, Any]:
        config, device = self.config, posterior.device
        self.whitening.measure(finite_draws(posterior.train, WHITEN_FROM, generator))
        apart = max(1, round((1 - config.instantaneous) * config.batch_size))  # rows with r < t, the first ones
        later = (torch.arange(config.batch_size, device=device) < apart)[:, None]

        def loss(network: nn.Module) -> Tensor:
            z = self.whitening(posterior.train.sample(config.batch_size, generator).flatten(1))
            noise = torch.randn(z.shape, generator=generator, device=device)
            times = QUARTER * torch.rand(len(z), 2, generator=generator, device=device)
            time = times.amax(1, keepdim=True)
            span = (time - times.amin(1, keepdim=True)) * later
            cos, sin = time.cos(), time.sin()
            x, velocity = cos * z + sin * noise, cos * noise - sin * z
            average = network(x, time, span)
            target = velocity.clone()
            target[:apart] -= span[:apart] * slope(network, x[:apart], time[:apart], span[:apart], velocity[:apart])
            squares = (average - target).square().sum(1)
            return (squares / (squares.detach() + SOFTENING) ** config.power).mean()

        held_out = self.whitening(finite_draws(posterior.val, HELD_OUT, generator).float())
        noise = torch.randn(held_out.shape, generator=generator, device=device)
        among = distance(held_out, held_out)

        def apart_from_held_out(network: nn.Module) -> Tensor:
            z = one_pass(network, noise)
            return 2 * distance(z, held_out) - distance(z, z) - among

        return regress(self.network, loss, apart_from_held_out, config, progress, replay=generator)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        noise = torch.randn(n, len(self.whitening.mean), generator=generator, device=generator.device)
        return self.whitening.inverse(one_pass(self.network, noise)).unflatten(1, self.latent_shape)


def one_pass(network: nn.Module, noise: Tensor) -> Tensor:
    """Noise (n, d), a quarter turn from the latents -> whitened latents (n, d)."""
    whole = noise.new_full((1, 1), QUARTER)
    return noise - QUARTER * network(noise, whole, whole)


@torch.no_grad()
def slope(network: nn.Module, x: Tensor, time: Tensor, span: Tensor, velocity: Tensor) -> Tensor:
    """du/dt (n, d) along the path through x (n, d) at `time` (n, 1) with r = time - span held."""
    one = torch.ones_like(time)
    return directional(network, (x, time, span), (velocity, one, one))[1]


def distance(x: Tensor, y: Tensor) -> Tensor:
    """Mean Euclidean distance between rows of x (n, d) and of y (m, d)."""
    return torch.cdist(x, y).mean()


@hookimpl
def register_priors() -> list[type[LatentPrior]]:
    return [MeanFlow]
