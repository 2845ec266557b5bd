"""Classifier two-sample test: how well can a network tell a prior's latents from held-out q_agg?

The area under the ROC curve of a small MLP on latents that it was not trained on (Lopez-Paz & Oquab 2017, with the
AUC in place of the accuracy): 1/2 where it sees no difference, 1 where it tells every pair apart; it can fall below
1/2 by chance. Five folds, each scored by a network trained on the other four, and the mean of their areas, since two
networks' scores are on scales of their own.

The network is that of `benchmark/scores/classifier.py`, standardised by the real latents of the training folds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmark.metrics.api import LATENT_SETTINGS, Column, Evaluation, Metric, hookimpl, projected
from benchmark.scores.classifier import train_classifier
from benchmark.scores.ranks import superiority

FOLDS = 5


def classifier_auc(real: Tensor, generated: Tensor, generator: torch.Generator) -> float:
    """The cross-fitted area for two samples (n, d) of n >= 2; `generator` decides folds, weights and batches."""

    def shuffled(x: Tensor) -> Tensor:
        return x[torch.randperm(len(x), generator=generator, device=x.device)]

    folds = min(FOLDS, len(real), len(generated))
    parts = list(zip(shuffled(real).tensor_split(folds), shuffled(generated).tensor_split(folds)))
    areas = []
    for number, held_out in enumerate(parts):
        of_real, of_generated = (torch.cat(side) for side in zip(*parts[:number], *parts[number + 1 :]))
        classifier = train_classifier(of_real, of_generated, generator)
        with torch.no_grad():
            areas.append(superiority(*map(classifier.logits, held_out)))
    return sum(areas) / folds


class ClassifierTest(Metric):
    name = "c2st"
    reads = LATENT_SETTINGS
    reference_rows = ("aggregate_posterior",)

    @classmethod
    def columns(cls, protocol: Any) -> list[Column]:
        whole = [Column("c2st_auc", "C2ST AUC", "latents", better="lower")]
        return whole + projected(whole)

    def measure(self, evaluation: Evaluation) -> dict[str, float]:
        return {
            f"c2st_auc{suffix}": classifier_auc(real, drawn, evaluation.stream(f"c2st{suffix}"))
            for suffix, drawn, real in evaluation.latent_pairs("c2st")
        }


@hookimpl
def register_metrics() -> list[type[Metric]]:
    return [ClassifierTest]
