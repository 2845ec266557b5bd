"""`joint`: compare a prior that is trained with its VAE with one that is fitted afterwards."""

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
    ResultsOption,
    parse_settings,
)
from benchmark.errors import UsageError
from benchmark.machine.devices import choose_device
from benchmark.progress import say, show
from benchmark.protocol import Budget
from benchmark.store.places import data_roots


def joint(
    prior: Annotated[
        str | None,
        typer.Option(help="The prior, with settings where wanted; without it the page is written from its records."),
    ] = None,
    dataset: DatasetOption = "digits",
    backbone: BackboneOption = "conv_vae",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the VAE, NAME=VALUE (repeatable); epochs=6 or a multiple of it."),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            "--images", min=1, help="Training images, drawn at random (default: all; at most 2,000 of quick)."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 0 on.")] = 3,
    budget: Annotated[Budget, typer.Option(help="quick: few images, short scores; full: all of them.")] = "quick",
    device: DeviceOption = "auto",
    results: ResultsOption = Path("results"),
    data_root: DataRootOption = None,
    plugin: PluginOption = None,
) -> None:
    """Train a prior with its VAE and after it, with equally many steps, and compare (resumes after a kill)."""
    from benchmark.report.joint import joint_page
    from benchmark.suites.pages import write_pages

    failed = 0
    if prior is not None:
        from benchmark.bundles.making import Asked
        from benchmark.joint.arms import Comparison, compare
        from benchmark.names import find_dataset, find_prior_choice, open_registry

        registry = open_registry(plugin or [])
        asked = Asked(
            registry,
            find_dataset(registry, dataset),
            0,
            choose_device(device),
            data_roots(data_root),
            None,
            None,
            count,
        )
        comparison = Comparison(
            asked,
            registry.get("backbone", backbone),
            parse_settings(set_),
            find_prior_choice(registry, prior),
            tuple(range(seeds)),
            budget,
            device,
            data_root,
            tuple(plugin or ()),
        )
        try:
            failed = compare(comparison, results)
        finally:  # of an interrupted comparison, too, what is known so far
            damaged = write_pages(results)
    else:
        damaged = write_pages(results)
    for sentence in damaged:
        say(f"left out: {sentence}")
    page = joint_page(results)
    if not page.exists():
        raise UsageError(f"{results}: no records of a comparison here; --prior evalp makes them")
    show(page.read_text())
    say(f"written: {page}")
    raise typer.Exit(1 if failed else 0)
