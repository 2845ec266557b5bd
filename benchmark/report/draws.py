"""What the rows of a table drew when they were measured, with q_agg beside it, where this machine has it in the cache.

A record holds scores, not latents: pictures of latents are of those rows alone whose draws are at hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.bundles.bundle import Bundle
from benchmark.bundles.find import all_bundles
from benchmark.jobs.evaluation import MMD_DRAWS, find_latents
from benchmark.metrics.c2st import ClassifierTest
from benchmark.report.tables import ZERO_LINE, Table
from benchmark.store.sealed import Damaged
from benchmark.streams import stream
from priors.api import PosteriorSplit


@dataclass(frozen=True)
class Draws:
    """Latents of a table's first seed, N(0, I) first, then the priors in their order.

    `held_out`: of q_agg of the reported split, one per image; `of_rows`: label -> the very latents that the classifier
    test was given; each (n, *latent_shape). `missing`: rows whose draws are not in the cache.
    """

    bundle: Bundle
    held_out: Tensor
    of_rows: dict[str, Tensor]
    missing: list[str]


def find_draws(table: Table) -> Draws | None:
    """The draws of a table's rows; None where the cache has none of them, or its bundle is not here."""
    if table.protocol.groups is not None:  # whose q_agg is no Gaussian an image
        return None
    bundle = next((bundle for bundle in all_bundles()[0].values() if bundle.id.startswith(table.bundle)), None)
    if bundle is None:
        return None
    labels = [ZERO_LINE, *(row.label for row in table.priors)]
    found = {label: drawn for label in labels if (drawn := _drawn(table, label, bundle)) is not None}
    if not found:
        return None
    cpu, split = torch.device("cpu"), table.protocol.split
    try:
        posterior = PosteriorSplit(*bundle.posterior(split, cpu))
    except Damaged:
        return None
    n = min(len(posterior), *map(len, found.values()))
    held_out = posterior.one_each(n, stream(cpu, "report held-out"))
    return Draws(bundle, held_out, found, [label for label in labels if label in table.rows and label not in found])


def _drawn(table: Table, label: str, bundle: Bundle) -> Tensor | None:
    """What a row's first seed drew; None where that is not here, or not of this bundle."""
    tested = [r for r in table.measured if r["row"]["label"] == label and r["kind"] == ClassifierTest.name]
    if not tested:
        return None
    identity = min(tested, key=lambda record: record["row"]["seed"])["identity"]
    source = {name: identity.get(name) for name in ("fit", "sampling")}
    drawn = find_latents(source, table.protocol.mmd_latents, MMD_DRAWS)
    if drawn is None or drawn.shape[1:] != bundle.latent_shape or not drawn.isfinite().all():
        return None
    return drawn
