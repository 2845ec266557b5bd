"""Which images lie at a path: the hash of their pixels, found once, and the path at which a hash was last seen.

A path says where images lie, not which they are: files are replaced, and two folders each hold a `faces.npz`. So what
was made from a path is found by the pixels. Reading them all takes a while, and its outcome is kept:

<cache>/images/<hash of the path and its settings>.json   what to type for them, their hash, and the stamp of the files
<cache>/images/<hash of the pixels>/<name>.npz            images that came from Python objects

A stamp is of names, sizes, times and inodes. Of files that were changed a moment ago it says too little, since clocks
of file systems are coarse: those are read again.

Images from Python objects lie at no path, and the process that had them ends. They are written to one, as they are
after they were split and made their size, so that what is asked of them later (another extractor, say) finds them and
nobody has to make the same objects again.
"""

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ValidationError

from benchmark.datasets import arrays, folders, hugging_face, image_files, listing, npz, objects, own, sizes, splits
from benchmark.datasets import path as path_module
from benchmark.datasets.api import Dataset, Images
from benchmark.datasets.objects import ObjectDataset
from benchmark.datasets.path import PathDataset
from benchmark.datasets.sizes import SizeConfig
from benchmark.datasets.splits import SPLITS
from benchmark.progress import say
from benchmark.store.places import cache_root
from benchmark.store.sealed import Damaged, content_hash, file_hash, read_sealed, write_sealed

#: seconds for which a changed file may change again without another time of change
COARSE = 2.0
#: the code that makes pixels of files
READERS = (path_module, arrays, folders, hugging_face, image_files, listing, npz, objects, own, sizes, splits)


class Seen(BaseModel):
    """What is known of images at a path. `stamp`: None where the files had been changed a moment before."""

    typed: str
    path: str
    stamp: str | None
    sha256: str
    counts: tuple[int, int, int]
    shape: tuple[int, int, int]


def load_images(dataset: Dataset, roots: list[Path]) -> tuple[Images, str]:
    """The images and the hash of their pixels, which is kept of a path's. Raises `UsageError`."""
    stamp = _stamp(dataset) if isinstance(dataset, PathDataset) else None  # before: they may change while they are read
    images = dataset.load(roots)
    sha256 = images.content_hash()
    try:
        if isinstance(dataset, PathDataset):
            _note_seen(dataset, stamp, images, sha256)
        elif isinstance(dataset, ObjectDataset):
            _note_seen(_keep(dataset.name, images, sha256), None, images, sha256)
    except OSError as error:
        if isinstance(dataset, ObjectDataset):  # those at a path are read again next time
            say(f"{dataset.where} cannot be kept in the cache ({error.strerror or error}): save them as an .npz")
    return images, sha256


def hash_images(dataset: PathDataset) -> str:
    """The hash of the pixels (`Images.content_hash`); they are read where it is not known. Raises `UsageError`."""
    return look_at(dataset).sha256


def look_at(dataset: PathDataset) -> Seen:
    """What is known of images at a path, which are read where nothing is. Raises `UsageError`."""
    seen, stamp = _read(_note(dataset)), _stamp(dataset)
    return seen if seen and stamp and seen.stamp == stamp else _seen(dataset, stamp, *load_images(dataset, []))


def last_seen(sha256: str) -> str | None:
    """What to type, as `--dataset`, for images of that hash that lie at a path of this machine, as far as is known."""
    for note in sorted((cache_root() / "images").glob("*.json")):
        seen = _read(note)
        if seen and seen.sha256 == sha256 and os.path.exists(seen.path):
            return seen.typed
    return None


def _note_seen(dataset: PathDataset, stamp: str | None, images: Images, sha256: str) -> None:
    write_sealed(_note(dataset), _seen(dataset, stamp, images, sha256).model_dump(mode="json"))


def _seen(dataset: PathDataset, stamp: str | None, images: Images, sha256: str) -> Seen:
    there, about = _absolute(dataset), {"counts": images.counts, "shape": images.shape}
    return Seen(typed=there.label, path=str(there.path), stamp=stamp, sha256=sha256, **about)


def _keep(name: str, images: Images, sha256: str) -> PathDataset:
    """The images in a file of the cache, from which they are read as they are."""
    path = cache_root() / "images" / sha256[:16] / f"{name}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        parts = {split: getattr(images, split).permute(0, 2, 3, 1).numpy() for split in SPLITS}
        with tempfile.TemporaryDirectory(dir=path.parent) as beside:
            np.savez(Path(beside) / path.name, **parts)
            os.replace(Path(beside) / path.name, path)
    return PathDataset(path, SizeConfig(size=images.shape[1]))


def _note(dataset: PathDataset) -> Path:
    return cache_root() / "images" / f"{content_hash(_absolute(dataset).label)}.json"


def _read(note: Path) -> Seen | None:
    try:
        return Seen(**read_sealed(note)) if note.exists() else None
    except (Damaged, ValidationError):
        return None  # the images are there to be read again


def _absolute(dataset: PathDataset) -> PathDataset:
    """The same data set wherever one stands."""
    other = copy.copy(dataset)
    other.path = Path(os.path.abspath(dataset.path))
    return other


def _stamp(dataset: PathDataset) -> str | None:
    """What changes with the files and with the code that reads them; None where a change may not show."""
    there = _absolute(dataset)
    files = list(_files(there.path, set()))
    if any(time.time() - status.st_ctime < COARSE for _, status in files):
        return None
    facts = [[name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for name, s in sorted(files)]
    return content_hash([[file_hash(Path(str(module.__file__))) for module in READERS], there.label, facts])


def _files(path: Path, passed: set[tuple[int, int]]) -> Iterator[tuple[str, os.stat_result]]:
    """The path and all that lies below it, links followed, each folder once. What cannot be looked at is left out."""
    try:
        status = path.stat()
        below = sorted(path.iterdir()) if path.is_dir() else []
    except OSError:
        return
    yield str(path), status
    if (status.st_dev, status.st_ino) not in passed:
        passed.add((status.st_dev, status.st_ino))
        for each in below:
            yield from _files(each, passed)
