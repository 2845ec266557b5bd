"""Stage 1: images -> trained backbone -> bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbones.api import Backbone
from backbones.bundle import SPLITS, Bundle, round_weights, write_bundle
from backbones.hashing import content_hash
from backbones.training import TrainingDiverged, posterior, train
from benchmark.datasets.api import Dataset
from benchmark.errors import UsageError
from benchmark.evaluation import decoded
from benchmark.extractors.api import Extractor, Features, Unavailable
from benchmark.metrics.frechet import feature_statistics, frechet_distance
from benchmark.places import cache_root
from benchmark.plugins import Registry
from benchmark.progress import say, track
from benchmark.provenance import provenance
from benchmark.settings import shown, validated
from benchmark.streams import stream


def pretrain(
    registry: Registry,
    dataset: Dataset,
    backbone_class: type[Backbone],
    settings: dict[str, Any],
    seed: int,
    device: torch.device,
    roots: list[Path],
    keep: list[int] | None,
    out: Path | None,
) -> Bundle:
    """Train `backbone_class` on `dataset` and write its bundle to `out` (default: under the cache).

    `keep`: how many posteriors of train, val and test images the bundle holds (None: all), drawn at random.
    A run that was killed goes on from its last epoch. Raises `UsageError` where `out` is taken.
    """
    origin = provenance(device)  # of the code as it is now, not as it may be hours later
    images = dataset.load(roots)
    recipe, note = backbone_class.recipe(dataset.name, images.shape)
    config = validated(backbone_class.Config, {**recipe, **settings}, f"backbone {backbone_class.name}")
    chosen = dataset.config.model_dump(mode="json", exclude_unset=True)
    name = "-".join([dataset.name, *_words(chosen), backbone_class.name, *_words(settings)])
    path = out or cache_root() / "bundles" / (f"{name}-seed{seed}" if seed else name)
    if path.exists():
        raise UsageError(f"{path} exists already: remove it to train again, or name another folder with --out")
    if note:
        say(note)
    extractor = registry.get("extractor", dataset.extractor)()
    image_hash = images.content_hash()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        try:
            backbone = backbone_class(images.shape, config).to(device, memory_format=torch.channels_last)
        except ValueError as error:
            raise UsageError(str(error)) from error
    what = f"{backbone.name} on {dataset.name}"
    say(f"training {what}: {len(images.train)} images, {sum(p.numel() for p in backbone.parameters()):,} parameters")
    run = content_hash([backbone.name, backbone.version, config.model_dump(), image_hash, seed, device.type])
    checkpoint = cache_root() / "pretrain" / f"{run}.pt"
    with track(what) as progress:
        try:
            log = train(backbone, images.train.to(device), images.val.to(device), seed, checkpoint, progress)
        except (ValueError, TrainingDiverged) as error:
            raise UsageError(str(error)) from error
    round_weights(backbone)
    parts = {}
    for number, split in enumerate(SPLITS):
        kept = _kept(getattr(images, split), keep[number] if keep else None, split)
        parts[split] = posterior(backbone, kept.to(device))
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
        "training": {"seed": seed, **vars(log), **origin},
        "reconstruction": _reconstruction(extractor, backbone, images.test, parts["test"]),
    }
    bundle = write_bundle(path, card, backbone, parts)
    checkpoint.unlink()
    say(
        f"bundle {path}: best validation loss {log.val_loss[log.best_epoch - 1]:.4g} "
        f"in epoch {log.best_epoch} of {config.epochs}, {log.seconds:.0f} s of training"
    )
    return bundle


def _words(settings: dict[str, Any]) -> list[str]:
    return [f"{name}{shown(value)}" for name, value in sorted(settings.items())]


def _kept(images: Tensor, count: int | None, split: str) -> Tensor:
    """A random part of `images` of that size, the same in every call; all of them where they are no more."""
    if count is None or count >= len(images):
        return images
    order = torch.randperm(len(images), generator=stream(torch.device("cpu"), "kept posteriors", split))
    return images[order[:count]]


def _reconstruction(
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
    features = features_of(decoded(backbone, mean + std * noise, generator))
    value = frechet_distance(feature_statistics(features), feature_statistics(features_of(test)))
    return {"score": extractor.score, "value": value, "reconstructions": len(mean), "test": len(test)}
