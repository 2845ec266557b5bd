"""The base measure of most priors here, N(0, I)."""

from __future__ import annotations

import math

from torch import Tensor


def log_standard_normal(z: Tensor) -> Tensor:
    """log N(z; 0, I) in nats, (n, ...) -> (n,)."""
    z = z.flatten(1)
    return -0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi))
