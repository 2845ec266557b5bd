"""What priors that are fitted in closed form start from: a fixed set of draws, flat, in double precision."""

from __future__ import annotations

import torch
from torch import Tensor

from priors.api import Diverged, Split


def finite_draws(split: Split, n: int, generator: torch.Generator) -> Tensor:
    """n draws of an aggregate posterior as (n, d) doubles. Raises `Diverged` where one is not finite."""
    z = split.sample(n, generator).flatten(1).double()
    if not z.isfinite().all():
        raise Diverged("draws of the aggregate posterior are not finite")
    return z
