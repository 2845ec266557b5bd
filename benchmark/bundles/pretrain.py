"""Stage 1: images -> trained backbone -> bundle."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from backbones.api import Backbone, BackboneConfig
from backbones.training import DamagedCheckpoint, TrainingDiverged, TrainingLog, train
from benchmark.bundles.bundle import SPLITS, Bundle, open_bundle, round_weights
from benchmark.bundles.find import name_of, note_bundle
from benchmark.bundles.joint import JointPrior, PriorChoice, TrainingFailed, fit_to, ramp, whole
from benchmark.bundles.making import (
    Asked,
    held,
    make_bundle,
    name_parts,
    new_folder,
    take_posteriors,
)
from benchmark.bundles.prior_file import prior_bytes, read_facts
from benchmark.datasets.api import Dataset, Images
from benchmark.datasets.content import hash_images, load_images
from benchmark.datasets.path import PathDataset
from benchmark.errors import UsageError
from benchmark.machine.devices import total_memory
from benchmark.progress import say, track
from benchmark.settings import format_value, validate
from benchmark.store.places import cache_root
from benchmark.store.provenance import provenance
from benchmark.store.sealed import content_hash
from benchmark.streams import stream
from benchmark.suggestion import suggest
from priors.api import LatentPrior, PosteriorSplit

COPIES = 5  # of each parameter: gradient, two moments, and the best epoch's, beside itself
COLLAPSED = 0.1  # nats that a group of latents carries at least, on the mean over validation images
FINISHING_LATENTS = 10_000


def pretrain(
    asked: Asked,
    backbone_class: type[Backbone],
    settings: dict[str, Any],
    choice: PriorChoice | None = None,
    start: Bundle | None = None,
) -> Bundle:
    """Train `backbone_class` on the images and write its bundle.

    `choice`: a prior that is trained with it, and written beside it. `start`: the bundle whose settings and weights it
    begins with; the prior goes on with it if it was trained with it, and is else fitted to it first, as usual. A
    training that was killed goes on from its last epoch. Raises `UsageError` where the folder is taken.
    """
    dataset, seed, device = asked.dataset, asked.seed, asked.device
    validate(backbone_class.Config, settings, f"backbone {backbone_class.name}")  # before images are read for long
    if choice is not None:
        choice.require(backbone_class)
    origin = provenance(device)  # of the code as it is now, not as it may be hours later
    whole, image_hash = load_images(dataset, asked.roots)
    images = asked.choose_images(whole)
    recipe, note = backbone_class.recipe(dataset.name, images.shape)
    if start is not None:
        recipe, note = _settings_of(start, backbone_class, image_hash), None
    config = validate(backbone_class.Config, {**recipe, **settings}, f"backbone {backbone_class.name}")
    path = asked.folder(image_hash, backbone_class.name, *name_parts(settings), *_name_of_way(choice, start))
    asked.extractor()  # which is to be there before the training
    part = [] if asked.images is None else [asked.images]
    way = {
        **({} if choice is None else {"prior": choice.identity()}),
        **({} if start is None else {"start": start.id}),
    }
    of = [backbone_class.name, backbone_class.version, config.model_dump(), image_hash, seed, device.type, *part]
    run = content_hash([*of, way] if way else of)
    checkpoint = cache_root() / "pretrain" / f"{run}.pt"
    require_batch(config.batch_size, len(images.train))
    _require_memory(backbone_class, images.shape, config, device)
    of_images = "the same backbone is being trained on these images by another pretrain: wait for it"
    with new_folder(path), held(checkpoint.stem, of_images):
        if note:
            say(note)
        task = Training(backbone_class, config, dataset, images, seed, device, checkpoint, choice, start)
        backbone, prior, log = _trained(task)
        round_weights(backbone)
        collapsed = [name for name, term in log.terms.items() if name.startswith("kl") and term < COLLAPSED]
        if collapsed:
            say(
                f"{', '.join(collapsed)}: below {COLLAPSED} nats on the validation images, "
                "so these latents carry nothing"
            )
        parts = take_posteriors(asked, backbone, images)
        draws = PosteriorSplit(*parts["train"])
        noise = stream(device, "finish")
        backbone.finish(draws.one_each(min(len(draws), FINISHING_LATENTS), noise), noise)
        logged = {name: value for name, value in vars(log).items() if name != "watched" or value}
        training = {"seed": seed, **logged, "collapsed": collapsed, **way, **origin}
        beside = None if prior is None else prior_bytes(prior, seed=seed, trained="with its VAE")
        try:
            bundle = make_bundle(asked, path, backbone, images, image_hash, parts, training, prior=beside, whole=whole)
        except OSError as error:
            raise UsageError(
                f"{path} cannot be written: {error.strerror or error}; the training is kept, and the same command with "
                "another --out goes on from it"
            ) from error
        checkpoint.unlink(missing_ok=True)
        if asked.out:
            note_bundle(asked.out)
        say(
            f"bundle {path}: best validation loss {log.val_loss[log.best_epoch - 1]:.4g} "
            f"in epoch {log.best_epoch} of {config.epochs}, {log.seconds:.0f} s of training; "
            f"go on with: {suggest('run', bundle=asked.out or name_of(bundle))}"
        )
    return bundle


def find_or_pretrain(
    asked: Asked,
    backbone_class: type[Backbone],
    settings: dict[str, Any],
    choice: PriorChoice | None = None,
    start: Bundle | None = None,
) -> Bundle:
    """The bundle of such a training where it is there already, else `pretrain`.

    Raises `UsageError` where one is there that is of another training.
    """
    image_hash = hash_images(asked.dataset) if isinstance(asked.dataset, PathDataset) else ""
    folder = asked.folder(image_hash, backbone_class.name, *name_parts(settings), *_name_of_way(choice, start))
    if not (folder / "bundle.json").exists():
        return pretrain(asked, backbone_class, settings, choice, start)
    bundle = open_bundle(folder)
    if why := why_another(bundle, asked, backbone_class, settings, start):
        raise UsageError(why)
    if choice is not None and bundle.card["training"].get("prior") != choice.identity():
        raise UsageError(
            f"{folder}: {choice.cls.name} there is of another version: remove the folder to train it again"
        )
    return bundle


def why_another(
    bundle: Bundle, asked: Asked, cls: type[Backbone], settings: dict[str, Any], start: Bundle | None = None
) -> str:
    """Why a bundle that has the name of a training is of another one; empty where it is of this one.

    Its name says nothing of how many posteriors are kept, of the settings that a recipe or `start` decides, nor of the
    backbone's code.
    """
    card, of_images = bundle.card["backbone"], bundle.card["dataset"]
    there, images = ([of[split] for split in SPLITS] for of in (bundle.card["posterior_counts"], of_images["counts"]))
    kept = [min(pair) for pair in zip(asked.keep, images)] if asked.keep else images
    base = cls.recipe(of_images["name"], of_images["image_shape"])[0]
    if start is not None:
        base = start.card["backbone"]["config"]
    if (card["version"], card.get("source")) != (cls.version, cls.source):
        other = f"by another version of {cls.name}"
    elif there != kept:
        other = f"keep={','.join(map(str, there))}, and {','.join(map(str, kept))} are asked"
    else:
        both = (card["config"], {**base, **settings})
        then, now = (validate(cls.Config, each, f"backbone {cls.name}").model_dump() for each in both)
        other = ", ".join(f"{name}={format_value(value)}" for name, value in then.items() if value != now[name])
    return other and f"{bundle.path} is of another training: {other}: remove the folder to train it again"


@dataclass(frozen=True)
class Training:
    """What one training is of, and where it keeps how far it is."""

    cls: type[Backbone]
    config: BackboneConfig
    dataset: Dataset
    images: Images
    seed: int
    device: torch.device
    checkpoint: Path
    choice: PriorChoice | None = None
    start: Bundle | None = None


def _settings_of(start: Bundle, cls: type[Backbone], image_hash: str) -> dict[str, Any]:
    """The settings of the bundle that a training begins with. Raises `UsageError` where it is of something else."""
    made_from = start.card["dataset"]
    if start.backbone_class != cls.name:
        raise UsageError(f"--start {start.path.name} is a {start.backbone_class}, and cannot begin one of {cls.name}")
    if made_from["sha256"] != image_hash:
        raise UsageError(
            f"--start {start.path.name} was trained on other images ({made_from['name']}: {made_from['preparation']})"
        )
    return dict(start.card["backbone"]["config"])


def _name_of_way(choice: PriorChoice | None, start: Bundle | None) -> list[str]:
    """What tells a bundle by its name from one that was trained without a prior, from scratch."""
    with_prior = [] if choice is None else [f"with-{choice.cls.name}", *name_parts(choice.settings)]
    return [*with_prior, *([] if start is None else [f"from-{start.id[:8]}"])]


def _trained(task: Training) -> tuple[Backbone, LatentPrior | None, TrainingLog]:
    """A backbone trained on the images, with a prior or without, from its checkpoint on where there is one.

    Raises `UsageError`, of which `TrainingFailed` is one.
    """
    cls, config, dataset, images = task.cls, task.config, task.dataset, task.images
    seed, device, checkpoint = task.seed, task.device, task.checkpoint
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        try:
            backbone = cls(images.shape, config).to(device).to(memory_format=torch.channels_last)
        except ValueError as error:
            raise UsageError(f"{error}{_suggest_size(dataset, images)}") from error
    if task.start is not None:
        _begin_with(task.start, backbone)
    train_images, val_images = images.train.to(device), images.val.to(device)
    joint = None
    if task.choice is not None:
        there = _settings_of_prior(task.start, task.choice)
        prior = task.choice.build(dataset.name, backbone.latent_shape, seed, device, there)
        goes_on = task.start is not None and there is not None
        if task.start is not None and goes_on:
            _begin_prior_with(task.start, prior)
        if task.start is not None and not goes_on and not checkpoint.exists():
            fit_to(prior, backbone, train_images, val_images, seed)
        joint = JointPrior(prior, whole if goes_on else ramp)
    what = f"{cls.name} on {dataset.name}" + (f" with {joint.prior.name}" if joint else "")
    say(f"training {what}: {len(images.train)} images, {sum(p.numel() for p in backbone.parameters()):,} parameters")
    with track(what) as progress:
        try:
            log = train(backbone, train_images, val_images, seed, checkpoint, progress, joint)
            return backbone, None if joint is None else joint.prior, log
        except DamagedCheckpoint as error:
            aside = checkpoint.with_suffix(".damaged")
            os.replace(checkpoint, aside)
            say(f"{error}; it is now {aside.name}, and the training begins again")
        except TrainingDiverged as error:
            raise TrainingFailed(str(error)) from error
        except ValueError as error:
            raise UsageError(str(error)) from error
    return _trained(task)


def _begin_with(start: Bundle, backbone: Backbone) -> None:
    """Put a bundle's weights into a backbone. Raises `UsageError` where it has a network of another size."""
    weights = start.build(type(backbone)).state_dict()
    try:
        backbone.load_state_dict(weights)
    except RuntimeError as error:
        raise UsageError(
            f"--start {start.path.name} has a network of other settings: --set may change how it is trained alone"
        ) from error


