"""The plan of a tuning: which settings of a prior are tried, and by what they are judged. What came of it is recorded.

results/tunings/<bundle>/<id>.json   the id is the hash of what decides the trials
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from benchmark.store.schema import Hash, Name, Seed, Time, read_model
from benchmark.store.sealed import Damaged, content_hash, write_sealed

FOLDER = "tunings"
#: ends the label of a row whose settings were tuned
STAR = "*"


class Try(BaseModel):
    """Settings over the recipe's, and the hash of the configuration that they make."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    settings: dict[str, Any]
    config_hash: Hash


class Tuning(BaseModel):
    """One prior's trials on one bundle.

    `identity`: what decides them: bundle, latent groups where they are not the top one, prior, base settings, space,
    seed, budget, device, the score. `label`: of the row that is tuned. `allowed`: trials, of which every four choices
    of `alternatives`, settings of sampling alone, cost one. `trials`: 0 is the recipe. `sampled`: the best trial with
    each alternative, once it is known.
    """

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    identity: dict[str, Any]
    dataset: Name
    backbone: Name
    backbone_seed: Seed
    protocol: str
    score: str
    label: str
    prior: Name
    allowed: Annotated[int, Field(ge=1)]
    trials: Annotated[list[Try], Field(min_length=1)]
    alternatives: list[dict[str, Any]]
    sampled: list[Try]
    time: Time

    @property
    def id(self) -> str:
        return content_hash(self.identity)[:16]

    @property
    def starred(self) -> str:
        """The label of the row with the settings that were chosen."""
        return f"{self.label}{STAR}"

    @property
    def bundle(self) -> str:
        """The first 16 digits of the bundle's id, as records name it."""
        return str(self.identity["bundle"])[:16]

    @property
    def device(self) -> str:
        return str(self.identity["device"])

    @property
    def groups(self) -> dict[str, Any] | None:
        """The latent groups of a hierarchy that are latents, as the protocol has them; None of the top one."""
        return self.identity.get("groups")

    @property
    def base(self) -> dict[str, Any]:
        """Settings that were typed, and stay as they are in every trial."""
        return dict(self.identity["base"])

    @property
    def extractor(self) -> Any:
        """That of the score which trials are judged by."""
        return self.identity["fd"]["settings"]["extractor"]

    def save(self, results: Path) -> None:
        """Write the plan; a longer one of the same tuning replaces a shorter."""
        write_sealed(results / FOLDER / self.bundle / f"{self.id}.json", self.model_dump(mode="json"))


def read_tunings(results: Path) -> tuple[list[Tuning], list[str]]:
    """The plans of a results folder, of each row on a bundle and device the one asked for last; and what is damaged."""
    latest: dict[tuple[str, str, str, str], Tuning] = {}
    damaged = []
    for path in sorted((results / FOLDER).glob("*/*.json")):
        try:
            plan = read_model(path, Tuning)
            if path.stem != plan.id:
                raise Damaged(f"{path}: its name is not that of what it holds, {plan.id}")
        except Damaged as error:
            damaged.append(str(error))
        else:
            key = (plan.bundle, plan.device, plan.protocol, plan.label)
            if key not in latest or plan.time >= latest[key].time:
                latest[key] = plan
    return list(latest.values()), damaged
