"""Draws of all latent groups of real images: made while images are at hand, found beside a bundle or in the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from backbones.api import Backbone
from backbones.training import as_input
from benchmark.bundles.bundle import SPLITS, Bundle, require_tensors
from benchmark.bundles.card import GroupsCard, read_card
from benchmark.bundles.groups import Groups
from benchmark.bundles.parts import choose_at_random, choose_training
from benchmark.bundles.reference import require_images_of, without_images
from benchmark.datasets.api import Dataset, Images
from benchmark.datasets.content import load_images
from benchmark.errors import UsageError
from benchmark.progress import Progress, say, track
from benchmark.store.places import cache_root, lock, made_root
from benchmark.store.sealed import Damaged, file_hash, write_atomic, write_sealed
from benchmark.streams import stream
from benchmark.suggestion import suggest

FOLDER = "groups"
BATCH = 500  # images

#: the file and its card
Draws = tuple[Path, dict[str, Any]]


def on_groups(
    bundle: Bundle,
    chosen: tuple[int, ...] | None,
    backbone: Backbone,
    dataset: Dataset | None,
    roots: list[Path] | None,
    whole: bool = False,
) -> Bundle:
    """The bundle with these groups as its latents (None: z, as it is). Raises `UsageError` where there are no draws.

    `dataset`, `roots`: where its images may be found, to draw what is missing; None for `roots`: nothing is made.
    `whole`: draws of a part of the training images are missing too, where they can be made.
    """
    if chosen is None:
        return bundle
    found = find_draws(bundle, backbone.group_shapes)
    if not _are_enough(bundle, found, whole and roots is not None):
        found = _draw_missing(bundle, backbone, dataset, roots, found, whole)
    assert found is not None
    return replace(bundle, groups=Groups(chosen, *found))


def _are_enough(bundle: Bundle, found: Draws | None, whole: bool) -> bool:
    return found is not None and not (whole and _partial(bundle, found[1]))


def _draw_missing(
    bundle: Bundle,
    backbone: Backbone,
    dataset: Dataset | None,
    roots: list[Path] | None,
    found: Draws | None,
    whole: bool,
) -> Draws:
    """Draws of all images, made by one of those that want them. Raises `UsageError` where no images are at hand."""
    command, missing = suggest("groups", bundle=bundle.path), f"no draws of the latent groups of {bundle.path.name}"
    if found is not None:
        missing = f"the latent groups of {bundle.path.name} are drawn of {_partial(bundle, found[1])} alone"
    if roots is None:
        raise UsageError(f"{missing}; make them with: {command}")
    if dataset is None:
        raise UsageError(f"{missing}, and {without_images(bundle)}")
    with lock(f"groups-{bundle.id[:16]}", f"groups of {bundle.path.name} are drawn"):
        found = find_draws(bundle, backbone.group_shapes)
        if found is not None and _are_enough(bundle, found, whole):  # made meanwhile
            return found
        try:
            images = load_images(dataset, roots)[0]
        except UsageError as error:
            raise UsageError(f"{missing}; make them with: {command} ({error})") from error
        say(f"drawing the latent groups of {bundle.path.name}, once")
        with track("latent groups") as progress:
            return make_draws(bundle, backbone, images, 1, None, None, progress)


def describe_partial(bundle: Bundle) -> str | None:
    """A sentence where the draws of a bundle's groups are of a part of its training images."""
    if bundle.groups is None or not (partial := _partial(bundle, bundle.groups.card)):
        return None
    more = suggest("groups", bundle=bundle.path)
    return f"latent groups are drawn of {partial}; of all of them by: {more}"


def _partial(bundle: Bundle, card: dict[str, Any]) -> str:
    """Of how many of how many training images draws are, in words; empty where they are of all."""
    drawn, images = card["counts"]["train"], bundle.card["dataset"]["counts"]["train"]
    return f"{drawn:,} of {images:,} training images" if drawn < images else ""


