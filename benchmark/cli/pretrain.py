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
    prior: Annotated[
        str | None,
        typer.Option(help="A prior to train with it, with settings where wanted: 'evalp[kl_weight=1]'."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            help="A bundle whose settings and weights to begin with; a prior that is not its own is fitted to it first."
        ),
    ] = None,
    out: NewBundleOption = None,
    plugin: PluginOption = None,
) -> None:
    """Train a backbone on images and write its bundle (stage 1; minutes to hours, resumes after a kill)."""
    from benchmark.bundles.find import find_bundle
    from benchmark.bundles.making import Asked
    from benchmark.bundles.pretrain import pretrain
    from benchmark.names import find_dataset, find_prior_choice, open_registry

    registry = open_registry(plugin or [])
    images, cls, settings = find_dataset(registry, dataset), registry.get("backbone", backbone), parse_settings(set_)
    asked = Asked(registry, images, seed, choose_device(device), data_roots(data_root), parse_counts(keep), out, count)
    choice = None if prior is None else find_prior_choice(registry, prior)
    pretrain(asked, cls, settings, choice, None if start is None else find_bundle(None, None, start)[0])
