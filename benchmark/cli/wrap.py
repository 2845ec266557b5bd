"""`wrap`: the bundle of a VAE that was trained elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli.options import (
    DataRootOption,
    DatasetOption,
    DeviceOption,
    KeepOption,
    NewBundleOption,
    PluginOption,
    parse_counts,
    parse_settings,
)
from benchmark.errors import UsageError, unknown_name
from benchmark.machine.devices import choose_device
from benchmark.progress import say
from benchmark.store.places import data_roots

if TYPE_CHECKING:
    from backbones.wrapped import WrappedVAE
    from benchmark.registry import Registry


def wrap(
    vae: Annotated[
        Path, typer.Argument(help="A Python file that registers a WrappedVAE, or a library's model folder.")
    ],
    dataset: DatasetOption,
    name: Annotated[
        str | None,
        typer.Option(help="Of several classes in the file the one that is meant; the name of a folder's model."),
    ] = None,
    value_range: Annotated[
        str | None, typer.Option("--range", help="Pixels that a folder's model takes and gives: 0,1 or -1,1.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the file's class, NAME=VALUE (repeatable).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Which of several trainings it is, for tables.")] = 0,
    device: DeviceOption = "auto",
    data_root: DataRootOption = None,
    keep: KeepOption = None,
    out: NewBundleOption = None,
    plugin: PluginOption = None,
) -> None:
    """Make the bundle of a VAE that was trained elsewhere, after a look at whether it is read as it was trained."""
    from backbones.adapters.folders import open_folder, runs_code
    from benchmark.bundles.making import Asked
    from benchmark.bundles.wrap import wrap_class, wrap_trained
    from benchmark.names import find_dataset, open_registry
    from benchmark.settings import validate

    def asked(registry: Registry) -> Asked:
        images = find_dataset(registry, dataset)
        return Asked(registry, images, seed, choose_device(device), data_roots(data_root), parse_counts(keep), out)

    if vae.is_dir():
        if set_:
            raise UsageError("--set is of a class in a file: a folder's model has its own settings")
        of = asked(open_registry(plugin or []))
        if pickles := runs_code(vae):
            say(f"{vae}: its library unpickles {pickles}, which runs the code in them")
        try:
            trained = open_folder(vae, name, _parse_range(value_range))
        except ValueError as error:
            raise UsageError(str(error)) from error
        wrap_trained(of, trained)
        return
    if value_range is not None:
        raise UsageError("--range is of a folder's model: in a file it stands in the class, value_range = (0, 1)")
    if not vae.exists():
        raise UsageError(f"{vae}: no such file or folder")
    registry = open_registry([vae, *(plugin or [])])
    cls = _find_class(registry, vae, name)
    config = validate(cls.Config, parse_settings(set_), f"backbone {cls.name}")
    wrap_class(asked(registry), cls, config, vae)


def _find_class(registry: Registry, file: Path, name: str | None) -> type[WrappedVAE]:
    """The VAE that a file registers, by name where there are several."""
    from backbones.wrapped import WrappedVAE

    if (why := registry.broken.get(str(file))) is not None:
        raise UsageError(f"{file}: {why}")
    own = {key: cls for key, cls in registry.all("backbone").items() if registry.origin(cls) == str(file)}
    found = {key: cls for key, cls in own.items() if issubclass(cls, WrappedVAE)}
    if not found:
        others = f" (it registers {', '.join(own)}, which pretrain trains)" if own else ""
        raise UsageError(f"{file}: it registers no WrappedVAE{others}; see docs/own-vae.md")
    if name is None and len(found) > 1:
        raise UsageError(f"{file}: it registers {', '.join(found)}: say which with --name")
    if name is not None and name not in found:
        raise unknown_name("VAE", name, found)
    return found[name or next(iter(found))]


def _parse_range(text: str | None) -> tuple[float, float] | None:
    """`"-1,1"` -> (-1, 1)."""
    if text is None:
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise UsageError(f"--range {text}: expected two numbers, for example 0,1 or -1,1") from None
    return low, high
