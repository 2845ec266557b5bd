"""`export`: a fitted prior as a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.options import (
    BundleBackboneOption,
    BundleDatasetOption,
    BundleOption,
    DeviceOption,
    GroupsOption,
    PluginOption,
)
from benchmark.errors import UsageError
from benchmark.progress import say
from benchmark.protocol import Budget


def export(
    prior: Annotated[str, typer.Option(help="One prior, with settings where they are not the usual: 'ncp[steps=50]'.")],
    out: Annotated[
        Path,
        typer.Option(help="File to write: .safetensors, which `priors` draws from, or .pt2, which torch alone runs."),
    ],
    dataset: BundleDatasetOption = None,
    backbone: BundleBackboneOption = None,
    bundle: BundleOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the fit.")] = 0,
    budget: Annotated[
        Budget | None, typer.Option(help="full: each prior's own recipe; quick (default): steps capped.")
    ] = None,
    groups: GroupsOption = "top",
    device: DeviceOption = "auto",
    plugin: PluginOption = None,
) -> None:
    """Write a fitted prior to a file of its own; it is fitted first where no run has done so."""
    if out.suffix not in (".safetensors", ".pt2"):  # before anything is fitted
        raise UsageError(
            f"--out {out}: expected a name that ends in .safetensors (state and settings, from which the package "
            "priors draws) or .pt2 (a program of torch.export, which torch alone runs)"
        )
    from benchmark.library import load_prior

    fitted = load_prior(
        prior,
        seed,
        dataset=dataset,
        backbone=backbone,
        bundle=bundle,
        budget=budget,
        groups=groups,
        device=device,
        plugins=tuple(plugin or ()),
    )
    if out.suffix == ".pt2":
        fitted.export(out)
    else:
        fitted.save(out)
    say(f"{fitted.prior.name}, seed {seed}, written to {out}")
