"""Your own images: an .npz with train / val / test arrays, or a folder of images."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from benchmark.datasets.api import USER_SUPPLIED, Dataset, Images, random_split
from benchmark.datasets.folders import Read, as_tensor, read_folder
from benchmark.datasets.listing import show_name
from benchmark.datasets.npz import read_npz
from benchmark.datasets.sizes import SizeConfig, Sizing, choose_sizing
from benchmark.datasets.splits import FEWEST, SPLITS
from benchmark.errors import UsageError
from benchmark.progress import say, track

#: characters of a data set's name, which folders and files are named after
LONGEST_NAME = 80


class PathDataset(Dataset):
    """Images from a path. Its name is the path's last part in lower case, other characters as `_`; see `_name`.

    `.npz`: arrays `train`, `val`, `test` of shape (n, H, W) or (n, H, W, C) with C = 1 or 3.
    Folder: sub-folders `train`, `val`, `test`, or images that are split at random 80 / 10 / 10.
    Of either, where `val` alone is missing, a random tenth of train is taken for it.
    """

    terms = USER_SUPPLIED
    Config = SizeConfig
    config: SizeConfig

    def __init__(self, path: Path, config: SizeConfig | None = None) -> None:
        super().__init__(config)
        self.path = path
        self.name = _name(path.stem)
        self.extractor = "efficientnet-lite0"

    @property
    def label(self) -> str:
        """What was typed, so that a command that is suggested finds it again."""
        return f"{self._typed}{super().label.removeprefix(self.name)}"

    @property
    def _typed(self) -> str:
        """The path, with a separator in it where it would be taken for a name."""
        typed = str(self.path)
        return typed if len(self.path.parts) > 1 or typed.endswith(".npz") else f"./{typed}"

    def with_size(self, side: int) -> PathDataset:
        """The same images, made another size."""
        return PathDataset(self.path, SizeConfig(**{**self.config.model_dump(exclude_unset=True), "size": side}))

    def load(self, roots: list[Path]) -> Images:
        """The images; one line says how many there are, made and split how, and what is left out and why."""
        if not self.path.exists():
            raise UsageError(f"{self.path}: no such file or folder")
        read = self._read()
        splits, how = self._split(read.parts)
        for split in SPLITS:
            if len(splits[split]) < FEWEST:
                raise UsageError(f"{self.path}: '{split}' has fewer than {FEWEST} images")
        images = Images(**splits, preparation=f"{read.made}; {how}")
        grey = images.shape[0] == 1
        self.extractor = "digit-cnn" if grey else "efficientnet-lite0"
        if twins := _count_twins(images):
            read.notes.append(f"{twins:,} of {len(images.test):,} test images are in train as well")
        if not grey and all((part == part[:, :1]).all() for part in (images.train, images.val, images.test)):
            read.notes.append("saved as colour, though all are grey")
        counts = "/".join(f"{count:,}" for count in images.counts)
        what = f"{sum(images.counts):,} {'grey' if grey else 'colour'} images"
        say("; ".join([f"{show_name(self.label)}: {what}, {images.preparation} ({counts})", *read.notes]))
        return images

    def _split(self, parts: dict[str | None, Tensor]) -> tuple[dict[str, Tensor], str]:
        """The three splits of what is there, and how in words. Those that are made are the same in every call."""
        if None in parts:
            count = len(parts[None])
            if count < 3 * FEWEST:
                raise UsageError(f"{self.path}: {count} images are too few to split: {3 * FEWEST} are needed")
            part = max(FEWEST, count // 10)
            train, val, test = random_split(parts[None], count - 2 * part, part, part)
            shares = "80/10/10" if count >= 10 * FEWEST else f"{FEWEST} each to validate and test"
            return {"train": train, "val": val, "test": test}, f"random split {shares}"
        given = {split: images for split, images in parts.items() if split is not None}
        if "val" in given:
            return given, "split as given"
        count = len(given["train"])
        if count < 2 * FEWEST:
            raise UsageError(f"{self.path}: there is no val, and 'train' has fewer than {2 * FEWEST} images")
        part = max(FEWEST, count // 10)
        train, val = random_split(given["train"], count - part, part)
        return {**given, "train": train, "val": val}, "split as given, val a random tenth of train"

    def _read(self) -> Read:
        if self.path.is_dir():
            with track(f"reading {self.name}") as progress:
                return read_folder(self.path, self._typed, self.config, progress)
        parts, remarks = read_npz(self.path)
        height, width = next(iter(parts.values())).shape[2:]
        sizes = Counter({(width, height): sum(map(len, parts.values()))})
        sizing = choose_sizing(self.config, sizes, self._typed, prepared=True)
        made = {split: _resize(images, sizing) for split, images in parts.items()}
        return Read(dict(made.items()), "; ".join([*remarks, sizing.describe(sizes)]), [])


def _resize(images: Tensor, sizing: Sizing) -> Tensor:
    """uint8 images (n, C, H, W), each made the size; the very tensor where they have it."""
    if images.shape[2:] == (sizing.side, sizing.side):
        return images
    channels = 0 if images.shape[1] == 1 else slice(None)
    arrays = images.permute(0, 2, 3, 1)[..., channels].numpy()
    return torch.stack([as_tensor(sizing.apply(Image.fromarray(array))) for array in arrays])


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


def _count_twins(images: Images) -> int:
    """How many test images are in train as well, pixel for pixel."""
    train = {hash(image.numpy().tobytes()) for image in images.train}
    return sum(hash(image.numpy().tobytes()) in train for image in images.test)
