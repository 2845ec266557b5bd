"""Latents -> images as they are scored: rounded to 8 bits, a batch at a time, on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from backbones.api import Backbone

DECODE_BATCH = 250


def as_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1] -> uint8, rounded to the nearest of the 256 values."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


@torch.no_grad()
def decode_images(backbone: Backbone, z: Tensor, generator: torch.Generator) -> Tensor:
    """Latents (n, *latent_shape) -> uint8 images (n, C, H, W)."""
    return torch.cat([as_bytes(backbone.decode(part, generator)) for part in z.split(DECODE_BATCH)])
