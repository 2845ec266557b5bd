"""For each label, the configuration its latest run used.

A label names what was typed, while a prior's code and defaults may change under it and change back. A run that finds
everything recorded leaves no newer record, so what it asked for is noted on its own:

results/in_force/<bundle>/<budget>-<device>.json   label -> hash of its configuration, metric -> hash of its identity

Where no note names a label, or a table has no record of what is noted, the configuration of its newest record is taken.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NotRequired

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from benchmark.store.places import lock
from benchmark.store.schema import check
from benchmark.store.sealed import Damaged, content_hash, read_sealed, write_sealed


@dataclass(frozen=True)
class InForce:
    """Hashes of what the latest runs of a bundle, budget and device used, of configurations by label and of metrics."""

    labels: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)


class _Note(TypedDict):
    labels: dict[str, str]
    metrics: NotRequired[dict[str, str]]  # which the first notes do not have


_NOTE: TypeAdapter[Any] = TypeAdapter(_Note)


def note_in_force(results: Path, budget: str, rows: list[dict[str, Any]], metrics: dict[str, dict[str, Any]]) -> None:
    """Note what a run uses. `rows`: what its records say of their rows, all of one bundle and device.

    `metrics`: the identity of each. A damaged note is replaced.
    """
    bundle, device = rows[0]["bundle"], rows[0]["device"]
    path = results / "in_force" / bundle / f"{budget}-{device}.json"
    labels = {facts["label"]: facts["config_hash"] for facts in rows}
    identities = {name: content_hash(identity) for name, identity in metrics.items()}
    if _read_or_none(path) == _with(path, labels, identities):  # most often: and a folder may be read alone
        return
    with lock(f"in-force-{bundle}-{budget}-{device}"):
        write_sealed(path, asdict(_with(path, labels, identities)))


def _with(path: Path, labels: dict[str, str], metrics: dict[str, str]) -> InForce:
    """What a note holds with these in it."""
    known = _read_or_none(path) or InForce()
    return InForce({**known.labels, **labels}, {**known.metrics, **metrics})


def _read_or_none(path: Path) -> InForce | None:
    """What a note holds; None where there is none, or a damaged one."""
    try:
        return _read(path) if path.exists() else None
    except Damaged:
        return None


def read_in_force(results: Path) -> tuple[dict[tuple[str, str, str], InForce], list[str]]:
    """(bundle, budget, device) -> what is in force; and for each damaged note a sentence."""
    noted: dict[tuple[str, str, str], InForce] = {}
    damaged = []
    for path in sorted((results / "in_force").glob("*/*.json")):
        try:
            named = re.fullmatch(r"([^-]+)-([^-]+)", path.stem)
            if not named:
                raise Damaged(f"{path}: expected the name BUDGET-DEVICE.json")
            noted[path.parent.name, named[1], named[2]] = _read(path)
        except Damaged as error:
            damaged.append(str(error))
    return noted, damaged


def _read(path: Path) -> InForce:
    note = read_sealed(path)
    try:
        return InForce(**check(_NOTE, note))
    except ValueError as error:
        raise Damaged(f"{path}: {error}") from error
