"""What a card must say to be used: a bundle may have been made elsewhere, by another version, or by hand.

A seal tells that a card is as it was written, not that it makes sense. Names become folders of records, and sizes
become tensors, so both are held to bounds before anything is done with them. What else a card says is left alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmark.store.schema import describe_problem
from benchmark.store.sealed import Damaged, read_sealed

#: a word that is one folder wherever it stands in a path
Name = Annotated[str, Field(pattern=r"^[\w-]+$", max_length=200)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=1, le=2**31)]


class _Card(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Counts(_Card):
    train: Size
    val: Size
    test: Size


class _Dataset(_Card):
    name: Name
    settings: dict[str, Any] = {}
    image_shape: list[Size] = Field(min_length=3, max_length=3)
    counts: _Counts
    preparation: str
    terms: str | None = None
    sha256: Hash
    extractor: Name


class _Backbone(_Card):
    """`class`: the name its class goes by, where it has another; the last three are of one trained elsewhere."""

    name: Name
    class_: Name | None = Field(None, alias="class")
    source: str | None = None
    config: dict[str, Any]
    file: str | None = Field(None, max_length=200)
    reading: dict[str, Any] = {}
    probe: list[float] | None = None


class _Training(_Card):
    seed: int
    best_epoch: int | None = None


class BundleCard(_Card):
    """bundle.json, less its schema and seal."""

    dataset: _Dataset
    backbone: _Backbone
    training: _Training
    latent_shape: list[Size] = Field(min_length=1, max_length=8)
    posterior_counts: _Counts
    parts: dict[str, Hash]


class ReferenceCard(_Card):
    """The card of what an extractor saw in a split."""

    images: Hash
    extractor: dict[str, Any]
    count: Size
    sha256: Hash


class GroupsCard(_Card):
    """The card of draws of latent groups."""

    bundle: Hash
    shapes: list[Annotated[list[Size], Field(min_length=1, max_length=8)]] = Field(min_length=1)
    counts: _Counts
    each: Size
    sha256: Hash


Card = TypeVar("Card", bound=_Card)


def read_card(path: Path, model: type[Card]) -> dict[str, Any]:
    """A sealed card as it stands in its file. Raises `Damaged`, naming the file and the first field that is wrong."""
    card = read_sealed(path)
    check_card(path, card, model)
    return card


def check_card(path: Path, card: dict[str, Any], model: type[Card]) -> None:
    """Raise `Damaged`, as `read_card` does, where a card that was read is not what it must be."""
    try:
        model.model_validate(card)
    except ValidationError as error:
        raise Damaged(f"{path}: {describe_problem(error)}") from error
