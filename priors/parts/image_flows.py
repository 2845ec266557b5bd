"""RealNVP for a block of latents C x H x W (Dinh et al. 2017, arXiv 1605.08803): checkerboard, squeeze, channels.

Couplings with alternating checkerboard masks at full resolution, then, with each 2 x 2 square stacked into channels,
as many with alternating halves of the channels; ActNorm after each, ResNets for log-scale and shift. It has the
interface of `priors.parts.flows.CouplingFlow`: latents go in and out flat.
"""

from __future__ import annotations

import torch
from nflows.transforms import ActNorm, CompositeTransform, SqueezeTransform, Transform
from torch import Tensor, nn

from priors.parts.flows import LOG_SCALE_BOUND, Flow


class ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class MaskedAffine(Transform):
    """y = x exp(s) + t where the mask (C, H, W) is 0, with s and t from a ResNet that sees only where it is 1."""

    mask: Tensor

    def __init__(self, mask: Tensor, width: int) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        channels = len(mask)
        self.network = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            ResidualBlock(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * channels, 1),
        )
        for parameter in self.network[-1].parameters():  # the identity at first: deep flows start well behaved
            nn.init.zeros_(parameter)

    def _shift_and_log_scale(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shift, unbounded = self.network(x * self.mask).chunk(2, dim=1)
        free = 1 - self.mask
        return free * shift, free * LOG_SCALE_BOUND * torch.tanh(unbounded / LOG_SCALE_BOUND)

    def forward(self, inputs: Tensor, context: None = None) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._shift_and_log_scale(inputs)
        return inputs * log_scale.exp() + shift, log_scale.flatten(1).sum(1)

    def inverse(self, inputs: Tensor, context: None = None) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._shift_and_log_scale(inputs)
        return (inputs - shift) * (-log_scale).exp(), -log_scale.flatten(1).sum(1)


def checkerboard(shape: tuple[int, int, int], parity: int) -> Tensor:
    """Ones where row + column + parity is even: (C, H, W)."""
    channels, height, width = shape
    grid = torch.arange(height)[:, None] + torch.arange(width) + parity
    return (grid % 2 == 0).float().expand(channels, -1, -1).clone()


def channel_halves(shape: tuple[int, int, int], parity: int) -> Tensor:
    """Ones on one half of the channels: (C, H, W)."""
    mask = torch.zeros(shape)
    half = shape[0] // 2
    mask[slice(half) if parity == 0 else slice(half, None)] = 1
    return mask


class ImageFlow(Flow):
    """`couplings` of each kind. Raises ValueError for latents that are no block or whose sides cannot be halved."""

    def __init__(self, latent_shape: tuple[int, ...], couplings: int, width: int) -> None:
        if len(latent_shape) != 3:
            raise ValueError(f"network=conv needs a block of latents C x H x W, not {latent_shape}")
        channels, height, side = latent_shape
        if height % 2 or side % 2:
            raise ValueError(f"the image flow halves the sides of its block, which must be even: {latent_shape}")
        squeezed = (4 * channels, height // 2, side // 2)
        layers: list[nn.Module] = []
        for index in range(couplings):
            layers += [MaskedAffine(checkerboard(latent_shape, index % 2), width), ActNorm(channels)]
        layers.append(SqueezeTransform())
        for index in range(couplings):
            layers += [MaskedAffine(channel_halves(squeezed, index % 2), width), ActNorm(squeezed[0])]
        super().__init__(CompositeTransform(layers), latent_shape, noise_shape=squeezed)
