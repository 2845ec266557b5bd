"""What stage 2 needs of a frozen backbone, taken while its images are at hand: posteriors, scores, card."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from backbones.api import Backbone
from backbones.training import posterior
from benchmark.bundles.bundle import SPLITS, Bundle, write_bundle
from benchmark.bundles.decoding import decode_images
from benchmark.bundles.parts import choose_at_random, choose_training
from benchmark.bundles.reconstructions import make_reconstructions
from benchmark.datasets.api import Dataset, Images
from benchmark.datasets.own import OwnDataset
from benchmark.errors import UsageError
from benchmark.extractors.api import Extractor, Features, Unavailable
from benchmark.progress import say, track
from benchmark.registry import Registry
from benchmark.scores.frechet import feature_statistics, frechet_distance
from benchmark.scores.mmd import mmd_between
from benchmark.settings import format_value
from benchmark.store.places import cache_root, lock_path
from benchmark.store.sealed import content_hash
from benchmark.streams import stream
from priors.api import PosteriorSplit

HOLE_LATENTS = 2_000

Posteriors = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Asked:
    """What is asked of a new bundle, whatever VAE it is of.

    `seed`: of the VAE's training. `roots`: where image files are looked for. `keep`: how many posteriors of train, val
    and test images it holds (None: all), drawn at random. `out`: its folder (None: one in the cache). `images`: how
    many training images the VAE is trained on and q_agg made of (None: all), drawn at random.
    """

    registry: Registry
    dataset: Dataset
    seed: int
    device: torch.device
    roots: list[Path]
    keep: list[int] | None
    out: Path | None
    images: int | None = None

    def extractor(self) -> Extractor:
        """The data set's own, which is known once its images are loaded. Raises `UsageError`."""
        return self.registry.get("extractor", self.dataset.extractor)()

    def folder(self, image_hash: str, *backbone: str) -> Path:
        """Where the bundle is written: that folder, or one in the cache, named after its images and its backbone."""
        if self.out is not None:
            return self.out
        # two folders may each hold a faces.npz
        of = [self.dataset.name, image_hash[:8]] if isinstance(self.dataset, OwnDataset) else [self.dataset.name]
        typed = name_parts(self.dataset.config.model_dump(mode="json", exclude_unset=True))
        of_images = [] if self.images is None else [f"images{self.images}"]
        name = "-".join([*of, *typed, *backbone, *of_images, *([f"seed{self.seed}"] if self.seed else [])])
        return cache_root() / "bundles" / name

    def choose_images(self, images: Images) -> Images:
        """The images with as many of the training ones as are asked for. Raises `UsageError` where there are fewer."""
        return images if self.images is None else choose_training(images, self.images, self.dataset.name)


def name_parts(settings: dict[str, Any]) -> list[str]:
    """Settings as parts of a name: `{"width": 8}` -> `["width8"]`."""
    return [f"{name}{format_value(value)}" for name, value in sorted(settings.items())]


def take_posteriors(asked: Asked, backbone: Backbone, images: Images) -> Posteriors:
    """Split -> mean and std of q(z|x), each (n, *latent_shape), of as many of its images as are kept."""
    parts = {}
    for number, split in enumerate(SPLITS):
        chosen = choose_at_random(getattr(images, split), asked.keep[number] if asked.keep else None, split)
        parts[split] = posterior(backbone, chosen.to(asked.device))
    return parts


