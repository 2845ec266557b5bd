"""A VAE that was trained elsewhere and its images -> bundle."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from backbones.api import Backbone
from backbones.exported import Unexportable, export_vae
from backbones.trained import TrainedVAE
from backbones.wrapped import WrappedConfig, WrappedVAE
from benchmark.bundles.bundle import NO_PART, SPLITS, Bundle, probe
from benchmark.bundles.examine import Misread, examine, require_kept, require_reading
from benchmark.bundles.find import name_of, note_bundle
from benchmark.bundles.making import Asked, make_bundle, new_folder, take_posteriors
from benchmark.bundles.reference import make_reference
from benchmark.datasets.api import Images
from benchmark.datasets.content import load_images
from benchmark.errors import UsageError, words_of
from benchmark.extractors.api import Unavailable
from benchmark.progress import say, track
from benchmark.store.provenance import provenance
from benchmark.suggestion import suggest
from benchmark.text import one_line

#: posteriors whose width is less than this share of the aggregate's are all but points
NARROW = 0.05


def wrap_trained(asked: Asked, trained: TrainedVAE) -> Bundle:
    """The bundle of a VAE that is two functions; it travels as programs of `torch.export`. Raises `UsageError`."""
    if not re.fullmatch(r"[\w-]{1,80}", trained.name):
        raise UsageError(f"the name '{trained.name}' of a VAE is to be a word of letters, digits, - and _")
    if trained.name in asked.registry.all("backbone"):
        raise UsageError(f"the name '{trained.name}' is that of a backbone of the suite: give the VAE another one")

    def as_programs(vae: WrappedVAE) -> Backbone:
        try:
            return export_vae(vae).to(asked.device)
        except Unexportable as error:
            raise UsageError(f"{trained.name}: {error}") from error

    if trained.note:
        say(trained.note)
    known_as = {"name": trained.name, "class": "exported"}
    return _wrap(asked, trained.build, as_programs, known_as)


def wrap_class(asked: Asked, cls: type[WrappedVAE], config: WrappedConfig, file: Path) -> Bundle:
    """The bundle of a VAE whose class is in a file, with what its own loader finds. Raises `UsageError`."""

    def build(image_shape: tuple[int, int, int]) -> WrappedVAE:
        vae = _of_theirs(f"{cls.name} cannot be built for images {image_shape}", lambda: cls(image_shape, config))
        weights = _of_theirs(f"{cls.name}: load_weights failed", vae.load_weights)
        _of_theirs(f"{cls.name}: its weights are not those of its module", lambda: vae.model.load_state_dict(weights))
        return vae.eval().requires_grad_(False)

    def rebuilt(vae: WrappedVAE) -> Backbone:
        """As whoever opens the bundle has it: of what is not in its state nothing is left."""
        again = _of_theirs(f"{cls.name} cannot be built again", lambda: cls(vae.image_shape, config))
        again.load_state_dict(vae.state_dict())
        return again.to(asked.device).eval().requires_grad_(False)

    return _wrap(asked, build, rebuilt, {"file": file.name}, file)


def _of_theirs(what: str, call: Callable[[], Any]) -> Any:
    """What code of theirs returns; its error as one line."""
    try:
        return call()
    except Exception as error:
        said = one_line(words_of(error), 300) or type(error).__name__
        raise UsageError(f"{what}: {type(error).__name__}: {said}") from error


def _wrap(
    asked: Asked,
    build: Callable[[tuple[int, int, int]], WrappedVAE],
    as_kept: Callable[[WrappedVAE], Backbone],
    known_as: dict[str, Any],
    plugin: Path | None = None,
) -> Bundle:
    """Examine the VAE that is built for the images, take what a bundle holds, and write it as `as_kept` has it.

    `plugin`: the file that whoever uses the bundle has to name.
    """
    device = asked.device
    origin = provenance(device)
    images, image_hash = load_images(asked.dataset, asked.roots)
    vae = build(images.shape).to(device)
    _held(vae, require_reading, vae)
    with new_folder(path := asked.folder(image_hash, vae.name)):
        unexplained = _held(vae, examine, vae, images, device)
        reading = {
            "value_range": list(vae.value_range),
            "spread": vae.spread,
            "channels": vae.channels,
            "likelihood": vae.likelihood,
            "std": vae.std,
        }
        kept = as_kept(vae)
        _held(vae, require_kept, vae, kept, images, device)
        parts = take_posteriors(asked, kept, images)
        _warn(vae, parts["test"])
        training = {"seed": asked.seed, "elsewhere": True, "unexplained": unexplained, **origin}
        about = known_as | {"reading": reading, "probe": probe(kept.cpu())}
        kept.to(device)
        bundle = make_bundle(asked, path, kept, images, image_hash, parts, training, about)
        if asked.out:
            note_bundle(asked.out)
        _make_references(asked, bundle, images)
        score = bundle.card["reconstruction"]
        named = {} if plugin is None else {"plugin": plugin}
        told = f", {score['score']} {score['value']:.3g}" if score else ""
        say(
            f"bundle {path}: latents {'x'.join(map(str, bundle.latent_shape))}; reconstructions leave "
            f"{unexplained:.1%} of the images' variance{told}; "
            f"go on with: {suggest('run', bundle=asked.out or name_of(bundle), **named)}"
        )
    return bundle


def _held(vae: WrappedVAE, check: Callable[..., Any], *of: Any) -> Any:
    """What a check returns. Raises `UsageError`, which names the VAE, where it does not hold."""
    try:
        return check(*of)
    except Misread as error:
        raise UsageError(f"{vae.name}: {error}") from error


def _make_references(asked: Asked, bundle: Bundle, images: Images) -> None:
    """What the extractor sees in the images is taken now, while they are at hand."""
    extractor = asked.extractor()
    for split in SPLITS:
        try:
            with track(f"{extractor.name} reference, {split} split") as progress:
                make_reference(bundle, images, extractor, split, asked.device, bundle.path / "reference", progress)
        except Unavailable as error:
            say(f"no reference: {extractor.name} cannot be used: {error}")


def _warn(vae: WrappedVAE, posteriors: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Say what a prior means where it is not what it is for a VAE."""
    mean, std = posteriors
    if vae.spread == "none":
        say(
            f"{vae.name} is deterministic: its aggregate posterior is the set of its codes"
            f"{f', widened by {vae.std:g}' if vae.std else ''}, and N(0, I), the 0 % line, {NO_PART}"
        )
    elif (width := float(std.mean() / (mean.std(0).mean() + std.mean()))) < NARROW:
        say(
            f"{vae.name}: its posteriors are narrow, {width:.1%} of the aggregate posterior's width: this is all but a "
            "set of points, so look at what is memorised beside how near a prior comes to it"
        )
