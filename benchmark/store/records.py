"""Records: one immutable, sealed JSON file a fit or a measurement, named by its id.

What is recorded is not done again. A record of a failure is kept like any other and may be replaced.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.store.sealed import Damaged, content_hash, read_sealed, write_sealed

SCHEMA = 1


def record_id(identity: dict[str, Any]) -> str:
    """32 hex digits from all that decides a fit or a measurement."""
    return content_hash(identity)[:32]


@dataclass(frozen=True)
class RecordStore:
    """The records below `root`: `<dataset>/<backbone>/<prior>/<kind>-<id>.json`."""

    root: Path

    def path(self, row: dict[str, Any], kind: str, id: str) -> Path:
        return self.root / row["dataset"] / row["backbone"] / row["prior"] / f"{kind}-{id}.json"

    def get(self, row: dict[str, Any], kind: str, id: str) -> dict[str, Any] | None:
        """The record, or None where there is none. Raises `Damaged`."""
        path = self.path(row, kind, id)
        return _checked(path) if path.exists() else None

    def put(self, row: dict[str, Any], kind: str, identity: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
        """Write a record and return it; one that succeeded before stays as it is, and is what is returned."""
        id = record_id(identity)
        try:
            present = self.get(row, kind, id)
        except Damaged:
            present = None
        if present is not None and present["status"] == "ok":
            return present
        value = {"schema": SCHEMA, "kind": kind, "id": id, "identity": identity, "row": row, **content}
        return write_sealed(self.path(row, kind, id), value)

    def all(self) -> tuple[list[dict[str, Any]], list[str]]:
        """Every good record in a fixed order, and for each damaged one the sentence that says so."""
        records, damaged = [], []
        for path in sorted(self.root.rglob("*.json")):
            try:
                records.append(_checked(path))
            except Damaged as error:
                damaged.append(str(error))
        return records, damaged


def _checked(path: Path) -> dict[str, Any]:
    record = read_sealed(path)
    if record.get("schema") != SCHEMA:
        raise Damaged(f"{path}: schema {record.get('schema')}, this version reads {SCHEMA}")
    missing = {"kind", "id", "identity", "row", "status", "provenance"} - set(record)
    if missing:
        raise Damaged(f"{path}: no {', '.join(sorted(missing))}")
    if record["id"] != record_id(record["identity"]) or path.stem != f"{record['kind']}-{record['id']}":
        raise Damaged(f"{path}: its id, its identity and its name do not agree")
    return record
