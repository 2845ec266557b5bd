"""What a user types -> the thing that it names: plugins, a data set, a bundle, metrics."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmark.bundles.bundle import Bundle
from benchmark.bundles.find import find_bundle
from benchmark.datasets.api import Dataset
from benchmark.datasets.path import PathDataset
from benchmark.errors import UsageError
from benchmark.metrics.api import Metric
from benchmark.progress import say
from benchmark.registry import PATIENCE, Registry
from benchmark.settings import parse_named, validate

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
        return PathDataset(path, validate(PathDataset.Config, _path_settings(name), f"data set {path}"))
    typed = name
    try:
        asked = parse_named(name, "--dataset")
        if len(asked) != 1 or len(asked[0][1]) != 1:
            raise UsageError(f"--dataset {name}: expected one data set with one value for each setting")
        name, (settings,) = asked[0]
        cls = registry.get("dataset", name)
    except UsageError as error:
        folder = Path(name).is_dir()  # with the brackets that are its own, or without settings
        raise UsageError(f"{error}; the folder is ./{typed}" if folder else str(error)) from error
    return cls(validate(cls.Config, settings, f"data set {name}"))


def choose_bundle(registry: Registry, dataset: str, backbone: str, name: str | None) -> Bundle:
    """The bundle of that name or folder, else that of the data set and backbone; of several, a line says which."""
    registry.get("backbone", backbone)
    images = None if name else find_dataset(registry, dataset)
    bundle, others = find_bundle(images, backbone, name)
    if images is not None and bundle.dataset != images.name:
        preparation = bundle.card["dataset"]["preparation"]
        say(f"there is no bundle of {images.name} here; {bundle.path.name} stands in: {preparation}")
    if others:
        say(f"using bundle {bundle.path.name}; there are also {', '.join(others)} (--bundle NAME)")
    return bundle


def find_dataset_of(registry: Registry, typed: str, bundle: Bundle) -> Dataset | None:
    """The image source of a bundle: the path that was typed, or the data set that its card names, if there is one.

    Its images are made as the card says, where nothing else is typed.
    """
    if (path := _as_path(typed)) is not None:
        kept = {name: value for name, value in bundle.card["dataset"].get("settings", {}).items() if value is not None}
        return PathDataset(path, validate(PathDataset.Config, kept | _path_settings(typed), f"data set {path}"))
    try:
        cls = registry.get("dataset", bundle.dataset)
    except UsageError:
        return None
    return cls(cls.Config(**bundle.card["dataset"].get("settings", {})))


def require_dataset_of(registry: Registry, typed: str, bundle: Bundle) -> Dataset:
    """The same; raises `UsageError` where there is none."""
    source = find_dataset_of(registry, typed, bundle)
    if source is None:
        raise UsageError(f"no data set is called '{bundle.dataset}': name the path of its images with --dataset")
    return source


def choose_metrics(registry: Registry, words: Iterable[str] | None) -> list[type[Metric]]:
    """Metrics by name, or `scores` and `timings` for those bound to no machine and to one; all where none are named."""
    at_hand = [registry.get("metric", name) for name in registry.at_hand("metric")]
    kinds = {word: [cls for cls in at_hand if cls.machine_bound == bound] for word, bound in BOUND_TO_MACHINE.items()}
    chosen = [
        cls for word in (kinds if words is None else words) for cls in kinds.get(word) or [registry.get("metric", word)]
    ]
    return list(dict.fromkeys(chosen))


def _as_path(dataset: str) -> Path | None:
    """The path of a typed data set, without its settings: what ends in .npz or holds a separator. None of a name."""
    path = dataset[: len(dataset) - len(_settings_in(dataset))]
    return Path(path).expanduser() if path.endswith(".npz") or "/" in path or "\\" in path else None


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
        dataset[bracket:] if bracket >= 0 and dataset.endswith("]") and not Path(dataset).expanduser().exists() else ""
    )
