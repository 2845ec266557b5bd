"""Repeat draws from one fit: the noise of a score that is not the seed's.

Seeds change the fit and the draws at once. Here the fit of seed 0 stays, and latents, what the decoder draws and the
held-out latents are drawn anew as often as the protocol says; the scores of each time are kept. Their spread is what
sampling alone contributes to the spread over seeds.
"""

from __future__ import annotations

from typing import Any

from benchmark.metrics.api import IMAGE_SETTINGS, LATENT_SETTINGS, Column, Evaluation, Facts, Metric, hookimpl
from benchmark.metrics.mmd import shared_bandwidths
from benchmark.scores.frechet import feature_statistics, frechet_distance
from benchmark.scores.mmd import KERNELS, mmd_between


class Redraws(Metric):
    name = "redraws"
    reads = (*dict.fromkeys((*IMAGE_SETTINGS, *LATENT_SETTINGS)), "mmd_bandwidths", "redraws")
    values = ("fd_redraws", *(f"mmd_{kernel}_redraws" for kernel in KERNELS))

    @classmethod
    def columns(cls, protocol: Any) -> list[Column]:
        return []  # the columns of the scores that are drawn again show their spread (`Column.shows`)

    def applies(self, facts: Facts) -> bool:
        return facts.seed == 0 and facts.protocol.redraws > 0

    def measure(self, evaluation: Evaluation) -> dict[str, list[float]]:
        protocol, held_out = evaluation.protocol, evaluation.held_out
        reference, bandwidths = evaluation.reference.statistics(evaluation.device), shared_bandwidths(evaluation)
        scores: dict[str, list[float]] = {f"{name}_redraws": [] for name in ("fd", *(f"mmd_{k}" for k in KERNELS))}
        for draw in range(1, protocol.redraws + 1):
            z = evaluation.latents(protocol.generated, f"redraw {draw}")
            features = evaluation.features_of(evaluation.decoded(z, f"redraw {draw} decode"))
            scores["fd_redraws"].append(frechet_distance(feature_statistics(features), reference))
            real = held_out.one_each(protocol.mmd_latents, evaluation.stream(f"redraw {draw} held-out"))
            for kernel in KERNELS:
                pair = z[: len(real)].flatten(1), real.flatten(1)
                scores[f"mmd_{kernel}_redraws"].append(mmd_between(*pair, kernel, bandwidths))
        return scores


@hookimpl
def register_metrics() -> list[type[Metric]]:
    return [Redraws]
