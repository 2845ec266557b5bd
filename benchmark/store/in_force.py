"""For each label, the configuration its latest run used.

A label names what was typed, while a prior's code and defaults may change under it and change back. A run that finds
everything recorded leaves no newer record, so what it asked for is noted on its own:

results/in_force/<bundle>/<budget>-<device>.json   label -> hash of its configuration (sealed)

Where no note names a label, or a table has no record of what is noted, the configuration of its newest record is taken.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from filelock import FileLock

from benchmark.store.places import lock_path
from benchmark.store.sealed import Damaged, read_sealed, write_sealed


def note_in_force(results: Path, budget: str, rows: list[dict[str, Any]]) -> None:
    """Note the configurations of a run. `rows`: what its records say of their rows, all of one bundle and device.

    A damaged note is replaced.
    """
    bundle, device = rows[0]["bundle"], rows[0]["device"]
    path = results / "in_force" / bundle / f"{budget}-{device}.json"
    asked = {facts["label"]: facts["config_hash"] for facts in rows}
    with FileLock(lock_path(f"in-force-{bundle}-{budget}-{device}")):
        try:
            known = read_sealed(path)["labels"] if path.exists() else {}
        except Damaged:
            known = {}
        if {**known, **asked} != known:
            write_sealed(path, {"labels": {**known, **asked}})


def read_in_force(results: Path) -> tuple[dict[tuple[str, str, str], dict[str, str]], list[str]]:
    """(bundle, budget, device) -> label -> hash of its configuration; and for each damaged note a sentence."""
    noted: dict[tuple[str, str, str], dict[str, str]] = {}
    damaged = []
    for path in sorted((results / "in_force").glob("*/*-*.json")):
        try:
            budget, device = path.stem.split("-")
            noted[path.parent.name, budget, device] = read_sealed(path)["labels"]
        except Damaged as error:
            damaged.append(str(error))
    return noted, damaged
