"""Memorisation: are draws nearer to the training items than held-out items are?

    P(near(generated) > near(held-out)) + P(equal) / 2

over all pairs of one generated and one held-out item: the Mann-Whitney statistic behind the test of Meehan et al. 2020
(arXiv 2004.05675), over the whole space. 1/2 where draws are as near as new items are; towards 1, copies of training
items; below 1/2, farther off than new items.

images   near = minus the distance to the nearest of up to 2,000 random training images, among features. Of what a
         prior replays the share 2,000 / N can be seen so, N being all images that the VAE was trained on, whether or
         not the bundle holds their posteriors. Decoding moves the 1/2, up or down:
         `reconstruction`, of images that were never trained on, shows where to.
latents  near = max_i log q(z | x_i): the log-density of z, in nats, under the training posterior that explains it
         best; of all posteriors that the bundle holds, up to 50,000. `aggregate_posterior`, whose every latent is
         of one of them, is the line of replay. Where posteriors are points, near = minus the distance to the nearest:
         the same order, in the limit of equal widths. So it is of several groups of a hierarchy, of which one draw of
         each image stands for its posterior.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from benchmark.metrics.api import (
    IMAGE_ROWS,
    IMAGE_SETTINGS,
    LATENT_SETTINGS,
    Column,
    Evaluation,
    Facts,
    Metric,
    hookimpl,
)
from benchmark.scores.mmd import squared_distances
from benchmark.scores.ranks import superiority

TRAINING = 50_000
BATCH = 2_000


def nearest_squared(x: Tensor, training: Tensor) -> Tensor:
    """Squared distance (n,) of each row of x (n, d) to the nearest row of `training` (m, d)."""
    centre = training.double().mean(0)
    parts = [squared_distances(x - centre, part - centre).min(1).values for part in training.split(BATCH)]
    return torch.stack(parts).min(0).values


def best_log_posterior(z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """max_i log N(z; mean_i, std_i^2) (n,), in nats, for z (n, d) and m diagonal posteriors (m, d).

    With w = 1 / std^2 the exponent is one product: [z^2, z] . [-w / 2, w mean] - sum (w mean^2 / 2 + log std).
    """
    centre = mean.double().mean(0)
    z = z.double() - centre
    powers, best = torch.cat([z.square(), z], 1), torch.full_like(z[:, 0], -math.inf)
    for mean_part, std_part in zip(mean.split(BATCH), std.split(BATCH)):
        mean_part, std_part = mean_part.double() - centre, std_part.double()
        weight = std_part**-2
        constant = (weight * mean_part.square() / 2 + std_part.log()).sum(1)
        exponents = powers @ torch.cat([-weight / 2, weight * mean_part], 1).T
        best = torch.maximum(best, exponents.sub_(constant).max(1).values)
    return best - z.shape[1] / 2 * math.log(2 * math.pi)


class Memorisation(Metric):
    name = "memorisation"
    reads = IMAGE_SETTINGS
    reference_rows = IMAGE_ROWS

    @classmethod
    def columns(cls, protocol: Any) -> list[Column]:
        # beside the headline where the line of a perfect prior is one of copies
        group = "images" if getattr(protocol, "groups", None) is None else "main"
        return [Column("memorisation", "memorisation (½)", group)]

    def applies(self, facts: Facts) -> bool:
        against_test = facts.protocol.reference_split is None  # else there are no new images to be as near as
        return against_test and facts.has_train_reference

    def measure(self, evaluation: Evaluation) -> dict[str, float]:
        assert evaluation.train_reference is not None, "applies asks for it"
        training = evaluation.train_reference.subsample(evaluation.device)
        generated, held_out = (nearest_squared(part, training) for part in evaluation.feature_pair)
        return {"memorisation": superiority(-generated, -held_out)}


class LatentMemorisation(Metric):
    name = "latent_memorisation"
    reads = LATENT_SETTINGS
    reference_rows = ("aggregate_posterior",)

    @classmethod
    def columns(cls, protocol: Any) -> list[Column]:
        return [Column("latent_memorisation", "latent memorisation (½)", "main")]

    def measure(self, evaluation: Evaluation) -> dict[str, float]:
        _, drawn, real = next(evaluation.latent_pairs("memorisation"))
        mean, std = (part.flatten(1) for part in evaluation.train_posterior())
        if len(mean) > TRAINING:
            generator = evaluation.shared_stream("memorisation training")
            chosen = torch.randperm(len(mean), generator=generator, device=mean.device)[:TRAINING]
            mean, std = mean[chosen], std[chosen]
        if (std > 0).all():
            generated, held_out = (best_log_posterior(z, mean, std) for z in (drawn, real))
        else:
            generated, held_out = (-nearest_squared(z, mean) for z in (drawn, real))
        return {"latent_memorisation": superiority(generated, held_out)}


@hookimpl
def register_metrics() -> list[type[Metric]]:
    return [Memorisation, LatentMemorisation]
