"""Latent groups of a hierarchy one by one: which of them a prior has wrong.

cross-entropy of a group     -E[log p(eps_l | eps_<l)] in nats, at held-out draws of all groups. By the chain rule they
                             add up to the cross-entropy; of a prior that has them apart (`log_prob_by_group`)
C2ST to a group              the AUC of a classifier that tells the prior's groups 0 to l from held-out ones: with l = 0
                             that of the top group, and each further one can but add to what is to be seen
C2ST given those above       the same of group l alone, drawn by the prior below held-out groups, beside all of these:
                             what it adds by itself; of a prior that can be asked for one group (`redraw`). Half of the
                             images give the real pairs and the others what is drawn below: a classifier that has met
                             the groups above with one label would give their copies the other
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmark.metrics.api import LATENT_SETTINGS, Column, Evaluation, Facts, Metric, hookimpl
from benchmark.metrics.c2st import classifier_auc
from priors.gaussian import Gaussian
from priors.parts.standard_normal import log_standard_normal

BATCH = 500
#: of columns: a table beside the others
GROUP = "latent groups"


class GroupByGroup(Metric):
    name = "groups"
    reads = (*LATENT_SETTINGS, "groups")
    reference_rows = ("aggregate_posterior",)

    @classmethod
    def columns(cls, protocol: Any) -> list[Column]:
        chosen = [] if getattr(protocol, "groups", None) is None else protocol.groups["chosen"]
        if len(chosen) < 2:
            return []
        of_each = [
            Column(f"cross_entropy_{each}", f"cross-entropy of {each}", GROUP, "nats", digits=2) for each in chosen
        ]
        to = [Column(f"c2st_auc_to_{each}", f"C2ST AUC to {each}", GROUP) for each in chosen[:-1]]
        given = [Column(f"c2st_auc_given_{each}", f"C2ST AUC of {each} given those above", GROUP) for each in chosen]
        return [replace(column, better="lower") for column in (*of_each, *to, *given)]

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
            generator = evaluation.stream(f"groups to {number}")
            values[f"c2st_auc_to_{number}"] = classifier_auc(real[:, :end], drawn[:, :end], generator)
        half = len(real) // 2
        redraw = getattr(evaluation.source, "redraw", None)
        for index, number in enumerate(chosen):
            generator = evaluation.stream(f"groups given {number}")
            eps = None if redraw is None else redraw(real[half:], index, generator)
            if eps is None:
                break
            below = torch.cat([real[half:, : ends[index]], eps.flatten(1)], 1)
            values[f"c2st_auc_given_{number}"] = classifier_auc(real[:half, : ends[index + 1]], below, generator)
        return values


def _cross_entropies(evaluation: Evaluation, chosen: list[int]) -> dict[str, float]:
    density = getattr(evaluation.source, "log_prob_by_group", None)
    if getattr(evaluation.source, "name", None) == Gaussian.name:  # which is the base of each group
        density = partial(_base_by_group, evaluation.backbone.group_shapes)
    if density is None:
        return {}
    held_out = evaluation.held_out.one_each(evaluation.protocol.mmd_latents, evaluation.stream("groups held-out"))
    parts = [density(part) for part in held_out.split(BATCH)]
    if parts[0] is None:
        return {}
    means = torch.cat(parts).double().mean(0).tolist()
    return {f"cross_entropy_{number}": -mean for number, mean in zip(chosen, means)}


def _base_by_group(shapes: Sequence[tuple[int, ...]], z: Tensor) -> Tensor:
    """log N(eps_l; 0, I) (n, groups)."""
    parts = z.flatten(1).split([math.prod(shape) for shape in shapes], 1)
    return torch.stack([log_standard_normal(part) for part in parts], 1)


@hookimpl
def register_metrics() -> list[type[Metric]]:
    return [GroupByGroup]
