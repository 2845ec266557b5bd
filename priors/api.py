"""What a latent prior is, what it is trained on, and how it joins the suite.

A prior file defines a `LatentPrior` and returns it from a hook:

    @hookimpl
    def register_priors():
        return [MyPrior]
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import pluggy
import torch
from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo
from torch import Tensor, nn

hookimpl = pluggy.HookimplMarker("latent_prior_benchmark")

#: numbers from which on a vector of latents has recipes of its own, where a prior has any
LONG = 1_000

#: Called by `fit` as `progress(step, total, name=value, ...)`; the values are kept in the fit's record.
Progress = Callable[..., None]


class Diverged(RuntimeError):
    """Raised by `fit` when training failed: an outcome of the method, recorded with this message as its reason."""


class PriorConfig(BaseModel):
    """Settings of a prior. A field made by `sampling_setting` can change without a new fit."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def sampling_names(cls) -> set[str]:
        return {name for name, field in cls.model_fields.items() if _marks(field).get("sampling")}

    def fit_settings(self) -> dict[str, Any]:
        """What decides a fit, and so its identity; a `later_setting` counts where it has another value than usual."""
        return self.model_dump(mode="json", exclude=self.sampling_names() | self._usual())

    def sampling_settings(self) -> dict[str, Any]:
        """What decides how a fit is sampled, by the same rule."""
        return self.model_dump(mode="json", include=self.sampling_names() - self._usual())

    def _usual(self) -> set[str]:
        """The settings that came later and have their default."""
        fields = type(self).model_fields
        later = {name for name, field in fields.items() if _marks(field).get("later")}
        return {name for name in later if getattr(self, name) == fields[name].default}


def _marks(field: FieldInfo) -> dict[str, Any]:
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


def sampling_setting(default: Any, **constraints: Any) -> Any:
    """A config field that acts on `sample` alone: fits are shared by all its values."""
    return Field(default, json_schema_extra={"sampling": True}, **constraints)


def later_setting(default: Any, sampling: bool = False, **constraints: Any) -> Any:
    """A config field added to a prior that has records: with its default it changes no number, and so counts in no id.

    `sampling`: it acts on `sample` alone. The default is then fixed for good: another one would need a new `version`.
    """
    return Field(default, json_schema_extra={"sampling": sampling, "later": True}, **constraints)


@dataclass(frozen=True)
class Between:
    """Numbers from `low` to `high`, evenly on a logarithmic scale; whole ones where both ends are.

    `why`: the reason for these ends.
    """

    low: float
    high: float
    why: str


@dataclass(frozen=True)
class OneOf:
    """One of these values, as they are typed. `why`: the reason for them."""

    values: tuple[Any, ...]
    why: str


class Split(Protocol):
    """The aggregate posterior of one split of the images, to draw from."""

    def __len__(self) -> int:
        """How many images it was made from."""

    @property
    def device(self) -> torch.device:
        """Where its draws are."""

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n draws (n, *latent_shape): an image at random (with replacement), then z ~ q(z|x)."""

    def one_each(self, n: int, generator: torch.Generator) -> Tensor:
        """One z from each of n distinct random images: independent draws, as two-sample statistics need."""


@runtime_checkable
class GaussianSplit(Split, Protocol):
    """A split that shows the posteriors of its images, each a diagonal Gaussian; a split may have draws alone.

    A prior that needs them says so: `isinstance(posterior.train, GaussianSplit)`.
    """

    def posteriors(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Means and standard deviations of q(z|x) for n distinct random images, each (n, *latent_shape)."""


