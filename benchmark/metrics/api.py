"""What a metric is, what it is given to look at, and the columns that it shows.

A metric file defines a `Metric` and returns it from a hook:

    @hookimpl
    def register_metrics():
        return [MyMetric]
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol

import pluggy
import torch
from torch import Tensor

from backbones.api import Backbone
from priors.api import Split

hookimpl = pluggy.HookimplMarker("latent_prior_benchmark")

AGGREGATE_POSTERIOR, RECONSTRUCTION, FULL_RECONSTRUCTION = (
    "aggregate_posterior",
    "reconstruction",
    "full_reconstruction",
)
#: rows that are no prior's and take part in no ranking; no prior may have one of these names
REFERENCE_ROWS = (AGGREGATE_POSTERIOR, RECONSTRUCTION, FULL_RECONSTRUCTION)
#: the kind of the record of a fit, which no metric may be called
FIT = "fit"
#: the reference rows that have images
IMAGE_ROWS = REFERENCE_ROWS
#: the fields of a protocol that decide the features of generated and of real images
IMAGE_SETTINGS = ("split", "reference_split", "extractor", "generated", "rounding")
#: those that decide the pairs of latents that two-sample metrics compare
LATENT_SETTINGS = ("split", "mmd_latents")
#: images of each side that metrics quadratic in n compare
PAIR = 2_000
#: of held-out q_agg, on which spatial latents are compared once more
PRINCIPAL_AXES = 64


@dataclass(frozen=True)
class Facts:
    """What is known of a row before anything is drawn: enough to say whether a metric applies to it.

    `protocol` holds what the table shares (`benchmark/protocol.py`); `has_train_reference`: somebody has looked at the
    training images with this protocol's extractor.
    """

    row: str
    is_reference: bool
    seed: int
    latent_shape: tuple[int, ...]
    protocol: Any
    has_train_reference: bool


@dataclass(frozen=True)
class Column:
    """How a table shows one of the values that `measure` returns; most often by its name and a heading alone.

    `value`: its name there.
    `heading`: what stands above the column, followed by `unit` and by the arrow of `better`.
    `group`: the table it stands in: `main`, `images`, `latents`, `projected` (those of latents on principal axes),
    `spread` or `time`; any other name makes a table of that name.
    `scale`: multiplied to the value. `digits`: the least number of decimals.
    `shows`: what is made of the values of all seeds:
        mean    with half a 95 % interval
        median  with exactly `digits` decimals
        count   a whole number that all seeds share
        time    a median of seconds, in milliseconds, with the quartiles of `<value>_quartiles`
        gap     the share of the gap from N(0, I) to the aggregate posterior that a row closes, in per cent
        spread  two columns: the standard deviation over seeds, and that over the draws of one fit, which the metric
                `redraws` calls `<value>_redraws`
    """

    value: str
    heading: str
    group: str
    unit: str = ""
    scale: float = 1
    better: Literal["lower", "higher"] | None = None
    digits: int = 0
    shows: Literal["mean", "median", "count", "time", "gap", "spread"] = "mean"

    def __post_init__(self) -> None:
        if not 0 <= self.digits <= 10:
            raise ValueError(f"a column's digits are {self.digits}; expected 0 to 10")

    @property
    def head(self) -> str:
        arrow = {"lower": " ↓", "higher": " ↑", None: ""}[self.better]
        return self.heading + (f", {self.unit}" if self.unit else "") + arrow


def projected(columns: list[Column]) -> list[Column]:
    """The columns of the same values on principal axes (see `Evaluation.latent_pairs`)."""
    return [
        replace(
            column,
            value=f"{column.value}_pca{PRINCIPAL_AXES}",
            heading=f"PCA-{PRINCIPAL_AXES}: {column.heading}",
            group="projected",
        )
        for column in columns
    ]


@dataclass(frozen=True)
class Statistics:
    """Mean (d,) and covariance (d, d) of features, float64."""

    mean: Tensor
    covariance: Tensor

    @functools.cached_property
    def root(self) -> Tensor:
        """The symmetric square root of the covariance."""
        values, vectors = torch.linalg.eigh(self.covariance)
        return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


class ImageReference(Protocol):
    """What an extractor sees in the real images of one split."""

    def statistics(self, device: torch.device) -> Statistics:
        """Of all of them."""

    def subsample(self, device: torch.device) -> Tensor:
        """Features (n, d) of up to 2,000 at random, in random order."""


class Evaluation(ABC):
    """One row with one seed under evaluation: what it draws, decodes to and shows to the extractor, each made once.

    `source`: the fitted prior, or what draws in its place for a reference row.
    `held_out`: q_agg of the reported split; of several latent groups draws alone. `train_posterior()`: mean and std of
    q(z|x) of training images; of several groups a draw and zero.
    `features_of`: uint8 images (n, C, H, W) -> features (n, d) of the protocol's extractor.
    `reference`, `train_reference`: what that extractor sees in the images compared with, and in training images (None
    where nobody has looked).
    `protocol`: what the table shares; a metric reads of it the fields that it names in `reads`.
    """

    source: Any
    backbone: Backbone
    held_out: Split
    train_posterior: Callable[[], tuple[Tensor, Tensor]]
    features_of: Callable[[Tensor], Tensor]
    reference: ImageReference
    train_reference: ImageReference | None
    protocol: Any
    seed: int
    device: torch.device

    @abstractmethod
    def stream(self, purpose: str) -> torch.Generator:
        """A generator at the start of this purpose's stream for this seed: all rows share it."""

    @abstractmethod
    def shared_stream(self, purpose: str) -> torch.Generator:
        """The same for what all rows and all seeds share, such as the bandwidths of a kernel."""

    @abstractmethod
    def latents(self, n: int, purpose: str) -> Tensor:
        """n latents (n, *latent_shape) of the source, checked. Raises where it broke its contract."""

    @abstractmethod
    def measure_draws(self, n: int, generator: torch.Generator) -> Any:
        """What drawing n latents costs, in the process where the source is: `peak_bytes`, and `seconds` of each repeat.

        Repeated as the protocol's `timing_repeats` and `timing_seconds` have it.
        """

    @abstractmethod
    def measure_decoding(self, n: int) -> Any:
        """What decoding n latents costs, likewise. Taken once for all rows of a seed: it belongs to none of them."""

    @abstractmethod
    def decoded(self, z: Tensor, purpose: str) -> Tensor:
        """Latents -> images rounded to 8 bits, uint8 (n, C, H, W), on the device."""

    @property
    @abstractmethod
    def features(self) -> Tensor:
        """Features (n, d) of the protocol's number of generated images."""

    @property
    @abstractmethod
    def feature_pair(self) -> tuple[Tensor, Tensor]:
        """Features (n, d) of generated and of real images, random, equally many: 2,000, or all where one has fewer."""

    @abstractmethod
    def latent_pairs(self, purpose: str) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Suffix, latents of the source, held-out ones (n, d): as they are, then, of spatial ones, on principal axes.

        The suffix is for the names of values. The source's latents are those of all two-sample metrics; the held-out
        ones, one per image, belong to the purpose.
        """

    @property
    @abstractmethod
    def principal_axes(self) -> Tensor:
        """The first 64 principal axes (d, 64) of held-out q_agg, which all rows and seeds share."""


class Metric(ABC):
    """One measurement of one fitted prior.

    `version`: raised when its value would be another, as with any constant of its module that decides it.
    `reads`: the fields of the protocol that decide its value, and so its identity.
    `reference_rows`: the reference rows that have it too.
    `machine_bound`: its value belongs to a device, a thread count and a dtype (timings).
    `values`: names of what `measure` returns beside the values of its columns; `*` stands for any characters. A value
    belongs to one metric: what another returns under a name of these, or of a column, is refused.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]]
    reference_rows: ClassVar[tuple[str, ...]] = ()
    machine_bound: ClassVar[bool] = False
    values: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def columns(cls, protocol: Any) -> list[Column] | None:
        """The columns that show its values, in order; none of them where the list is empty.

        None, where nobody has thought of columns: a table of its own shows all values that are numbers, by their names.
        """
        return None

    def applies(self, facts: Facts) -> bool:
        """Whether this row is to have it and can; where not, nothing is recorded and a later run asks again."""
        return True

    @abstractmethod
    def measure(self, evaluation: Evaluation) -> dict[str, Any]:
        """Named values (JSON-able: finite numbers, lists, strings); none where the row itself has no such thing."""
