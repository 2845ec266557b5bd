"""What `sample` owes: checked in whichever process it runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class BadSample(RuntimeError):
    """A prior's `sample` broke its contract; the message says how."""


def check_sample(z: Any, n: int, latent_shape: tuple[int, ...], device: torch.device) -> Tensor:
    """The latents, if they are n finite ones (n, *latent_shape), float32, on the device. Raises `BadSample`."""
    expected = (n, *latent_shape)
    if not isinstance(z, Tensor):
        raise BadSample(f"sample({n}) returned a {type(z).__name__}, expected a tensor {expected}")
    if tuple(z.shape) != expected:
        raise BadSample(f"sample({n}) returned shape {tuple(z.shape)}, expected {expected}")
    if z.dtype != torch.float32 or z.device.type != device.type:
        raise BadSample(f"sample({n}) returned {z.dtype} on {z.device}, expected torch.float32 on {device}")
    bad = int((~z.flatten(1).isfinite().all(1)).sum())
    if bad:
        raise BadSample(f"{bad} of {n} samples are not finite")
    return z
