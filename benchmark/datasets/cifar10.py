"""CIFAR-10: 32x32 colour photographs of ten classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from benchmark.datasets.api import Dataset, DatasetConfig, Images, hookimpl, random_split
from benchmark.datasets.npz import read_npz
from benchmark.datasets.splits import SPLITS
from benchmark.errors import UsageError

ARCHIVE = "cifar10.npz"


class CIFAR10Config(DatasetConfig):
    """`test`: the official test file, or the last 10,000 images of the training file (which then trains on 38,000)."""

    test: Literal["official", "training_file"] = "official"


class CIFAR10(Dataset):
    """From torchvision's files (downloaded where that can be), or from `cifar10.npz` with the images in their order.

    `test=official`: 48,000 / 2,000 of the training file at random, and the 10,000 official test images.
    `test=training_file`: the training file in its order, cut into 38,000 / 2,000 / 10,000.
    """

    name = "cifar10"
    extractor = "efficientnet-lite0"
    counts = (48_000, 2_000, 10_000)
    terms = "CIFAR-10 (Krizhevsky), from the 80 million tiny images; research use"
    Config = CIFAR10Config
    config: CIFAR10Config

    def load(self, roots: list[Path]) -> Images:
        archive = next((root / ARCHIVE for root in roots if (root / ARCHIVE).is_file()), None)
        official = self.config.test == "official"
        if archive is not None and not official and not any(map(_has_files, roots)):
            return self._cut(_load_in_order(archive))
        source, root = _source(), next((root for root in roots if _has_files(root)), roots[-1])
        try:
            train, test = (source(str(root), train=each, download=True) for each in (True, False))
        except Exception as error:  # of every kind: no mirror answered, or a file is damaged
            raise UsageError(
                f"cifar10 is not whole in {', '.join(map(str, roots))} and could not be downloaded ({error}); "
                f"fetch {source.url} into any of these folders"
                + (
                    f" ({archive} has the training file alone: cifar10[test=training_file])"
                    if archive and official
                    else ""
                )
            ) from error
        if not official:
            return self._cut(_as_images(train.data))
        train, val = random_split(_as_images(train.data), 48_000, 2_000)
        return Images(train, val, _as_images(test.data), "32x32; training file split at random 48000/2000")

    @staticmethod
    def _cut(images: Tensor) -> Images:
        how = (
            "32x32; all of the training file, in its order 38000/2000/10000: the test images are not the official ones"
        )
        train, val, test = images.split([38_000, 2_000, 10_000])
        return Images(train, val, test, how)


def _source() -> Any:
    """torchvision's class."""
    import torchvision  # which takes as long as torch to import, and only images need it

    return torchvision.datasets.CIFAR10


def _has_files(root: Path) -> bool:
    """All of torchvision's files are there, packed or unpacked (it checks their md5)."""
    source = _source()
    names = [name for name, _ in source.train_list + source.test_list]
    unpacked = all((root / source.base_folder / name).is_file() for name in names)
    return unpacked or (root / source.filename).is_file()


def _as_images(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()


def _load_in_order(archive: Path) -> Tensor:
    """The 50,000 training images of an .npz whose arrays hold them one after the other."""
    parts, _ = read_npz(archive)
    images = torch.cat([parts[split] for split in SPLITS if split in parts])
    if images.shape != (50_000, 3, 32, 32):
        raise UsageError(f"{archive}: holds {tuple(images.shape)}; expected CIFAR-10's training file, 50000 of 32x32x3")
    return images


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [CIFAR10]
