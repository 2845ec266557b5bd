"""The exponential moving average of a network's weights (Polyak and Juditsky 1992), updated in place."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MovingAverage:
    """Keeps in `average` the mean of the weights that `live` has had over about the last `horizon` updates.

    Both have the same parameters in the same order; buffers are left as they are. It starts from what `average` holds,
    which is forgotten within a few horizons.
    """

    def __init__(self, average: nn.Module, live: nn.Module, horizon: float) -> None:
        self._average: list[Tensor] = list(average.parameters())
        self._live: list[Tensor] = list(live.parameters())
        self._share = 1 / max(horizon, 1.0)

    @torch.no_grad()
    def update(self) -> None:
        """average <- average + (live - average) / horizon."""
        torch._foreach_lerp_(self._average, self._live, self._share)