def make_bundle(
    asked: Asked,
    path: Path,
    backbone: Backbone,
    images: Images,
    image_hash: str,
    parts: Posteriors,
    training: dict[str, Any],
    known_as: dict[str, Any] | None = None,
    prior: bytes | None = None,
    whole: Images | None = None,
) -> Bundle:
    """Score what was taken of the images and write the bundle, with the full reconstructions of a hierarchy.

    `whole`: the images of which `images` are a part, where they are.
    `known_as`: what its card says of the backbone beside what its class does. `prior`: the file of one that was trained
    with it.

    Raises OSError where `path` cannot be written.
    """
    dataset = asked.dataset
    card = {
        "dataset": {
            "name": dataset.name,
            "settings": dataset.config.model_dump(mode="json"),
            "image_shape": list(images.shape),
            "counts": dict(zip(SPLITS, images.counts)),
            "preparation": images.preparation,
            "terms": dataset.terms,
            "sha256": image_hash,
            "extractor": dataset.extractor,
        },
        "backbone": known_as or {},
        "training": training,
        "hole": _measure_hole(*parts["test"]),
        "reconstruction": _score_reconstruction(asked.extractor(), backbone, images.test, parts["test"]),
    }
    finish = partial(_reconstruct_fully, asked, backbone, images if whole is None else whole)
    return write_bundle(path, card, backbone, parts, prior, finish)


def _reconstruct_fully(asked: Asked, backbone: Backbone, images: Images, bundle: Bundle) -> None:
    """Full reconstructions of a hierarchy are seen now, while its images are at hand."""
    extractor = asked.extractor()
    for split in SPLITS[1:]:
        try:
            with track(f"{extractor.name} reconstructions, {split} split") as progress:
                folder = bundle.path / "reference"
                make_reconstructions(bundle, backbone, images, extractor, split, asked.device, folder, progress)
        except Unavailable as error:
            say(f"no full reconstructions: {extractor.name} cannot be used: {error}")


@contextmanager
def held(key: str, taken: str) -> Iterator[None]:
    """Nobody else holds the same key meanwhile. Raises `UsageError`, which says `taken`, where somebody does."""
    lock = FileLock(lock_path(f"pretrain-{content_hash(key)[:16]}"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UsageError(taken) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def new_folder(path: Path) -> Iterator[None]:
    """Nobody else makes this folder meanwhile, it is not there yet, and it can be written.

    Raises `UsageError`, or what the system says of the folder, before what takes long is lost to it.
    """
    other = "name another folder with --out"
    with held(os.path.abspath(path), f"{path} is being made by another command: wait, or {other}"):
        if path.exists() or path.is_symlink():
            raise UsageError(f"{path} exists already: remove it to make it again, or {other}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name[:40]}."):
            pass
        yield


def _measure_hole(mean: Tensor, std: Tensor) -> dict[str, float | None]:
    """How far posteriors (n, *latent_shape) are from N(0, I): the mean KL of each in nats, the MMD^2 of them all.

    Where the latter is zero no prior can help. Points, which are what a deterministic encoder gives, have no KL.
    """
    kl = (0.5 * (mean**2 + std**2 - 1) - std.log()).flatten(1).sum(1).mean().item() if (std > 0).all() else None
    n, generator = min(len(mean), HOLE_LATENTS), stream(mean.device, "hole")
    z = PosteriorSplit(mean, std).one_each(n, generator).flatten(1)
    normal = torch.randn(z.shape, generator=generator, device=z.device)
    return {"kl": kl, "mmd_imq": mmd_between(normal, z), "latents": n}


def _score_reconstruction(
    extractor: Extractor, backbone: Backbone, test: Tensor, posteriors: tuple[Tensor, Tensor]
) -> dict[str, Any] | None:
    """Fréchet distance between test images and what is decoded of one draw of each posterior that is kept."""
    device = posteriors[0].device
    try:
        features_of = Features(extractor, device)
    except Unavailable as error:
        say(f"no reconstruction score: {extractor.name} cannot be used: {error}")
        return None
    generator = stream(device, "reconstruction")
    mean, std = posteriors
    noise = torch.randn(mean.shape, generator=generator, device=device)
    features = features_of(decode_images(backbone, mean + std * noise, generator))
    value = frechet_distance(feature_statistics(features), feature_statistics(features_of(test)))
    return {"score": extractor.score, "value": value, "reconstructions": len(mean), "test": len(test)}
