"""Rows taken a part at a time, so that memory holds what is made of them.

A program that `torch.export` records is for any number of rows, so it cannot be cut by it: there all are one part.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def is_open(n: int) -> bool:
    """Whether a number of rows is left open, as it is while `torch.export` records."""
    return isinstance(n, torch.SymInt)


def split_rows(z: Tensor, most: int) -> Sequence[Tensor]:
    """z (n, ...) in parts of at most so many rows; in one where n is open."""
    return (z,) if is_open(z.shape[0]) else z.split(most)
