"""Content hashes, sealed JSON and atomic writes: what makes a file on disk trustworthy.

A *sealed* JSON file carries `seal`, the hash of everything else in it, so that a truncated or edited
file is told apart from a whole one without asking anybody.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import stat
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmark.text import one_line

#: bytes; the largest sealed file that is read, many times what any holds
LARGEST = 64 * 2**20
#: seconds after which what was begun to be written is left over, whoever had begun it
ABANDONED = 24 * 3600

_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


class Damaged(ValueError):
    """A file is not what was written: truncated, edited, or of another schema. The message, one line, names it."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


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
    writer = f"{_machine()}-{os.getpid()}"
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
    """Remove what `write_atomic` had begun below a folder and nobody will finish; what cannot be removed stays.

    Its process was of this machine and is gone, or so much time has passed that a number of a process says nothing.
    """
    begun = re.compile(r"\..+\.([^.]*)-(\d+)\.[^.]*\.tmp")
    for place, _, names in os.walk(folder):
        for name in names:
            writer = begun.fullmatch(name) if name.endswith(".tmp") else None
            if writer is None:
                continue
            path = Path(place, name)
            with contextlib.suppress(OSError):
                dead = writer[1] == _machine() and not is_alive(int(writer[2]))
                if dead or time.time() - path.lstat().st_mtime > ABANDONED:
                    path.unlink()


def _machine() -> str:
    """The name of this machine, with commas for its dots: dots part what the name of a file begun consists of."""
    return platform.node().replace(".", ",")


def is_alive(process: int) -> bool:
    """Whether a process of this machine goes on."""
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
        value = json.loads(_read(path).decode())
        sealed = isinstance(value, dict) and "seal" in value
        holds = sealed and value["seal"] == content_hash({k: v for k, v in value.items() if k != "seal"})
    except (ValueError, OSError, RecursionError) as error:  # nan and 1e999, too, are no JSON
        raise Damaged(f"{path}: not readable as JSON ({error})") from error
    if not sealed:
        raise Damaged(f"{path}: not a sealed JSON file (no 'seal')")
    if not holds:
        raise Damaged(f"{path}: content does not match its seal (edited or damaged)")
    return value


def _read(path: Path | str) -> bytes:
    """The content of a file, if it is one, and no larger than `LARGEST`: a pipe would be waited for."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(handle, "rb", buffering=0) as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("no regular file")
        if status.st_size > LARGEST:
            raise OSError(f"{status.st_size:,} bytes, more than the {LARGEST:,} that are read")
        return file.read()
