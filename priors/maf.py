"""Masked autoregressive flow by maximum likelihood (Papamakarios et al. 2017, arXiv 1705.07057).

    maximise  E[log p(z)],  z ~ q_agg

Each transform is affine in a latent, with shift and scale computed from all latents before it. It is what the couplings
of `latent_flow` are where there are two groups of latents: with one group a latent it is far more flexible at the same
depth, and drawing costs d passes in a row instead of one. From `passes` latents on, several make a group, which bounds
that cost. zuko's transforms (github.com/probabilists/zuko); settings are the suite's own.
"""

from __future__ import annotations

from pydantic import Field
from zuko.transforms import MonotonicAffineTransform

from priors.api import Between, LatentPrior, OneOf, hookimpl
from priors.parts.autoregressive import AutoregressiveConfig, AutoregressiveFlow, AutoregressivePrior


class MAFConfig(AutoregressiveConfig):
    """Latents are drawn in at most `passes` groups, one after the other."""

    transforms: int = Field(5, ge=1)
    passes: int = Field(128, ge=2)


class MAF(AutoregressivePrior):
    name = "maf"
    Config = MAFConfig
    config: MAFConfig
    recipes = {
        "mnist": (16, {}),
        "cifar10": (128, {}),
        "celeba64": (64, {}),
        "celeba64-preview": (64, {}),
    }
    block_recipes = {
        "mnist": (128, {}),
        "celeba64": (1_280, {"passes": 16}),
        "cifar10": (5_120, {"passes": 16}),
    }
    space = {
        "learning_rate": Between(1e-4, 3e-3, "a decade below Adam's usual 1e-3 to half a decade above it"),
        "transforms": OneOf((3, 5, 8), "the usual five, fewer and more; each costs as much as another"),
        "width": OneOf((64, 128, 256), "the usual width, half of it and twice"),
        "weight_decay": Between(1e-6, 1e-3, "the usual 2e-5, with more than a decade to either side"),
    }
    quick = {"steps": 400}
    learns = {"ring": 0.3, "mixture": 0.3, "banana": 0.05, "narrow": 0.01, "standard": 0.005, "block": 0.3}

    def make_flow(self, features: int) -> AutoregressiveFlow:
        config = self.config
        shift_and_log_scale: list[tuple[int, ...]] = [(), ()]
        return AutoregressiveFlow(
            features, config.transforms, config.passes, config.width, MonotonicAffineTransform, shift_and_log_scale
        )


@hookimpl
def register_priors() -> list[type[LatentPrior]]:
    return [MAF]
