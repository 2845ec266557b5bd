"""Latent groups of a hierarchy one by one: which of them a prior has wrong.

cross-entropy of a group   -E[log p(eps_l | eps_<l)] in nats, at held-out draws of all groups. By the chain rule these add
                           up to the cross-entropy; of a prior that has its density group by group (`log_prob_by_group`)
C2ST to a group            the AUC of a classifier that tells the prior's groups 0 to l from held-out ones: with l = 0 that
                           of the top group, and each further group can only add to what is to be seen
C2ST given a group's       the same of group l alone, drawn by the prior below held-out groups above it, beside all of these:
  groups above             what it adds by itself; of a prior that can be asked for one group (`redraw`)
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from benchmark.metrics.api import LATENT_SETTINGS, Column, Evaluation, Facts, Metric, hookimpl
from benchmark.metrics.c2st import classifier_auc

BATCH = 500


class GroupByGroup(Metric):
    name = "groups"
    reads = LATENT_SETTINGS
    reference_rows = ("aggregate_posterior",)

    @classmethod
    def columns(cls, protocol: Any) -> list[Column]:
        chosen = [] if getattr(protocol, "groups", None) is None else protocol.groups["chosen"]
        if len(chosen) < 2:
            return []
        return [
            *(
                Column(f"cross_entropy_{l}", f"cross-entropy of {l}", "groups", "nats", better="lower", digits=2)
                for l in chosen
            ),
            *(Column(f"c2st_auc_to_{l}", f"C2ST AUC to {l}", "groups", better="lower") for l in chosen[:-1]),
            *(
                Column(f"c2st_auc_given_{l}", f"C2ST AUC of {l} given those above", "groups", better="lower")
                for l in chosen
            ),
        ]

    def applies(self, facts: Facts) -> bool:
        groups = facts.protocol.groups
        return groups is not None and len(groups["chosen"]) > 1

    @torch.no_grad()
    def measure(self, evaluation: Evaluation) -> dict[str, float]:
        chosen = evaluation.protocol.groups["chosen"]
        ends = [0]
        for shape in evaluation.backbone.group_shapes:
            ends.append(ends[-1] + math.prod(shape))
        values = _cross_entropies(evaluation, chosen)
        _, drawn, real = next(evaluation.latent_pairs("groups"))
        for number, end in zip(chosen[:-1], ends[1:]):
            generator = evaluation.stream("groups to", number)
            values[f"c2st_auc_to_{number}"] = _auc(real[:, :end], drawn[:, :end], generator)
        redraw = getattr(evaluation.source, "redraw", None)
        for index, number in enumerate(chosen if redraw is not None else []):
            generator = evaluation.stream("groups given", number)
            eps = redraw(real, index, generator)
            if eps is None:
                break
            above, end = real[:, : ends[index]], ends[index + 1]
            values[f"c2st_auc_given_{number}"] = _auc(real[:, :end], torch.cat([above, eps.flatten(1)], 1), generator)
        return values


def _cross_entropies(evaluation: Evaluation, chosen: list[int]) -> dict[str, float]:
    density = getattr(evaluation.source, "log_prob_by_group", None)
    if density is None:
        return {}
    held_out = evaluation.held_out.one_each(evaluation.protocol.mmd_latents, evaluation.stream("groups held-out"))
    parts = [density(part) for part in held_out.split(BATCH)]
    if parts[0] is None:
        return {}
    means = torch.cat(parts).double().mean(0).tolist()
    return {f"cross_entropy_{number}": -mean for number, mean in zip(chosen, means)}


def _auc(real: Tensor, drawn: Tensor, generator: torch.Generator) -> float:
    with torch.enable_grad():
        return classifier_auc(real, drawn, generator)


@hookimpl
def register_metrics() -> list[type[Metric]]:
    return [GroupByGroup]
