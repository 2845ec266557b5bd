"""Short-run Langevin dynamics on an energy f with base measure N(0, I) (Nijkamp et al. 2019, arXiv 1904.09770)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def short_run(
    gradient: Callable[[Tensor], Tensor], z: Tensor, steps: int, step_size: float, generator: torch.Generator
) -> Tensor:
    """K unadjusted Langevin steps towards p(z) proportional to exp(-f(z)) N(z; 0, I), from z (n, d).

        z <- z - s^2/2 (grad f(z) + z) + s noise

    `gradient` returns grad f (n, d). Without Metropolis correction the stationary distribution is off by O(s^2),
    and structure narrower than about s cannot be held.
    """
    half = step_size**2 / 2
    for _ in range(steps):
        noise = torch.randn(z.shape, generator=generator, device=z.device)
        z = z - half * (gradient(z) + z) + step_size * noise
    return z
