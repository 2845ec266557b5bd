"""Latents -> images as they are scored: rounded to 8 bits, a batch at a time, on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from backbones.api import Backbone
from benchmark.machine.switches import kept_switches

DECODE_BATCH = 250


def as_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1] -> uint8, rounded to the nearest of the 256 values."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


@torch.no_grad()
def decode_images(backbone: Backbone, z: Tensor, generator: torch.Generator) -> Tensor:
    """Latents (n, *latent_shape) -> uint8 images (n, C, H, W).

    Raises `TypeError` where the backbone decodes to something else, `ArithmeticError` where images are not finite.
    """
    return torch.cat([as_bytes(_decoded(backbone, part, generator)) for part in z.split(DECODE_BATCH)])


def _decoded(backbone: Backbone, z: Tensor, generator: torch.Generator) -> Tensor:
    if getattr(backbone, "source", None) is None:
        images = backbone.decode(z, generator)
    else:  # a stranger's: it changes neither latents nor switches
        with kept_switches():
            images = backbone.decode(z.clone(), generator)
    expected = (len(z), *backbone.image_shape)
    if not isinstance(images, Tensor) or tuple(images.shape) != expected or not images.is_floating_point():
        found = f"{tuple(images.shape)} {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"backbone {backbone.name}: decode gave {found}, expected floats {expected}")
    bad = int((~images.flatten(1).isfinite().all(1)).sum())
    if bad:
        raise ArithmeticError(f"{bad} of {len(z)} latents decode to images that are not finite")
    return images
