"""The commands. Each checks what was typed, calls one function, and turns errors into one line and an exit code."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Optional

import torch
import typer

from benchmark.bundles.bundle import Bundle
from benchmark.bundles.find import all_bundles, find_bundle
from benchmark.datasets.api import Dataset
from benchmark.datasets.path import PathDataset
from benchmark.errors import NO_SPACE, UsageError, unknown
from benchmark.machine.allocator import keep_freed_memory
from benchmark.machine.arithmetic import float32_alone
from benchmark.metrics.api import Metric
from benchmark.progress import say
from benchmark.registry import KINDS, Registry
from benchmark.settings import parse_named, parsed, validated
from benchmark.store.places import data_roots

BOUND_TO_MACHINE = {"scores": False, "timings": True}


class Device(str, Enum):
    auto, cpu, cuda = "auto", "cpu", "cuda"


class BudgetName(str, Enum):
    quick, full = "quick", "full"


class ProtocolName(str, Enum):
    quick, rae, nvae = "quick", "rae", "nvae"


class SplitName(str, Enum):
    val, test = "val", "test"


class ImagesName(str, Enum):
    train, val, test = "train", "val", "test"


app = typer.Typer(
    help="A benchmark of latent priors for frozen, pretrained VAEs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DatasetOption = Annotated[
    str, typer.Option("--dataset", help="A data set by name, or a path (.npz or folder of images).")
]
BackboneOption = Annotated[str, typer.Option("--backbone", help="Backbone, by name.")]
BundleOption = Annotated[
    Optional[str], typer.Option("--bundle", help="Bundle, by name or folder, where several match.")
]
DeviceOption = Annotated[Device, typer.Option("--device", help="auto takes CUDA where there is one.")]
ExtractorOption = Annotated[
    Optional[str], typer.Option("--extractor", help="Feature extractor (default: the data set's).")
]
WeightsOption = Annotated[Optional[Path], typer.Option("--inception-weights", help="File of Inception weights.")]
ResultsOption = Annotated[Path, typer.Option("--results", help="Folder of records and leaderboards.")]
PluginOption = Annotated[
    Optional[list[Path]], typer.Option("--plugin", help="A Python file with a plugin (repeatable).")
]
DataRootOption = Annotated[
    Optional[Path], typer.Option("--data-root", help="Folder with image data (also: $LATENT_PRIOR_DATA).")
]


@app.callback()
def options() -> None:
    """A benchmark of latent priors for frozen, pretrained VAEs."""


def _registry(files: list[Path] | None) -> Registry:
    """With those plugin files; one that is broken is named before anything is done without it."""
    registry = Registry(list(files or []))
    registry.at_hand("prior")  # which reads them
    for origin, why in registry.broken.items():
        say(f"broken plugin {origin}: {why}")
    return registry


def _device(choice: Device) -> torch.device:
    if choice is Device.cuda and not torch.cuda.is_available():
        built = f" (this PyTorch asks for a driver of CUDA {torch.version.cuda})" if torch.version.cuda else ""
        raise UsageError(f"--device cuda: no CUDA device is available here{built}; use --device cpu")
    if choice is Device.cpu or not torch.cuda.is_available():
        return torch.device("cpu")
    float32_alone()
    return torch.device("cuda")


def _is_path(dataset: str) -> bool:
    return dataset.endswith(".npz") or "/" in dataset or "\\" in dataset


def _dataset(registry: Registry, name: str) -> Dataset:
    """A registered data set, with settings where they are given, or a path: what ends in .npz or holds a separator."""
    if _is_path(name):
        return PathDataset(Path(name))
    asked = parse_named(name, "--dataset")
    if len(asked) != 1 or len(asked[0][1]) != 1:
        raise UsageError(f"--dataset {name}: expected one data set with one value for each setting")
    name, (settings,) = asked[0]
    try:
        cls = registry.get("dataset", name)
    except UsageError as error:
        raise UsageError(f"{error}; the folder is ./{name}" if Path(name).is_dir() else str(error)) from error
    return cls(validated(cls.Config, settings, f"data set {name}"))


def _dataset_of(registry: Registry, asked: str, bundle: Bundle) -> Dataset | None:
    """The image source of a bundle: the path that was typed, or the data set that its card names, if there is one."""
    if _is_path(asked):
        return PathDataset(Path(asked))
    try:
        cls = registry.get("dataset", bundle.dataset)
    except UsageError:
        return None
    return cls(cls.Config(**bundle.card["dataset"].get("settings", {})))


def _bundle(registry: Registry, asked: str, backbone: str, name: str | None) -> Bundle:
    registry.get("backbone", backbone)
    dataset = None if name else _dataset(registry, asked)
    bundle, others = find_bundle(dataset, backbone, name)
    if dataset is not None and bundle.dataset != dataset.name:
        say(
            f"there is no bundle of {dataset.name} here; {bundle.path.name} stands in: {bundle.card['dataset']['preparation']}"
        )
    if others:
        say(f"using bundle {bundle.path.name}; there are also {', '.join(others)} (--bundle NAME)")
    return bundle


def _metrics(registry: Registry, asked: str | None) -> list[type[Metric]]:
    """Names, or `scores` and `timings` for those whose values belong to no machine and to one; None for all."""
    at_hand = [registry.get("metric", name) for name in registry.at_hand("metric")]
    kinds = {word: [cls for cls in at_hand if cls.machine_bound == bound] for word, bound in BOUND_TO_MACHINE.items()}
    words = [word.strip() for word in asked.split(",")] if asked else list(kinds)
    chosen = [cls for word in words for cls in kinds.get(word) or [registry.get("metric", word)]]
    return list(dict.fromkeys(chosen))


def _source(registry: Registry, asked: str, bundle: Bundle) -> Dataset:
    source = _dataset_of(registry, asked, bundle)
    if source is None:
        raise UsageError(f"no data set is called '{bundle.dataset}': name the path of its images with --dataset")
    return source


def _settings(words: list[str] | None) -> dict[str, Any]:
    """`["width=32", "nz=8"]` -> {"width": 32, "nz": 8}."""
    settings = {}
    for word in words or []:
        name, equals, value = word.partition("=")
        if not (equals and name and value):
            raise UsageError(f"--set {word}: expected NAME=VALUE, for example width=32")
        settings[name.strip()] = parsed(value.strip())
    return settings


def _counts(text: str) -> list[int]:
    """`"7500,1000,5000"` -> [7500, 1000, 5000]."""
    words = text.split(",")
    if len(words) != 3 or not all(word.strip().isdecimal() and int(word) > 1 for word in words):
        raise UsageError(f"--keep {text}: expected three numbers, for train, val and test, for example 7500,1000,5000")
    return [int(word) for word in words]


@app.command()
def pretrain(
    dataset: DatasetOption,
    backbone: BackboneOption = "conv_vae",
    set_: Annotated[Optional[list[str]], typer.Option("--set", help="A setting, NAME=VALUE (repeatable).")] = None,
    seed: Annotated[int, typer.Option(help="Seed of initialisation, order and noise.")] = 0,
    device: DeviceOption = Device.auto,
    data_root: DataRootOption = None,
    keep: Annotated[
        Optional[str],
        typer.Option(help="Posteriors kept of train, val and test images, drawn at random, e.g. 7500,1000,5000."),
    ] = None,
    out: Annotated[Optional[Path], typer.Option(help="Folder of the new bundle (default: in the cache).")] = None,
    plugin: PluginOption = None,
) -> None:
    """Train a backbone on images and write its bundle (stage 1; minutes to hours, resumes after a kill)."""
    from benchmark.bundles.pretrain import pretrain

    registry = _registry(plugin)
    pretrain(
        registry,
        _dataset(registry, dataset),
        registry.get("backbone", backbone),
        _settings(set_),
        seed,
        _device(device),
        data_roots(data_root),
        _counts(keep) if keep else None,
        out,
    )


@app.command()
def run(
    priors: Annotated[
        Optional[str],
        typer.Option(
            help="Priors with settings, e.g. 'evalp[gp_weight=1,10],gaussian' (default: all that come with it)."
        ),
    ] = None,
    dataset: DatasetOption = "digits",
    backbone: BackboneOption = "conv_vae",
    bundle: BundleOption = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 0 on.")] = 3,
    budget: Annotated[
        Optional[BudgetName], typer.Option(help="full: each prior's own recipe; quick (default): steps capped.")
    ] = None,
    protocol: Annotated[
        Optional[ProtocolName],
        typer.Option(
            help="rae (default with the full budget): 10,000 images against test; nvae: 50,000 against train; quick: 2,000."
        ),
    ] = None,
    split: Annotated[SplitName, typer.Option(help="Choose settings on val, report on test.")] = SplitName.test,
    extractor: ExtractorOption = None,
    inception_weights: WeightsOption = None,
    metrics: Annotated[
        Optional[str],
        typer.Option(help="Measure these alone: names, 'scores' (in several shells) or 'timings' (in quiet)."),
    ] = None,
    device: DeviceOption = Device.auto,
    results: ResultsOption = Path("results"),
    retry: Annotated[bool, typer.Option("--retry", help="Try again what is recorded as failed.")] = False,
    data_root: DataRootOption = None,
    plugin: PluginOption = None,
) -> None:
    """Fit and score priors on a bundle and write the leaderboard (stage 2; what is recorded is not done again)."""
    from benchmark.coordinator import choose_extractor, run
    from benchmark.jobs.plan import rows
    from benchmark.protocol import chosen_preset

    preset = chosen_preset(protocol and protocol.value, budget and budget.value, split.value)
    registry = _registry(plugin)
    where = _device(device)
    classes = _metrics(registry, metrics)
    opened = _bundle(registry, dataset, backbone, bundle)
    asked = rows(registry, priors, opened, preset.budget, preset.reference_split)
    images = _dataset_of(registry, dataset, opened)
    chosen, reference = choose_extractor(
        registry, opened, images, extractor, inception_weights, preset.images(split.value), where, data_roots(data_root)
    )
    try:
        failed = run(
            registry,
            opened,
            asked,
            seeds,
            preset,
            split.value,
            chosen,
            reference,
            classes,
            where,
            results,
            retry,
        )
    except KeyboardInterrupt:
        say("interrupted: the leaderboard holds what was measured, and the same command goes on from here")
        raise typer.Exit(130) from None
    raise typer.Exit(1 if failed else 0)


@app.command()
def reference(
    dataset: DatasetOption,
    backbone: BackboneOption = "conv_vae",
    bundle: BundleOption = None,
    extractor: ExtractorOption = None,
    inception_weights: WeightsOption = None,
    split: Annotated[
        Optional[list[ImagesName]], typer.Option(help="Split to read (repeatable; default: all three).")
    ] = None,
    device: DeviceOption = Device.auto,
    data_root: DataRootOption = None,
    out: Annotated[Optional[Path], typer.Option(help="Folder to write to (default: in the cache).")] = None,
    plugin: PluginOption = None,
) -> None:
    """Compute what an extractor sees in a bundle's real images, so that runs need not open them.

    Of a hierarchy also what it sees in their full reconstructions, every latent group drawn from its posterior.
    """
    from benchmark.bundles.reconstructions import make_reconstructions
    from benchmark.bundles.reference import make_reference
    from benchmark.extractors.api import Unavailable
    from benchmark.progress import track

    registry = _registry(plugin)
    opened = _bundle(registry, dataset, backbone, bundle)
    source = _source(registry, dataset, opened)
    name = extractor or opened.card["dataset"]["extractor"]
    chosen = registry.get("extractor", name)(inception_weights)
    images, where = source.load(data_roots(data_root)), _device(device)
    model = opened.backbone(registry.get("backbone", opened.backbone_name), where)
    for part in split or list(ImagesName):
        of = f"{opened.path.name}, {part.value} split"
        try:
            with track(f"{name} reference of {of}") as progress:
                made = make_reference(opened, images, chosen, part.value, where, out, progress)
            with track(f"{name} reconstructions of {of}") as progress:
                path = make_reconstructions(opened, model, images, chosen, part.value, where, out, progress)
        except Unavailable as error:
            raise UsageError(str(error)) from error
        say(f"reference written: {made.path}" + (f", and full reconstructions: {path}" if path else ""))


@app.command()
def bound(
    dataset: DatasetOption,
    backbone: BackboneOption = "conv_vae",
    bundle: BundleOption = None,
    samples: Annotated[int, typer.Option(min=1, help="Draws of q(z|x) per image.")] = 100,
    split: Annotated[ImagesName, typer.Option(help="Images to bound.")] = ImagesName.test,
    device: DeviceOption = Device.auto,
    data_root: DataRootOption = None,
    plugin: PluginOption = None,
) -> None:
    """Importance-weighted bound on a backbone's log-likelihood of real images, in nats."""
    from benchmark.bundles.bound import importance_weighted_bound
    from benchmark.bundles.reference import require_images_of
    from benchmark.progress import track
    from benchmark.streams import stream

    registry, where = _registry(plugin), _device(device)
    opened = _bundle(registry, dataset, backbone, bundle)
    found = _source(registry, dataset, opened).load(data_roots(data_root))
    require_images_of(opened, found)
    images = getattr(found, split.value)
    model = opened.backbone(registry.get("backbone", opened.backbone_name), where)
    try:
        with track(f"bound of {opened.path.name}, {split.value} split") as progress:
            tightest, elbo = importance_weighted_bound(
                model, images.to(where), samples, stream(where, "bound"), progress
            )
    except ValueError as error:
        raise UsageError(f"{opened.path.name}: {error}") from error
    for name, each in ((f"L_{samples}", tightest), ("L_1", elbo)):
        error = each.std().item() / len(each) ** 0.5
        print(
            f"{name} = {each.mean().item():.2f} nats (standard error {error:.2f}, {len(each):,} {split.value} images)"
        )


