"""Energy networks f: flat latents -> one number, low where the model is likely.

An MLP for a vector, convolutions for a block C x H x W.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from priors.parts.chunks import is_open

#: what a prior's networks are made of: layers on the flat latent, or convolutions on a block
Form = Literal["mlp", "conv"]

#: rows that a perceptron takes at a time: their layers stay in a CPU's cache from one to the next
BLOCK = 1_024

#: of_value (n,), of_slope (rows, d) -> the gradient of  of_value . f(z) + of_slope . df/dz  in each parameter
PullBack = Callable[[Tensor, Tensor], list[Tensor]]


def _weight_of(layer: nn.Module) -> Tensor:
    """A parameter, or what `torch.func.functional_call` has put in its place."""
    return cast(Tensor, layer.weight)


class Energy(nn.Module):
    """Hidden layers with LeakyReLU(0.01) and a linear read-out: (n, d) -> (n,).

    Objectives that compare energies with one another cannot see a constant, so the read-out has a bias only
    where `constant` asks for it.
    """

    SLOPE = 0.01
    hidden: nn.ModuleList
    last: nn.Linear

    def forward(self, z: Tensor) -> Tensor:
        # none but the last is kept: those of SIR's many proposals together would be the run's memory
        (features,) = deque(self._outputs(z), maxlen=1)
        return self._read(features)

    def value_and_input_gradient(self, z: Tensor, of_last: int | None = None) -> tuple[Tensor, Tensor]:
        """f(z) for all n rows, and df/dz for the last `of_last` rows (all), itself differentiable in the parameters.

        The chain rule is written out: LeakyReLU's second derivative is zero almost everywhere, so its slopes
        are constants, and a gradient penalty costs one plain backward pass instead of a double one.
        """
        after = list(self._outputs(z))
        value = self._read(after[-1])
        rows, last = (z.shape[0], slice(None)) if of_last is None else (of_last, slice(-of_last, None))
        gradient = self._gradient_of_readout(rows, after[-1])
        for layer, outputs in zip(reversed(self.hidden), reversed(after)):
            # one fused operation: as a product with the slopes this is a sixth of EVaLP's whole step
            slope_applied = torch.ops.aten.leaky_relu_backward(gradient, outputs[last].detach(), self.SLOPE, True)
            gradient = self._pull_back(layer, slope_applied)
        return value, gradient.flatten(1)

    def slope_and_pull_back(self, z: Tensor, of_last: int) -> tuple[Tensor, PullBack]:
        """df/dz (of_last, flat d) for the last rows of z, without graph, and what takes a loss back to the parameters.

        A loss of values and slopes is known by its gradient in them: `pull_back` makes of it that in the parameters.
        """
        value, slope = self.value_and_input_gradient(z, of_last)
        parameters = list(self.parameters())
        return slope.detach(), lambda *gradient: list(torch.autograd.grad((value, slope), parameters, gradient))

    def _outputs(self, z: Tensor) -> Iterator[Tensor]:
        """Of each hidden layer in turn."""
        z = self._reshape(z)
        for layer in self.hidden:
            # in place: one pass over memory less, a tenth of the time that SIR's many proposals take
            z = F.leaky_relu_(layer(z), self.SLOPE)
            yield z

    def _read(self, features: Tensor) -> Tensor:
        return self.last(self._pool(features)).squeeze(1)

    def _reshape(self, z: Tensor) -> Tensor:
        return z

    def _pool(self, z: Tensor) -> Tensor:
        return z

    def _gradient_of_readout(self, rows: int, features: Tensor) -> Tensor:
        return self.last.weight.expand(rows, -1)

    def _pull_back(self, layer: nn.Module, gradient: Tensor) -> Tensor:
        return gradient @ _weight_of(layer)


class MLPEnergy(Energy):
    """Hidden layers of one width on a vector latent."""

    def __init__(self, features: int, width: int, depth: int = 2, constant: bool = False) -> None:
        super().__init__()
        sizes = [features] + [width] * depth
        self.hidden = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))
        self.last = nn.Linear(width, 1, bias=constant)

    def forward(self, z: Tensor) -> Tensor:
        """In blocks of rows on a CPU, where no graph is asked for: the same numbers, in a tenth less time for SIR.

        The last block takes what is left over: few rows by themselves would be multiplied in another order.
        """
        value = super().forward
        if torch.is_grad_enabled() or z.device.type != "cpu" or is_open(z.shape[0]):
            return value(z)
        full = max(len(z) // BLOCK - 1, 0)
        sizes = [BLOCK] * full + [len(z) - BLOCK * full]
        return torch.cat([value(block) for block in z.split(sizes)])

    @torch.no_grad()
    def slope_and_pull_back(self, z: Tensor, of_last: int) -> tuple[Tensor, PullBack]:
        """As of any energy, by the very operations of autograd but without its graph, which costs half as much again.

        `of_sum` is the gradient in a layer's weighted sum, before its LeakyReLU.
        """
        weights = [_weight_of(layer) for layer in self.hidden]
        inputs = [z, *self._outputs(z)]
        slope, slopes = self.last.weight.expand(of_last, -1), deque[Tensor]()
        for weight, outputs in zip(reversed(weights), reversed(inputs)):
            slopes.appendleft(self._bend(slope, outputs[-of_last:]))
            slope = slopes[0] @ weight

        @torch.no_grad()
        def pull_back(of_value: Tensor, of_slope: Tensor) -> list[Tensor]:
            by_slope = []
            for weight, outputs, of_sum in zip(weights, inputs[1:], slopes):
                by_slope.append(of_sum.T @ of_slope)
                of_slope = self._bend(of_slope @ weight.T, outputs[-of_last:])
            gradients = [of_value[None] @ inputs[-1] + of_slope.sum(0)]
            if self.last.bias is not None:
                gradients.append(of_value.sum()[None])
            of_outputs = of_value[:, None] * self.last.weight
            for index in reversed(range(len(weights))):
                of_sum = self._bend(of_outputs, inputs[index + 1])
                gradients[:0] = [of_sum.T @ inputs[index] + by_slope[index], of_sum.sum(0)]
                if index:
                    of_outputs = of_sum @ weights[index]
            return gradients

        return slope, pull_back

    def _bend(self, gradient: Tensor, outputs: Tensor) -> Tensor:
        """Through a LeakyReLU with these outputs."""
        return torch.ops.aten.leaky_relu_backward(gradient, outputs, self.SLOPE, True)


class ConvEnergy(Energy):
    """3x3 convolutions on a block C x H x W (the EVaLP release has four: 64, 128, 256, 128), averaged over space."""

    def __init__(self, latent_shape: tuple[int, ...], widths: tuple[int, ...], constant: bool = False) -> None:
        super().__init__()
        if len(latent_shape) != 3:
            raise ValueError(f"network=conv needs a block of latents C x H x W, not {latent_shape}")
        self.latent_shape = tuple(latent_shape)
        sizes = [latent_shape[0], *widths]
        self.hidden = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in pairwise(sizes))
        self.last = nn.Linear(widths[-1], 1, bias=constant)

    def _reshape(self, z: Tensor) -> Tensor:
        return z.unflatten(1, self.latent_shape)

    def _pool(self, z: Tensor) -> Tensor:
        return z.mean((2, 3))

    def _gradient_of_readout(self, rows: int, features: Tensor) -> Tensor:
        of_each = self.last.weight / features[0, 0].numel()
        return of_each[:, :, None, None].expand(rows, -1, *features.shape[2:])

    def _pull_back(self, layer: nn.Module, gradient: Tensor) -> Tensor:
        return F.conv_transpose2d(gradient, _weight_of(layer), padding=1)
