"""Stage 1: images -> trained backbone -> bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from backbones.api import Backbone
from backbones.bundle import SPLITS, Bundle, write_bundle
from backbones.hashing import content_hash
from backbones.training import TrainingDiverged, posterior, train
from benchmark.datasets.api import Dataset
from benchmark.errors import UsageError
from benchmark.places import cache_root
from benchmark.progress import say, track
from benchmark.provenance import provenance
from benchmark.settings import validated


def pretrain(
    dataset: Dataset,
    backbone_class: type[Backbone],
    settings: dict[str, Any],
    seed: int,
    device: torch.device,
    roots: list[Path],
    out: Path | None,
) -> Bundle:
    """Train `backbone_class` on `dataset` and write its bundle to `out` (default: under the cache).

    A run that was killed goes on from its last epoch. Raises `UsageError` where `out` is taken.
    """
    origin = provenance(device)  # of the code as it is now, not as it may be hours later
    images = dataset.load(roots)
    recipe, note = backbone_class.recipe(dataset.name, images.shape)
    config = validated(backbone_class.Config, {**recipe, **settings}, f"backbone {backbone_class.name}")
    name = f"{dataset.name}-{backbone_class.name}" + "".join(f"-{k}{v}" for k, v in sorted(settings.items()))
    path = out or cache_root() / "bundles" / (f"{name}-seed{seed}" if seed else name)
    if path.exists():
        raise UsageError(f"{path} exists already: remove it to train again, or name another folder with --out")
    if note:
        say(note)
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
    card = {
        "dataset": {
            "name": dataset.name,
            "image_shape": list(images.shape),
            "counts": {split: len(getattr(images, split)) for split in SPLITS},
            "preparation": images.preparation,
            "terms": dataset.terms,
            "sha256": image_hash,
            "extractor": dataset.extractor,
        },
        "training": {"seed": seed, **vars(log), **origin},
    }
    parts = {split: posterior(backbone, getattr(images, split).to(device)) for split in SPLITS}
    bundle = write_bundle(path, card, backbone, parts)
    checkpoint.unlink()
    say(
        f"bundle {path}: best validation loss {log.val_loss[log.best_epoch - 1]:.4g} "
        f"in epoch {log.best_epoch} of {config.epochs}, {log.seconds:.0f} s of training"
    )
    return bundle
