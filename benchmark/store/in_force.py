"""For each label, the configuration its latest run used.

A label names what was typed, while a prior's code and defaults may change under it and change back. A run that finds
everything recorded leaves no newer record, so what it asked for is noted on its own:

results/in_force/<bundle>/<budget>-<device>.json   label -> hash of its configuration, metric -> hash of its identity

Where no note names a label, or a table has no record of what is noted, the configuration of its newest record is taken.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from benchmark.store.places import lock_path
from benchmark.store.sealed import Damaged, content_hash, read_sealed, write_sealed


@dataclass(frozen=True)
class InForce:
    """Hashes of what the latest runs of a bundle, budget and device used, of configurations by label and of metrics."""

    labels: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)


def note_in_force(results: Path, budget: str, rows: list[dict[str, Any]], metrics: dict[str, dict[str, Any]]) -> None:
    """Note what a run uses. `rows`: what its records say of their rows, all of one bundle and device.

    `metrics`: the identity of each. A damaged note is replaced.
    """
    bundle, device = rows[0]["bundle"], rows[0]["device"]
    path = results / "in_force" / bundle / f"{budget}-{device}.json"
    labels = {facts["label"]: facts["config_hash"] for facts in rows}
    identities = {name: content_hash(identity) for name, identity in metrics.items()}
    with FileLock(lock_path(f"in-force-{bundle}-{budget}-{device}")):
        try:
            known = _read(path) if path.exists() else InForce()
        except Damaged:
            known = InForce()
        now = InForce({**known.labels, **labels}, {**known.metrics, **identities})
        if now != known:
            write_sealed(path, asdict(now))


def read_in_force(results: Path) -> tuple[dict[tuple[str, str, str], InForce], list[str]]:
    """(bundle, budget, device) -> what is in force; and for each damaged note a sentence."""
    noted: dict[tuple[str, str, str], InForce] = {}
    damaged = []
    for path in sorted((results / "in_force").glob("*/*-*.json")):
        try:
            budget, device = path.stem.split("-")
            noted[path.parent.name, budget, device] = _read(path)
        except Damaged as error:
            damaged.append(str(error))
    return noted, damaged


def _read(path: Path) -> InForce:
    note = read_sealed(path)
    return InForce(note["labels"], note.get("metrics", {}))  # which the first notes do not have
