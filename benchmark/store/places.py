"""Where things are kept: the cache, what runs make, and the folders in which image data is looked for."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from benchmark.errors import UsageError
from benchmark.store.held import Claims

CACHE_VARIABLE = "LATENT_PRIOR_CACHE"
#: names a results folder that several machines share, to this process and those that it starts
SHARED_VARIABLE = "LATENT_PRIOR_SHARED"
DATA_VARIABLE = "LATENT_PRIOR_DATA"
#: what the system says of a place that is there to be read
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


def expand_home(path: Path) -> Path:
    """`~` is the home folder, also where no shell has read it: `--out=~/mine`."""
    return Path(os.path.expanduser(path))  # which leaves what it cannot expand, where the path's own method raises


def cache_root() -> Path:
    """`$LATENT_PRIOR_CACHE`, else the platform's cache directory. Raises `UsageError` where there is no home folder."""
    named = os.environ.get(CACHE_VARIABLE)
    root = expand_home(Path(named or platformdirs.user_cache_dir("latent-prior-benchmark")))
    if not (named or root.is_absolute()):
        raise UsageError(f"there is no home folder here to keep a cache in: name a folder with ${CACHE_VARIABLE}")
    return root


@contextmanager
def fresh_cache() -> Iterator[Path]:
    """An empty cache in place of the usual one, gone afterwards. Raises `UsageError` where there is no place for it."""
    usual = os.environ.get(CACHE_VARIABLE)
    try:
        temporary = tempfile.TemporaryDirectory(prefix="latent-prior-benchmark-", ignore_cleanup_errors=True)
    except OSError as error:
        said = error.strerror or "there is none that can be written"
        raise UsageError(f"no temporary folder: {said}; name one with TMPDIR") from error
    with temporary as folder:
        os.environ[CACHE_VARIABLE] = folder
        try:
            yield Path(folder)
        finally:
            del os.environ[CACHE_VARIABLE]
            if usual is not None:
                os.environ[CACHE_VARIABLE] = usual


def data_roots(data_root: Path | None = None) -> list[Path]:
    """Folders searched for image data, first match wins: `--data-root`, `$LATENT_PRIOR_DATA`, the cache."""
    named = [data_root, Path(os.environ[DATA_VARIABLE]) if os.environ.get(DATA_VARIABLE) else None]
    return [expand_home(root) for root in named if root is not None] + [cache_root() / "data"]


def settle_places() -> None:
    """From now on the folders that variables name are the same wherever this process, or one that it starts, stands."""
    for variable in (CACHE_VARIABLE, DATA_VARIABLE):
        if os.environ.get(variable):
            os.environ[variable] = os.path.abspath(os.path.expanduser(os.environ[variable]))


@contextmanager
def sharing(results: Path | None) -> Iterator[None]:
    """Meanwhile machines share a results folder, in which claims and what runs make lie then. None: they do not."""
    if results is None:
        yield
        return
    usual = os.environ.get(SHARED_VARIABLE)
    os.environ[SHARED_VARIABLE] = str(results.resolve())
    try:
        yield
    finally:
        del os.environ[SHARED_VARIABLE]
        if usual is not None:
            os.environ[SHARED_VARIABLE] = usual


def made_root() -> Path:
    """Where fits, latents and features are kept: the cache; those of a shared results folder, beside its records."""
    shared = os.environ.get(SHARED_VARIABLE)
    return Path(shared) / "cache" if shared else cache_root()


def made_folders() -> list[Path]:
    """The folders that runs write to beside their results; a user's images lie in others."""
    return [*(made_root() / name for name in ("fits", "latents", "features")), cache_root() / "references"]


def lock_path(name: str) -> Path:
    """The lock file of that name, in the cache, for processes that share work."""
    path = cache_root() / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


class Locks:
    """Who is at what among the commands of one machine: file locks in the cache. As `Claims`, which machines share."""

    look_again = 0.5  # seconds

    def __init__(self) -> None:
        self._held: dict[str, FileLock] = {}

    def take(self, name: str, what: str = "") -> bool:
        """Lock a thing, unless somebody else does."""
        lock = FileLock(lock_path(name))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        self._held[name] = lock
        return True

    def tell(self, name: str, doing: str) -> None:
        """A lock says nothing."""

    def release(self, name: str) -> None:
        self._held.pop(name).release()

    def close(self) -> None:
        """Release everything."""
        for name in list(self._held):
            self.release(name)


def claims_folder(results: Path) -> Path:
    """Where the workers that share a results folder say what they are at."""
    return results / "claims"


def open_claims() -> Claims | Locks:
    """What keeps commands out of each other's way: those of a shared results folder, or of this machine."""
    shared = os.environ.get(SHARED_VARIABLE)
    return Claims(claims_folder(Path(shared))) if shared else Locks()


@contextmanager
def lock(name: str, what: str = "") -> Iterator[None]:
    """Hold the lock of that name; where the cache cannot be written, nobody works here whom it would keep out.

    `what`: what it is of, as the claim on it says where results are shared.
    """
    if shared := os.environ.get(SHARED_VARIABLE):
        with contextlib.closing(Claims(claims_folder(Path(shared)))) as claims, claims.hold(name, what):
            yield
        return
    with ExitStack() as held:
        try:
            held.enter_context(FileLock(lock_path(name)))
        except OSError as error:
            if error.errno not in READ_ONLY:
                raise
        yield
