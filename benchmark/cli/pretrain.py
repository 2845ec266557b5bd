"""`pretrain`: train a backbone on images and write its bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.options import (
    BackboneOption,
    DataRootOption,
    DatasetOption,
    DeviceOption,
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
    keep: Annotated[
        str | None,
        typer.Option(help="Posteriors kept of train, val and test images, drawn at random, e.g. 7500,1000,5000."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the new bundle (default: in the cache).")] = None,
    plugin: PluginOption = None,
) -> None:
    """Train a backbone on images and write its bundle (stage 1; minutes to hours, resumes after a kill)."""
    from benchmark.bundles.pretrain import pretrain
    from benchmark.names import find_dataset, open_registry

    registry = open_registry(plugin or [])
    pretrain(
        registry,
        find_dataset(registry, dataset),
        registry.get("backbone", backbone),
        parse_settings(set_),
        seed,
        choose_device(device),
        data_roots(data_root),
        None if keep is None else parse_counts(keep),
        out,
    )
