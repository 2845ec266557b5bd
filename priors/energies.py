"""Energy networks f: latents -> one number, low where the model is likely."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MLPEnergy(nn.Module):
    """Two hidden layers of LeakyReLU(0.01) on a vector latent: (n, d) -> (n,)."""

    SLOPE = 0.01

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(features, width)
        self.second = nn.Linear(width, width)
        self.last = nn.Linear(width, 1)

    def forward(self, z: Tensor) -> Tensor:
        return self._layers(z)[2]

    def _layers(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first = self.first(z)
        second = self.second(F.leaky_relu(first, self.SLOPE))
        return first, second, self.last(F.leaky_relu(second, self.SLOPE)).squeeze(1)

    def value_and_input_gradient(self, z: Tensor, of_last: int) -> tuple[Tensor, Tensor]:
        """f(z) for all n rows, and df/dz for the last `of_last` rows, itself differentiable in the parameters.

        The chain rule is written out: LeakyReLU's second derivative is zero almost everywhere, so its slopes
        are constants, and a gradient penalty costs one plain backward pass instead of a double one.
        """
        first, second, value = self._layers(z)
        gradient = self._sloped(self.last.weight.expand(of_last, -1), second)
        gradient = self._sloped(gradient @ self.second.weight, first)
        return value, gradient @ self.first.weight

    def _sloped(self, gradient: Tensor, before: Tensor) -> Tensor:
        """The gradient before an activation from the one after it, for the last rows."""
        # one fused operation; as a product with the slopes this is a sixth of the whole step
        return torch.ops.aten.leaky_relu_backward(gradient, before[-len(gradient) :].detach(), self.SLOPE, False)
