"""The generalisation gap of the feature likelihood divergence (FLD; Jiralerspong et al. 2023, arXiv 2302.04440).

The draws' density among features is a mixture of isotropic Gaussians, one centred at each of m generated images:

    p(x) = 1/m sum_j N(x; g_j, exp(s_j) I)        gap = 100 (NLL(held-out) - NLL(train)) / d

in hundredths of a nat a feature, of up to 10,000 generated images and 2,000 of each of the others. Where draws know
training images no better than new ones the gap is 0; above it, they resemble training images; below, held-out ones, as
`reconstruction` does, which decodes these. A draw that lies close to an image is a narrow Gaussian, under which that
image is likely. Of a prior that replays N training images in equal shares, m / N of those that are kept have a copy:
`aggregate_posterior` shows what this comes to.

The log-variances s are fitted by 50 steps of Adam, as in the authors' code (marcojira/fld): each starts at the squared
distance to its nearest item, and a broad Gaussian at the items' mean, whose distances count 0.81-fold and whose weight
is 1, keeps far items from deciding them; it has no part in the NLL. In two things this is not FLD: features are
standardised by, and s is fitted to, training and held-out items alike. FLD takes held-out ones for the first and
training ones for the second, and the gap of new draws is then not 0, but what a fit of m numbers makes of its own data
(3 to 4 on MNIST). Here exchanging the two sets changes the sign and nothing else, and so new draws' gap has mean 0,
whatever the density. The sign is the other one than in their code.

Not comparable between extractors, nor with FLD on DINOv2. `fld_gap_error` is the standard error over training and
held-out items, with the draws as they are; ± in a table is over seeds, which share these items. So do the rows of a
table: a difference between two of them is surer than that error says.
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
#: generated images at most, as in the authors' code
CENTRES = 10_000
#: items, or centres, at a time
BLOCK = 250


def standardised_distances(items: Tensor, centres: Tensor) -> Tensor:
    """Squared distances of items (n, d) to centres (m, d) and, in a last column, to the broad Gaussian: float32.

    Of features standardised by the items. They are taken in float64: a copy is as far off as it is.
    """
    mean, std = items.mean(0), items.std(0)
    scale = torch.where(std > 0, std, 1)  # what no image has tells of none
    items = (items - mean) / scale
    distances = items.new_empty(len(items), len(centres) + 1, dtype=torch.float32)
    for columns, block in zip(distances[:, :-1].split(BLOCK, 1), centres.split(BLOCK)):
        columns.copy_(squared_distances(items, (block - mean) / scale))
    distances[:, -1] = NEARER * items.square().sum(1)
    return distances


def fit_log_variances(distances: Tensor, d: int) -> Tensor:
    """The log-variances (m,) under which items are likely, from `standardised_distances` (n, m + 1) of d features.

    With r the responsibilities, the gradient of the mean NLL / d in s_j is sum_i r_ij (1 - exp(-s_j) D_ij / d) / 2n.
    """
    n, m = len(distances), distances.shape[1] - 1
    s = ((distances.min(0).values.double() + LEAST) / d).log()
    s[m] = 0
    log_weight = torch.full_like(s, -math.log(m))
    log_weight[m] = 0
    s.grad = torch.empty_like(s)
    adam = torch.optim.Adam([s], LEARNING_RATE)
    for _ in range(STEPS):
        precision = torch.exp(-s)
        slope, constant = (-precision / 2).float(), (log_weight - d / 2 * s).float()
        shared, weighted = torch.zeros_like(s), torch.zeros_like(s)
        for block in distances.split(BLOCK):
            shares = torch.softmax((block * slope).add_(constant), 1)
            shared += shares.sum(0)
            weighted += shares.mul_(block).sum(0)
        s.grad.copy_((shared - precision * weighted / d) / (2 * n))
        adam.step()
        s.clamp_(LOWEST, HIGHEST)
    return s[:m]


def negative_log_likelihood(distances: Tensor, s: Tensor, d: int) -> Tensor:
    """-log p / d (n,) of items in nats a feature, from their squared distances (n, m) to the centres."""
    precision = torch.exp(-s)
    log_sums = torch.cat([((block * precision + d * s) / -2).logsumexp(1) for block in distances.split(BLOCK)])
    return (math.log(len(s)) - log_sums) / d + math.log(2 * math.pi) / 2


def generalisation_gap(generated: Tensor, train: Tensor, held_out: Tensor) -> tuple[float, float]:
    """The gap of features (m, d), (n, d), (k, d), and its standard error over training and held-out items."""
    distances, d = standardised_distances(torch.cat([train, held_out]).double(), generated), generated.shape[1]
    s = fit_log_variances(distances, d)
    of_train, of_held_out = negative_log_likelihood(distances[:, :-1], s, d).split([len(train), len(held_out)])
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
        train, held_out = (
            reference.subsample(evaluation.device) for reference in (evaluation.train_reference, evaluation.reference)
        )
        gap, error = generalisation_gap(evaluation.features[:CENTRES], train, held_out)
        return {"fld_gap": gap, "fld_gap_error": error}


@hookimpl
def register_metrics() -> list[type[Metric]]:
    return [LikelihoodGap]
