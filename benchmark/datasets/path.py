"""Your own images: an .npz with train / val / test arrays, or a folder of images."""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmark.datasets.api import USER_SUPPLIED, Dataset, Images, random_split
from benchmark.errors import UsageError

SPLITS = ("train", "val", "test")
#: what ends so is read as an image; torchvision's list, which takes seconds to import
IMG_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
#: characters of a data set's name, which folders and files are named after
LONGEST_NAME = 80
GREY = ("1", "L", "I;16", "I;16B")


class PathDataset(Dataset):
    """Images from a path. Its name is the path's last part in lower case, other characters as `_`; see `_name`.

    `.npz`: uint8 arrays `train`, `val`, `test` of shape (n, H, W) or (n, H, W, C) with C = 1 or 3.
    Folder: sub-folders `train`, `val`, `test`, or images that are split at random 80 / 10 / 10; each image is
    cropped to its central square and resized to 64x64 (32x32 where the smallest is smaller than 64).
    """

    terms = USER_SUPPLIED

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.name = _name(path.stem)
        self.extractor = "efficientnet-lite0"

    @property
    def label(self) -> str:
        """What was typed, so that a command that is suggested finds it again."""
        return str(self.path)

    def load(self, roots: list[Path]) -> Images:
        if not self.path.exists():
            raise UsageError(f"{self.path}: no such file or folder")
        images = self._from_folder() if self.path.is_dir() else self._from_npz()
        for split in SPLITS:
            if len(getattr(images, split)) < 2:
                raise UsageError(f"{self.path}: '{split}' has fewer than 2 images")
        self.extractor = "digit-cnn" if images.shape[0] == 1 else "efficientnet-lite0"
        return images

    def _from_npz(self) -> Images:
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                parts = {split: arrays[split] for split in SPLITS if split in arrays}
        except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            raise UsageError(f"{self.path}: not an .npz file of plain arrays ({error})") from error
        missing = [split for split in SPLITS if split not in parts]
        if missing:
            raise UsageError(f"{self.path}: no array named {', '.join(missing)} (needed: train, val, test)")
        train, val, test = (self._as_images(split, parts[split]) for split in SPLITS)
        if not train.shape[1:] == val.shape[1:] == test.shape[1:]:
            raise UsageError(f"{self.path}: train, val and test images differ in shape")
        return Images(train, val, test, "as in the file")

    def _as_images(self, split: str, array: np.ndarray) -> Tensor:
        if array.dtype != np.uint8 or array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] not in (1, 3)):
            raise UsageError(
                f"{self.path}: '{split}' is {array.dtype} {array.shape}; expected uint8 (n, H, W) or (n, H, W, 1 or 3)"
            )
        images = torch.from_numpy(array)
        return images[:, None] if array.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()

    def _from_folder(self) -> Images:
        split_folders = [self.path / split for split in SPLITS]
        given = all(folder.is_dir() for folder in split_folders)
        files = [self._image_files(folder) for folder in (split_folders if given else [self.path])]
        everything = [file for group in files for file in group]
        for folder, group in zip(split_folders if given else [self.path], files):
            if not group:
                raise UsageError(f"{folder}: no images here ({', '.join(IMG_EXTENSIONS)})")
        headers = [_read(file, lambda image: (min(image.size), image.mode)) for file in everything]
        side = 64 if min(smallest for smallest, _ in headers) >= 64 else 32
        mode = "L" if all(mode in GREY for _, mode in headers) else "RGB"
        square = functools.partial(_square, side=side, mode=mode)
        tensors = [torch.stack([_read(file, square) for file in group]) for group in files]
        how = f"central square, resized to {side}x{side} (bicubic)"
        if given:
            train, val, test = tensors
            return Images(train, val, test, how)
        (images,) = tensors
        tenth = len(images) // 10
        train, val, test = random_split(images, len(images) - 2 * tenth, tenth, tenth)
        return Images(train, val, test, f"{how}; random split 80/10/10")

    @staticmethod
    def _image_files(folder: Path) -> list[Path]:
        return sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMG_EXTENSIONS)


def _name(stem: str) -> str:
    """A word of a to z, digits, - and _; what that loses of a long name or one in another script, a hash makes up for.

    `Faces 2` -> `faces_2`; `猫` -> `images-a810bf84`.
    """
    stem = unicodedata.normalize("NFC", stem.lower())  # which file systems do not agree on
    word = re.sub(r"[^a-z0-9_-]+", "_", stem).strip("_")
    if stem.isascii() and len(word) <= LONGEST_NAME:
        return word or "images"
    digest = hashlib.sha256(stem.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{word[:LONGEST_NAME].strip('_') or 'images'}-{digest}"


def _read(file: Path, use: Callable[[Image.Image], Any]) -> Any:
    """`use` of the image in a file; raises `UsageError` naming the file where there is none."""
    try:
        with Image.open(file) as image:
            return use(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise UsageError(f"{file}: not readable as an image ({error})") from error


def _square(image: Image.Image, side: int, mode: str) -> Tensor:
    if image.mode.startswith("I;16"):  # PIL's own conversion clips at 255
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    image = image.convert(mode)
    edge = min(image.size)
    left, top = (image.width - edge) / 2, (image.height - edge) / 2
    array = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + edge, top + edge)))
    return torch.from_numpy(array.copy()).reshape(side, side, -1).permute(2, 0, 1)
