"""Small backbones with the images they take, and bundles of them."""

import numpy as np
import pytest
import torch
from draws import CPU, seeded
from images import SPLITS, counts

from backbones.api import Backbone
from backbones.conv_vae import ConvVAE, ConvVAEConfig
from backbones.nvae import NVAE, NVAEConfig
from backbones.training import posterior
from backbones.wrapped import WrappedConfig
from benchmark.bundles.bundle import open_bundle, write_bundle
from benchmark.bundles.reconstructions import find_reconstructions
from benchmark.extractors.digit_cnn import DigitCNN
from benchmark.registry import Registry
from benchmark.settings import format_value

#: those that `pretrain` trains
BACKBONES = {name: cls for name, cls in Registry().all("backbone").items() if not issubclass(cls.Config, WrappedConfig)}
every_backbone = pytest.mark.parametrize("cls", BACKBONES.values(), ids=BACKBONES)
#: settings that make a backbone's network small
TINY = {"conv_vae": {"width": 4}}
#: the settings of a small hierarchy
SMALL = {"groups": (1, 2), "top_side": 2, "width": 8, "z_channels": 3}
DATASETS = {"mnist": (1, 32, 32), "cifar10": (3, 32, 32), "celeba64": (3, 64, 64)}


def tiny(cls: type[Backbone], dataset: str = "mnist", init: int = 0, **settings) -> Backbone:
    """A small one with its recipe, in evaluation mode, its buffers moved off their initial values."""
    shape = DATASETS[dataset]
    config = cls.Config(**{**cls.recipe(dataset, shape)[0], **TINY.get(cls.name, {}), **settings})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(init)
        backbone = cls(shape, config)
        with torch.no_grad():
            for _ in range(3):
                backbone.loss(pictures(shape, 8), seeded())
    return backbone.eval()


def pictures(shape, n: int, seed: int = 0) -> torch.Tensor:
    """Noise in [0, 1]."""
    return torch.rand(n, *shape, generator=seeded(seed))


def write_squares(path) -> None:
    """Images of 4 x 4 squares, 200 of them to train on."""
    blocks = torch.rand(300, 4, 4, generator=seeded()).gt(0.5).repeat_interleave(4, 1).repeat_interleave(4, 2)
    images = (255 * blocks).to(torch.uint8).numpy()
    np.savez(path, train=images[:200], val=images[200:240], test=images[240:])


def words_of_squares(data, out, **settings) -> list:
    """What to type for a training of a tiny hierarchy on them."""
    settings = {**SMALL, "batch_size": 50, **settings}
    words = [word for setting, value in settings.items() for word in ("--set", f"{setting}={format_value(value)}")]
    return ["pretrain", "--dataset", data, *words, "--backbone", "nvae", "--device", "cpu", "--out", out]


def bright_squares(n: int, seed: int = 0, shape=DATASETS["mnist"]) -> torch.Tensor:
    """Bright squares at random places: something to learn."""
    images = torch.zeros(n, *shape, dtype=torch.uint8)
    for image, (row, column) in zip(images, torch.randint(0, 24, (n, 2), generator=seeded(seed)).tolist()):
        image[:, row : row + 8, column : column + 8] = 255
    return images


def hierarchy(shape=(1, 16, 16), **settings) -> NVAE:
    """A small one whose batch norms have seen images."""
    model = NVAE(shape, NVAEConfig(**{**SMALL, **settings})).train()
    for seed in range(3):
        model.loss(binary(8, seed, shape), seeded(seed))
    return model.eval()


def binary(n: int, seed: int = 0, shape=(1, 16, 16)) -> torch.Tensor:
    """Binary images."""
    return (torch.rand(n, *shape, generator=seeded(seed)) < 0.3).float()


def untrained(shape, init=0, **settings):
    """A conv_vae as it is initialised."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(init)
        return ConvVAE(shape, ConvVAEConfig(**{"width": 1, "nz": 3} | settings)).eval()


def write_untrained(path, dataset, images):
    """A bundle of an untrained backbone, with the card that `pretrain` gives to a data set's images."""
    backbone = untrained(images.shape)
    card = {
        "name": dataset.name,
        "settings": dataset.config.model_dump(mode="json"),
        "image_shape": list(images.shape),
        "counts": dict(zip(SPLITS, counts(images))),
        "preparation": images.preparation,
        "terms": dataset.terms,
        "sha256": images.content_hash(),
        "extractor": dataset.extractor,
    }
    training = {"seed": 0, "best_epoch": 1}
    posteriors = {split: posterior(backbone, getattr(images, split)) for split in SPLITS}
    return write_bundle(path, {"dataset": card, "training": training}, backbone, posteriors)


def reconstructed(bundle, split):
    """Features (n, d) of the full reconstructions beside a bundle."""
    return find_reconstructions(open_bundle(bundle), DigitCNN(), split, CPU)
