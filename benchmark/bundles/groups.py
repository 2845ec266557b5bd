"""Several latent groups of a hierarchy in the place of its top one: which, draws of them, and what decodes them.

    groups/NAME.safetensors   train, val, test: D draws of eps of all groups (n, D, numbers), float16, the top first
    groups/NAME.json          its card (sealed): the bundle, the groups' shapes, how many images and draws, sha256

eps_l = (z_l - mu_l(z_<l)) / sigma_l(z_<l) (`backbones/api.py`). Below the top q(eps_l | x, z_<l) hangs on the draws
above it, so that no mean and standard deviation of an image can be kept, as a bundle does of z: draws are. They lie
beside the bundle or in the cache, and can be added to a bundle at any time: no id of what is measured of z hangs on
them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from backbones.api import Backbone, Choose
from benchmark.errors import UsageError
from benchmark.store.sealed import Damaged
from priors.api import DrawnSplit


@dataclass(frozen=True)
class Groups:
    """The numbers of the groups that are latents, from 0, the top one, on, and the file of draws with its card."""

    chosen: tuple[int, ...]
    path: Path
    card: dict[str, Any]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of all groups that the hierarchy has."""
        return [tuple(shape) for shape in self.card["shapes"]]

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of one group its block; of several one vector of all their numbers."""
        if len(self.chosen) == 1:
            return self.shapes[self.chosen[0]]
        return (sum(math.prod(self.shapes[number]) for number in self.chosen),)

    @property
    def from_the_top(self) -> bool:
        """Whether no group is left out above another one."""
        return self.chosen == tuple(range(len(self.chosen)))

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the latents of a fit."""
        return {"chosen": list(self.chosen), "draws": self.card["sha256"][:16]}

    @property
    def facts(self) -> dict[str, Any]:
        """What a protocol and a record say of them."""
        counts = self.card["counts"]
        return {**self.identity, **counts, "each": self.card["each"], "of": len(self.shapes)}

    def split(self, name: str, device: torch.device) -> DrawnSplit:
        """The draws of a split's images. Raises `Damaged`."""
        try:
            with safe_open(self.path, "pt") as file:
                drawn = file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise Damaged(f"{self.path}: not readable as tensors ({error})") from error
        parts = drawn.split([math.prod(shape) for shape in self.shapes], 2)
        chosen = torch.cat([parts[number] for number in self.chosen], 2).unflatten(2, self.latent_shape)
        if not chosen.isfinite().all():
            raise Damaged(f"{self.path}: draws of {name} images that are not finite")
        return DrawnSplit(chosen.to(device))


class GroupDecoder(Backbone):
    """A frozen hierarchy whose latents are eps of some of its groups; it draws the others from its own conditionals.

    Of groups from the top on it is a `priors.api.Hierarchy` too: `walk` visits these and no further ones.
    """

    def __init__(self, of: Backbone, groups: Groups) -> None:
        super().__init__(of.image_shape, of.config)
        self.of, self._groups = of, groups
        self.latent_shape = groups.latent_shape
        self.name, self.source = of.name, of.source  # type: ignore[misc]  # which are usually a class's

    @property
    def group_shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(self.of.group_shapes[number] for number in self._groups.chosen)

    @property
    def context_shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(self.of.context_shapes[number] for number in self._groups.chosen)

    def walk(
        self, choose: Choose, n: int, generator: torch.Generator | None = None, groups: int | None = None
    ) -> Tensor:
        if not self._groups.from_the_top:
            raise ValueError("what is above a group is known where those above it are latents, too")
        return self.of.walk(choose, n, generator, groups or len(self._groups.chosen))

    def decode(self, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        eps: list[Tensor | None] = [None] * len(self.of.group_shapes)
        parts = z.flatten(1).split([math.prod(shape) for shape in self.group_shapes], 1)
        for number, shape, part in zip(self._groups.chosen, self.group_shapes, parts, strict=True):
            eps[number] = part.unflatten(1, shape)
        return self.of.decode_all(eps, generator)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        raise TypeError("the posterior of several latent groups is no Gaussian with a mean and a standard deviation")

    def loss(self, x: Tensor, generator: torch.Generator, progress: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
        raise TypeError("a frozen hierarchy is not trained")


def number_groups(asked: str | Sequence[int] | None, backbone: Backbone, of: str) -> tuple[int, ...] | None:
    """What was typed -> the groups' numbers; None for the top group alone, which bundles hold.

    `of`: what the bundle is called. Raises `UsageError` for a group that there is not.
    """
    count = len(backbone.group_shapes)
    if asked == "all":
        chosen = tuple(range(count))
    elif isinstance(asked, str) or asked is None:
        chosen = (0,)
    else:
        chosen = tuple(sorted(set(asked)))
        missing = [number for number in chosen if number >= count]
        if missing:
            there = f"groups 0 (the top) to {count - 1}" if count > 1 else "one latent group, 0"
            raise UsageError(f"--groups {','.join(map(str, asked))}: {of} has {there}, and no {missing[0]}")
    return None if chosen == (0,) else chosen
