"""Hamiltonian Monte Carlo (Duane et al. 1987; Neal 2011, arXiv 1206.1901), many chains side by side.

    H(z, r) = -log p(z) + |r|^2 / 2,      r ~ N(0, I) anew in each step

Leapfrog steps along dz/dt = r, dr/dt = grad log p keep volume and are their own inverse once r is turned round, so that
accepting their end with probability min(1, exp(H_start - H_end)) leaves p as it is. The ratio is compared as a
logarithm: exp(-H) alone overflows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: z (n, d) -> log p(z) (n,) up to a constant, and its gradient (n, d)
LogDensity = Callable[[Tensor], tuple[Tensor, Tensor]]


def run_chains(
    log_density: LogDensity, z: Tensor, steps: int, leapfrogs: int, step_size: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """`steps` transitions of a chain from each row of z (n, d): the ends (n, d), and the share accepted, a scalar.

    An end whose energy is not finite is refused.
    """
    value, gradient = log_density(z)
    accepted = torch.zeros((), device=z.device, dtype=z.dtype)
    for _ in range(steps):
        momentum = torch.randn(z.shape, generator=generator, device=z.device, dtype=z.dtype)
        uniform = torch.rand(z.shape[0], generator=generator, device=z.device, dtype=z.dtype)
        ahead, turned, there, slope = leap(log_density, z, momentum, gradient, leapfrogs, step_size)
        loss_of_energy = (there - value) - (turned.square().sum(1) - momentum.square().sum(1)) / 2
        moves = uniform.log() < loss_of_energy
        z, gradient = (torch.where(moves[:, None], new, old) for new, old in ((ahead, z), (slope, gradient)))
        value = torch.where(moves, there, value)
        accepted += moves.to(z.dtype).mean()
    return z, accepted / max(steps, 1)


def leap(
    log_density: LogDensity, z: Tensor, momentum: Tensor, gradient: Tensor, leapfrogs: int, step_size: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`leapfrogs` steps from (z, momentum), each (n, d), with the gradient there; those at the end, log p between."""
    momentum = momentum + step_size / 2 * gradient
    for last in range(leapfrogs - 1, -1, -1):
        z = z + step_size * momentum
        value, gradient = log_density(z)
        momentum = momentum + (step_size if last else step_size / 2) * gradient
    return z, momentum, value, gradient
