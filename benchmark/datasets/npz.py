"""An .npz file -> uint8 images in splits: other numbers are brought to 0 to 255 where there is no doubt how."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmark.datasets.image_files import OF_THE_FILE, Unreadable, require_regular
from benchmark.datasets.splits import FEWEST, choose_splits
from benchmark.errors import UsageError

LARGEST_FILE = 2**40  # bytes
#: a packed array that is so much larger than its file, and larger than this, is made to fill the memory
RATIO, MUCH = 200, 2**30
#: so many names of other arrays stand in an error
NAMED = 8
EXPECTED = "expected 0 to 255 of shape (n, H, W) or (n, H, W, 1 or 3)"


def read_npz(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """uint8 images (n, C, H, W) of train and test, and of val where it is there; and what was done to the arrays.

    Raises `UsageError` naming the file and what is wrong with it.
    """
    arrays = _read_arrays(path)
    dtypes = {split: array.dtype for split, array in arrays.items()}
    for split, array in arrays.items():
        if array.ndim not in (3, 4) or array.dtype.kind not in "buif":
            raise UsageError(f"{path}: '{split}' is {array.dtype} {array.shape}; {EXPECTED}")
        if len(array) < FEWEST:
            raise UsageError(f"{path}: '{split}' has fewer than {FEWEST} images")
        if not array.size:
            raise UsageError(f"{path}: '{split}' is {array.shape}: its images have no pixel")
    if len(set(dtypes.values())) > 1:
        each = ", ".join(f"'{split}' is {dtype} {arrays[split].shape}" for split, dtype in dtypes.items())
        raise UsageError(f"{path}: {each}: arrays of one kind are needed")
    turn, order = _choose_order(path, arrays)
    if len({turn(array).shape[1:] for array in arrays.values()}) > 1:
        each = ", ".join(f"{split} {array.shape}" for split, array in arrays.items())
        raise UsageError(f"{path}: images differ in shape: {each}")
    scale, range_ = _choose_scale(path, arrays)
    images = {split: torch.from_numpy(np.ascontiguousarray(scale(turn(array)))) for split, array in arrays.items()}
    return images, [words for words in (range_, order) if words]


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


def _choose_order(path: Path, arrays: dict[str, np.ndarray]) -> tuple[Callable[[np.ndarray], np.ndarray], str | None]:
    """What makes the arrays (n, C, H, W), and a word where that is how they came."""
    coloured = {split: array for split, array in arrays.items() if array.ndim == 4}
    may = {split: [at for at in (3, 1) if array.shape[at] in (1, 3)] for split, array in coloured.items()}
    for split, axes in may.items():
        array = arrays[split]
        if not axes:
            raise UsageError(f"{path}: '{split}' is {array.dtype} {array.shape}; {EXPECTED}")
        if len(axes) > 1 and all(len(others) > 1 for others in may.values()):
            raise UsageError(f"{path}: '{split}' is {array.shape}, of which two may be the channels: cut its images")
    first = any(axes == [1] for axes in may.values())
    order = (0, 1, 2, 3) if first else (0, 3, 1, 2)

    def turn(array: np.ndarray) -> np.ndarray:
        return array[:, None] if array.ndim == 3 else array.transpose(order)

    return turn, "channels first" if first else None


def _choose_scale(path: Path, arrays: dict[str, np.ndarray]) -> tuple[Callable[[np.ndarray], np.ndarray], str | None]:
    """What brings values to whole numbers 0 to 255, and a word where that changes them; it looks at all splits."""
    kind = next(iter(arrays.values())).dtype
    low, high = (float(of([of(array) for array in arrays.values()])) for of in (np.min, np.max))  # NaN where one is
    whole = kind.kind in "ui" or all((array == np.rint(array)).all() for array in arrays.values())
    if kind.kind == "b":
        return lambda array: array.astype(np.uint8) * np.uint8(255), f"{kind}, times 255"
    if whole and low >= 0 and (1 < high <= 255 or high == 0):
        return lambda array: array.astype(np.uint8), None if kind == np.uint8 else f"{kind} of whole numbers to 255"
    if kind.kind == "f" and low >= 0 and 0.5 < high <= 1:
        return lambda array: np.rint(array * kind.type(255)).astype(np.uint8), f"{kind} in [0, 1], times 255"
    if kind.kind == "f" and -1 <= low < -0.5 and 0.5 < high <= 1:
        return (
            lambda array: np.rint((array + kind.type(1)) * kind.type(127.5)).astype(np.uint8),
            f"{kind} in [-1, 1], brought to 0 to 255",
        )
    raise UsageError(
        f"{path}: {', '.join(repr(split) for split in arrays)} are {kind} from {low:g} to {high:g}, of which nobody "
        "knows what is black and white; write them as uint8 from 0 to 255"
    )
