"""Your own images, wherever they are from: which splits they have, what they are called, what is said of them."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from benchmark.datasets.api import USER_SUPPLIED, Dataset, Images, random_split
from benchmark.datasets.listing import show_name
from benchmark.datasets.sizes import SizeConfig
from benchmark.datasets.splits import FEWEST, SPLITS
from benchmark.errors import UsageError
from benchmark.progress import say

#: characters of a data set's name, which folders and files are named after
LONGEST_NAME = 80


@dataclass
class Read:
    """uint8 images (n, C, H, W) by split (all under None where there are none), how they were made, and notes."""

    parts: dict[str | None, Tensor]
    made: str
    notes: list[str]


class OwnDataset(Dataset):
    """Images that are no registered data set's. Its features follow from whether they are grey, once they are loaded.

    `where`: what an error calls the place that they are from.
    """

    terms = USER_SUPPLIED
    Config = SizeConfig
    config: SizeConfig

    def __init__(self, name: str, where: str, config: SizeConfig | None = None) -> None:
        super().__init__(config)
        self.name = _as_word(name)
        self.where = where
        self.extractor = "efficientnet-lite0"

    def load(self, roots: list[Path]) -> Images:
        """The images; one line says how many there are, made and split how, and what is left out and why."""
        read = self._read()
        splits, how = self._split(read.parts)
        for split in SPLITS:
            if len(splits[split]) < FEWEST:
                raise UsageError(f"{self.where}: '{split}' has fewer than {FEWEST} images")
        images = Images(**splits, preparation=f"{read.made}; {how}")
        self.counts = images.counts
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
                raise UsageError(f"{self.where}: {count} images are too few to split: {3 * FEWEST} are needed")
            part = max(FEWEST, count // 10)
            train, val, test = random_split(parts[None], count - 2 * part, part, part)
            shares = "80/10/10" if count >= 10 * FEWEST else f"{FEWEST} each to validate and test"
            return {"train": train, "val": val, "test": test}, f"random split {shares}"
        given = {split: images for split, images in parts.items() if split is not None}
        if "val" in given:
            return given, "split as given"
        count = len(given["train"])
        if count < 2 * FEWEST:
            raise UsageError(f"{self.where}: there is no val, and 'train' has fewer than {2 * FEWEST} images")
        part = max(FEWEST, count // 10)
        train, val = random_split(given["train"], count - part, part)
        return {**given, "train": train, "val": val}, "split as given, val a random tenth of train"

    @abstractmethod
    def _read(self) -> Read:
        """The images as they are found, all of one size. Raises `UsageError`."""


def _as_word(stem: str) -> str:
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
