"""An .npz file -> uint8 images in splits."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from torch import Tensor

from benchmark.datasets.arrays import to_images
from benchmark.datasets.image_files import OF_THE_FILE, Unreadable, require_regular
from benchmark.datasets.splits import choose_splits
from benchmark.errors import UsageError

LARGEST_FILE = 2**40  # bytes
#: a packed array that is so much larger than its file, and larger than this, is made to fill the memory
RATIO, MUCH = 200, 2**30
#: so many names of other arrays stand in an error
NAMED = 8


def read_npz(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """uint8 images (n, C, H, W) of train and test, and of val where it is there; and what was done to the arrays.

    Raises `UsageError` naming the file and what is wrong with it.
    """
    return to_images(_read_arrays(path), str(path))


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays called train, val and test, as they are."""
    try:
        require_regular(path, LARGEST_FILE)
        if not zipfile.is_zipfile(path):
            raise Unreadable("it is no zip, or not a whole one")
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.file_size > max(MUCH, RATIO * member.compress_size):
                    raise Unreadable(f"{member.filename} would fill {member.file_size / 2**30:,.1f} GiB")
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        if not names:
            raise Unreadable("a zip without arrays; images in a zip: unpack it and name the folder")
        splits = choose_splits(names, "array", str(path))
        if not splits:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            raise UsageError(f"{path}: no array named train, val, test, but {', '.join(names[:NAMED])}{more}")
        with np.load(path, allow_pickle=False) as arrays:
            return {split: arrays[split] for split in splits}
    except UsageError:
        raise
    except Exception as error:  # readers of zips and arrays may raise anything of damaged bytes
        if isinstance(error, OSError) and error.errno not in OF_THE_FILE:
            raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
        why = str(error)[:200] or type(error).__name__
        raise UsageError(f"{path}: not an .npz file of plain arrays ({why})") from error
