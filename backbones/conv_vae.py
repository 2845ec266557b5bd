"""Convolutional VAE with the encoder and decoder of RAE (Ghosh et al. 2020, arXiv 1903.12436).

    loss(x) = |x - decode(z)|^2  +  kl_weight * KL(q(z|x) || N(0, I)),     z = mean + std * noise

with the squared error summed over pixels and averaged over channels, both averaged over the batch. With
`likelihood=bernoulli` minus the log-likelihood takes the squared error's place, and kl_weight = 1 is the evidence
bound. Divided by kl_weight, the squared error is minus the log-likelihood of Gaussian pixels whose variance is
kl_weight times half the number of channels, up to a constant: there the loss is an evidence bound as well.
Encoder: four strided convolutions (w, 2w, 4w, 8w channels; the paper's w is 128), batch norm, ReLU.
Decoder: linear to 8w x 8 x 8, strided transposed convolutions halving the width up to the image size,
batch norm, ReLU, one last convolution, sigmoid. KL weights and sizes are those of the EVaLP release.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from backbones.api import Backbone, BackboneConfig, Pull, bernoulli_log_weight, hookimpl, require_binary

#: log-variances are kept in this range, far outside what training reaches, so that one bad batch cannot overflow
LOG_VARIANCE_RANGE = (-20.0, 10.0)


class ConvVAEConfig(BackboneConfig):
    """`width` is w, `nz` the number of latents, `kernel` the side of the strided convolutions."""

    width: int = Field(32, ge=1)
    nz: int = Field(16, ge=1)
    kernel: int = Field(4, ge=3, le=5)
    kl_weight: float = Field(0.312, ge=0)
    likelihood: Literal["squared_error", "bernoulli"] = "squared_error"


def _down(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride=2, padding=(kernel - 1) // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


def _up(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    return [
        nn.ConvTranspose2d(
            inputs, outputs, kernel, stride=2, padding=(kernel - 1) // 2, output_padding=kernel % 2, bias=False
        ),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


class ConvVAE(Backbone):
    name = "conv_vae"
    Config = ConvVAEConfig
    config: ConvVAEConfig
    recipes = {
        "mnist": ((1, 32, 32), {"nz": 16, "kl_weight": 0.312, "kernel": 4}),
        "cifar10": ((3, 32, 32), {"nz": 128, "kl_weight": 0.006, "kernel": 4}),
        "celeba64": ((3, 64, 64), {"nz": 64, "kl_weight": 0.05024, "kernel": 5}),
    }

    def __init__(self, image_shape: tuple[int, int, int], config: ConvVAEConfig) -> None:
        super().__init__(image_shape, config)
        channels, height, side = self.image_shape
        if height != side or side < 16 or side & (side - 1):
            raise ValueError(
                f"conv_vae takes square images whose side is a power of two, 16 or more; these are {height}x{side}"
            )
        w, kernel = config.width, config.kernel
        self.latent_shape = (config.nz,)
        widths = [channels, w, 2 * w, 4 * w, 8 * w]
        self.encoder = nn.Sequential(
            *[layer for pair in pairwise(widths) for layer in _down(*pair, kernel)], nn.Flatten()
        )
        self.to_posterior = nn.Linear(8 * w * (side // 16) ** 2, 2 * config.nz)
        self.from_latent = nn.Linear(config.nz, 8 * w * 8 * 8)
        ups, self._grid = (side // 8).bit_length() - 1, 8
        widths = [max(8 * w >> i, 1) for i in range(ups + 1)]
        self.decoder = nn.Sequential(
            *[layer for pair in pairwise(widths) for layer in _up(*pair, kernel)],
            nn.Conv2d(widths[-1], channels, 5, padding=2),
            nn.Sigmoid(),
        )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder(x.to(memory_format=torch.channels_last))
        mean, log_variance = self.to_posterior(features).chunk(2, dim=1)
        return mean, (log_variance.clamp(*LOG_VARIANCE_RANGE) / 2).exp()

    def decode(self, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        block = self.from_latent(z).unflatten(1, (-1, self._grid, self._grid))
        return self.decoder(block.to(memory_format=torch.channels_last))

    def loss(
        self, x: Tensor, generator: torch.Generator, progress: float = 1.0, pull: Pull | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """With a `pull` the divergence from the prior that pulls takes the place of that from N(0, I)."""
        mean, std = self.encode(x)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        z = mean + std * noise
        reconstruction = self.decode(z)
        if self.config.likelihood == "bernoulli":
            error = F.binary_cross_entropy(reconstruction, x, reduction="none").flatten(1).sum(1).mean()
        else:
            error = F.mse_loss(reconstruction, x, reduction="none").mean(1).sum((1, 2)).mean()
        kl = (0.5 * (mean**2 + std**2 - 1) - std.log()).sum(1).mean()
        divergence = kl if pull is None else kl + pull(mean, std, z)
        return error + self.config.kl_weight * divergence, {self.config.likelihood: error, "kl": kl}

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor | None:
        if self.config.likelihood == "bernoulli":
            require_binary(x)
            return -F.binary_cross_entropy(self.decode(z), x, reduction="none").flatten(1).sum(1)
        variance = self.config.kl_weight * self.image_shape[0] / 2
        if variance == 0:
            return None
        squared = (x - self.decode(z)).square().flatten(1).sum(1)
        return -0.5 * (squared / variance + x[0].numel() * math.log(2 * math.pi * variance))

    def log_weight(self, x: Tensor, generator: torch.Generator) -> Tensor | None:
        return bernoulli_log_weight(self, x, generator) if self.config.likelihood == "bernoulli" else None


@hookimpl
def register_backbones() -> list[type[Backbone]]:
    return [ConvVAE]
