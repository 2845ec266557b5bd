"""Priors that somebody else ran: who, with what, and how much of it was made again.

results/submissions/<name>/submission.json   what its author packed
results/submissions/<name>/verified.json     what came of making a share of it again; there where that was done
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from benchmark.store.schema import Hash, Name, Time, read_model
from benchmark.store.sealed import Damaged

SUBMISSION, VERIFIED = "submission.json", "verified.json"


class _Sealed(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class Packed(_Sealed):
    """`environment`: package -> version. `records`: how many, by the hash of all their ids."""

    author: Annotated[str, Field(min_length=1, max_length=200)]
    plugin: Name
    sha256: Hash
    priors: list[Name]
    records: Annotated[int, Field(ge=1)]
    ids: Hash
    environment: dict[str, str]
    time: Time


class Verified(_Sealed):
    """Of how many `values` how many agree and disagree; the rest cannot be told. `ids`: of the records it is about."""

    share: Annotated[float, Field(ge=0, le=1)]
    seed: int
    values: Annotated[int, Field(ge=0)]
    agree: Annotated[int, Field(ge=0)]
    disagree: Annotated[int, Field(ge=0)]
    ids: Hash
    time: Time


@dataclass(frozen=True)
class Submission:
    """What was packed, and what came of verifying it, if that was done."""

    packed: Packed
    verified: Verified | None

    @property
    def sentence(self) -> str:
        """Who ran the prior, and how far that is known to be so."""
        of = f"{', '.join(self.packed.priors)} by {self.packed.author}"
        if self.verified is None or self.verified.ids != self.packed.ids:
            return f"{of}: not verified"
        v = self.verified
        told = f"{v.agree} of {v.values} values agree" + (f", {v.disagree} DISAGREE" if v.disagree else "")
        return f"{of}: verified on {v.time[:10]}, {v.share:.0%} of the fits made again, {told}"


def read_submission(folder: Path) -> Submission:
    """What lies in a packed folder. Raises `Damaged`."""
    packed = read_model(folder / SUBMISSION, Packed)
    there = (folder / VERIFIED).exists()
    return Submission(packed, read_model(folder / VERIFIED, Verified) if there else None)


def read_submissions(results: Path) -> tuple[dict[str, Submission], list[str]]:
    """Prior -> its submission, of a results folder; and for each that is damaged the sentence that says so."""
    found: dict[str, Submission] = {}
    damaged = []
    for path in sorted((results / "submissions").glob(f"*/{SUBMISSION}")):
        try:
            submission = read_submission(path.parent)
        except Damaged as error:
            damaged.append(str(error))
            continue
        found |= dict.fromkeys(submission.packed.priors, submission)
    return found, damaged
