"""`reference` and `bound`: what needs the real images of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.options import (
    BundleBackboneOption,
    BundleDatasetOption,
    BundleOption,
    DataRootOption,
    DeviceOption,
    ExtractorOption,
    Part,
    PluginOption,
    WeightsOption,
    parse_counts,
)
from benchmark.errors import UsageError
from benchmark.machine.devices import choose_device
from benchmark.progress import say, show
from benchmark.store.places import data_roots


def reference(
    dataset: BundleDatasetOption = None,
    backbone: BundleBackboneOption = None,
    bundle: BundleOption = None,
    extractor: ExtractorOption = None,
    inception_weights: WeightsOption = None,
    split: Annotated[list[Part] | None, typer.Option(help="Split to read (repeatable; default: all three).")] = None,
    device: DeviceOption = "auto",
    data_root: DataRootOption = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to (default: in the cache).")] = None,
    plugin: PluginOption = None,
) -> None:
    """Compute what an extractor sees in a bundle's real images, so that runs need not open them.

    Of a hierarchy also what it sees in their full reconstructions, every latent group drawn from its posterior.
    """
    from benchmark.bundles.reconstructions import make_reconstructions
    from benchmark.bundles.reference import make_reference
    from benchmark.datasets.content import load_images
    from benchmark.extractors.api import Unavailable
    from benchmark.names import choose_bundle, open_registry, require_dataset_of
    from benchmark.progress import track

    registry = open_registry(plugin or [])
    opened = choose_bundle(registry, dataset, backbone, bundle)
    source = require_dataset_of(registry, dataset, opened)
    name = extractor or opened.card["dataset"]["extractor"]
    chosen = registry.get("extractor", name)(inception_weights)
    images, where = load_images(source, data_roots(data_root))[0], choose_device(device)
    model = opened.open_backbone(registry, where)
    for part in [each.value for each in split or Part]:
        of = f"{opened.path.name}, {part} split"
        try:
            with track(f"{name} reference of {of}") as progress:
                made = make_reference(opened, images, chosen, part, where, out, progress)
            with track(f"{name} reconstructions of {of}") as progress:
                path = make_reconstructions(opened, model, images, chosen, part, where, out, progress)
        except Unavailable as error:
            raise UsageError(str(error)) from error
        say(f"reference written: {made.path}" + (f", and full reconstructions: {path}" if path else ""))


def groups(
    dataset: BundleDatasetOption = None,
    backbone: BundleBackboneOption = None,
    bundle: BundleOption = None,
    draws: Annotated[int, typer.Option(min=1, help="Draws of q(z|x) per image.")] = 1,
    keep: Annotated[
        str | None, typer.Option("--keep", help="Train, val and test images, drawn at random, e.g. 1500,300,1200.")
    ] = None,
    device: DeviceOption = "auto",
    data_root: DataRootOption = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to (default: in the cache).")] = None,
    plugin: PluginOption = None,
) -> None:
    """Draw all latent groups of a hierarchy for a bundle's real images, so that `run --groups` need not open them."""
    from benchmark.bundles.group_draws import make_draws
    from benchmark.datasets.content import load_images
    from benchmark.names import choose_bundle, open_registry, require_dataset_of
    from benchmark.progress import track

    registry, where, counts = open_registry(plugin or []), choose_device(device), parse_counts(keep)
    opened = choose_bundle(registry, dataset, backbone, bundle)
    source = require_dataset_of(registry, dataset, opened)
    model = opened.open_backbone(registry, where)
    if len(model.group_shapes) == 1:
        raise UsageError(f"{opened.path.name} has one latent group, and holds its posteriors: nothing is to be drawn")
    images, _ = load_images(source, data_roots(data_root))
    with track(f"latent groups of {opened.path.name}") as progress:
        path, card = make_draws(opened, model, images, draws, counts, out, progress)
    numbers = " + ".join("x".join(map(str, shape)) for shape in card["shapes"])
    counted = ", ".join(f"{n:,} {split}" for split, n in card["counts"].items())
    say(f"draws written: {path}: groups {numbers}, of {counted} images")


def bound(
    dataset: BundleDatasetOption = None,
    backbone: BundleBackboneOption = None,
    bundle: BundleOption = None,
    samples: Annotated[int, typer.Option(min=1, help="Draws of q(z|x) per image.")] = 100,
    split: Annotated[Part, typer.Option(help="Images to bound.")] = Part.test,
    device: DeviceOption = "auto",
    data_root: DataRootOption = None,
    plugin: PluginOption = None,
) -> None:
    """Importance-weighted bound on a backbone's log-likelihood of real images, in nats."""
    from benchmark.bundles.bound import importance_weighted_bound
    from benchmark.bundles.reference import require_images_of
    from benchmark.datasets.content import load_images
    from benchmark.names import choose_bundle, open_registry, require_dataset_of
    from benchmark.progress import track
    from benchmark.streams import stream

    registry, where = open_registry(plugin or []), choose_device(device)
    opened = choose_bundle(registry, dataset, backbone, bundle)
    found, _ = load_images(require_dataset_of(registry, dataset, opened), data_roots(data_root))
    require_images_of(opened, found)
    images = getattr(found, split.value)
    model = opened.open_backbone(registry, where)
    try:
        with track(f"bound of {opened.path.name}, {split.value} split") as progress:
            tightest, elbo = importance_weighted_bound(
                model, images.to(where), samples, stream(where, "bound"), progress
            )
    except ValueError as error:
        raise UsageError(f"{opened.path.name}: {error}") from error
    for name, each in ((f"L_{samples}", tightest), ("L_1", elbo)):
        spread = each.std().item() / len(each) ** 0.5
        show(
            f"{name} = {each.mean().item():.2f} nats (standard error {spread:.2f}, {len(each):,} {split.value} images)"
        )
