"""The generalisation gap of the feature likelihood divergence (FLD; Jiralerspong et al. 2023, arXiv 2302.04440).

The draws' density among features is a mixture of isotropic Gaussians, one centred at each of m generated images:

    p(x) = 1/m sum_j N(x; g_j, exp(s_j) I)        gap = 100 (NLL(held-out) - NLL(train)) / d

in hundredths of a nat a feature, of up to 2,000 images of each of the three. Where draws know training images no better
than new ones the gap is 0; above it, they resemble training images; below, held-out ones, as `reconstruction` does,
which decodes these. A copy among the draws makes its Gaussian narrow and the image that it copies likely, so one tells
of memorisation where distances to the nearest neighbour, ranked, do not. Of a prior that replays N training images in
equal shares, m / N of those that are kept have a copy: `aggregate_posterior` shows what this comes to.

The log-variances s are fitted by 50 steps of Adam, as in the authors' code (marcojira/fld): each starts at the squared
distance to its nearest item, and a broad Gaussian at the items' mean, whose distances count 0.81-fold and whose weight
is 1, keeps far items from deciding them; it has no part in the NLL. In two things this is not FLD: features are
standardised by, and s is fitted to, training and held-out items alike. FLD takes held-out ones for the first and
training ones for the second, and the gap of new draws is then not 0, but what a fit of m numbers makes of its own data
(about 1). Here exchanging the two sets changes the sign and nothing else, and so new draws' gap has mean 0, whatever
the density. The sign is the other one than in their code.

Not comparable between extractors, nor with FLD on DINOv2. `fld_gap_error` is the standard error over training and
held-out items, with the draws as they are; ± in a table is over seeds, which share these items.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from benchmark.metrics.api import IMAGE_ROWS, IMAGE_SETTINGS, Column, Evaluation, Facts, Metric, hookimpl
from benchmark.scores.mmd import squared_distances

STEPS, LEARNING_RATE = 50, 0.5
#: added to the squared distance that a variance starts from: it may be zero
LEAST = 1e-3
#: of log-variances, so that copies to the last bit leave them finite
LOWEST, HIGHEST = -40.0, 20.0
#: what squared distances to the broad Gaussian count
NEARER = 0.9**2


def fit_log_variances(distances: Tensor, to_mean: Tensor, d: int) -> Tensor:
    """The log-variances (m,) under which n items are likely, by Adam.

    `distances` (n, m): squared, of items to centres; `to_mean` (n,): to the items' mean; `d`: dimensions.

    With r the responsibilities, the gradient of the mean NLL / d in s_j is sum_i r_ij (1 - exp(-s_j) D_ij / d) / 2n.
    """
    n, m = distances.shape
    squared = torch.cat([distances, NEARER * to_mean[:, None]], 1).float()
    start = ((distances.min(0).values + LEAST) / d).log()
    s = torch.cat([start, start.new_zeros(1)])
    log_weight = torch.full_like(s, -math.log(m))
    log_weight[-1] = 0
    s.grad = torch.empty_like(s)
    adam = torch.optim.Adam([s], LEARNING_RATE)
    logits = torch.empty_like(squared)
    for _ in range(STEPS):
        precision = torch.exp(-s)
        torch.mul(squared, (-precision / 2).float(), out=logits).add_((log_weight - d / 2 * s).float())
        shares = torch.softmax(logits, 1)
        weighted = torch.mul(shares, squared, out=logits).sum(0).double()
        s.grad.copy_((shares.sum(0) - precision * weighted / d) / (2 * n))
        adam.step()
        s.clamp_(LOWEST, HIGHEST)
    return s[:-1]


def negative_log_likelihood(distances: Tensor, s: Tensor, d: int) -> Tensor:
    """-log p / d (n,) of items in nats a dimension, from their squared distances (n, m) to the centres."""
    exponents = -(distances * torch.exp(-s) + d * s) / 2
    return (math.log(len(s)) - exponents.logsumexp(1)) / d + math.log(2 * math.pi) / 2


def generalisation_gap(generated: Tensor, train: Tensor, held_out: Tensor) -> tuple[float, float]:
    """The gap of features (m, d), (n, d), (k, d), and its standard error over training and held-out items."""
    items = torch.cat([train, held_out]).double()
    mean, std = items.mean(0), items.std(0)
    scale = torch.where(std > 0, std, 1)  # what no image has tells of none
    items, centres = (items - mean) / scale, (generated.double() - mean) / scale
    distances, d = squared_distances(items, centres), items.shape[1]
    s = fit_log_variances(distances, items.square().sum(1), d)
    of_train, of_held_out = negative_log_likelihood(distances, s, d).split([len(train), len(held_out)])
    error = (of_train.var() / len(train) + of_held_out.var() / len(held_out)).sqrt()
    return 100 * (of_held_out.mean() - of_train.mean()).item(), 100 * error.item()


class LikelihoodGap(Metric):
    name = "fld"
    reads = IMAGE_SETTINGS
    reference_rows = IMAGE_ROWS

    @classmethod
    def columns(cls, protocol: Any) -> list[Column]:
        heading = f"FLD gap ({protocol.extractor.get('name')})"
        return [
            Column("fld_gap", heading, "main"),
            Column("fld_gap_error", f"{heading}, standard error over images", "images"),
        ]

    def applies(self, facts: Facts) -> bool:
        against_held_out = facts.protocol.reference_split is None
        return against_held_out and facts.has_train_reference

    def measure(self, evaluation: Evaluation) -> dict[str, float]:
        assert evaluation.train_reference is not None, "applies asks for it"
        generated, held_out = evaluation.feature_pair
        train = evaluation.train_reference.subsample(evaluation.device)
        gap, error = generalisation_gap(generated, train, held_out)
        return {"fld_gap": gap, "fld_gap_error": error}


@hookimpl
def register_metrics() -> list[type[Metric]]:
    return [LikelihoodGap]
