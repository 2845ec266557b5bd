"""The importance-weighted bound on log p(x) of a backbone (Burda, Grosse and Salakhutdinov 2016, arXiv 1509.00519).

    L_K = E[log 1/K sum_k w_k],      w_k = p(x, z_k) / q(z_k | x),  z_k ~ q(z | x)

L_1 is the evidence lower bound; L_K grows with K towards log p(x). Bounds of two models compare under one likelihood
on the same images alone. MNIST here has a black border of two pixels, whose probability is part of p(x): a published
bound of the 28 x 28 pixels inside, which are at least as probable, is no lower for the same model.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backbones.api import Backbone
from backbones.training import as_input
from benchmark.progress import Progress

BATCH = 250  # images


@torch.no_grad()
def importance_weighted_bound(
    backbone: Backbone, images: Tensor, samples: int, generator: torch.Generator, progress: Progress
) -> tuple[Tensor, Tensor]:
    """L_K and L_1 of uint8 images (n, C, H, W), each (n,), in nats; `samples` is K.

    Raises ValueError where the backbone has no likelihood of them.
    """
    bounds = []
    for batch in images.split(BATCH):
        x, log_weights = as_input(batch), []
        for _ in range(samples):
            weight = backbone.log_weight(x, generator)
            if weight is None:
                raise ValueError(f"{backbone.name} with these settings has no likelihood, so it has no bound either")
            log_weights.append(weight)
        stacked = torch.stack(log_weights)
        bounds.append(torch.stack([stacked.logsumexp(0) - math.log(samples), stacked.mean(0)]))
        progress(sum(part.shape[1] for part in bounds), len(images))
    tightest, elbo = torch.cat(bounds, 1)
    return tightest, elbo
