"""The commands. Each checks what was typed, calls one function, and turns errors into one line and an exit code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import torch
import typer

from benchmark.datasets.api import Dataset
from benchmark.datasets.path import PathDataset
from benchmark.errors import UsageError
from benchmark.plugins import Registry
from benchmark.progress import say
from benchmark.settings import parsed

app = typer.Typer(
    help="A benchmark of latent priors for frozen, pretrained VAEs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DatasetOption = Annotated[str, typer.Option("--dataset", help="digits, mnist, fashion_mnist, or a path (.npz or folder).")]
BackboneOption = Annotated[str, typer.Option("--backbone", help="Backbone, by name.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
PluginOption = Annotated[Optional[list[Path]], typer.Option("--plugin", help="A Python file with a plugin (repeatable).")]
DataRootOption = Annotated[
    Optional[Path], typer.Option("--data-root", help="Folder with image data (also: $LATENT_PRIOR_DATA).")
]


@app.callback()
def options() -> None:
    """A benchmark of latent priors for frozen, pretrained VAEs."""


def _device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {name}: expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: no CUDA device is available here; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _dataset(registry: Registry, name: str) -> Dataset:
    """A registered data set, or a path: what ends in .npz, holds a separator or is a folder here."""
    if name.endswith(".npz") or "/" in name or "\\" in name:
        return PathDataset(Path(name))
    return registry.get("dataset", name)()


def _settings(words: list[str] | None) -> dict[str, Any]:
    """`["width=32", "nz=8"]` -> {"width": 32, "nz": 8}."""
    settings = {}
    for word in words or []:
        name, equals, value = word.partition("=")
        if not (equals and name and value):
            raise UsageError(f"--set {word}: expected NAME=VALUE, for example width=32")
        settings[name.strip()] = parsed(value.strip())
    return settings


@app.command()
def pretrain(
    dataset: DatasetOption,
    backbone: BackboneOption = "conv_vae",
    set_: Annotated[Optional[list[str]], typer.Option("--set", help="A setting, NAME=VALUE (repeatable).")] = None,
    seed: Annotated[int, typer.Option(help="Seed of initialisation, order and noise.")] = 0,
    device: DeviceOption = "auto",
    data_root: DataRootOption = None,
    out: Annotated[Optional[Path], typer.Option(help="Folder of the new bundle (default: in the cache).")] = None,
    plugin: PluginOption = None,
) -> None:
    """Train a backbone on images and write its bundle (stage 1; minutes to hours, resumes after a kill)."""
    from benchmark.pretrain import pretrain
    from benchmark.places import data_roots

    registry = Registry(list(plugin or []))
    pretrain(
        _dataset(registry, dataset),
        registry.get("backbone", backbone),
        _settings(set_),
        seed,
        _device(device),
        data_roots(data_root),
        out,
    )


def main() -> None:
    """Run a command; exit 0 when all went well, 1 when a job failed, 2 for wrong usage."""
    try:
        app()
    except UsageError as error:
        say(f"error: {error}")
        sys.exit(2)