@app.command("list")
def list_(plugin: PluginOption = None) -> None:
    """Show priors, backbones, datasets, metrics, extractors and bundles, and plugins that are broken, with why."""
    registry = Registry(list(plugin or []))
    for kind in KINDS:
        print(f"{kind}s:")
        for name, cls in registry.all(kind).items():
            origin = registry.origin(cls)
            print(f"  {name}" + ("" if origin == "built-in" else f"  (plugin: {origin})"))
    bundles, damaged = all_bundles()
    print("bundles:")
    for name, made in bundles.items():
        shape, best = "x".join(map(str, made.latent_shape)), made.card["training"]["best_epoch"]
        print(f"  {name}  ({made.dataset}, {made.backbone_name}, latent {shape}, epoch {best}, {made.id[:16]})")
    for title, reasons in (("damaged bundles", damaged), ("broken plugins", registry.broken)):
        if reasons:
            print(f"{title}:")
            for name, why in reasons.items():
                print(f"  {name}: {why}")


@app.command()
def check(
    prior: Annotated[str, typer.Argument(help="A prior, with settings if wanted: 'evalp[sampler=spline]'.")],
    target: Annotated[
        Optional[list[str]], typer.Option(help="Synthetic target to learn (repeatable; default: all).")
    ] = None,
    device: DeviceOption = Device.auto,
    plugin: PluginOption = None,
) -> None:
    """Hold a prior to the contract and to what it says it learns; exit 1 when a check does not hold."""
    from benchmark.check.contract import check
    from benchmark.check.targets import TARGETS

    registry = Registry(list(plugin or []))
    asked = parse_named(prior, "check")
    if len(asked) != 1 or len(asked[0][1]) != 1:
        raise UsageError(f"check {prior}: expected one prior with one value for each setting")
    name, (settings,) = asked[0]
    for wanted in target or []:
        if wanted not in TARGETS:
            raise unknown("target", wanted, TARGETS)
    cls = registry.get("prior", name)
    for path in map(str, plugin or []):
        if path in registry.broken:  # else a built-in of the same name would be checked in its place
            raise UsageError(f"broken plugin {path}: {registry.broken[path]}")
    failed = 0
    for finding in check(cls, settings, list(target or TARGETS), _device(device)):
        failed += finding.held is False
        mark = {True: "holds", False: "FAILS", None: "-"}[finding.held]
        print(f"{mark:6} {finding.check:38} {finding.detail}", flush=True)
    print(f"{prior}: " + (f"{failed} checks fail" if failed else "all checks hold"))
    raise typer.Exit(1 if failed else 0)


