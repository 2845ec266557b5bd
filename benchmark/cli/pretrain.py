"""`pretrain`: train a backbone on images and write its bundle."""

from __future__ import annotations

from typing import Annotated

import typer

from benchmark.cli.options import (
    BackboneOption,
    DataRootOption,
    DatasetOption,
    DeviceOption,
    KeepOption,
    NewBundleOption,
    PluginOption,
    parse_counts,
    parse_settings,
)
from benchmark.machine.devices import choose_device
from benchmark.store.places import data_roots


def pretrain(
    dataset: DatasetOption,
    backbone: BackboneOption = "conv_vae",
    set_: Annotated[list[str] | None, typer.Option("--set", help="A setting, NAME=VALUE (repeatable).")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of initialisation, order and noise.")] = 0,
    device: DeviceOption = "auto",
    data_root: DataRootOption = None,
    keep: KeepOption = None,
    count: Annotated[
        int | None, typer.Option("--images", min=1, help="Training images, drawn at random (default: all).")
    ] = None,
    out: NewBundleOption = None,
    plugin: PluginOption = None,
) -> None:
    """Train a backbone on images and write its bundle (stage 1; minutes to hours, resumes after a kill)."""
    from benchmark.bundles.making import Asked
    from benchmark.bundles.pretrain import pretrain
    from benchmark.names import find_dataset, open_registry

    registry = open_registry(plugin or [])
    images, cls, settings = find_dataset(registry, dataset), registry.get("backbone", backbone), parse_settings(set_)
    asked = Asked(registry, images, seed, choose_device(device), data_roots(data_root), parse_counts(keep), out, count)
    pretrain(asked, cls, settings)
