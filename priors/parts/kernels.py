"""Densities of one variable by kernels of their own width (Abramson 1982, Annals of Statistics 10(4), 1217-1223).

    p(x) = 1/m sum_k N(x; q_k, w_k^2),      w_k = h s sqrt(gap_k / G)

with q_k the m quantiles at levels (k + 1/2) / m, gap_k the distance between the neighbours of q_k (the inverse of the
density there), G the geometric mean of the gaps, s the standard deviation: by Abramson's square root law kernels are
wide where draws are rare, so that tails reach as far as they should. The bandwidth h is that of the highest held-out
likelihood. Several variables are handled side by side: (n, d) are n values of each of d.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

KERNELS = 256
BANDWIDTHS = [0.02 * 1.4**step for step in range(11)]  # 0.02 to 0.58 standard deviations
CHUNK = {"cuda": 2**25, "cpu": 2**17}  # numbers in memory at a time, on a CPU as many as stay in its cache


def fit_kernels(x: Tensor, held_out: Tensor) -> tuple[Tensor, Tensor]:
    """Centres q and widths w, (d, m) each, from draws x (n, d) and held-out draws (l, d) of d variables."""
    levels = (torch.arange(KERNELS, device=x.device) + 0.5) / KERNELS
    ranks = (levels * len(x)).long().clamp_max(len(x) - 1)
    centres = x.sort(0).values[ranks].T.contiguous()
    ends = torch.cat([2 * centres[:, :1] - centres[:, 1:2], centres, 2 * centres[:, -1:] - centres[:, -2:-1]], 1)
    std = x.std(0)[:, None]
    gaps = ((ends[:, 2:] - ends[:, :-2]) / std).clamp_min(1e-6)
    shape = std * (gaps.log() - gaps.log().mean(1, keepdim=True)).div(2).exp()
    likelihood = torch.stack([log_density(held_out, centres, h * shape).mean(0) for h in BANDWIDTHS])
    return centres, torch.tensor(BANDWIDTHS, device=x.device)[likelihood.argmax(0)][:, None] * shape


def log_density(x: Tensor, centres: Tensor, widths: Tensor) -> Tensor:
    """Log-densities (n, d) in nats of x (n, d), each variable by itself."""
    size = max(CHUNK[x.device.type] // centres.numel(), 1)
    constants = widths.log() + math.log(centres.shape[1]) + 0.5 * math.log(2 * math.pi)
    parts = [(-((rows[:, :, None] - centres) / widths).square() / 2 - constants).logsumexp(2) for rows in x.split(size)]
    return torch.cat(parts)


def draw(n: int, centres: Tensor, widths: Tensor, generator: torch.Generator) -> Tensor:
    """n draws (n, d) of d variables that are independent of one another."""
    variables, kernels = centres.shape
    chosen = torch.randint(kernels, (variables, n), generator=generator, device=generator.device)
    noise = torch.randn(variables, n, generator=generator, device=generator.device)
    return (centres.gather(1, chosen) + widths.gather(1, chosen) * noise).T
