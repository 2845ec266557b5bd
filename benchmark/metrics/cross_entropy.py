"""Cross-entropy of a prior's density on held-out latents, in nats: -E[log p(z)] for z ~ q_agg.

It exceeds the entropy of q_agg, which is nobody's to know, by KL(q_agg | p): differences between priors are
differences of that divergence. Blank for a prior without a normalised density of what it draws.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from benchmark.metrics.api import LATENT_SETTINGS, Metric, hookimpl

if TYPE_CHECKING:
    from benchmark.evaluation import Evaluation

BATCH = 500


class CrossEntropy(Metric):
    name = "cross_entropy"
    reads = LATENT_SETTINGS

    @torch.no_grad()
    def measure(self, evaluation: Evaluation) -> dict[str, float]:
        n = evaluation.protocol.mmd_latents
        real = evaluation.held_out.one_each(n, evaluation.stream("cross-entropy held-out"))
        densities = [evaluation.source.log_prob(part) for part in real.split(BATCH)]
        if densities[0] is None:
            return {}
        return {"cross_entropy": -torch.cat(densities).double().mean().item()}


@hookimpl
def register_metrics() -> list[type[Metric]]:
    return [CrossEntropy]
