"""Options that several commands have, and the parsing of their values."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from typer.models import OptionInfo

from benchmark.datasets.splits import FEWEST
from benchmark.errors import UsageError
from benchmark.machine.devices import DeviceName
from benchmark.settings import parse_value


class Part(StrEnum):
    """A split of a bundle; a class, since lists of literals are no type of an option."""

    train, val, test = "train", "val", "test"


DatasetOption = Annotated[
    str, typer.Option("--dataset", help="A data set by name, or a path (.npz or folder of images).")
]
BackboneOption = Annotated[str, typer.Option("--backbone", help="Backbone, by name.")]
BundleDatasetOption = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        help="A data set by name, or a path (.npz or folder of images); default: the bundle's, else digits.",
    ),
]
BundleBackboneOption = Annotated[
    str | None, typer.Option("--backbone", help="Backbone, by name (default: the bundle's, else conv_vae).")
]
BundleOption = Annotated[
    str | None, typer.Option("--bundle", help="Bundle, by name, id or folder, where several match.")
]
GroupsOption = Annotated[
    str,
    typer.Option("--groups", help="Latent groups of a hierarchy: top, all, or numbers from 0, the top one, on: 0,1."),
]
DeviceOption = Annotated[DeviceName, typer.Option("--device", help="auto takes CUDA where there is one.")]
ExtractorOption = Annotated[
    str | None, typer.Option("--extractor", help="Feature extractor (default: the data set's).")
]
WeightsOption = Annotated[
    Path | None, typer.Option("--inception-weights", "--weights", help="File of Inception weights.")
]
ResultsOption = Annotated[Path, typer.Option("--results", help="Folder of records and leaderboards.")]
PluginOption = Annotated[list[Path] | None, typer.Option("--plugin", help="A Python file with a plugin (repeatable).")]
KeepOption = Annotated[
    str | None,
    typer.Option("--keep", help="Posteriors kept of train, val and test images, drawn at random, e.g. 7500,1000,5000."),
]
NewBundleOption = Annotated[
    Path | None, typer.Option("--out", help="Folder of the new bundle (default: in the cache).")
]
DataRootOption = Annotated[
    Path | None, typer.Option("--data-root", help="Folder with image data (also: $LATENT_PRIOR_DATA).")
]


WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers", min=1, help="How many processes share the work (default: the cores, or --per-gpu on each GPU)."
    ),
]
SharedOption = Annotated[
    bool, typer.Option("--shared", help="Workers on other machines have the same --results: fits lie in it.")
]
PerGpuOption = Annotated[int, typer.Option("--per-gpu", min=1, help="How many of them share a GPU.")]


def typed_options(context: typer.Context) -> dict[str, Any]:
    """The options that were typed and are fields of a `Request`."""
    from benchmark.request import Request

    fields = Request.model_fields
    return {name: value for name, value in context.params.items() if name in fields and _is_typed(context, name)}


def _is_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def flags_of(command: Callable[..., None]) -> dict[str, str]:
    """The parameters of a command that are options, and how each is typed: `data_root` -> `--data-root`."""
    flags = {}
    for name, hint in get_type_hints(command, include_extras=True).items():
        for info in getattr(hint, "__metadata__", ()):
            if isinstance(info, OptionInfo):
                declared = [each for each in map(str, (info.default, *(info.param_decls or ()))) if each[:2] == "--"]
                flags[name] = next(iter(declared), f"--{name.replace('_', '-')}")
    return flags


def parse_settings(words: list[str] | None) -> dict[str, Any]:
    """`["width=32", "nz=8"]` -> {"width": 32, "nz": 8}."""
    settings: dict[str, Any] = {}
    for word in words or []:
        name, equals, value = word.partition("=")
        if not (equals and name and value):
            raise UsageError(f"--set {word}: expected NAME=VALUE, for example width=32")
        if name.strip() in settings:
            raise UsageError(f"--set {word}: '{name.strip()}' is given twice")
        settings[name.strip()] = parse_value(value.strip())
    return settings


def parse_counts(text: str | None) -> list[int] | None:
    """`"7500,1000,5000"` -> [7500, 1000, 5000]."""
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if len(words) != 3 or not all(word.isdecimal() and int(word) >= FEWEST for word in words):
        raise UsageError(
            f"--keep {text}: expected three numbers from {FEWEST} on, for train, val and test, e.g. 7500,1000,5000"
        )
    return [int(word) for word in words]
