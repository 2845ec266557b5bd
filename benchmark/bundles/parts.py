"""A part of a data set's images, drawn at random and the same in every call."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from benchmark.datasets.api import Images
from benchmark.errors import UsageError
from benchmark.streams import stream


def choose_training(images: Images, count: int, of: str) -> Images:
    """Images with so many of the training ones, the same in every call. Raises `UsageError` where there are fewer."""
    there = len(images.train)
    require_images(there, count, of)
    if count == there:
        return images
    chosen = torch.randperm(there, generator=stream(torch.device("cpu"), "training images"))[:count]
    preparation = f"{images.preparation}; {count:,} of its {there:,} training images, drawn at random"
    return replace(images, train=images.train[chosen], preparation=preparation)


def require_images(there: int, count: int, of: str) -> None:
    """Raise `UsageError` where a data set has fewer training images than are asked for."""
    if count > there:
        raise UsageError(f"{of} has {there:,} training images, fewer than the {count:,} asked")


def choose_at_random(images: Tensor, count: int | None, split: str) -> Tensor:
    """A random part of `images` of that size, the same in every call; all of them where they are no more."""
    if count is None or count >= len(images):
        return images
    order = torch.randperm(len(images), generator=stream(torch.device("cpu"), "kept posteriors", split))
    return images[order[:count]]
