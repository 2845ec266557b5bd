"""Which bundles there are: those shipped with the package, those in the cache, or a folder named."""

from __future__ import annotations

import shlex
from pathlib import Path

import backbones
from benchmark.bundles.bundle import Bundle, open_bundle
from benchmark.datasets.api import USER_SUPPLIED, Dataset
from benchmark.datasets.path import PathDataset
from benchmark.errors import UsageError, unknown_name
from benchmark.store.places import cache_root
from benchmark.store.sealed import Damaged

#: so many digits of an id are as good as the whole; tables have 16
ID_FROM = 8

SHIPPED = Path(backbones.__file__).parent / "pretrained"


def all_bundles() -> tuple[dict[str, Bundle], dict[str, str]]:
    """Good bundles by name, shipped ones first, and the reason of each damaged one.

    A name is that of the folder; of another bundle in a folder of the same name, with the start of its id behind it.
    """
    bundles: dict[str, Bundle] = {}
    damaged: dict[str, str] = {}
    for root in (SHIPPED, cache_root() / "bundles"):
        for card in sorted(root.glob("[!.]*/bundle.json")):
            try:
                bundle, name = open_bundle(card.parent), card.parent.name
                if name in bundles and bundles[name].id != bundle.id:
                    name = f"{name}-{bundle.id[:8]}"
                bundles.setdefault(name, bundle)
            except Damaged as error:
                damaged[card.parent.name] = str(error)
    return bundles, damaged


def find_bundle(dataset: Dataset | None, backbone: str, name: str | None) -> tuple[Bundle, list[str]]:
    """The bundle of that name, folder or id, else the first of the data set and backbone; and the others that match.

    Bundles of the data set's usual settings come first. Where a data set has no bundle its preview's serves.
    Raises `UsageError`.
    """
    if name is not None and (Path(name) / "bundle.json").exists():
        try:
            return open_bundle(Path(name)), []
        except Damaged as error:
            raise UsageError(str(error)) from error
    bundles, damaged = all_bundles()
    if name is not None:
        if name in bundles:
            return bundles[name], []
        begun = {bundle.id: bundle for bundle in bundles.values() if bundle.id.startswith(name)}
        if len(name) >= ID_FROM and begun:
            if len(begun) > 1:
                raise UsageError(f"the ids of several bundles begin with {name}: {', '.join(sorted(begun))}")
            return next(iter(begun.values())), []
        raise UsageError(damaged[name]) if name in damaged else unknown_name("bundle", name, bundles)
    if dataset is None:
        raise UsageError("neither a bundle nor a data set is named")
    typed = dataset.config.model_dump(mode="json", exclude_unset=True)
    own = dataset.terms == USER_SUPPLIED

    def made_of(name: str) -> list[str]:
        return [
            key
            for key, bundle in bundles.items()
            if (bundle.dataset, bundle.backbone_name) == (name, backbone)
            and (bundle.card["dataset"].get("terms") == USER_SUPPLIED) == own
            and typed.items() <= bundle.card["dataset"].get("settings", {}).items()
        ]

    def made_of_others(key: str) -> bool:
        """Its images were made with other settings than the data set's, which do not differ in what was typed."""
        usual = dataset.Config().model_dump(mode="json")
        return {**usual, **bundles[key].card["dataset"].get("settings", {})} != dataset.config.model_dump(mode="json")

    matching = sorted(made_of(dataset.name), key=made_of_others) or (
        made_of(dataset.preview) if dataset.preview else []
    )
    if not matching:
        if isinstance(dataset, PathDataset) and not dataset.path.exists():
            raise UsageError(f"--dataset {dataset.path}: no such file or folder")
        raise UsageError(
            f"there is no bundle of {dataset.label} with {backbone} (there are: {', '.join(bundles) or 'none'}); "
            f"make one with: python -m benchmark pretrain --dataset {shlex.quote(dataset.label)} --backbone {backbone}"
            + "".join(f"; damaged: {why}" for why in damaged.values())
        )
    return bundles[matching[0]], matching[1:]
