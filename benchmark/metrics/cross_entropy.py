"""Cross-entropy of a prior's density on held-out latents, in nats: -E[log p(z)] for z ~ q_agg.

It exceeds the entropy of q_agg, which is nobody's to know, by KL(q_agg | p): differences between priors are
differences of that divergence. Beside it the rate, which the evidence bound charges for an image (Alemi et al. 2018):

    rate = E_x[KL(q(z|x) | p)] = cross-entropy - E_x[H(q(z|x))]

Under N(0, I) it is the KL that the VAE was trained with: where it is zero there is no hole. Being a mean of divergences
it is never below zero, whatever the prior, so that a rate there shows a density that is not normalised, or has lost its
sign: a failure, where it would else be the best of the table. Blank for a prior without a normalised density of what it
draws; points, which are what a deterministic encoder gives, have an entropy of minus infinity, and so no rate; nor have
latents of which draws alone are kept, as of several groups of a hierarchy.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from benchmark.metrics.api import LATENT_SETTINGS, Column, Evaluation, Metric, hookimpl
from priors.api import PosteriorSplit

BATCH = 500
#: standard errors that a rate may fall below zero by its draws alone
NOISE = 6.0


class CrossEntropy(Metric):
    name = "cross_entropy"
    reads = LATENT_SETTINGS

    @classmethod
    def columns(cls, protocol: Any) -> list[Column]:
        return [
            Column("cross_entropy", "cross-entropy", "latents", unit="nats", better="lower", digits=2),
            Column("rate", "rate", "latents", unit="nats", better="lower", digits=2),
        ]

    @torch.no_grad()
    def measure(self, evaluation: Evaluation) -> dict[str, float]:
        n = evaluation.protocol.mmd_latents
        real = evaluation.held_out.one_each(n, evaluation.stream("cross-entropy held-out"))
        densities = [evaluation.source.log_prob(part) for part in real.split(BATCH)]
        if densities[0] is None:
            return {}
        log_densities = torch.cat(densities).double()
        cross_entropy = -log_densities.mean().item()
        split = evaluation.held_out
        # where draws alone are kept of an image, the entropy of its posterior is not known
        entropy = split.mean_entropy() if isinstance(split, PosteriorSplit) else -math.inf
        if entropy == -math.inf:
            return {"cross_entropy": cross_entropy}
        rate = cross_entropy - entropy
        if rate < -NOISE * log_densities.std().item() / len(log_densities) ** 0.5:
            raise ValueError(f"log_prob gives a rate of {rate:.3g} nats, and no normalised density has one below 0")
        return {"cross_entropy": cross_entropy, "rate": rate}


@hookimpl
def register_metrics() -> list[type[Metric]]:
    return [CrossEntropy]
