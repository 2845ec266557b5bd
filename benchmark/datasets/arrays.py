"""Arrays of numbers -> uint8 images: other numbers are brought to 0 to 255 where there is no doubt how."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmark.datasets.own import Read
from benchmark.datasets.sizes import SizeConfig, choose_sizing
from benchmark.datasets.splits import FEWEST
from benchmark.errors import UsageError

EXPECTED = "expected 0 to 255 of shape (n, H, W) or (n, H, W, 1 or 3)"


def to_images(arrays: dict[str, np.ndarray], where: str) -> tuple[dict[str, Tensor], list[str]]:
    """Arrays by split -> uint8 images (n, C, H, W), and what was done to them.

    Raises `UsageError` naming `where` they are from and what is wrong with them.
    """
    dtypes = {split: array.dtype for split, array in arrays.items()}
    for split, array in arrays.items():
        if array.ndim not in (3, 4) or array.dtype.kind not in "buif":
            raise UsageError(f"{where}: '{split}' is {array.dtype} {array.shape}; {EXPECTED}")
        if len(array) < FEWEST:
            raise UsageError(f"{where}: '{split}' has fewer than {FEWEST} images")
        if not array.size:
            raise UsageError(f"{where}: '{split}' is {array.shape}: its images have no pixel")
    if len(set(dtypes.values())) > 1:
        each = ", ".join(f"'{split}' is {dtype} {arrays[split].shape}" for split, dtype in dtypes.items())
        raise UsageError(f"{where}: {each}: arrays of one kind are needed")
    turn, order = _choose_order(where, arrays)
    if len({turn(array).shape[1:] for array in arrays.values()}) > 1:
        each = ", ".join(f"{split} {array.shape}" for split, array in arrays.items())
        raise UsageError(f"{where}: images differ in shape: {each}")
    scale, range_ = _choose_scale(where, arrays)
    images = {split: torch.from_numpy(np.ascontiguousarray(scale(turn(array)))) for split, array in arrays.items()}
    return images, [words for words in (range_, order) if words]


def make_square(images: dict[str, Tensor], remarks: list[str], config: SizeConfig, label: str) -> Read:
    """Images of one shape, made the size that backbones take or that was asked for."""
    height, width = next(iter(images.values())).shape[2:]
    sizes = Counter({(width, height): sum(map(len, images.values()))})
    sizing = choose_sizing(config, sizes, label, prepared=True)
    made = {split: sizing.apply_to_all(part) for split, part in images.items()}
    return Read(dict(made.items()), "; ".join([*remarks, sizing.describe(sizes)]), [])


def _choose_order(where: str, arrays: dict[str, np.ndarray]) -> tuple[Callable[[np.ndarray], np.ndarray], str | None]:
    """What makes the arrays (n, C, H, W), and a word where that is how they came."""
    coloured = {split: array for split, array in arrays.items() if array.ndim == 4}
    may = {split: [at for at in (3, 1) if array.shape[at] in (1, 3)] for split, array in coloured.items()}
    for split, axes in may.items():
        array = arrays[split]
        if not axes:
            raise UsageError(f"{where}: '{split}' is {array.dtype} {array.shape}; {EXPECTED}")
        if len(axes) > 1 and all(len(others) > 1 for others in may.values()):
            raise UsageError(f"{where}: '{split}' is {array.shape}, of which two may be the channels: cut its images")
    first = any(axes == [1] for axes in may.values())
    order = (0, 1, 2, 3) if first else (0, 3, 1, 2)

    def turn(array: np.ndarray) -> np.ndarray:
        return array[:, None] if array.ndim == 3 else array.transpose(order)

    return turn, "channels first" if first else None


def _choose_scale(where: str, arrays: dict[str, np.ndarray]) -> tuple[Callable[[np.ndarray], np.ndarray], str | None]:
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
        f"{where}: {', '.join(repr(split) for split in arrays)} are {kind} from {low:g} to {high:g}, of which nobody "
        "knows what is black and white; write them as uint8 from 0 to 255"
    )
