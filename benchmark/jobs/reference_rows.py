"""The rows that frame a table: what a perfect prior would score, and what the backbone costs by itself.

aggregate_posterior   decodes one posterior draw of each of n training images: the line of a perfect prior
reconstruction        decodes posterior draws of the reported images themselves; not reachable, being paired with them
full_reconstruction   of a hierarchy: every latent group from its posterior, where the other rows draw the groups below
                      the top from their conditionals. A bundle holds the top group's posterior alone, so the extractor
                      saw these images once, when they were at hand (`bundles/reconstructions.py`)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.metrics.api import AGGREGATE_POSTERIOR, FULL_RECONSTRUCTION, RECONSTRUCTION
from priors.api import Split


@dataclass(frozen=True)
class ReferenceRow:
    """`split`: whose posteriors it decodes, None for those of the reported images.

    `from_images`: its features were taken with images at hand, once: it has no latents, no further seeds, and, as other
    groups than z decide it, closes no gap.
    """

    name: str
    split: str | None
    from_images: bool = False

    def decodes(self, reported: str) -> str:
        """The split whose posteriors it decodes where `reported` is reported."""
        return self.split or reported

    def stands_beside(self, reference_split: str | None) -> bool:
        """Whether a table has it: against training images the aggregate posterior is their reconstruction already."""
        return self.split is not None or reference_split is None


REFERENCES = {
    row.name: row
    for row in (
        ReferenceRow(AGGREGATE_POSTERIOR, "train"),
        ReferenceRow(RECONSTRUCTION, None),
        ReferenceRow(FULL_RECONSTRUCTION, None, from_images=True),
    )
}


class PosteriorDraws:
    """Draws in the place of a prior's: one z from each of n distinct images."""

    def __init__(self, draws: Split) -> None:
        self._draws = draws

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return self._draws.one_each(n, generator)
