"""Which bundles there are: those shipped with the package, those in the cache, or a folder named."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path

import backbones
from benchmark.bundles.bundle import Bundle, open_bundle
from benchmark.datasets.api import Dataset
from benchmark.datasets.content import hash_images
from benchmark.datasets.path import PathDataset
from benchmark.errors import UsageError, unknown_name
from benchmark.settings import construct
from benchmark.store.places import cache_root, expand_home
from benchmark.store.sealed import Damaged, content_hash, read_sealed, write_sealed
from benchmark.suggestion import suggest

#: so many digits of an id are as good as the whole; tables have 16
ID_FROM = 8

SHIPPED = Path(backbones.__file__).parent / "pretrained"


def all_bundles() -> tuple[dict[str, Bundle], dict[str, str]]:
    """Good bundles by name, shipped ones first, then the cache's and those written elsewhere; why others are damaged.

    A name is that of the folder; of another bundle in a folder of the same name, with the start of its id behind it.
    """
    bundles: dict[str, Bundle] = {}
    damaged: dict[str, str] = {}
    kept = [card.parent for root in _roots() for card in sorted(root.glob("[!.]*/bundle.json"))]
    for folder in [*kept, *_elsewhere()]:
        if not folder.name.isprintable():
            damaged[ascii(folder.name)] = f"{str(folder)!a}: a name that no line can show: rename the folder"
            continue
        try:
            bundle, name = open_bundle(folder), folder.name
            if name in bundles and bundles[name].id != bundle.id:
                name = f"{name}-{bundle.id[:8]}"
            bundles.setdefault(name, bundle)
        except Damaged as error:
            damaged[folder.name] = str(error)
    return bundles, damaged


def name_of(bundle: Bundle) -> str:
    """The name that means this bundle and no other; its folder where it has none."""
    found = (name for name, other in all_bundles()[0].items() if other.id == bundle.id)
    return next(found, str(bundle.path))


def _roots() -> tuple[Path, Path]:
    """The folders whose bundles go by the names of theirs."""
    return SHIPPED, cache_root() / "bundles"


def note_bundle(folder: Path) -> None:
    """Note that a bundle was written to a folder that was named, so that its data set finds it there."""
    there = os.path.abspath(folder)
    write_sealed(cache_root() / "elsewhere" / f"{content_hash(there)}.json", {"folder": there})


def _elsewhere() -> Iterator[Path]:
    """The folders that were noted and still hold a bundle."""
    for note in sorted((cache_root() / "elsewhere").glob("*.json")):
        try:
            folder = Path(str(read_sealed(note).get("folder")))
        except Damaged:
            continue
        if (folder / "bundle.json").exists():
            yield folder


def find_bundle(dataset: Dataset | None, backbone: str | None, name: str | None) -> tuple[Bundle, list[str]]:
    """The bundle of that name, folder or id, else the first of the data set and backbone; and the others that match.

    What else is given must be what a named bundle was made from. Images from a path are told by their pixels; of other
    data sets bundles of the usual settings come first, and where one has no bundle its preview's serves.
    Raises `UsageError`.
    """
    if name is not None:
        bundle = _named(name)
        _require_agreement(bundle, dataset, backbone, name)
        return bundle, []
    if dataset is None or backbone is None:
        raise UsageError("neither a bundle nor a data set with a backbone is named")
    bundles, damaged = all_bundles()
    of_backbone = {key: bundle for key, bundle in bundles.items() if bundle.backbone_name == backbone}
    if isinstance(dataset, PathDataset):
        matching, namesakes = _of_pixels(dataset, of_backbone)
    else:
        matching, namesakes = _of_name(dataset, dataset.name, of_backbone), []
        if not matching and dataset.preview:
            matching = _of_name(dataset, dataset.preview, of_backbone)
    if not matching:
        others = f"; {', '.join(namesakes)}: made from other images or with other settings" if namesakes else ""
        command = suggest("pretrain", dataset=dataset.label, backbone=backbone)
        raise UsageError(
            f"there is no bundle of {dataset.label} with {backbone} "
            f"(there are: {', '.join(bundles) or 'none'}{others}); make one with: {command}"
            + "".join(f"; damaged: {why}" for why in damaged.values())
        )
    return bundles[matching[0]], matching[1:]


def _named(name: str) -> Bundle:
    """The bundle of that folder, name or id."""
    folder = expand_home(Path(name))
    if (folder / "bundle.json").exists():
        try:
            return open_bundle(folder)
        except Damaged as error:
            raise UsageError(str(error)) from error
    bundles, damaged = all_bundles()
    if name in bundles:
        alike = sorted(str(bundle.path) for bundle in bundles.values() if bundle.path.name == name)
        if len(alike) > 1 and bundles[name].path.parent not in _roots():  # which comes first is chance
            raise UsageError(f"--bundle {name}: several bundles are called so, name one's folder: {', '.join(alike)}")
        return bundles[name]
    begun = {bundle.id: bundle for bundle in bundles.values() if bundle.id.startswith(name)}
    if len(name) >= ID_FROM and begun:
        if len(begun) > 1:
            raise UsageError(f"the ids of several bundles begin with {name}: {', '.join(sorted(begun))}")
        return next(iter(begun.values()))
    if name in damaged:
        raise UsageError(damaged[name])
    if name and folder.exists():
        raise UsageError(f"--bundle {name}: not the folder of a bundle (there is no bundle.json in it)")
    raise unknown_name("bundle", name, bundles)


def _require_agreement(bundle: Bundle, dataset: Dataset | None, backbone: str | None, name: str) -> None:
    """Raise `UsageError` where the bundle was made from something else than is named beside it."""
    if backbone is not None and backbone != bundle.backbone_name:
        raise UsageError(
            f"--backbone {backbone} contradicts --bundle {name}, whose backbone is {bundle.backbone_name}: "
            "leave one out"
        )
    if dataset is None:
        return
    if isinstance(dataset, PathDataset):
        agrees = hash_images(_as_made(dataset, bundle)) == bundle.card["dataset"]["sha256"]
    else:
        names = [dataset.name, *([dataset.preview] if dataset.preview else [])]
        agrees = any(_of_name(dataset, each, {name: bundle}) for each in names)
    if not agrees:
        made_from = bundle.card["dataset"]
        settings = ", ".join(f"{name}={value}" for name, value in made_from.get("settings", {}).items())
        of = f"your images '{bundle.dataset}'" if bundle.is_own else bundle.dataset
        raise UsageError(
            f"--dataset {dataset.label} contradicts --bundle {name}, which was made from {of}"
            f"{f' with {settings}' if settings else ''} ({made_from['preparation']}; pixels "
            f"{made_from['sha256'][:8]}): leave one out"
        )


def _of_pixels(dataset: PathDataset, bundles: dict[str, Bundle]) -> tuple[list[str], list[str]]:
    """Names of the bundles of these images, and of those of other images that were called the same."""
    own = {key: bundle for key, bundle in bundles.items() if bundle.is_own}
    named = {key: bundle for key, bundle in own.items() if bundle.dataset == dataset.name}
    # settings are those of the card where none are typed; of images that were called otherwise nobody would think so
    matching = [
        key
        for key, bundle in named.items()
        if hash_images(_as_made(dataset, bundle)) == bundle.card["dataset"]["sha256"]
    ]
    if not matching:
        sha256 = hash_images(dataset)
        matching = [key for key, bundle in own.items() if bundle.card["dataset"]["sha256"] == sha256]
    return matching, [key for key in named if key not in matching]


def _as_made(dataset: PathDataset, bundle: Bundle) -> PathDataset:
    """The same images, made as a bundle's were, where nothing else is typed."""
    kept = {name: value for name, value in bundle.card["dataset"].get("settings", {}).items() if value is not None}
    typed = dataset.config.model_dump(exclude_unset=True)
    if not kept or kept.keys() <= typed.keys():
        return dataset
    other = copy.copy(dataset)
    other.config = construct(dataset.Config, kept | typed, f"data set {dataset.label}")
    return other


def _of_name(dataset: Dataset, name: str, bundles: dict[str, Bundle]) -> list[str]:
    """Names of the bundles of a registered data set, or of its preview, that were made with the settings typed.

    Those whose images were made with other settings than its usual ones, which were not typed, come last.
    """
    typed = dataset.config.model_dump(mode="json", exclude_unset=True)
    usual = dataset.Config().model_dump(mode="json") if name == dataset.name else {}
    made_with = {key: {**usual, **bundle.card["dataset"].get("settings", {})} for key, bundle in bundles.items()}
    matching = [
        key
        for key, bundle in bundles.items()
        if bundle.dataset == name and not bundle.is_own and typed.items() <= made_with[key].items()
    ]
    return sorted(matching, key=lambda key: made_with[key] != {**usual, **typed})
