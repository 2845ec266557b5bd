"""FD of the same latents on a device: `python tests/score_latents.py BUNDLE DATASET EXTRACTOR DEVICE` prints it.

2,000 draws of the test split's aggregate posterior, made on the CPU, decoded, seen and compared where it says.
"""

import sys

import torch

from benchmark.bundles.decoding import decode_images
from benchmark.bundles.reference import find_reference
from benchmark.extractors.api import Features
from benchmark.machine.devices import choose_device
from benchmark.names import choose_bundle
from benchmark.registry import Registry
from benchmark.scores.frechet import feature_statistics, frechet_distance
from priors.api import PosteriorSplit

CPU = torch.device("cpu")


def main(name: str, dataset: str, extractor: str, device_name: str) -> None:
    registry, device = Registry(), choose_device(device_name)
    bundle = choose_bundle(registry, dataset, "conv_vae", name)
    looking = registry.get("extractor", extractor)(None)
    z = PosteriorSplit(*bundle.posterior("test", CPU)).sample(2_000, torch.Generator().manual_seed(0)).to(device)
    backbone = bundle.open_backbone(registry, device)
    images = decode_images(backbone, z, torch.Generator(device).manual_seed(0))
    seen = feature_statistics(Features(looking, device)(images))
    print(frechet_distance(seen, find_reference(bundle, looking, "test").statistics(device)))


if __name__ == "__main__":
    main(*sys.argv[1:])
