"""Content hashes, sealed JSON and atomic writes: what makes a file on disk trustworthy.

A *sealed* JSON file carries `seal`, the hash of everything else in it, so that a truncated or edited
file is told apart from a whole one without asking anybody.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import tempfile
from pathlib import Path
from typing import Any

_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


class Damaged(ValueError):
    """A file is not what was written: truncated, edited, or of another schema. The message names it."""


def content_hash(value: Any) -> str:
    """SHA-256 (64 hex digits) of a JSON-able value, independent of the order of keys."""
    return hashlib.sha256(_canonical(value).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, content: bytes) -> None:
    """Write beside `path` and rename: a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = f"{platform.node()}-{os.getpid()}"
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.{writer}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def remove_leftovers(folder: Path) -> None:
    """Remove what `write_atomic` had begun below a folder in processes of this machine that were killed meanwhile."""
    begun = re.compile(rf"\..*\.{re.escape(platform.node())}-(\d+)\.[^.]*\.tmp")
    for place, _, names in os.walk(folder):
        for name in names:
            writer = begun.fullmatch(name) if name.endswith(".tmp") else None
            if writer and not _is_alive(int(writer[1])):
                Path(place, name).unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def write_sealed(path: Path, value: dict[str, Any]) -> dict[str, Any]:
    """Write `value` as JSON with its `seal` added; returns the sealed value."""
    sealed = {**value, "seal": content_hash({k: v for k, v in value.items() if k != "seal"})}
    write_atomic(path, (json.dumps(sealed, indent=1, allow_nan=False) + "\n").encode())
    return sealed


def read_sealed(path: Path | str) -> dict[str, Any]:
    """Read a sealed JSON file. Raises `Damaged` (naming the file) where the seal does not hold."""
    try:
        with open(path, "rb", buffering=0) as file:
            value = json.loads(file.read().decode())
    except (ValueError, OSError) as error:
        raise Damaged(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(value, dict) or "seal" not in value:
        raise Damaged(f"{path}: not a sealed JSON file (no 'seal')")
    if value["seal"] != content_hash({k: v for k, v in value.items() if k != "seal"}):
        raise Damaged(f"{path}: content does not match its seal (edited or damaged)")
    return value
