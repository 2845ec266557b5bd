"""Latents with mean 0 and standard deviation 1 in each coordinate, and the way back."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WHITEN_FROM = 10_000  # draws that are enough to `measure`
SMALLEST = 1e-6  # of a standard deviation: a coordinate that never changes is divided by this


class Whitening(nn.Module):
    """z (n, features) -> (z - mean) / std and back, with the mean and std of the draws given to `measure`."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def measure(self, z: Tensor) -> None:
        self.mean.copy_(z.mean(0))
        self.std.copy_(z.std(0).clamp_min(SMALLEST))

    def forward(self, z: Tensor) -> Tensor:
        return (z - self.mean) / self.std

    def inverse(self, white: Tensor) -> Tensor:
        return self.mean + self.std * white

    def log_det(self) -> Tensor:
        """log |d forward / dz|, the same everywhere."""
        return -self.std.log().sum()
