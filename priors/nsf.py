"""Neural spline flow by maximum likelihood (Durkan et al. 2019, arXiv 1906.04032), in couplings.

    maximise  E[log p(z)],  z ~ q_agg

Each transform moves a latent by a monotone rational-quadratic spline on [-5, 5], made of `bins` pieces whose widths,
heights and slopes at the knots are free, and by the identity outside: hence the whitening. In a coupling, half of the
latents have splines that are the same for all z, and the other half's are computed from them. zuko's transforms
(github.com/probabilists/zuko); settings are the suite's own.
"""

from __future__ import annotations

from functools import partial

from pydantic import Field
from zuko.transforms import MonotonicRQSTransform

from priors.api import Between, LatentPrior, OneOf, hookimpl
from priors.parts.autoregressive import AutoregressiveConfig, AutoregressiveFlow, AutoregressivePrior

SLOPE = 1e-3  # the least of a spline, as in zuko
PASSES = 2  # a coupling


class NSFConfig(AutoregressiveConfig):
    bins: int = Field(8, ge=2)


class NSF(AutoregressivePrior):
    name = "nsf"
    Config = NSFConfig
    config: NSFConfig
    recipes = {
        "mnist": (16, {}),
        "cifar10": (128, {"steps": 600}),  # of 128 latents a step is dear, and the flow soon learns them by heart
        "celeba64": (64, {}),
        "celeba64-preview": (64, {}),
    }
    block_recipes = {
        "mnist": (128, {"steps": 2_500}),
        "celeba64": (1_280, {"steps": 1_000}),
        "cifar10": (5_120, {"steps": 1_000, "batch_size": 64}),
    }
    space = {
        "learning_rate": Between(1e-4, 3e-3, "a decade below Adam's usual 1e-3 to half a decade above it"),
        "transforms": OneOf((2, 4, 6), "the usual four, fewer and more; each costs as much as another"),
        "width": OneOf((64, 128, 256), "the usual width, half of it and twice"),
        "weight_decay": Between(1e-6, 1e-3, "the usual 2e-5, with more than a decade to either side"),
    }
    quick = {"steps": 400}
    replayable = True
    learns = {"ring": 0.05, "mixture": 0.3, "banana": 0.05, "narrow": 0.01, "standard": 0.005, "block": 0.3}

    def make_flow(self, features: int) -> AutoregressiveFlow:
        config = self.config
        spline = partial(MonotonicRQSTransform, slope=SLOPE)
        shapes = [(config.bins,), (config.bins,), (config.bins - 1,)]
        return AutoregressiveFlow(features, config.transforms, PASSES, config.width, spline, shapes)


@hookimpl
def register_priors() -> list[type[LatentPrior]]:
    return [NSF]
