"""Comparing two samples by rank, as the metrics do whose value is a probability."""

from __future__ import annotations

import torch
from torch import Tensor


def superiority(x: Tensor, y: Tensor) -> float:
    """P(X > Y) + P(X = Y) / 2 for one of x (n,) against one of y (m,), over all pairs.

    The Mann-Whitney U statistic over n m, which is the area under the ROC curve; 1/2 where both are of one law.
    """
    x, ordered = x.contiguous(), y.sort().values
    below = torch.searchsorted(ordered, x) + torch.searchsorted(ordered, x, right=True)
    return below.double().mean().item() / (2 * len(y))
