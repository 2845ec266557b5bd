"""Full reconstructions: what an extractor sees where every group of a hierarchy is drawn from its posterior.

A bundle holds the top group's posterior alone, so these are taken while images are at hand, and kept beside the
references of the images, under the bundle's id:

reference/<extractor>-<split>-<bundle>.safetensors, .json   features (float16), and their card
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from backbones.api import Backbone
from backbones.training import as_input
from benchmark.bundles.bundle import Bundle
from benchmark.bundles.decoding import DECODE_BATCH, as_bytes
from benchmark.bundles.reference import look_up, require_images_of, write_beside
from benchmark.datasets.api import Images
from benchmark.extractors.api import Extractor, Features
from benchmark.progress import Progress
from benchmark.streams import stream

RECONSTRUCTED = 10_000  # images at most, for which features are kept


def find_reconstructions(bundle: Bundle, extractor: Extractor, split: str, device: torch.device) -> Tensor | None:
    """Features (n, d) of full reconstructions of a split's images, in random order, or None. Raises `Damaged`."""
    found = look_up(bundle, extractor, name_of_reconstructions(bundle, extractor, split))
    return load_file(found[0])["features"].float().to(device) if found else None


def name_of_reconstructions(bundle: Bundle, extractor: Extractor, split: str) -> str:
    """What their file is called, without its ending."""
    return f"{extractor.name}-{split}-{bundle.id[:16]}"


@torch.no_grad()
def make_reconstructions(
    bundle: Bundle,
    backbone: Backbone,
    images: Images,
    extractor: Extractor,
    split: str,
    device: torch.device,
    folder: Path | None,
    progress: Progress,
) -> Path | None:
    """Reconstruct a split's images with every group from its posterior and write the features of up to `RECONSTRUCTED`.

    Nothing is written, and None returned, of a backbone whose latent block is all that it has.
    Raises `UsageError` where `images` are not those that the bundle was made from.
    """
    require_images_of(bundle, images)
    of_split = getattr(images, split)
    order = torch.randperm(len(of_split), generator=stream(torch.device("cpu"), "reconstructions", split))
    features_of: Features | None = None
    parts: list[Tensor] = []
    noise = stream(device, "reconstruction noise", split)
    for chosen in order[:RECONSTRUCTED].split(DECODE_BATCH):
        made = backbone.reconstruct(as_input(of_split[chosen].to(device)), noise)
        if made is None:
            return None
        features_of = features_of or Features(extractor, device)  # not before: a flat backbone needs none
        parts.append(features_of(as_bytes(made)))
        progress(sum(map(len, parts)), min(len(of_split), RECONSTRUCTED))
    tensors = {"features": torch.cat(parts).half().cpu()}
    name = name_of_reconstructions(bundle, extractor, split)
    return write_beside(bundle, extractor, split, len(tensors["features"]), tensors, folder, name)[0]
