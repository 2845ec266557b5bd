"""What an image source gives: uint8 images in three fixed splits, and the terms they come under."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pluggy
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

hookimpl = pluggy.HookimplMarker("latent_prior_benchmark")


@dataclass(frozen=True)
class Images:
    """uint8 images (n, C, H, W) on the CPU. `preparation` says how they were cropped, padded and split."""

    train: Tensor
    val: Tensor
    test: Tensor
    preparation: str

    @property
    def shape(self) -> tuple[int, int, int]:
        channels, height, width = self.train.shape[1:]
        return channels, height, width

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many images train, val and test have."""
        return len(self.train), len(self.val), len(self.test)

    def content_hash(self) -> str:
        """SHA-256 over the pixels of the three splits: two sources agree if and only if this does."""
        digest = hashlib.sha256()
        for part in (self.train, self.val, self.test):
            digest.update(str(tuple(part.shape)).encode())
            digest.update(part.contiguous().numpy().tobytes())
        return digest.hexdigest()


#: the terms of images from a path: a file called mnist.npz is not MNIST
USER_SUPPLIED = "user-supplied images"


class DatasetConfig(BaseModel):
    """Settings of a data set (crop, partition): part of its bundles' cards. Most have none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Dataset(ABC):
    """A named image source, built from a validated config.

    `extractor` is the default for its FD, `terms` its licence in one line, `preview` the smaller data set whose
    bundle stands in where there is none of this one. `counts`: how many images train, val and test have at most, where
    that is known before they are read.
    """

    name: str
    extractor: str
    terms: ClassVar[str]
    preview: ClassVar[str | None] = None
    counts: tuple[int, int, int] | None = None
    Config: ClassVar[type[DatasetConfig]] = DatasetConfig
    config: DatasetConfig

    def __init__(self, config: DatasetConfig | None = None) -> None:
        self.config = config or self.Config()

    @property
    def label(self) -> str:
        """Its name, with the settings that were given: `celeba64[crop=140]`."""
        given = ",".join(f"{name}={value}" for name, value in self.config.model_dump(exclude_unset=True).items())
        return f"{self.name}[{given}]" if given else self.name

    @abstractmethod
    def load(self, roots: list[Path]) -> Images:
        """Find the images in `roots`, or download them into the last one; else raise `UsageError`."""


def random_split(images: Tensor, *counts: int) -> list[Tensor]:
    """Disjoint random parts of `images` of the given sizes, the same in every call."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return [images[part] for part in order[: sum(counts)].split(counts)]
