"""What must be equal for two rows to be comparable: every setting that a table shares."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from typing import Protocol as Interface

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmark.errors import UsageError, unknown_name
from benchmark.store.schema import describe_problem
from benchmark.store.sealed import Damaged, content_hash, read_sealed, write_sealed

if TYPE_CHECKING:  # which brings torch: the command line has the names of presets without it
    from benchmark.bundles.bundle import Bundle

Budget = Literal["quick", "full"]
Split = Literal["val", "test"]
PresetName = Literal["quick", "rae", "nvae"]
#: whether priors have the settings of their recipes, or those that `tune` chose
Settings = Literal["recipe", "tuned"]
Count = Annotated[int, Field(ge=0, lt=2**53)]


@dataclass(frozen=True)
class Preset:
    """A protocol before it meets a bundle, which may hold fewer posteriors than `generated` or `mmd_latents` ask for.

    `version` is raised with any change. `reference_split`: the images that generated ones are compared with, None for
    those of the reported split. `redraws`: further draws of one fit, for the sampling noise of a score.
    """

    name: str
    version: int
    budget: Budget
    generated: int
    reference_split: Literal["train"] | None
    mmd_latents: int
    redraws: int
    timing_seconds: float

    def images(self, split: str) -> str:
        """The split whose images generated ones are compared with, where `split` is reported."""
        return self.reference_split or split


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("quick", 2, "quick", 2_000, None, 1_000, 0, 0.5),
        Preset("rae", 2, "full", 10_000, None, 2_000, 4, 10.0),  # Ghosh et al. 2020: 10k images against test
        Preset("nvae", 2, "full", 50_000, "train", 2_000, 0, 10.0),  # Vahdat and Kautz 2020: 50k against train
    )
}
#: the preset of a budget where none is named
USUAL = {"quick": "quick", "full": "rae"}
#: seeds from here on are for tuning, and in no table: what was chosen with a seed is not reported with it
TUNING_SEED = 1_000
#: counts that a bundle's posteriors, or draws of its latent groups, may be too few for
CAPPED = ("generated", "mmd_latents", "grid_columns")
#: fields of the first protocols, whose hashes hold them as None; not to be added to
COUNTED_AS_NONE = {"reference_split"}


class Protocol(BaseModel):
    """A preset on a bundle. A metric reads the fields that it names in `reads`; those alone are part of its identity.

    `generated` images (and latents) are drawn for every row alike; the reference is the whole of `reference_split`,
    or of `split` where that is None. `features` is the dimension of the extractor's layer. Bandwidths are multiples
    of the median squared distance within held-out q_agg. `settings`: rows whose settings were tuned have tables of
    their own. `groups`: so have those whose latents are other groups of a hierarchy than its top one, which is None.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    preset: str
    version: int
    budget: Budget
    split: Split
    extractor: dict[str, Any]
    score: str
    features: Count
    generated: Count
    reference: Count
    reference_split: Literal["train"] | None = None
    rounding: str = "8-bit"
    preparation: str
    mmd_latents: Count
    mmd_bandwidths: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
    mmd_permutations: Count = 500
    redraws: Count = 0
    timing_batches: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 100, 1_000)
    timing_repeats: Count = 20
    timing_seconds: float
    grid_columns: Count = 12
    settings: Literal["tuned"] | None = None
    groups: dict[str, Any] | None = None

    @property
    def images(self) -> str:
        """The split whose images generated ones are compared with."""
        return self.reference_split or self.split

    @property
    def hash(self) -> str:
        """Of every setting; one that came after the first protocols does not count where it is None."""
        settings = self.model_dump(mode="json")
        later = {name for name, value in settings.items() if value is None and name not in COUNTED_AS_NONE}
        return content_hash({name: value for name, value in settings.items() if name not in later})

    def save(self, results: Path, bundle: str) -> None:
        """Note that a bundle (its short id) is scored under this protocol: tables are made from files alone.

        A damaged note is replaced.
        """
        path = results / "protocols" / bundle / f"{self.hash[:16]}.json"
        try:
            known = path.exists() and _read(path) == self
        except Damaged:
            known = False
        if not known:
            write_sealed(path, self.model_dump(mode="json"))

    def part(self, names: tuple[str, ...]) -> dict[str, Any]:
        """The named fields, as JSON has them; what is None is left out, and so may be added later.

        Raises `UsageError` for a name that no protocol has.
        """
        for name in names:
            if name not in type(self).model_fields:
                raise unknown_name("field of the protocol in a metric's `reads`", name, type(self).model_fields)
        return self.model_dump(mode="json", include=set(names), exclude_none=True)

    def covers(self, settings: dict[str, Any]) -> bool:
        """Whether a measurement made with these settings is one of this protocol."""
        names = {*settings, *(["reference_split"] if "generated" in settings else [])}
        return names <= set(type(self).model_fields) and self.part(tuple(names)) == settings


def read_protocols(results: Path) -> tuple[list[tuple[str, Protocol]], list[str]]:
    """Bundle and protocol of every table there is to make, and for each damaged file the sentence that says so."""
    protocols, damaged = [], []
    for path in sorted((results / "protocols").glob("*/*.json")):
        try:
            protocols.append((path.parent.name, _read(path)))
        except Damaged as error:
            damaged.append(str(error))
    return protocols, damaged


def _read(path: Path) -> Protocol:
    """The protocol of a file. Raises `Damaged`."""
    content = {name: value for name, value in read_sealed(path).items() if name != "seal"}
    try:
        protocol = Protocol.model_validate_json(json.dumps(content), strict=True)  # as JSON, a list may be a tuple
    except ValidationError as error:
        other = "of another version of the suite? then it can be deleted"
        raise Damaged(f"{path}: {describe_problem(error)} ({other})") from error
    if path.stem != protocol.hash[:16]:
        raise Damaged(f"{path}: its name is not that of what it holds, {protocol.hash[:16]}")
    return protocol


def choose_preset(name: str | None, budget: str | None, split: str) -> Preset:
    """The preset that is named, or the usual one of a budget (None: quick). Raises `UsageError` where they disagree."""
    preset = PRESETS[name or USUAL[budget or "quick"]]
    if budget not in (None, preset.budget):
        raise UsageError(f"--protocol {name} has the {preset.budget} budget: leave --budget {budget} out")
    if preset.reference_split and split == "val":
        raise UsageError(f"--protocol {name} compares with training images, not with val's: choose settings with rae's")
    return preset


class Scorer(Interface):
    """What a protocol holds of an extractor: what its score is called, and what decides its features."""

    @property
    def score(self) -> str: ...

    def identity(self) -> dict[str, Any]: ...


def make_protocol(bundle: Bundle, preset: Preset, split: Split, extractor: Scorer, features: int) -> Protocol:
    """The preset on a bundle: counts are capped by its posteriors, so that every row can have equally many."""
    counts, dataset = bundle.counts, bundle.card["dataset"]
    images = preset.images(split)
    return Protocol(
        preset=preset.name,
        version=preset.version,
        budget=preset.budget,
        split=split,
        extractor=extractor.identity(),
        score=extractor.score,
        features=features,
        generated=min(preset.generated, counts["train"], counts[images]),
        reference=dataset["counts"][images],
        reference_split=preset.reference_split,
        preparation=dataset["preparation"],
        mmd_latents=min(preset.mmd_latents, counts["train"], counts[split]),
        redraws=preset.redraws,
        groups=None if bundle.groups is None else bundle.groups.facts,
        timing_seconds=preset.timing_seconds,
        grid_columns=min(Protocol.model_fields["grid_columns"].default, counts["train"], counts[split]),
    )
