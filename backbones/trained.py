"""A trained VAE as two functions, and how they are to be read: what an adapter of a library, or a script, gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from backbones.wrapped import Channels, Likelihood, Spread, WrappedConfig, WrappedVAE


@dataclass(frozen=True)
class TrainedVAE:
    """`encode`: images -> (mean, spread), or z of a deterministic encoder; `decode`: z -> images.

    Where the rest is not said here it is as in `WrappedVAE`. `note`: what its user is to know, in a sentence.
    """

    encode: Callable[[Tensor], Any]
    decode: Callable[[Tensor], Any]
    name: str
    value_range: tuple[float, float]
    spread: Spread
    channels: Channels = "first"
    likelihood: Likelihood | None = None
    std: float = 0.0
    note: str | None = None

    def build(self, image_shape: tuple[int, int, int]) -> WrappedVAE:
        """The backbone of images (C, H, W). Where its weights are, the functions know: its state is empty."""
        vae = _Functions(image_shape, WrappedConfig(), self)
        vae.name, vae.value_range, vae.spread = self.name, self.value_range, self.spread  # type: ignore[misc]
        vae.channels, vae.likelihood, vae.std = self.channels, self.likelihood, self.std
        return vae


class _Functions(WrappedVAE):
    def __init__(self, image_shape: tuple[int, int, int], config: WrappedConfig, of: TrainedVAE) -> None:
        super().__init__(image_shape, config)
        self._of = of

    def build_model(self) -> nn.Module:
        return nn.Identity()

    def load_weights(self) -> dict[str, Tensor]:
        return {}

    def run_encoder(self, x: Tensor) -> Any:
        return self._of.encode(x)

    def run_decoder(self, z: Tensor, generator: torch.Generator | None = None) -> Any:
        return self._of.decode(z)
