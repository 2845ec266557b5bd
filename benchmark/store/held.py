"""Who is at what in a folder that several machines share: a claim file for each thing, which its holder keeps alive.

A file lock is not to be trusted between machines; that one of them alone creates a file is. A holder
touches its claims every `BEAT` seconds. One that nobody touched for `STALE` seconds is a lost machine's, and is taken
over. Times are those that the file server gave, so that no two clocks are compared. Where the lost one goes on after
all, it finds its claim gone and touches it no more; what it still writes is, byte for byte, what the other one writes.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmark.machine.slurm import name_of_job
from benchmark.store.sealed import write_atomic

#: seconds between two signs of life of a holder
BEAT = 15.0
#: seconds without one after which a claim is a lost holder's: many beats, and more than file servers hide a change for
STALE = 150.0
#: seconds between two looks at what somebody else holds
LOOK_AGAIN = 2.0


@dataclass(frozen=True)
class Claim:
    """What a claim file says: who holds what, and what is being done to it. `job`: Slurm's name of the holder's job."""

    holder: str
    machine: str
    process: int
    job: str | None
    what: str
    doing: str
    since: str


class Claims:
    """The claims of this process in a folder, by name; the folder is made. A name is a file's, without its suffix."""

    look_again = LOOK_AGAIN

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._holder = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._held: dict[str, Claim] = {}
        self._ahead = server_time(folder) - time.monotonic()
        self._ended = threading.Event()
        self._beating: threading.Thread | None = None

    def take(self, name: str, what: str = "") -> bool:
        """Claim a thing, unless somebody else does who is alive. `what`: what it is, for people."""
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        claim = Claim(self._holder, platform.node(), os.getpid(), name_of_job(), what, "", since)
        if not _created(self._path(name), _as_bytes(claim)) and not self._take_over(name, claim):
            return False
        self._held[name] = claim
        if self._beating is None:
            self._beating = threading.Thread(target=self._beat, daemon=True)
            self._beating.start()
        return True

    def tell(self, name: str, doing: str) -> None:
        """Say what is being done to a thing that this process claims, if it still does."""
        claim = self._held.get(name)
        if claim is not None and self._is_mine(name):
            write_atomic(self._path(name), _as_bytes(Claim(**{**asdict(claim), "doing": doing})))

    def release(self, name: str) -> None:
        """Give a thing back; what another one has taken over stays that one's."""
        if self._held.pop(name, None) is not None and self._is_mine(name):
            self._path(name).unlink(missing_ok=True)

    @contextmanager
    def hold(self, name: str, what: str = "") -> Iterator[None]:
        """Hold a thing, waiting until it is free. `what`: what it is, for people, where they wait long for it."""
        while not self.take(name, what):
            time.sleep(LOOK_AGAIN / 10)
        try:
            yield
        finally:
            self.release(name)

    def close(self) -> None:
        """Give everything back."""
        self._ended.set()
        for name in list(self._held):
            self.release(name)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _take_over(self, name: str, claim: Claim) -> bool:
        """Put a claim in the place of one that is stale. Of several who find it stale one alone has the turn."""
        path = self._path(name)
        lost = read_claim(path)
        if not self._is_stale(path):
            return False
        turn = self._folder / f".{name}.{lost.holder if lost else 'nobody'}"
        if self._is_stale(turn):  # of one who was lost in the middle of this
            turn.unlink(missing_ok=True)
        if not _created(turn, b""):
            return False
        try:
            if read_claim(path) != lost:  # somebody had the turn before
                return False
            write_atomic(path, _as_bytes(claim))
            return True
        finally:
            turn.unlink(missing_ok=True)

    def _is_stale(self, path: Path) -> bool:
        try:
            return time.monotonic() + self._ahead - path.stat().st_mtime > STALE
        except FileNotFoundError:
            return False

    def _is_mine(self, name: str) -> bool:
        claim = read_claim(self._path(name))
        return claim is not None and claim.holder == self._holder

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            for name in list(self._held):
                with contextlib.suppress(OSError):  # of a server that does not answer now: the next beat may do
                    if self._is_mine(name):
                        os.utime(self._path(name))


def _created(path: Path, content: bytes) -> bool:
    """Write a new file; False where there is one."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    return True


def server_time(folder: Path) -> float:
    """What time it is where the folder's files are kept, in seconds; the folder is made."""
    touched = folder / f".{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}"
    folder.mkdir(parents=True, exist_ok=True)
    touched.touch()
    try:
        return touched.stat().st_mtime
    finally:
        touched.unlink(missing_ok=True)


def read_claim(path: Path) -> Claim | None:
    """What a claim file says; None where it is gone, or not written yet."""
    try:
        return Claim(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def read_claims(folder: Path) -> list[tuple[Claim, float]]:
    """Every claim that is there, by what it is of, with the seconds since its holder's last sign of life."""
    try:
        now = server_time(folder)
    except OSError:  # a folder that may be read alone
        now = time.time()
    found = []
    for path in folder.glob("[!.]*.json"):
        claim = read_claim(path)
        with contextlib.suppress(FileNotFoundError):
            if claim is not None:
                found.append((claim, max(0.0, now - path.stat().st_mtime)))
    return sorted(found, key=lambda each: (each[0].what, each[0].holder))


def _as_bytes(claim: Claim) -> bytes:
    return json.dumps(asdict(claim), indent=1).encode()