class FrozenVAE(Protocol):
    """The backbone, frozen, for a prior that `needs_backbone`: gradients pass through it to what it is given."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """C, H, W."""

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, *image_shape) in [0, 1] -> mean and standard deviation of q(z|x), each (n, *latent_shape)."""

    def decode(self, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Latents (n, *latent_shape) -> images (n, *image_shape) in [0, 1]. `generator` decides any further draw."""


class Above(Protocol):
    """What the groups above say of a latent group: p(z_l | z_<l) = N(mean, std^2), each (n, *group_shape)."""

    @property
    def features(self) -> Tensor:
        """The features that say it (n, *context_shape)."""

    @property
    def mean(self) -> Tensor: ...

    @property
    def std(self) -> Tensor: ...

    def at(self, eps: Tensor) -> Tensor:
        """z = mean + std eps."""


class Hierarchy(Protocol):
    """The frozen top-down network of latent groups, for a prior that `needs_hierarchy`; gradients pass through it.

    Latents are eps_l = (z_l - mu_l(z_<l)) / sigma_l(z_<l) of the groups, flat, one behind the other, the top one first.
    """

    @property
    def group_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of each group."""

    @property
    def context_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of the features above each group."""

    def walk(
        self,
        choose: Callable[[int, Above], Tensor | None],
        n: int,
        generator: torch.Generator | None = None,
        groups: int | None = None,
    ) -> Tensor:
        """From the top down: `choose` is told a group's number and what is above it, and returns its z.

        `groups`: only the first so many are visited.
        """


@dataclass(frozen=True)
class PosteriorSplit(GaussianSplit):
    """A split whose posteriors are Gaussians: q(z) = 1/N sum_i N(z; mean_i, std_i^2)."""

    _mean: Tensor
    _std: Tensor

    def __len__(self) -> int:
        return len(self._mean)

    @property
    def device(self) -> torch.device:
        return self._mean.device

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        index = torch.randint(len(self), (n,), generator=generator, device=self._mean.device)
        return self._draw(index, generator)

    def one_each(self, n: int, generator: torch.Generator) -> Tensor:
        return self._draw(self._distinct(n, generator), generator)

    def posteriors(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        index = self._distinct(n, generator)
        return self._mean[index], self._std[index]

    def mean_entropy(self) -> float:
        """E_x[H(q(z|x))], the differential entropy of one image's posterior on average, in nats."""
        each = self._std.double().log() + 0.5 * math.log(2 * math.pi * math.e)
        return each.flatten(1).sum(1).mean().item()

    def _distinct(self, n: int, generator: torch.Generator) -> Tensor:
        """Indices (n,) of distinct random images."""
        if n > len(self):
            raise ValueError(f"{n} distinct images asked for, the split has {len(self)}")
        return torch.randperm(len(self), generator=generator, device=self._mean.device)[:n]

    def _draw(self, index: Tensor, generator: torch.Generator) -> Tensor:
        mean = self._mean[index]
        return mean + self._std[index] * torch.randn(mean.shape, generator=generator, device=mean.device)


@dataclass(frozen=True)
class DrawnSplit(Split):
    """A split of which some draws of q(z|x) are kept for each image (n, draws, *latent_shape), and nothing else."""

    _drawn: Tensor

    def __len__(self) -> int:
        return len(self._drawn)

    @property
    def device(self) -> torch.device:
        return self._drawn.device

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return self._one_of(torch.randint(len(self), (n,), generator=generator, device=self.device), generator)

    def one_each(self, n: int, generator: torch.Generator) -> Tensor:
        if n > len(self):
            raise ValueError(f"{n} distinct images asked for, the split has {len(self)}")
        return self._one_of(torch.randperm(len(self), generator=generator, device=self.device)[:n], generator)

    def first(self) -> Tensor:
        """The first draw of every image (n, *latent_shape)."""
        return self._drawn[:, 0].float()

    def _one_of(self, image: Tensor, generator: torch.Generator) -> Tensor:
        kept = self._drawn.shape[1]
        draw = torch.randint(kept, image.shape, generator=generator, device=self.device)
        return self._drawn[image, draw].float()


@dataclass(frozen=True)
class AggregatePosterior:
    """What a prior is trained on: draws from q_agg of the training images, and of held-out validation images.

    `backbone`: the VAE whose encoder made them, for a prior that declares `needs_backbone`; None for all others.
    """

    train: Split
    val: Split
    backbone: FrozenVAE | None = None

    @property
    def device(self) -> torch.device:
        return self.train.device


class Updates(Protocol):
    """The training of a prior one update at a time, for a VAE that is trained with it, whose posteriors keep moving.

    `steps`: how many of the setting `steps` one update takes. `steepest`: the longest gradient in z, in nats per unit,
    with which the prior is to pull at a posterior; infinite where its objective bounds nothing.
    """

    steps: int
    steepest: float

    def take(self, draws: Split, generator: torch.Generator) -> Any:
        """One update on draws of the aggregate posterior as it is now; what it returns is its own affair."""

    def state_dict(self) -> dict[str, Any]:
        """What its optimisers remember: tensors, numbers, lists and dicts, so that training goes on after a kill."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put that back."""


class LatentPrior(nn.Module, ABC):
    """A distribution over latents, fitted to an aggregate posterior.

    Built from the shape of one latent, e.g. (16,) or (20, 8, 8), and a validated `Config`. Parameters and
    buffers are its whole state. The harness seeds the global generator around construction, `fit` and
    `sample`; every draw that matters is to come from the generator that is passed in.

    `config`: a subclass that names its own class here (`config: MyConfig`) has its settings checked by a type checker.
    `recipes`: data set name -> (latent size, settings that the method's authors chose for it); `block_recipes` are
    those for latents that are a block C x H x W, the top group of a hierarchy.
    `quick`, `block_quick`: the largest value of a setting under `--budget quick`; the latter for blocks, beside the
    former.
    `space`: setting -> the values that `tune` tries, the same for every data set: the at most five settings that
    matter most. A sampling setting is tried on a fit that is there, so it is `OneOf` few, none of which asks for more
    than four times the recipe's network evaluations.
    `companions`: settings of further rows that are shown whenever the prior is asked for by its bare name.
    `group`: a word by which all priors of its kind are asked for: `closed_form`, `flows`, `energy`, `many_pass`,
    `one_pass`, or another.
    `by_default`: a run that names no priors has it.
    `learns`: target of `benchmark check` -> share of the Gaussian's MMD^2 that may be left over; for `standard`,
    where the Gaussian leaves nothing, the MMD^2 itself. An instance may narrow it to what its settings allow.
    `network_evaluations`: passes through any network that drawing one latent costs; a network is a module that the
    prior owns, and `check` counts what passes it. Where the number hangs on the draw: on average, or at most.
    `replayable`: drawing reads nothing back from the device and goes the same way each time, so that on a GPU it can be
    recorded as a graph, too.
    `needs_backbone`: its fit is given the frozen VAE beside the draws. `sample` and the densities are not.
    `needs_hierarchy`: it is built with a third argument, the `Hierarchy` whose groups are its latents, and may walk
    down it at any time; None where the latents are one group with nothing above it.
    `long_recipes`, `long_quick`: as of blocks, for vectors of more than `long_from` numbers, as several groups of a
    hierarchy are; without them those of other vectors hold.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    Config: ClassVar[type[PriorConfig]] = PriorConfig
    recipes: ClassVar[dict[str, tuple[int, dict[str, Any]]]] = {}
    block_recipes: ClassVar[dict[str, tuple[int, dict[str, Any]]]] = {}
    long_recipes: ClassVar[dict[str, tuple[int, dict[str, Any]]]] = {}
    quick: ClassVar[dict[str, int]] = {}
    block_quick: ClassVar[dict[str, int]] = {}
    long_quick: ClassVar[dict[str, int]] = {}
    long_from: ClassVar[int] = LONG
    space: ClassVar[dict[str, Between | OneOf]] = {}
    companions: ClassVar[tuple[dict[str, Any], ...]] = ()
    group: ClassVar[str] = ""
    by_default: ClassVar[bool] = True
    learns: dict[str, float] = {}
    network_evaluations: int = 1
    replayable: bool = False
    needs_backbone: ClassVar[bool] = False
    needs_hierarchy: ClassVar[bool] = False
    config: PriorConfig

    def __init__(self, latent_shape: tuple[int, ...], config: PriorConfig) -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        self.config = config

    @classmethod
    def recipe(cls, dataset: str, latent_shape: tuple[int, ...]) -> tuple[dict[str, Any], str | None]:
        """Settings for a data set, and a sentence where they were chosen for another one.

        An unknown data set gets the settings of the one with the nearest latent size.
        """
        recipes = cls.block_recipes if len(latent_shape) == 3 else cls.recipes
        if cls._is_long(latent_shape):
            recipes = cls.long_recipes or recipes
        if not recipes:
            return {}, None
        if dataset in recipes:
            return dict(recipes[dataset][1]), None
        size = torch.Size(latent_shape).numel()
        nearest = min(recipes, key=lambda name: abs(recipes[name][0] - size))
        return dict(recipes[nearest][1]), f"{cls.name} has no recipe for {dataset}: using that of {nearest}"

    @classmethod
    def quick_caps(cls, latent_shape: tuple[int, ...]) -> dict[str, int]:
        """The largest value of a setting under the quick budget, for latents of this shape."""
        if cls._is_long(latent_shape):
            return {**cls.quick, **cls.long_quick}
        return {**cls.quick, **cls.block_quick} if len(latent_shape) == 3 else dict(cls.quick)

    @classmethod
    def _is_long(cls, latent_shape: tuple[int, ...]) -> bool:
        return len(latent_shape) == 1 and latent_shape[0] > cls.long_from

    @abstractmethod
    def fit(
        self, posterior: AggregatePosterior, generator: torch.Generator, progress: Progress
    ) -> dict[str, Any] | None:
        """Train on draws from `posterior`. May return facts (numbers, sentences) for the record. Raises `Diverged`."""

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n latents (n, *latent_shape) on the generator's device."""

    def log_prob(self, z: Tensor) -> Tensor | None:
        """Normalised log-density (n,) in nats of what `sample` draws, at z (n, *latent_shape); None without one."""
        return None

    def energy(self, z: Tensor) -> Tensor | None:
        """Minus the model's log-density (n,) up to a constant, base measure included; None without one."""
        return None

    def updates(self) -> Updates | None:
        """What trains it together with a VAE, from the state that it has; None where `fit` alone does.

        A prior that has them has an `energy` through which gradients reach z: that is what pulls at the encoder.
        """
        return None

    def diagnostics(self, generator: torch.Generator) -> dict[str, float]:
        """Facts about its sampling that belong beside its cost, such as an effective sample size."""
        return {}
