"""What priors share that regress the velocity of an equation from noise to latents: all but the path between them."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from priors.api import Between, LatentPrior, OneOf, Progress, Split, sampling_setting
from priors.parts.probability_flow import heun, log_density
from priors.parts.regression import RegressionConfig, regress
from priors.parts.residual import ResidualMLP
from priors.parts.whitening import Whitening

#: where (n, d), what the network is told of the time (n, 1), and the velocity there (n, d)
Examples = tuple[Tensor, Tensor, Tensor]


class VelocityConfig(RegressionConfig):
    """`heun_steps`: steps of the solver, two passes each."""

    heun_steps: int = sampling_setting(9, ge=1)


class VelocityPrior(LatentPrior):
    """dx/dt = v(x, t) on whitened latents, v a network that is told the time, solved by Heun's method.

    A few steps have no density at hand, so there is no `log_prob`; `ode_log_prob` is that of the equation.
    """

    group = "many_pass"
    config: VelocityConfig
    recipes = {
        "mnist": (16, {}),
        "cifar10": (128, {"width": 512, "steps": 4_000}),
        "celeba64": (64, {"width": 384}),
        "celeba64-preview": (64, {"width": 384, "steps": 4_000}),
    }
    long_recipes = {"mnist": (1_792, {"width": 512, "steps": 4_000})}
    space = {
        "learning_rate": Between(3e-4, 3e-3, "half a decade to either side of Adam's usual 1e-3"),
        "width": OneOf((128, 256, 512), "half of the usual 256, and up to the largest of the recipes"),
        "blocks": OneOf((2, 3, 4), "the usual three, one less and one more"),
        "averaged": Between(0.01, 0.2, "a fifth of the usual 0.05 to four times it"),
        "heun_steps": OneOf((5, 9, 18), "the usual nine, about half of them and twice as many"),
    }
    quick = {"steps": 1_000, "width": 128}
    long_quick = {"steps": 500, "width": 512}
    replayable = True
    learns = {"ring": 0.05, "mixture": 0.1, "banana": 0.05, "narrow": 0.01, "standard": 0.005, "block": 0.2}

    def __init__(self, latent_shape: tuple[int, ...], config: VelocityConfig) -> None:
        super().__init__(latent_shape, config)
        d = math.prod(latent_shape)
        self.network_evaluations = 2 * config.heun_steps
        self.whitening = Whitening(d)
        self.network = ResidualMLP(d, config.width, config.blocks)

    @abstractmethod
    def velocity(self, x: Tensor, time: float) -> Tensor:
        """dx/dt (n, d) of whitened latents x (n, d)."""

    @abstractmethod
    def times(self, steps: int) -> list[float]:
        """The times from noise to latents between which the solver takes so many steps."""

    def regress(
        self,
        examples: Callable[[Tensor], Examples],
        held_out: Examples,
        train: Split,
        generator: torch.Generator,
        progress: Progress,
        replay: torch.Generator | None,
    ) -> dict[str, Any]:
        """Fit the network to the `examples` that are made of fresh latents (n, *shape); `replay` as for `regress`."""

        def error(network: nn.Module, of: Examples) -> Tensor:
            x, time, velocity = of
            return (network(x, time) - velocity).square().mean()

        def loss(network: nn.Module) -> Tensor:
            return error(network, examples(train.sample(self.config.batch_size, generator)))

        return regress(self.network, loss, lambda network: error(network, held_out), self.config, progress, replay)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        noise = torch.randn(n, len(self.whitening.mean), generator=generator, device=generator.device)
        white = heun(self.velocity, noise, self.times(self.config.heun_steps))
        return self.whitening.inverse(white).unflatten(1, self.latent_shape)

    @torch.no_grad()
    def ode_log_prob(self, z: Tensor, steps: int = 100) -> Tensor:
        """log p (n,) in nats at z (n, *latent_shape) of the equation, solved back with `steps` steps.

        What `sample` draws comes near it as its own steps become many; 2 x steps x d passes a latent.
        """
        white = self.whitening(z.flatten(1))
        return log_density(self.velocity, white, self.times(steps)) + self.whitening.log_det()