@app.command("new-prior")
def new_prior(
    name: Annotated[str, typer.Argument(help="Name of the prior and of its file.")],
    folder: Annotated[Path, typer.Option(help="Where to write the file.")] = Path("."),
) -> None:
    """Write a commented plugin file that passes `check` as it is."""
    from benchmark.check.new_prior import new_prior

    path = new_prior(name, folder, Registry().at_hand("prior"))
    print(f"written: {path}\nnext:")
    print(f"  python -m benchmark check {name} --plugin {path}")
    print(f"  python -m benchmark run --priors {name} --plugin {path}")


@app.command()
def leaderboard(results: ResultsOption = Path("results")) -> None:
    """Rebuild leaderboard.md, leaderboard.csv and their pictures from the records; exit 1 if any is damaged."""
    from benchmark.report.board import write_pictures, write_tables

    _require_records(results)
    damaged = write_tables(results)
    write_pictures(results)
    for sentence in damaged:
        say(f"left out: {sentence}")
    say(f"written: {results / 'leaderboard.md'}")
    raise typer.Exit(1 if damaged else 0)


@app.command()
def verify(
    results: ResultsOption = Path("results"),
    share: Annotated[float, typer.Option(min=0, max=1, help="Share of the fits to repeat, at least one.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Decides which are drawn.")] = 0,
    plugin: PluginOption = None,
) -> None:
    """Compute a random share of the recorded scores again, from scratch; exit 1 if any disagrees."""
    from benchmark.verify import VERDICTS, told, verify

    _require_records(results)
    registry = _registry(plugin)
    counts, alike, interrupted = dict.fromkeys(VERDICTS, 0), [], False
    try:
        for finding in verify(registry, results, share, seed):
            counts[finding.verdict] += 1
            if alike and finding.said != alike[0].said:
                print(told(alike), flush=True)
                alike = []
            alike.append(finding)
    except KeyboardInterrupt:
        interrupted = True
    if alike:
        print(told(alike))
    if interrupted:
        say("interrupted: this is what was verified so far")
    print(", ".join(f"{count} {VERDICTS[verdict]}" for verdict, count in counts.items()))
    raise typer.Exit(130 if interrupted else 1 if counts["DISAGREES"] else 0)


def _require_records(results: Path) -> None:
    if not (results / "records").is_dir():
        raise UsageError(f"{results}: no records here (expected a folder 'records')")


def main() -> None:
    """Run a command; exit 0 when all went well, 1 when a job failed, 2 for wrong usage, 130 when interrupted."""
    keep_freed_memory()
    try:
        app()
    except UsageError as error:
        say(f"error: {error}")
        sys.exit(2)
    except (FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        say(f"error: cannot use {error.filename}: {error.strerror.lower()} (--results, --out and caches are folders)")
        sys.exit(2)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        say(f"error: {error.strerror.lower()}: {error.filename or 'the disk is full'}; what is recorded stays")
        sys.exit(2)
