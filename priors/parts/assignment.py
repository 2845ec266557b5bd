"""Which latent of a batch goes with which noise: optimal transport between two small samples."""

from __future__ import annotations

import torch
from torch import Tensor

from priors.api import Diverged


def assign(noise: Tensor, z: Tensor) -> Tensor:
    """Of each row of noise (n, d) the row of z (n, d) that it is paired with, for the least sum of squared distances.

    A permutation (n,). Exact, O(n^3), by scipy on the CPU: a step that asks for it waits for the host. Raises
    `Diverged` where z is not finite.
    """
    from scipy.optimize import linear_sum_assignment  # here, so that a list of priors can be had without it

    if not z.isfinite().all():
        raise Diverged("draws of the aggregate posterior are not finite")
    _, columns = linear_sum_assignment(torch.cdist(noise, z).square().cpu().numpy())
    return torch.from_numpy(columns).to(z.device)
