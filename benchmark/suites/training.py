"""The VAEs that a suite needs: found where they were trained before, or shipped, else trained now."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import torch

from backbones.api import Backbone
from benchmark.bundles.bundle import Bundle, open_bundle
from benchmark.bundles.find import SHIPPED
from benchmark.bundles.making import Asked, name_parts
from benchmark.bundles.parts import require_images
from benchmark.bundles.pretrain import pretrain, require_batch, why_another
from benchmark.datasets.content import hash_images, look_at
from benchmark.datasets.path import PathDataset
from benchmark.errors import UsageError
from benchmark.names import find_dataset
from benchmark.registry import Registry
from benchmark.request import Request
from benchmark.settings import validate
from benchmark.store.places import lock
from benchmark.store.sealed import content_hash
from benchmark.suites.suite import Training


def find_trained(
    training: Training, registry: Registry, device: torch.device, roots: list[Path], bundles: Path | None = None
) -> Bundle | None:
    """The bundle of one training, None where it is not there. `bundles`: the folder that it is in (None: the cache's).

    One that is shipped under the name of its training, with as many posteriors as are kept, is everybody's.

    Raises `UsageError` for unknown names, where what has its name is of another training, and where it is known to have
    too few images to be trained.
    """
    cls = registry.get("backbone", training.backbone)
    validate(cls.Config, training.settings, f"backbone {cls.name}")
    asked = _asked(training, registry, device, roots)
    folder = _folder(training, cls, asked, bundles)
    if (SHIPPED / folder.name / "bundle.json").exists():
        shipped = open_bundle(SHIPPED / folder.name)
        if not why_another(shipped, asked, cls, training.settings):
            return shipped
    if (folder / "bundle.json").exists():
        found = open_bundle(folder)
        if why := why_another(found, asked, cls, training.settings):
            raise UsageError(why)
        return found
    _require_enough(training, cls, asked)
    return None


def _require_enough(training: Training, cls: type[Backbone], asked: Asked) -> None:
    """Raise `UsageError` where a training asks for more images than there are, or for larger batches."""
    dataset, count = asked.dataset, training.images
    counts, known, settings = dataset.counts, dataset.name in cls.recipes, training.settings
    if known:
        settings = {**cls.recipes[dataset.name][1], **settings}
    if isinstance(dataset, PathDataset):
        found = look_at(dataset)
        counts, known, settings = found.counts, True, {**cls.recipe(dataset.name, found.shape)[0], **settings}
    if count and counts:
        require_images(counts[0], count, dataset.name)
    images = count or (counts[0] if counts else None)
    if images and (known or "batch_size" in settings):  # else it is of a data set whose images are nearest in size
        require_batch(validate(cls.Config, settings, f"backbone {cls.name}").batch_size, images)


def train(
    training: Training, registry: Registry, device: torch.device, roots: list[Path], bundles: Path | None = None
) -> Bundle:
    """Train one VAE and write its bundle; a training that was interrupted goes on. Raises `UsageError`.

    `bundles`: a folder that several machines share (None: the cache's), in which one of them alone writes it: weights
    of two machines would be two bundles. What the one that writes it has in its own cache already is copied.
    """
    cls = registry.get("backbone", training.backbone)
    asked = _asked(training, registry, device, roots)
    if bundles is None:
        return pretrain(asked, cls, training.settings)
    folder = _folder(training, cls, asked, bundles)
    with lock(f"bundle-{content_hash(folder.name)[:16]}", f"{folder.name} is trained"):
        if found := find_trained(training, registry, device, roots, bundles):
            return found
        own = _folder(training, cls, asked, None)
        if not (own / "bundle.json").exists() or why_another(open_bundle(own), asked, cls, training.settings):
            return pretrain(replace(asked, out=folder), cls, training.settings)
        partly = folder.with_name(f".{folder.name}")
        shutil.copytree(own, partly, dirs_exist_ok=True)
        partly.rename(folder)
        return open_bundle(folder)


def _folder(training: Training, cls: type[Backbone], asked: Asked, bundles: Path | None) -> Path:
    image_hash = hash_images(asked.dataset) if isinstance(asked.dataset, PathDataset) else ""
    folder = asked.folder(image_hash, cls.name, *name_parts(training.settings))
    return folder if bundles is None else bundles / folder.name


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


def shared_bundles(request: Request) -> Path | None:
    """Where bundles lie that machines share, beside the records of the request; None where they share none."""
    return request.results / "cache" / "bundles" if request.shared else None
