"""Networks of a latent group given what is above it: an energy f(eps, c), and a flow from noise to eps that c steers.

Convolutions for a group C x H x W, whose features c are a block of the same sides; perceptrons for a vector. Where
there is nothing above a group, c has no channels and they are networks of eps alone.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from priors.parts.flows import LOG_SCALE_BOUND
from priors.parts.image_flows import channel_halves, checkerboard
from priors.parts.standard_normal import log_standard_normal

Shape = tuple[int, ...]


def _layer(shape: Shape, inputs: int, outputs: int, bias: bool = True) -> nn.Module:
    if len(shape) == 3:
        return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
    return nn.Linear(inputs, outputs, bias)


class ConditionalEnergy(nn.Module):
    """f(eps, c) (n,): layers with LeakyReLU(0.01), averaged over space, and a linear read-out.

    The first layer is a sum of one of eps and one of c, so that many eps below one c share the second. `constant`: the
    read-out has a bias, which objectives that compare energies at the same c, or with one another, cannot see.
    """

    SLOPE = 0.01

    def __init__(self, shape: Shape, context_shape: Shape, widths: tuple[int, ...], constant: bool = False) -> None:
        super().__init__()
        self.on_eps = _layer(shape, shape[0], widths[0])
        self.on_context = _layer(shape, context_shape[0], widths[0], bias=False) if context_shape[0] else None
        self.hidden = nn.ModuleList(_layer(shape, i, o) for i, o in pairwise(widths))
        self.last = nn.Linear(widths[-1], 1, bias=constant)

    def read(self, context: Tensor) -> Tensor | None:
        """What the first layer makes of c (n, *context_shape); None where there is nothing above."""
        return None if self.on_context is None else self.on_context(context)

    def forward(self, eps: Tensor, read: Tensor | None) -> Tensor:
        """f of eps (m n, *shape), of which each run of m has the same row of `read` (n, ...)."""
        features = self.on_eps(eps)
        if read is not None:
            features = (features.unflatten(0, (len(read), -1)) + read[:, None]).flatten(0, 1)
        features = F.leaky_relu(features, self.SLOPE)
        for layer in self.hidden:
            features = F.leaky_relu(layer(features), self.SLOPE)
        return self.last(features.flatten(2).mean(2) if features.dim() == 4 else features).squeeze(1)

    def slope(self, eps: Tensor, read: Tensor | None) -> Tensor:
        """df/deps (n, d), itself differentiable in the parameters."""
        eps = eps.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self(eps, read).sum(), eps, create_graph=True)
        return slope.flatten(1)


class _Coupling(nn.Module):
    """eps = x exp(s) + t where the mask is 0; s = B tanh(u / B) and t of where it is 1 and of c; a scale a channel."""

    mask: Tensor

    def __init__(self, mask: Tensor, context_channels: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        shape = tuple(mask.shape)
        self.network = nn.Sequential(
            _layer(shape, shape[0] + context_channels, width),
            nn.LeakyReLU(),
            _layer(shape, width, width),
            nn.LeakyReLU(),
            _layer(shape, width, 2 * shape[0]),
        )
        for parameter in self.network[-1].parameters():  # the identity at first
            nn.init.zeros_(parameter)
        self.log_scale = nn.Parameter(torch.zeros(shape[0], *[1] * (len(shape) - 1)))
        self.shift = nn.Parameter(torch.zeros_like(self.log_scale))
        self._places = mask[0].numel()

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """From noise: (n, *shape), and log|det| (n,)."""
        shift, log_scale = self._shift_and_log_scale(x, context)
        eps = (x * log_scale.exp() + shift) * self.log_scale.exp() + self.shift
        return eps, log_scale.flatten(1).sum(1) + self._places * self.log_scale.sum()

    def inverse(self, eps: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """To noise."""
        x = (eps - self.shift) * (-self.log_scale).exp()
        shift, log_scale = self._shift_and_log_scale(x, context)
        return (x - shift) * (-log_scale).exp(), -log_scale.flatten(1).sum(1) - self._places * self.log_scale.sum()

    def _shift_and_log_scale(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        kept = x * self.mask
        seen = torch.cat([kept, context], 1) if context.shape[1] else kept
        shift, unbounded = self.network(seen).chunk(2, dim=1)
        free = 1 - self.mask
        return free * shift, free * LOG_SCALE_BOUND * torch.tanh(unbounded / LOG_SCALE_BOUND)


class ConditionalFlow(nn.Module):
    """RealNVP from noise to eps, both (n, *shape), of which every coupling sees c (Dinh et al. 2017, arXiv 1605.08803).

    Of a block couplings have checkerboards and halves of the channels in turns, of a vector every other latent.
    """

    def __init__(self, shape: Shape, context_shape: Shape, couplings: int, width: int) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(
            _Coupling(_mask(shape, number), context_shape[0], width) for number in range(couplings)
        )

    def push(self, noise: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """eps of noise, and log|det deps/dnoise| (n,)."""
        eps, log_det = noise, noise.new_zeros(len(noise))
        for coupling in self.couplings:
            eps, of_layer = coupling(eps, context)
            log_det = log_det + of_layer
        return eps, log_det

    def log_prob(self, eps: Tensor, context: Tensor) -> Tensor:
        """log g(eps | c) (n,) in nats."""
        log_det = eps.new_zeros(len(eps))
        for coupling in reversed(self.couplings):
            eps, of_layer = coupling.inverse(eps, context)  # type: ignore[operator]
            log_det = log_det + of_layer
        return log_standard_normal(eps) + log_det


def _mask(shape: Shape, number: int) -> Tensor:
    if len(shape) == 1:
        return (torch.arange(shape[0]) + number).remainder(2).float()
    sides = (shape[0], shape[1], shape[2])
    return checkerboard(sides, number // 2) if number % 2 == 0 else channel_halves(sides, number // 2 % 2)


def widths_of(shape: Shape, conv_widths: tuple[int, ...], width: int, depth: int) -> tuple[int, ...]:
    """The widths of a group's layers: those of convolutions, or of a perceptron with `depth` layers of one width."""
    return conv_widths if len(shape) == 3 else (width,) * depth
