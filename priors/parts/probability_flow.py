"""Ordinary differential equations that carry noise to latents: how they are solved, and the density they make.

    dx/dt = v(x, t),      d log p(x_t)/dt = -div v(x_t, t)

The second line (Chen et al. 2018, arXiv 1806.07366) is exact for the equation itself. A solver with few steps draws
from another distribution than the equation: the density here is that of the *equation*, near what is sampled where the
steps are short.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from priors.parts.standard_normal import log_standard_normal

#: v(x, t): x (n, d) and a time -> (n, d), row by row
Velocity = Callable[[Tensor, float], Tensor]


def heun(velocity: Velocity, x: Tensor, times: list[float]) -> Tensor:
    """x (n, d) at times[0] -> x at times[-1], by Heun's method: second order, two evaluations a step."""
    for start, end in pairwise(times):
        slope = velocity(x, start)
        ahead = velocity(x + (end - start) * slope, end)
        x = x + (end - start) / 2 * (slope + ahead)
    return x


def with_divergence(velocity: Velocity, x: Tensor, time: float) -> tuple[Tensor, Tensor]:
    """v (n, d) and div v (n,) at x (n, d), exact, from d directional derivatives. Rows are on their own in v."""

    def along(direction: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = directional(lambda x: velocity(x, time), (x,), (direction.expand_as(x).contiguous(),))
        return value, (slope * direction).sum(1)

    values, slopes = torch.func.vmap(along)(torch.eye(x.shape[1], dtype=x.dtype, device=x.device))
    return values[0], slopes.sum(0)


def directional(
    function: Callable[..., Tensor], at: tuple[Tensor, ...], along: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """The function's value, and its derivative along tangents of its arguments: one pass in forward mode."""
    value, derivative = torch.func.jvp(function, at, along)[:2]
    return value, derivative


def log_density(velocity: Velocity, x: Tensor, times: list[float]) -> Tensor:
    """log p (n,) in nats at x (n, d) where the equation begins at times[0] with N(0, I) and ends at times[-1].

    Solved backwards through the same times, by Heun's method, so many short steps are wanted: its error is of second
    order in their length.
    """

    def joint(state: Tensor, time: float) -> Tensor:
        value, divergence = with_divergence(velocity, state[:, :-1], time)
        return torch.cat([value, divergence[:, None]], 1)

    start = heun(joint, torch.cat([x, x.new_zeros(len(x), 1)], 1), times[::-1])
    return log_standard_normal(start[:, :-1]) + start[:, -1]
