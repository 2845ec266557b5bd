"""Reference statistics: what an extractor sees in the real images of a bundle, so that no run has to open them.

reference/<extractor>-<split>.safetensors   feature mean and covariance (float64), a random feature subsample
reference/<extractor>-<split>.json          its card (sealed): images, extractor, sha256

They belong to images, not to a backbone: every bundle of the same images uses them. Of a bundle that was trained on N
of the training images alone <split> is `train-N`: the others are as new to it as held-out ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from benchmark.bundles.bundle import Bundle
from benchmark.bundles.card import ReferenceCard, read_card
from benchmark.bundles.parts import choose_training
from benchmark.datasets.api import Dataset, Images
from benchmark.datasets.content import load_images
from benchmark.errors import UsageError
from benchmark.extractors.api import Extractor, Features
from benchmark.metrics.api import Statistics
from benchmark.progress import Progress, say, track
from benchmark.scores.frechet import feature_statistics
from benchmark.store.places import cache_root
from benchmark.store.sealed import Damaged, file_hash, write_atomic, write_sealed
from benchmark.streams import stream
from benchmark.suggestion import suggest

SUBSAMPLE = 2_000


@dataclass(frozen=True, eq=False)
class Reference:
    """Opened, verified statistics of one split; what is read is kept, with the root of its covariance."""

    path: Path
    card: dict[str, Any]
    _statistics: dict[torch.device, Statistics] = field(default_factory=dict, init=False, repr=False)
    _subsample: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False)

    def statistics(self, device: torch.device) -> Statistics:
        """Mean and covariance of the features, float64."""
        if device not in self._statistics:
            tensors = load_file(self.path)
            self._statistics[device] = Statistics(tensors["mean"].to(device), tensors["covariance"].to(device))
        return self._statistics[device]

    def subsample(self, device: torch.device) -> Tensor:
        """Features (n, d) of up to `SUBSAMPLE` images at random, in random order; float32, kept as float16."""
        if device not in self._subsample:
            self._subsample[device] = load_file(self.path)["subsample"].float().to(device)
        return self._subsample[device]


def reference_folders(bundle: Bundle) -> list[Path]:
    """Where references of a bundle are looked for: beside it, in the cache, beside its neighbours."""
    cached = cache_root() / "references" / bundle.card["dataset"]["sha256"][:16]
    return [bundle.path / "reference", cached, *sorted(bundle.path.parent.glob("[!.]*/reference"))]


def find_reference(bundle: Bundle, extractor: Extractor, split: str) -> Reference | None:
    """The reference of a split by this extractor (the very weights), or None. Raises `Damaged`."""
    of_all, count = f"{extractor.name}-{split}", bundle.card["dataset"]["counts"][split]
    found = look_up(bundle, extractor, of_all, f"{of_all}-{count}", count=count)
    return Reference(*found) if found else None


def look_up(
    bundle: Bundle, extractor: Extractor, *names: str, count: int | None = None
) -> tuple[Path, dict[str, Any]] | None:
    """The first file of these names by this extractor of this bundle's images, and its card, or None.

    `count`: of how many images it is; None of however many. Raises `Damaged` where there are damaged ones alone.
    """
    damaged = None
    for card_path in (folder / f"{name}.json" for name in names for folder in reference_folders(bundle)):
        if not card_path.exists():
            continue
        try:
            card = read_card(card_path, ReferenceCard)
        except Damaged as error:
            damaged = damaged or error
            continue
        if card["images"] != bundle.card["dataset"]["sha256"] or card["extractor"] != extractor.identity():
            continue
        if count is not None and card["count"] != count:
            continue
        path = card_path.with_suffix(".safetensors")
        if not path.is_file() or file_hash(path) != card["sha256"]:
            damaged = damaged or Damaged(f"{path}: missing, or does not match its hash in {card_path.name}")
            continue
        return path, card
    if damaged is not None:
        raise damaged
    return None


def require_images_of(bundle: Bundle, images: Images) -> None:
    """Raise `UsageError` where `images` are not those that the bundle was made from."""
    if images.content_hash() != bundle.card["dataset"]["sha256"]:
        raise UsageError(
            f"these images are not the ones that {bundle.path.name} was made from (their hash differs); "
            f"expected: {bundle.card['dataset']['preparation']}"
        )


def make_reference(
    bundle: Bundle,
    images: Images,
    extractor: Extractor,
    split: str,
    device: torch.device,
    folder: Path | None,
    progress: Progress,
) -> Reference:
    """Extract features of a split's images and write their statistics to `folder` (default: the cache).

    Of training images they are those that the bundle was trained on. Raises `UsageError` where `images` are not those
    that it was made from.
    """
    require_images_of(bundle, images)
    known = choose_training(images, bundle.card["dataset"]["counts"]["train"], bundle.dataset)
    features_of, of_split = Features(extractor, device), getattr(known, split)
    parts: list[Tensor] = []
    for batch in of_split.split(500):
        parts.append(features_of(batch))
        progress(sum(map(len, parts)), len(of_split))
    features = torch.cat(parts)
    statistics = feature_statistics(features)
    # on the CPU wherever features are taken, so that all machines keep the same images'
    chosen = torch.randperm(len(features), generator=stream(torch.device("cpu"), "reference", split)).to(device)
    tensors = {
        "mean": statistics.mean.cpu(),
        "covariance": statistics.covariance.cpu(),
        "subsample": features[chosen[:SUBSAMPLE]].half().cpu(),
    }
    part = f"-{len(of_split)}" if len(of_split) < len(getattr(images, split)) else ""
    name = f"{extractor.name}-{split}{part}"
    return Reference(*write_beside(bundle, extractor, split, len(of_split), tensors, folder, name))


def obtain_reference(
    bundle: Bundle, dataset: Dataset | None, extractor: Extractor, split: str, device: torch.device, roots: list[Path]
) -> Reference:
    """The bundle's reference, computed where it is missing and the images can be had. Raises `UsageError`."""
    try:
        reference = find_reference(bundle, extractor, split)
    except Damaged as error:
        say(f"reference is damaged and will be made again: {error}")
        reference = None
    if reference is not None:
        return reference
    missing = f"no {extractor.name} reference of {bundle.path.name}"
    if dataset is None:
        raise UsageError(f"{missing}, and {without_images(bundle)}")
    try:
        images = load_images(dataset, roots)[0]
    except UsageError as error:
        raise UsageError(f"{missing}; make it with: {reference_command(bundle, extractor, split)} ({error})") from error
    say(f"computing the {extractor.name} reference of {bundle.path.name}, {split} split, once")
    with track(f"{extractor.name} reference") as progress:
        return make_reference(bundle, images, extractor, split, device, None, progress)


