"""Copies a results folder's records under new bundles, to time `leaderboard` on many of them.

Typed as:

    python tests/speed/tenfold.py results /tmp/tenfold [times]
    python -m benchmark leaderboard --results /tmp/tenfold     twice: the second finds its pictures unchanged
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmark.store.records import RecordStore, record_id
from benchmark.store.sealed import content_hash, read_sealed, write_sealed


def renamed(text: str, copy: int) -> str:
    """Another hash of as many digits for each copy but the first, which keeps its own."""
    return content_hash([text, copy])[: len(text)] if copy else text


def copied(record: dict[str, Any], copy: int, fits: dict[str, str]) -> dict[str, Any]:
    """The record as another bundle would have it, with an id of its own; `fits` maps the ids of fits."""
    identity = dict(record["identity"])
    if "bundle" in identity:
        identity["bundle"] = renamed(identity["bundle"], copy)
    if "fit" in identity:
        identity["fit"] = fits.get(identity["fit"]) or renamed(identity["fit"], copy)
    row = {**record["row"], "bundle": renamed(record["row"]["bundle"], copy)}
    return {**record, "id": record_id(identity), "identity": identity, "row": row}


def multiply(source: Path, target: Path, times: int) -> int:
    """Write `times` copies of every record and protocol; returns how many records that made."""
    records, damaged = RecordStore(source / "records").all()
    if damaged:
        raise SystemExit("\n".join(damaged))
    written, store = 0, RecordStore(target / "records")
    for copy in range(times):
        fits: dict[str, str] = {}
        for record in sorted(records, key=lambda record: record["kind"] != "fit"):
            made = copied(record, copy, fits)
            if record["kind"] == "fit":
                fits[record["id"]] = made["id"]
            write_sealed(store.path(made["row"], made["kind"], made["id"]), made)
            written += 1
        for path in (source / "protocols").glob("*/*.json"):
            write_sealed(target / "protocols" / renamed(path.parent.name, copy) / path.name, read_sealed(path))
    return written


if __name__ == "__main__":
    folders, times = [Path(word) for word in sys.argv[1:3]], int(json.loads((sys.argv[3:] or ["10"])[0]))
    print(f"{multiply(*folders, times):,} records in {folders[1]}")
