"""`list`, `show`, `check` and `new-prior`: what is registered, what it owes, and a file to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.options import DeviceOption, PluginOption
from benchmark.errors import UsageError, unknown_name
from benchmark.machine.devices import choose_device
from benchmark.machine.importing import importing
from benchmark.progress import show
from benchmark.settings import parse_named
from benchmark.suggestion import suggest


def list_(plugin: PluginOption = None) -> None:
    """Show priors, backbones, datasets, metrics, extractors, executors and bundles, and broken plugins, with why."""
    with importing():
        from benchmark.bundles.find import all_bundles
        from benchmark.cli.describing import summarise
        from benchmark.registry import KINDS, Registry

    registry = Registry(list(plugin or []), apart=True)
    for kind in KINDS:
        show(f"{kind}s:")
        for name, cls in registry.all(kind).items():
            origin = registry.origin(cls)
            show(f"  {name:20} {summarise(cls)}" + ("" if origin == "built-in" else f"  (plugin: {origin})"))
    bundles, damaged = all_bundles()
    show("bundles:")
    for name, made in bundles.items():
        shape, best = "x".join(map(str, made.latent_shape)), made.card["training"].get("best_epoch")
        trained = "trained elsewhere" if best is None else f"epoch {best}"
        show(f"  {name}  ({made.dataset}, {made.backbone_name}, latent {shape}, {trained}, {made.id[:16]})")
    for title, reasons in (("damaged bundles", damaged), ("broken plugins", registry.broken)):
        if reasons:
            show(f"{title}:")
            for name, why in reasons.items():
                show(f"  {name}: {why}")


def show_(
    name: Annotated[str, typer.Argument(help="A prior, backbone, data set, metric, extractor or executor.")],
    plugin: PluginOption = None,
) -> None:
    """Show what a thing is, and its settings with types, ranges, defaults and recipes."""
    with importing():
        from benchmark.cli.describing import describe
        from benchmark.registry import KINDS, Registry

    registry = Registry(list(plugin or []))
    known = {kind: registry.all(kind) for kind in KINDS}
    if not any(name in classes for classes in known.values()):
        broken = "".join(f"broken plugin {origin}: {why}; " for origin, why in registry.broken.items())
        error = unknown_name("name", name, {each for classes in known.values() for each in classes})
        raise UsageError(f"{broken}{error}")
    for kind, classes in known.items():
        if name in classes:
            show(describe(kind, classes[name], registry.origin(classes[name])))


def check(
    prior: Annotated[str, typer.Argument(help="A prior, with settings if wanted: 'evalp[sampler=spline]'.")],
    target: Annotated[
        list[str] | None, typer.Option(help="Synthetic target to learn (repeatable; default: all).")
    ] = None,
    device: DeviceOption = "auto",
    plugin: PluginOption = None,
) -> None:
    """Hold a prior to the contract and to what it says it learns; exit 1 when a check does not hold."""
    from benchmark.check.apart import check_apart
    from benchmark.check.contract import check
    from benchmark.check.targets import TARGETS
    from benchmark.registry import ForeignPrior, Registry

    registry = Registry(list(plugin or []), apart=True)
    asked = parse_named(prior, "check")
    if len(asked) != 1 or len(asked[0][1]) != 1:
        raise UsageError(f"check {prior}: expected one prior with one value for each setting")
    name, (settings,) = asked[0]
    for wanted in target or []:
        if wanted not in TARGETS:
            raise unknown_name("target", wanted, TARGETS)
    cls = registry.get("prior", name)
    for path in map(str, plugin or []):
        if path in registry.broken:  # else a built-in of the same name would be checked in its place
            raise UsageError(f"broken plugin {path}: {registry.broken[path]}")
    failed = 0
    asked_of = settings, list(target or TARGETS), choose_device(device)
    findings = check_apart(cls.plugin, name, *asked_of) if isinstance(cls, ForeignPrior) else check(cls, *asked_of)
    for finding in findings:
        failed += finding.held is False
        mark = {True: "holds", False: "FAILS", None: "-"}[finding.held]
        show(f"{mark:6} {finding.check:38} {finding.detail}")
    show(f"{prior}: " + (f"{failed} checks fail" if failed else "all checks hold"))
    raise typer.Exit(1 if failed else 0)


def new_prior(
    name: Annotated[str, typer.Argument(help="Name of the prior and of its file.")],
    folder: Annotated[Path, typer.Option(help="Where to write the file.")] = Path("."),
) -> None:
    """Write a commented plugin file that passes `check` as it is."""
    from benchmark.check.new_prior import new_prior
    from benchmark.registry import Registry

    path = new_prior(name, folder, Registry().at_hand("prior"))
    show(f"written: {path}\nnext:")
    show(f"  {suggest('check', name, plugin=path)}")
    show(f"  {suggest('run', priors=name, plugin=path)}")
