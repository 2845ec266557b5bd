"""What a user types -> the thing that it names: plugins, a data set, a bundle, metrics."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmark.bundles.bundle import Bundle
from benchmark.bundles.find import all_bundles, find_bundle
from benchmark.bundles.joint import PriorChoice
from benchmark.bundles.reference import without_images
from benchmark.datasets.api import Dataset
from benchmark.datasets.content import last_seen
from benchmark.datasets.own import OwnDataset
from benchmark.datasets.path import PathDataset
from benchmark.errors import UsageError
from benchmark.metrics.api import Metric
from benchmark.progress import say
from benchmark.registry import PATIENCE, Registry
from benchmark.settings import construct, parse_named, validate
from benchmark.store.places import expand_home

#: what a run is on where nothing else is named
DATASET, BACKBONE = "digits", "conv_vae"
#: words that stand for all metrics whose values belong to no machine, and to one
BOUND_TO_MACHINE = {"scores": False, "timings": True}


def open_registry(plugins: Iterable[Path], apart: bool = False, patience: float | None = None) -> Registry:
    """The registry with those plugin files; one that is broken is named before anything is done without it."""
    registry = Registry(list(plugins), apart=apart, patience=patience or PATIENCE)
    registry.at_hand("prior")  # which reads them
    for origin, why in registry.broken.items():
        say(f"broken plugin {origin}: {why}")
    return registry


def find_dataset(registry: Registry, name: str) -> Dataset:
    """A registered data set or a path, with settings where they are given. Raises `UsageError`."""
    if (path := _as_path(name)) is not None:
        return _find_images(registry, path, _path_settings(name))
    typed = name
    try:
        asked = parse_named(name, "--dataset")
        if len(asked) != 1 or len(asked[0][1]) != 1:
            raise UsageError(f"--dataset {name}: expected one data set with one value for each setting")
        name, (settings,) = asked[0]
        cls = registry.get("dataset", name)
    except UsageError as error:
        # with the brackets that are its own, or without settings
        there = Path(typed[: len(typed) - len(_settings_in(typed))]).is_dir()
        folder = f"; the folder is {shlex.quote(f'./{typed}')}" if there else ""
        raise UsageError(f"{error}{folder}") from error
    return cls(validate(cls.Config, settings, f"data set {name}"))


def _find_images(registry: Registry, path: Path, settings: dict[str, Any]) -> PathDataset:
    images = PathDataset(path, validate(PathDataset.Config, settings, f"data set {path}"))
    set_apart(registry, images)
    return images


def set_apart(registry: Registry, images: OwnDataset) -> None:
    """Give images of the user's own another name than any registered data set has.

    Recipes and published figures go by names.
    """
    if images.name in registry.at_hand("dataset"):
        images.name = f"own_{images.name}"


def choose_bundle(registry: Registry, dataset: str | None, backbone: str | None, name: str | None) -> Bundle:
    """The bundle of that name or folder, else that of the data set and backbone; of several, a line says which.

    What is None is the bundle's own, else the usual one. Raises `UsageError`, also where they contradict each other.
    """
    if name is None:
        dataset = DATASET if dataset is None else dataset
        backbone = BACKBONE if backbone is None else backbone
    if backbone is not None:
        _require_backbone(registry, backbone)
    images = None if dataset is None else find_dataset(registry, dataset)
    bundle, others = find_bundle(images, backbone, name)
    if images is not None and not bundle.is_own and bundle.dataset == images.preview:
        preparation = bundle.card["dataset"]["preparation"]
        say(f"there is no bundle of {images.name} here; {bundle.path.name} stands in: {preparation}")
    if others:
        say(f"using bundle {bundle.path.name}; there are also {', '.join(others)} (--bundle NAME)")
    return bundle


def _require_backbone(registry: Registry, name: str) -> None:
    """Raise `UsageError` where it is neither a class's name nor that of a VAE that was wrapped as a program."""
    try:
        registry.get("backbone", name)
    except UsageError as error:
        wrapped = {bundle.backbone_name for bundle in all_bundles()[0].values()} - {*registry.all("backbone")}
        if name not in wrapped:
            names = ", ".join(sorted(wrapped))
            raise UsageError(f"{error}; wrapped: {names}" if wrapped else str(error)) from error


def find_dataset_of(registry: Registry, typed: str | None, bundle: Bundle) -> Dataset | None:
    """The image source of a bundle: the path that was typed, else what its card names; None where it is not known here.

    Its images are made as the card says, where nothing else is typed. A path is in no card: images of one are looked
    for where they were last seen.
    """
    kept = bundle.card["dataset"].get("settings", {})
    if typed is not None and (path := _as_path(typed)) is not None:
        given = {name: value for name, value in kept.items() if value is not None}
        return _find_images(registry, path, given | _path_settings(typed))
    try:
        if bundle.is_own:
            seen = last_seen(bundle.card["dataset"]["sha256"])
            return find_dataset(registry, seen) if seen else None
        cls = registry.get("dataset", bundle.dataset)
        return cls(construct(cls.Config, kept, f"data set {bundle.dataset}"))
    except UsageError:
        return None


def require_dataset_of(registry: Registry, typed: str | None, bundle: Bundle) -> Dataset:
    """The same; raises `UsageError` where there is none."""
    source = find_dataset_of(registry, typed, bundle)
    if source is None:
        raise UsageError(without_images(bundle))
    return source


def choose_metrics(registry: Registry, words: Iterable[str] | None) -> list[type[Metric]]:
    """Metrics by name, or `scores` and `timings` for those bound to no machine and to one; all where none are named."""
    at_hand = [registry.get("metric", name) for name in registry.at_hand("metric")]
    kinds = {word: [cls for cls in at_hand if cls.machine_bound == bound] for word, bound in BOUND_TO_MACHINE.items()}
    chosen = [
        cls for word in (kinds if words is None else words) for cls in kinds.get(word) or [registry.get("metric", word)]
    ]
    return list(dict.fromkeys(chosen))


def find_prior_choice(registry: Registry, typed: str) -> PriorChoice:
    """One prior to be trained with a VAE, with its settings. Raises `UsageError`."""
    asked = parse_named(typed, "--prior")
    if len(asked) != 1 or len(asked[0][1]) != 1:
        raise UsageError(f"--prior {typed}: expected one prior with one value for each setting")
    name, (settings,) = asked[0]
    cls = registry.get("prior", name)
    return PriorChoice(cls, settings, registry.source(cls))


def _as_path(dataset: str) -> Path | None:
    """The path of a typed data set, without its settings: what ends in .npz or holds a separator. None of a name."""
    path = dataset[: len(dataset) - len(_settings_in(dataset))]
    return expand_home(Path(path)) if path.endswith(".npz") or "/" in path or "\\" in path else None


def _path_settings(dataset: str) -> dict[str, Any]:
    """The settings typed behind a path, one value for each."""
    typed = _settings_in(dataset)
    ((_, choices),) = parse_named(f"path{typed}", f"--dataset {dataset}:")
    if len(choices) != 1:
        raise UsageError(f"--dataset {dataset}: expected one value for each setting")
    return choices[0]


def _settings_in(dataset: str) -> str:
    """The brackets at the end of a typed data set; none where they belong to the name of what is there."""
    bracket = dataset.rfind("[")
    return (
        dataset[bracket:] if bracket >= 0 and dataset.endswith("]") and not expand_home(Path(dataset)).exists() else ""
    )
