"""What must be equal for two rows to be comparable: every setting that a table shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from backbones.bundle import Bundle
from backbones.hashing import Damaged, content_hash, read_sealed, write_sealed

Budget = Literal["quick", "full"]
Split = Literal["val", "test"]

#: what a budget caps: images and latents that are scored, seconds that one timing may take
CAPS = {"quick": (2_000, 1_000, 0.5), "full": (10_000, 2_000, 10.0)}


class Protocol(BaseModel):
    """A metric reads the fields that it names in `reads`; those alone are part of its measurements' identity.

    `generated` images (and latents) are drawn for every row alike; the reference is the whole `split`.
    Bandwidths are multiples of the median squared distance within held-out q_agg.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = 1
    budget: Budget
    split: Split
    extractor: dict[str, Any]
    score: str
    generated: int
    reference: int
    rounding: str = "8-bit"
    preparation: str
    mmd_latents: int
    mmd_bandwidths: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
    mmd_permutations: int = 500
    timing_batches: tuple[int, ...] = (100, 1_000)
    timing_repeats: int = 20
    timing_seconds: float
    grid_columns: int = 12

    @property
    def hash(self) -> str:
        return content_hash(self.model_dump(mode="json"))

    def save(self, results: Path, bundle: str) -> None:
        """Note that a bundle (its short id) is scored under this protocol: tables are made from files alone."""
        path = results / "protocols" / bundle / f"{self.hash[:16]}.json"
        if not path.exists():
            write_sealed(path, self.model_dump(mode="json"))

    def part(self, names: tuple[str, ...]) -> dict[str, Any]:
        """The named fields, as JSON has them."""
        return self.model_dump(mode="json", include=set(names))


def saved_protocols(results: Path) -> tuple[list[tuple[str, Protocol]], list[str]]:
    """Bundle and protocol of every table there is to make, and for each damaged file the sentence that says so."""
    protocols, damaged = [], []
    for path in sorted((results / "protocols").glob("*/*.json")):
        try:
            content = read_sealed(path)
            protocol = Protocol(**{name: value for name, value in content.items() if name != "seal"})
            protocols.append((path.parent.name, protocol))
        except (Damaged, ValidationError) as error:
            damaged.append(f"{path}: {error}" if isinstance(error, ValidationError) else str(error))
    return protocols, damaged


def protocol_for(bundle: Bundle, budget: Budget, split: Split, extractor: dict[str, Any], score: str) -> Protocol:
    """The protocol of a bundle: counts are capped by its images, so that every row can have equally many."""
    images, latents, seconds = CAPS[budget]
    counts = bundle.card["posterior_counts"]
    available = min(counts["train"], counts[split])
    return Protocol(
        budget=budget,
        split=split,
        extractor=extractor,
        score=score,
        generated=min(images, available),
        reference=bundle.card["dataset"]["counts"][split],
        preparation=bundle.card["dataset"]["preparation"],
        mmd_latents=min(latents, available),
        timing_seconds=seconds,
    )
