"""Records: one immutable, sealed JSON file a fit or a measurement, named by its id.

What is recorded is not done again. A record of a failure is kept like any other and may be replaced.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.errors import UsageError
from benchmark.store.schema import check_name, check_record
from benchmark.store.sealed import Damaged, content_hash, read_sealed, write_sealed

SCHEMA = 1

#: what a record's file is called
_OF_RECORD = re.compile(r".+-[0-9a-f]{32}\.json")
#: time of the last change, size and inode of a file
_Stamp = tuple[int, int, int]


def record_id(identity: dict[str, Any]) -> str:
    """32 hex digits from all that decides a fit or a measurement."""
    return content_hash(identity)[:32]


@dataclass(frozen=True)
class RecordStore:
    """The records below `root`: `<dataset>/<backbone>/<prior>/<kind>-<id>.json`.

    What `all` has read it keeps: the records that it returns are shared, and not to be changed.
    """

    root: Path
    _read: dict[str, tuple[_Stamp, dict[str, Any] | Damaged]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def path(self, row: dict[str, Any], kind: str, id: str) -> Path:
        """Where a record lies, or is to lie: below `root`, whatever its row says. Raises `UsageError`."""
        file = f"{kind}-{id}.json"
        names = {"data set": row["dataset"], "backbone": row["backbone"], "prior": row["prior"], "record": file}
        for what, name in names.items():
            try:
                check_name(name)
            except ValueError as error:
                raise UsageError(f"the name of a {what} is that of a folder or file in results: {error}") from error
        return self.root.joinpath(*names.values())

    def get(self, row: dict[str, Any], kind: str, id: str) -> dict[str, Any] | None:
        """The record, or None where there is none. Raises `Damaged`."""
        path = self.path(row, kind, id)
        return _checked(path) if os.path.lexists(path) else None

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
        """Every good record in a fixed order, and for each damaged one the sentence that says so.

        A file is read again where it is new or another than before, whoever wrote it.
        """
        known = dict(self._read)
        self._read.clear()
        unread: list[str] = []
        for path, stamp in _stamped(self.root, unread, set()):
            before = known.get(path)
            self._read[path] = before if before and before[0] == stamp else (stamp, _checked_or_why(path))
        found = [value for _, value in self._read.values()]
        good = [value for value in found if not isinstance(value, Damaged)]
        return good, [*(str(value) for value in found if isinstance(value, Damaged)), *unread]


def _stamped(folder: str | Path, unread: list[str], seen: set[tuple[int, int]]) -> Iterator[tuple[str, _Stamp]]:
    """The JSON files of a folder and those below it, by name, each with what tells that it was not written since.

    A folder is gone through once, whatever links lead to it. `unread` is given a sentence of what cannot be looked at.
    """
    try:
        status = os.stat(folder)
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    except OSError as error:
        unread.append(f"{folder}: {_said(error)}")
        return
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    for entry in entries:
        try:
            if entry.is_dir() and not _OF_RECORD.fullmatch(entry.name):
                yield from _stamped(entry.path, unread, seen)
            elif entry.name.endswith(".json"):
                status = entry.stat()
                yield entry.path, (status.st_mtime_ns, status.st_size, status.st_ino)
        except OSError as error:  # of a link that leads nowhere, or to itself
            unread.append(f"{entry.path}: {_said(error)}")


def _said(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


def _checked_or_why(path: str) -> dict[str, Any] | Damaged:
    try:
        return _checked(path)
    except Damaged as error:
        return error


def _checked(path: Path | str) -> dict[str, Any]:
    record = read_sealed(path)
    if record.get("schema") != SCHEMA:
        raise Damaged(f"{path}: schema {record.get('schema')}, this version reads {SCHEMA}")
    missing = {"kind", "id", "identity", "row", "status", "provenance"} - set(record)
    if missing:
        raise Damaged(f"{path}: no {', '.join(sorted(missing))}")
    if (
        record["id"] != record_id(record["identity"])
        or os.path.basename(path) != f"{record['kind']}-{record['id']}.json"
    ):
        raise Damaged(f"{path}: its id, its identity and its name do not agree")
    try:
        check_record(record)
    except ValueError as error:
        raise Damaged(f"{path}: {error}") from error
    return record
