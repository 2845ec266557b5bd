"""A residual perceptron that is told the time: the network of flow matching, diffusion and their one-pass relatives.

    h <- h + W2 silu(W1 norm(h) + T e),      e = silu(E [sin(w t), cos(w t)])

in each block, between a linear map in and a linear map out. The frequencies w are few and low: a network whose
derivative in time is part of the loss (mean flows) has that derivative multiplied by them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

FREQUENCIES = 16  # of each time, from one radian a unit
HIGHEST = 8.0  # to this many
EMBEDDING = 128


class Block(nn.Module):
    """One residual step of width `width`, shifted by an embedding of the time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.into, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.shift = nn.Linear(EMBEDDING, width, bias=False)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        return h + self.out(silu(self.into(self.norm(h)) + self.shift(embedding)))


class ResidualMLP(nn.Module):
    """(n, features), and `times` columns (n, 1) or (1, 1) about a unit long -> (n, features); 0 before any training."""

    def __init__(self, features: int, width: int, blocks: int, times: int = 1) -> None:
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.logspace(0, 1, FREQUENCIES, base=HIGHEST), persistent=False)
        self.embed = nn.Linear(2 * FREQUENCIES * times, EMBEDDING)
        self.first = nn.Linear(features, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.norm, self.last = nn.LayerNorm(width), nn.Linear(width, features)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, *times: Tensor) -> Tensor:
        phases = torch.cat([time * self.frequencies for time in times], 1)
        embedding = silu(self.embed(torch.cat([phases.sin(), phases.cos()], 1)))
        h = self.first(x)
        for block in self.blocks:
            h = block(h, embedding)
        return self.last(self.norm(h))
