"""Priors of the latent groups of a hierarchy that walk down its frozen top-down network, and what they share.

Their latents are eps of all groups, flat, one group behind the other; what is above a group are the features of the
network there. Without a hierarchy they have one group, with nothing above it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from priors.api import Above, AggregatePosterior, Hierarchy, LatentPrior, PriorConfig

MEASURE_FROM = 1_000  # draws that scale the features
SMALLEST = 1e-3  # of a standard deviation: a feature that never changes is divided by this


#: number of a group, scaled features above it, and a generator -> its eps
DrawBelow = Callable[[int, Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Given:
    """What is above a group, as it is given: an `Above`."""

    features: Tensor
    mean: Tensor
    std: Tensor

    def at(self, eps: Tensor) -> Tensor:
        return self.mean + self.std * eps


@dataclass(frozen=True)
class OneGroup:
    """A hierarchy of one group: a block C x H x W, or a vector, which latents of any other shape are too."""

    latent_shape: tuple[int, ...]

    @property
    def group_shapes(self) -> tuple[tuple[int, ...], ...]:
        return (self.latent_shape if len(self.latent_shape) == 3 else (math.prod(self.latent_shape),),)

    @property
    def context_shapes(self) -> tuple[tuple[int, ...], ...]:
        return ((0, *self.group_shapes[0][1:]),)

    def walk(
        self,
        choose: Callable[[int, Above], Tensor | None],
        n: int,
        generator: torch.Generator | None = None,
        groups: int | None = None,
    ) -> Tensor:
        z = choose(0, Given(torch.empty(n, *self.context_shapes[0]), torch.zeros(()), torch.ones(())))
        assert z is not None
        return z


class Scaling(nn.Module):
    """Features (n, channels, ...) with mean 0 and standard deviation 1 in each channel of those given to `measure`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def measure(self, features: Tensor) -> None:
        if len(self.mean):
            each = features.transpose(0, 1).flatten(1)
            self.mean.copy_(each.mean(1))
            self.std.copy_(each.std(1).clamp_min(SMALLEST))

    def forward(self, features: Tensor) -> Tensor:
        if not len(self.mean):
            return features
        shape = len(self.mean), *[1] * (features.dim() - 2)
        return (features - self.mean.view(shape)) / self.std.view(shape)


class HierarchyPrior(LatentPrior):
    """A prior over the groups of a `hierarchy`, which is frozen and no part of its state.

    Raises ValueError where the latents are not those groups.
    """

    needs_hierarchy = True
    long_from = 100  # a vector so long is of several blocks, whose networks are convolutions
    scalings: nn.ModuleList

    def __init__(self, latent_shape: tuple[int, ...], config: PriorConfig, hierarchy: Hierarchy | None = None) -> None:
        super().__init__(latent_shape, config)
        self._held = (hierarchy or OneGroup(self.latent_shape),)  # in a tuple: a network of its own would be its state
        self.shapes, self.context_shapes = self.hierarchy.group_shapes, self.hierarchy.context_shapes
        self.sizes = [math.prod(shape) for shape in self.shapes]
        if sum(self.sizes) != math.prod(self.latent_shape):
            raise ValueError(f"latents {self.latent_shape} are not those of groups {self.shapes}")
        self.scalings = nn.ModuleList(Scaling(shape[0]) for shape in self.context_shapes)

    @property
    def hierarchy(self) -> Hierarchy:
        return self._held[0]

    def apart(self, z: Tensor) -> list[Tensor]:
        """Latents (n, *latent_shape), or flat, -> eps (n, *group_shape) of each group."""
        parts = z.flatten(1).split(self.sizes, 1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def together(self, eps: Sequence[Tensor]) -> Tensor:
        """The inverse of `apart`."""
        return torch.cat([part.flatten(1) for part in eps], 1).unflatten(1, self.latent_shape)

    def measure_features(self, posterior: AggregatePosterior, generator: torch.Generator) -> None:
        """Scale features as they are above draws of q_agg."""
        for scaling, features in zip(self.scalings, self._features(posterior.train.sample(MEASURE_FROM, generator))):
            cast(Scaling, scaling).measure(features)

    def contexts(self, z: Tensor) -> list[Tensor]:
        """Scaled features (n, *context_shape) above each group of given latents, through which gradients reach z."""
        return [scaling(features) for scaling, features in zip(self.scalings, self._features(z))]

    def walk_down(self, choose: Callable[[int, Tensor], Tensor], n: int, device: torch.device) -> list[Tensor]:
        """eps (n, *group_shape) of each group, chosen by its number and the scaled features above; gradients pass."""
        chosen: list[Tensor] = []

        def place(number: int, above: Above) -> Tensor:
            scaling = cast(Scaling, self.scalings[number])
            chosen.append(choose(number, scaling(above.features.to(device))))
            return above.at(chosen[-1])

        self.hierarchy.walk(place, n)
        return chosen

    def _features(self, z: Tensor) -> list[Tensor]:
        eps, seen = self.apart(z), list[Tensor]()

        def choose(number: int, above: Above) -> Tensor:
            seen.append(above.features.to(z.device))
            return above.at(eps[number])

        self.hierarchy.walk(choose, len(z))
        return seen


class GroupByGroup(HierarchyPrior):
    """A prior with a model of each group given those above it: it is drawn from on one walk down the hierarchy."""

    @abstractmethod
    def draw_below(self, number: int, context: Tensor, generator: torch.Generator) -> Tensor:
        """eps (n, *group_shape) of a group, below scaled features (n, *context_shape)."""

    @torch.no_grad()
    def descend(self, n: int, generator: torch.Generator, draw: DrawBelow | None = None) -> Tensor:
        """n latents (n, *latent_shape), each group drawn below those that were drawn before; `draw`: by what."""
        chosen = draw or self.draw_below
        eps = self.walk_down(lambda number, context: chosen(number, context, generator), n, generator.device)
        return self.together(eps)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return self.descend(n, generator)

    @torch.no_grad()
    def redraw(self, z: Tensor, number: int, generator: torch.Generator) -> Tensor:
        """eps (n, *group_shape) of one group, drawn anew below the groups above it in z."""
        return self.draw_below(number, self.contexts(z)[number], generator)

    def log_prob_by_group(self, z: Tensor) -> Tensor | None:
        """log p(z_l | z_<l) (n, groups) in nats, in eps, of what `sample` draws; None without one."""
        return None
