"""Distributions that hang on the norm alone: a direction uniform on the sphere, and a length.

With p_r the density of r = |z| in d dimensions,

    p(z) = p_r(|z|) / (A_d |z|^(d-1)),      A_d = 2 pi^(d/2) / Gamma(d/2)

the surface of the sphere of radius |z|, over which the mass at that length is spread.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log_area(d: int) -> float:
    """log A_d, of the surface of the unit sphere in d dimensions."""
    return math.log(2) + d / 2 * math.log(math.pi) - math.lgamma(d / 2)


def directions(n: int, d: int, generator: torch.Generator) -> Tensor:
    """n points (n, d), uniform on the unit sphere: those of N(0, I), divided by their lengths."""
    z = torch.randn(n, d, generator=generator, device=generator.device)
    return z / z.norm(dim=1, keepdim=True)
