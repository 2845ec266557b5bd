"""Images made up for tests, and what every data set's images are held to."""

import numpy as np
import pytest
import torch

from benchmark.datasets.api import Images
from benchmark.errors import UsageError

SPLITS = ("train", "val", "test")


def noise(n: int, channels: int = 1, side: int = 32, seed: int = 0) -> torch.Tensor:
    shape = (n, channels, side, side)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def colours(n, side=64, seed=0):
    """n images (n, side, side, 3) of random blocks, with a tint each: pictures that differ in more than noise."""
    chance = np.random.default_rng(seed)
    blocks = chance.integers(0, 256, (n, side // 8, side // 8, 3)) / 2 + chance.integers(0, 128, (n, 1, 1, 3))
    return blocks.astype(np.uint8).repeat(8, 1).repeat(8, 2)


def splits_of(*sizes, side=64):
    return {split: colours(n, side, seed) for seed, (split, n) in enumerate(zip(SPLITS, sizes))}


def as_images(arrays, preparation):
    return Images(*(torch.from_numpy(arrays[split]).permute(0, 3, 1, 2) for split in SPLITS), preparation)


def counts(images):
    return [len(getattr(images, split)) for split in SPLITS]


def with_settings(cls, **settings):
    return cls(cls.Config(**settings))


def refused(dataset, roots=()):
    """The one line in which a data set refuses to load."""
    with pytest.raises(UsageError) as error:
        dataset.load(list(roots))
    assert "\n" not in str(error.value)
    return str(error.value)


def check_images(images):
    for split in SPLITS:
        part = getattr(images, split)
        assert part.dtype == torch.uint8
        assert part.ndim == 4
        assert part.device.type == "cpu"
        assert tuple(part.shape[1:]) == images.shape
        assert part.is_contiguous()
