"""A smooth scalar field V on vectors whose gradient can itself be trained: what a regression on -grad V needs.

The energies beside it bend by LeakyReLU. Their slope is constant between bends, and its derivative in every bias is
zero, so that a loss of slopes alone never moves a bend. Here layers bend by SiLU, h = u sigmoid(u).
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SmoothEnergy(nn.Module):
    """Hidden layers of one width and a linear read-out without bias: (n, d) -> (n,)."""

    def __init__(self, features: int, width: int, depth: int) -> None:
        super().__init__()
        sizes = [features] + [width] * depth
        self.hidden = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))
        self.last = nn.Linear(width, 1, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        for layer in self.hidden:
            z = F.silu(layer(z))
        return self.last(z).squeeze(1)

    def slope(self, z: Tensor) -> Tensor:
        """dV/dz (n, d) at z (n, d), differentiable in the parameters by a plain backward pass.

        The chain rule is written out, with  dh/du = sigmoid(u) (1 + u (1 - sigmoid(u))).
        """
        bends = []
        for layer in self.hidden:
            u = layer(z)
            gate = torch.sigmoid(u)
            z = u * gate
            bends.append(gate * (1 + u - z))
        slope = self.last.weight
        for layer, bend in zip(reversed(self.hidden), reversed(bends)):
            slope = (slope * bend) @ layer.get_parameter("weight")
        return slope