def reference_command(bundle: Bundle, extractor: Extractor, split: str, out: Path | None = None) -> str:
    """The command that makes a reference; `out`: the folder, None for the cache."""
    return suggest("reference", bundle=bundle.path, extractor=extractor.name, split=split, out=out)


def without_images(bundle: Bundle) -> str:
    """That a bundle's images are not to be found, and what to name."""
    if bundle.is_own:
        return (
            f"where the images of {bundle.path.name} ('{bundle.dataset}') lie is not known here: "
            "name their path with --dataset"
        )
    return (
        f"the data set '{bundle.dataset}' of {bundle.path.name} is not registered here: name the file that registers "
        "it with --plugin, or the path of its images with --dataset"
    )


def write_beside(
    bundle: Bundle,
    extractor: Extractor,
    split: str,
    count: int,
    tensors: dict[str, Tensor],
    folder: Path | None,
    name: str,
) -> tuple[Path, dict[str, Any]]:
    """Write tensors taken of a split's images and, beside them, their card; returns the file and the card.

    `folder`: None for the cache.
    """
    path = (folder or reference_folders(bundle)[1]) / f"{name}.safetensors"
    write_atomic(path, save(tensors))
    card = {
        "dataset": bundle.dataset,
        "images": bundle.card["dataset"]["sha256"],
        "extractor": extractor.identity(),
        "split": split,
        "count": count,
        "sha256": file_hash(path),
    }
    return path, write_sealed(path.with_suffix(".json"), card)