def _settings_of_prior(start: Bundle | None, choice: PriorChoice) -> dict[str, Any] | None:
    """The settings of the prior that a bundle holds; None where it holds no such one."""
    if start is None or start.prior_path is None:
        return None
    facts = read_facts(start.prior_path)
    return dict(facts["settings"]) if facts["prior"] == choice.cls.name else None


def _begin_prior_with(start: Bundle, prior: LatentPrior) -> None:
    """Put the prior of a bundle into one. Raises `UsageError` where it does not fit."""
    assert start.prior_path is not None
    try:
        prior.load_state_dict(load_file(start.prior_path))
    except RuntimeError as error:
        raise UsageError(f"--start {start.path.name} has a {prior.name} with networks of other settings") from error


def _require_memory(
    cls: type[Backbone], shape: tuple[int, int, int], config: BackboneConfig, device: torch.device
) -> None:
    """Raise `UsageError` where the backbone alone is more than the machine holds: asking for it may end the process."""
    try:
        with torch.device("meta"):  # shapes without numbers
            parameters = sum(parameter.numel() for parameter in cls(shape, config).parameters())
    except Exception:  # one that cannot be made so: then it is made, and says what is wrong
        return
    needed, there = COPIES * 4 * parameters, total_memory(device)
    if there is not None and needed > there:
        raise UsageError(
            f"{cls.name} with these settings has {parameters:,} parameters, whose training takes {needed / 2**30:,.0f} "
            f"GiB; this machine has {there / 2**30:,.0f}: make it smaller with --set"
        )


def require_batch(batch_size: int, images: int) -> None:
    """Raise `UsageError` where a batch is larger than all training images together."""
    if batch_size > images:
        raise UsageError(
            f"batch_size {batch_size} is larger than the {images} training images: take, for example, "
            f"--set batch_size={_power_of_two(images)}"
        )


def _power_of_two(at_most: int) -> int:
    return 1 << (at_most.bit_length() - 1)


def _suggest_size(dataset: Dataset, images: Images) -> str:
    """How images from a path are made a size that most backbones take."""
    if not isinstance(dataset, PathDataset):
        return ""
    side = max(16, _power_of_two(max(images.shape[1:])))
    return f"; --dataset {shlex.quote(dataset.with_size(side).label)} makes them {side}x{side}"