def find_draws(bundle: Bundle, shapes: Sequence[Sequence[int]] | None = None) -> Draws | None:
    """The file of draws of a bundle's groups and its card; of several that of the most training images.

    `shapes`: those of the groups that its backbone has, where that is at hand. What is damaged, or of other groups, is
    named and left out.
    """
    cards: list[Draws] = []
    folders = dict.fromkeys((bundle.path / FOLDER, _folder(bundle, made_root()), _folder(bundle, cache_root())))
    for path in (path for folder in folders for path in sorted(folder.glob("*.json"))):
        with _left_out():
            card = read_card(path, GroupsCard)
            if card["bundle"] != bundle.id:
                raise Damaged(f"{path}: its draws are of another bundle, {card['bundle'][:16]}")
            if shapes is not None and card["shapes"] != [list(shape) for shape in shapes]:
                raise Damaged(f"{path}: shapes of groups that the backbone of {bundle.path.name} has not")
            cards.append((path, card))
    cards.sort(key=lambda each: (each[1]["counts"]["train"], each[1]["each"]), reverse=True)
    for path, card in cards:  # a file is read whole to be verified, so none but that which is taken
        with _left_out():
            drawn = path.with_suffix(".safetensors")
            if not drawn.is_file() or file_hash(drawn) != card["sha256"]:
                raise Damaged(f"{drawn}: missing, or does not match its hash in {path.name}")
            numbers = sum(torch.Size(shape).numel() for shape in card["shapes"])
            require_tensors(drawn, {split: [card["counts"][split], card["each"], numbers] for split in SPLITS})
            return drawn, card
    return None


@contextmanager
def _left_out() -> Iterator[None]:
    """Name what is damaged meanwhile, and go on."""
    try:
        yield
    except Damaged as error:
        say(f"draws of latent groups are damaged and left out: {error}")


@torch.no_grad()
def make_draws(
    bundle: Bundle,
    backbone: Backbone,
    images: Images,
    each: int,
    keep: list[int] | None,
    folder: Path | None,
    progress: Progress,
) -> Draws:
    """Draw eps of all groups, `each` times an image, and write the draws with their card to `folder` (None: the cache).

    `keep`: how many train, val and test images are kept (None: all), drawn at random. Raises `UsageError` where
    `images` are not those that the bundle was made from.
    """
    require_images_of(bundle, images)
    device = next(backbone.parameters()).device
    images = choose_training(images, bundle.card["dataset"]["counts"]["train"], bundle.dataset)
    kept = {
        split: choose_at_random(getattr(images, split), keep[number] if keep else None, f"{FOLDER} {split}")
        for number, split in enumerate(SPLITS)
    }
    done, total = 0, sum(map(len, kept.values()))
    parts: dict[str, torch.Tensor] = {}
    for split, of_split in kept.items():
        noise, drawn = stream(device, FOLDER, split), []
        for batch in of_split.split(BATCH):
            x = as_input(batch.to(device))
            draws = [torch.cat([eps.flatten(1) for eps in backbone.draw_all(x, noise)], 1) for _ in range(each)]
            drawn.append(torch.stack(draws, 1).half().cpu())
            done += len(batch)
            progress(done, total)
        parts[split] = torch.cat(drawn)
    content = save(parts)
    sha256 = hashlib.sha256(content).hexdigest()
    # named by what it holds: a run that reads other draws goes on with these
    path = (folder or _folder(bundle, made_root())) / f"{sha256[:16]}.safetensors"
    write_atomic(path, content)
    card = {
        "bundle": bundle.id,
        "shapes": [list(shape) for shape in backbone.group_shapes],
        "counts": {split: len(part) for split, part in parts.items()},
        "each": each,
        "sha256": sha256,
    }
    return path, write_sealed(path.with_suffix(".json"), card)


def _folder(bundle: Bundle, root: Path) -> Path:
    return root / FOLDER / bundle.id[:16]
