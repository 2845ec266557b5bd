"""K medoids: points that stand for the others (Kaufman and Rousseeuw 1987), by alternation (Park and Jun 2009).

    minimise  sum_i min_k |x_i - x_m(k)|      over indices m(1), ..., m(K)

Each point joins its nearest medoid; of each cluster, the point with the smallest sum of distances to the others becomes
the medoid; and so on until none changes. Neither step can raise the sum.
"""

from __future__ import annotations

import torch
from torch import Tensor

LIMIT = 100  # rounds


def find_medoids(x: Tensor, count: int) -> Tensor:
    """Indices (count,) of medoids of x (n, d), which start at its first rows. All distances (n, n) are in memory."""
    distances = torch.cdist(x, x)
    medoids = torch.arange(count, device=x.device)
    for _ in range(LIMIT):
        cluster = distances[:, medoids].argmin(1)
        cluster[medoids] = torch.arange(count, device=x.device)  # also where two medoids are the same point twice
        inside = torch.nn.functional.one_hot(cluster, count).to(x.dtype)
        cost = (distances @ inside).gather(1, cluster[:, None])  # of each point as its cluster's medoid
        centre = torch.where(inside.bool(), cost, torch.inf).argmin(0)
        if torch.equal(centre, medoids):
            break
        medoids = centre
    return medoids
