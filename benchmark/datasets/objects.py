"""Your own images as Python objects: tensors and arrays, or data sets whose items are images.

Arrays mean what they mean in an .npz, PIL images what they mean in files: the same pixels are the same images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import TensorDataset

from benchmark.datasets.arrays import make_square, to_images
from benchmark.datasets.hugging_face import image_column, is_table
from benchmark.datasets.image_files import as_shown, is_grey
from benchmark.datasets.own import OwnDataset, Read
from benchmark.datasets.sizes import SizeConfig, choose_sizing, show_size
from benchmark.datasets.splits import FEWEST, SPLITS, choose_splits
from benchmark.errors import UsageError, words_of
from benchmark.progress import Progress, track

#: items between two words of progress
EVERY = 500
#: what the images of a part that is no split are called
WHOLE = "images"
EXPECTED = (
    "expected a tensor, an array, or a list or data set of images: each a PIL image, an array or a tensor, alone or "
    "first in a tuple"
)


class ObjectDataset(OwnDataset):
    """Images from Python objects, in splits or all under None."""

    def __init__(self, parts: dict[str | None, Any], left_out: list[str], name: str, config: SizeConfig | None) -> None:
        super().__init__(name, f"images '{name}'", config)
        self.parts, self.left_out = parts, left_out

    def _read(self) -> Read:
        with track(f"reading {self.name}") as progress:
            return read_parts(self.parts, self.left_out, self.where, self.config, progress)


def as_dataset(images: Any, name: str, config: SizeConfig | None = None) -> ObjectDataset:
    """Images from Python objects as a data set: what is no path.

    A dict with `train`, `test` and perhaps `val`, or the three in a tuple (None where there is no val), or one object,
    which is split at random 80 / 10 / 10. Each is a tensor or an array as in an .npz, a list or a map-style data set of
    PIL images, arrays or tensors, with labels behind them or without, or a Hugging Face `Dataset`. Raises `UsageError`
    for what has no splits; what an object holds is looked at by `load`.
    """
    parts, left_out = split_parts(images, f"images '{name}'", "split")
    return ObjectDataset(parts, left_out, name, config)


def split_parts(images: Any, where: str, what: str) -> tuple[dict[str | None, Any], list[str]]:
    """The objects by split, one object under None, and the names of those that are no split. Raises `UsageError`.

    `what` the names are of, for an error. Hugging Face's `validation` is val.
    """
    if isinstance(images, tuple):
        if len(images) != len(SPLITS):
            raise UsageError(
                f"{where}: a tuple of {len(images)}; expected three, (train, val, test), or a dict of them by name"
            )
        images = dict(zip(SPLITS, images))
    if not isinstance(images, Mapping):
        return {None: images}, []
    named = {str(name): part for name, part in images.items() if part is not None}
    if is_table(named.get("validation")):
        named.setdefault("val", named.pop("validation"))
    splits = choose_splits(named, what, where)
    if not splits:
        found = ", ".join(f"'{name}'" for name in named) or "nothing"
        raise UsageError(f"{where}: no {what} named train, val, test, but {found}")
    return {split: named[split] for split in splits}, [name for name in named if name not in splits]


def read_parts(
    parts: dict[str | None, Any], left_out: list[str], where: str, config: SizeConfig, progress: Progress
) -> Read:
    """The images of objects by split, all of one size, grey where all are. Raises `UsageError`, naming the item."""
    images = {split or WHOLE: _open_part(part, _place(where, split or WHOLE)) for split, part in parts.items()}
    if any(isinstance(part, np.ndarray) for part in images.values()) or not _is_picture(images, where):
        arrays = {split: _stack_arrays(part, _place(where, split), progress) for split, part in images.items()}
        read = make_square(*to_images(arrays, where), config, where)
    else:
        read = _read_pictures(images, where, config, progress)
    if left_out:
        read.notes.append(f"left out: {', '.join(map(repr, left_out))}, which are no split")
    return Read({split: read.parts[split or WHOLE] for split in parts}, read.made, read.notes)


def _place(where: str, split: str) -> str:
    return where if split == WHOLE else f"{where}, '{split}'"


def _open_part(part: Any, of: str) -> Any:
    """An array of all images, or what gives them by number. Raises `UsageError` for anything else."""
    if type(part) is TensorDataset:
        part = part.tensors[0]
    if (array := _as_array(part)) is not None:
        return array
    if is_table(part):
        part = image_column(part, of)
    try:
        count = len(part)
    except Exception as error:
        raise UsageError(f"{of}: a {type(part).__name__}, which does not say how many there are; {EXPECTED}") from error
    if isinstance(part, str | bytes) or not hasattr(part, "__getitem__"):
        raise UsageError(f"{of}: a {type(part).__name__}; {EXPECTED}")
    if count < FEWEST:
        raise UsageError(f"{of}: fewer than {FEWEST} images")
    return part


def _is_picture(images: dict[str, Any], where: str) -> bool:
    """Whether the first item is a PIL image, as then all are to be."""
    split, part = next(iter(images.items()))
    return isinstance(_image_at(part, 0, _place(where, split)), Image.Image)


def _image_at(part: Any, number: int, of: str) -> Image.Image | np.ndarray:
    """The image of an item, as it is."""
    try:
        item = part[number]
    except Exception as error:  # somebody else's code, and readers of damaged files, may raise anything
        said = " ".join(words_of(error)[:200].split()) or "without a word"
        raise UsageError(f"{of}: item {number:,} cannot be read ({type(error).__name__}: {said})") from error
    image = item[0] if isinstance(item, tuple | list) and item else item
    if isinstance(image, Image.Image):
        return image
    if (array := _as_array(image)) is None:
        raise UsageError(f"{of}: item {number:,} is a {type(image).__name__}; {EXPECTED}")
    return array


def _as_array(image: Any) -> np.ndarray | None:
    """What a tensor or an array holds; None of anything else."""
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        return (image.float() if image.dtype == torch.bfloat16 else image).numpy()
    return image if isinstance(image, np.ndarray) else None


def _images_of(part: Any, of: str, progress: Progress) -> Iterator[tuple[int, Image.Image | np.ndarray]]:
    count = len(part)
    for number in range(count):
        if number % EVERY == 0:
            progress(number, count)
        yield number, _image_at(part, number, of)


def _stack_arrays(part: Any, of: str, progress: Progress) -> np.ndarray:
    """All images as one array, as they are."""
    if isinstance(part, np.ndarray):
        return part
    arrays: list[np.ndarray] = []
    for number, array in _images_of(part, of, progress):
        if isinstance(array, Image.Image):
            raise UsageError(f"{of}: item {number:,} is a PIL image, others are arrays: images of one kind are needed")
        if arrays and (array.shape, array.dtype) != (arrays[0].shape, arrays[0].dtype):
            raise UsageError(
                f"{of}: item {number:,} is {array.dtype} {array.shape}, the first is {arrays[0].dtype} "
                f"{arrays[0].shape}: arrays of one kind and shape are needed (PIL images may differ in size)"
            )
        arrays.append(array)
    return np.stack(arrays)


def _read_pictures(images: dict[str, Any], where: str, config: SizeConfig, progress: Progress) -> Read:
    """PIL images, each made its size as soon as it is read: nothing larger is kept."""
    sizes: Counter[tuple[int, int]] = Counter()
    remarks: Counter[str] = Counter()
    read: dict[str, list[np.ndarray]] = {}
    for split, part in images.items():
        of, pictures = _place(where, split), read.setdefault(split, [])
        for number, image in _images_of(part, of, progress):
            if not isinstance(image, Image.Image):
                raise UsageError(f"{of}: item {number:,} is an array, others are PIL images: one kind is needed")
            try:
                shown, done = as_shown(image, is_grey(image))
            except Exception as error:  # of damaged bytes, which PIL reads late, anything may be said
                raise UsageError(f"{of}: item {number:,} cannot be read ({words_of(error)[:200]})") from error
            sizes[shown.size] += 1
            if len(sizes) > 1 and config.size is None:
                raise UsageError(
                    f"{of}: item {number:,} is {show_size(shown.size)}, those before are "
                    f"{show_size(next(iter(sizes)))}: make all one size, or say what they are made, as in "
                    "SizeConfig(size=64, fit='crop')"
                )
            sizing = choose_sizing(config, sizes, where, prepared=True)
            pictures.append(np.asarray(sizing.apply(shown)))
            remarks.update(done)
    grey = [picture.ndim == 2 for pictures in read.values() for picture in pictures]
    if not all(grey):
        remarks["grey ones made colour"] = sum(grey)
    parts: dict[str | None, Tensor] = {}
    for split, pictures in read.items():
        if not all(grey):
            pictures = [each if each.ndim == 3 else np.repeat(each[..., None], 3, 2) for each in pictures]
        stacked = np.stack(pictures)
        parts[split] = torch.from_numpy(
            stacked[:, None] if all(grey) else np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))
        )
    return Read(parts, sizing.describe(sizes), [f"{count:,} {remark}" for remark, count in remarks.items() if count])
