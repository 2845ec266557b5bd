"""The square that images are made, and how: what backbones take has a power of two as its side."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from typing import Literal

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from benchmark.datasets.api import DatasetConfig
from benchmark.datasets.image_files import as_tensor
from benchmark.errors import UsageError

Fit = Literal["crop", "pad", "stretch"]
#: the side of what is larger, and of what is smaller at least
LARGE, SMALL = 64, 16


class SizeConfig(DatasetConfig):
    """`size`: side in pixels of the square that images are made.

    `fit`: `crop` cuts the central square and resizes it, `pad` shrinks what is larger and pads with black, `stretch`
    resizes both sides. None: images are padded up to the next power of two, or cropped to 64 where they are larger.
    """

    size: int | None = Field(None, ge=8, le=1024)
    fit: Fit | None = None


@dataclass(frozen=True)
class Sizing:
    """How an image becomes `side` x `side`."""

    side: int
    fit: Fit

    def apply(self, image: Image.Image) -> Image.Image:
        """An image in mode L or RGB -> side x side; the very image where it is so already."""
        side, (width, height) = self.side, image.size
        if (width, height) == (side, side):
            return image
        if self.fit == "stretch":
            return image.resize((side, side), Image.Resampling.BICUBIC)
        if self.fit == "crop":
            edge = min(width, height)
            left, top = (width - edge) / 2, (height - edge) / 2
            box = (left, top, left + edge, top + edge)
            return image.resize((side, side), Image.Resampling.BICUBIC, box=box)
        longest = max(width, height)
        if longest > side:
            width, height = (max(1, round(length * side / longest)) for length in (width, height))
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        padded = Image.new(image.mode, (side, side))
        padded.paste(image, ((side - width) // 2, (side - height) // 2))
        return padded

    def apply_to_all(self, images: Tensor) -> Tensor:
        """uint8 images (n, C, H, W), each made the size; the very tensor where they have it."""
        if images.shape[2:] == (self.side, self.side):
            return images
        channels = 0 if images.shape[1] == 1 else slice(None)
        arrays = images.permute(0, 2, 3, 1)[..., channels].numpy()
        return torch.stack([as_tensor(self.apply(Image.fromarray(array))) for array in arrays])

    def describe(self, sizes: Counter[tuple[int, int]]) -> str:
        """In words, of images of these widths and heights."""
        made = f"{self.side}x{self.side}"
        if set(sizes) == {(self.side, self.side)}:
            return f"{made} as they are"
        of = show_size(next(iter(sizes))) if len(sizes) == 1 else "sizes that differ"
        if self.fit == "stretch":
            return f"{of} stretched to {made} (bicubic)"
        if self.fit == "pad":
            shrunk = "shrunk (bicubic) and " if max(map(max, sizes)) > self.side else ""
            return f"{of} {shrunk}padded to {made}"
        square = all(width == height for width, height in sizes)
        return f"{of} resized to {made} (bicubic)" if square else f"central square of {of}, resized to {made} (bicubic)"


def choose_sizing(config: SizeConfig, sizes: Counter[tuple[int, int]], of: str, prepared: bool) -> Sizing:
    """What the settings say of images with these widths and heights, else the usual for images of one size.

    `prepared`: large squares stay as they are where backbones take them. Raises `UsageError` where sizes differ and
    no setting says what to do.
    """
    if config.size is not None:
        return Sizing(config.size, config.fit or "crop")
    usual, count = max(sizes.items(), key=lambda item: item[1])
    if len(sizes) > 1:
        others = sorted(set(sizes) - {usual})
        shown = ", ".join(map(show_size, others[:3])) + (" ..." if len(others) > 3 else "")
        asked = config.model_dump(exclude_unset=True) | {"size": _crop_side(min(usual))}
        typed = f"{of}[{','.join(f'{name}={value}' for name, value in asked.items())}]"
        raise UsageError(
            f"{of}: images differ in size: {count:,} of {sum(sizes.values()):,} are {show_size(usual)}, others "
            f"{shown}; say what size all are made, as in --dataset {shlex.quote(typed)} (fit=crop, pad or stretch)"
        )
    longest = max(usual)
    if prepared and min(usual) == longest and _is_power_of_two(longest):
        return Sizing(longest, config.fit or "pad")
    if longest > LARGE:
        return Sizing(_crop_side(min(usual)), config.fit or "crop")
    return Sizing(max(SMALL, 1 << (longest - 1).bit_length()), config.fit or "pad")


def show_size(size: tuple[int, int]) -> str:
    """Width x height."""
    return "x".join(map(str, size))


def _crop_side(edge: int) -> int:
    """The side of what is cropped to its central square of this edge: nothing is enlarged but what is tiny."""
    return min(LARGE, max(SMALL, 1 << (edge.bit_length() - 1)))


def _is_power_of_two(side: int) -> bool:
    return side >= SMALL and side & (side - 1) == 0
