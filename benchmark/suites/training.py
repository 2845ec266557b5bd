"""The VAEs that a suite needs: found where they were trained before, else trained now."""

from __future__ import annotations

from pathlib import Path

import torch

from backbones.api import Backbone
from benchmark.bundles.bundle import Bundle, open_bundle
from benchmark.bundles.making import Asked, name_parts, require_images
from benchmark.bundles.pretrain import pretrain, require_batch
from benchmark.datasets.content import hash_images, load_images
from benchmark.datasets.path import PathDataset
from benchmark.names import find_dataset
from benchmark.registry import Registry
from benchmark.settings import validate
from benchmark.suites.suite import Training


def find_trained(training: Training, registry: Registry, device: torch.device, roots: list[Path]) -> Bundle | None:
    """The bundle of one training in the cache, None where it is not there.

    Raises `UsageError` for unknown names, and where it is known to have too few images to be trained.
    """
    cls = registry.get("backbone", training.backbone)
    validate(cls.Config, training.settings, f"backbone {cls.name}")
    asked = _asked(training, registry, device, roots)
    image_hash = hash_images(asked.dataset) if isinstance(asked.dataset, PathDataset) else ""
    folder = asked.folder(image_hash, cls.name, *name_parts(training.settings))
    if (folder / "bundle.json").exists():
        return open_bundle(folder)
    _require_enough(training, cls, asked)
    return None


def _require_enough(training: Training, cls: type[Backbone], asked: Asked) -> None:
    """Raise `UsageError` where a training asks for more images than there are, or for larger batches."""
    dataset, count = asked.dataset, training.images
    if count and isinstance(dataset, PathDataset) and dataset.counts is None:
        load_images(dataset, asked.roots)
    there = dataset.counts and dataset.counts[0]
    if count and there:
        require_images(there, count, dataset.name)
    _, recipe = cls.recipes.get(dataset.name, (None, {}))
    settings = {**recipe, **training.settings}
    images = count or there
    if images and "batch_size" in settings:  # else it is that of a data set whose images are nearest in size
        require_batch(validate(cls.Config, settings, f"backbone {cls.name}").batch_size, images)


def train(training: Training, registry: Registry, device: torch.device, roots: list[Path]) -> Bundle:
    """Train one VAE and write its bundle to the cache; a training that was interrupted goes on. Raises `UsageError`."""
    cls = registry.get("backbone", training.backbone)
    return pretrain(_asked(training, registry, device, roots), cls, training.settings)


def _asked(training: Training, registry: Registry, device: torch.device, roots: list[Path]) -> Asked:
    keep = list(training.keep) if training.keep else None
    dataset = find_dataset(registry, training.dataset)
    return Asked(registry, dataset, training.seed, device, roots, keep, None, training.images)


def expected_shape(training: Training, registry: Registry) -> tuple[int, ...] | None:
    """The latents of a VAE that is not trained yet; None where its backbone has no recipe that says their shape."""
    cls = registry.get("backbone", training.backbone)
    image_shape, recipe = cls.recipes.get(find_dataset(registry, training.dataset).name, (None, {}))
    if image_shape is None:
        return None
    config = validate(cls.Config, {**recipe, **training.settings}, f"backbone {cls.name}")
    with torch.device("meta"):  # shapes without numbers
        return tuple(cls(image_shape, config).latent_shape)
