"""References: the command that makes the one that is missing, and a subsample of its images."""

import re
import shlex

import pytest
import torch
from commands import RUN, only_line
from draws import CPU
from faces import lay
from images import with_settings
from vaes import write_untrained

from backbones.conv_vae import ConvVAE
from benchmark.bundles.bundle import open_bundle
from benchmark.bundles.making import Asked
from benchmark.bundles.parts import choose_training
from benchmark.bundles.pretrain import pretrain
from benchmark.bundles.reference import find_reference, make_reference
from benchmark.datasets.celeba64 import CelebA64
from benchmark.datasets.path import PathDataset
from benchmark.extractors.api import Features
from benchmark.extractors.digit_cnn import DigitCNN
from benchmark.registry import Registry

pytestmark = pytest.mark.usefixtures("nothing_shipped")


def test_the_command_that_a_run_names_makes_the_reference_that_it_lacks(faces, tmp_path, cli):
    """Of several bundles of a data set, the reference of the one that was asked for."""
    lay(tmp_path / "data", faces)
    for crop in (148, 140):
        dataset = with_settings(CelebA64, crop=crop)
        path = tmp_path / "cache" / "bundles" / f"celeba64-{crop}-conv_vae"
        write_untrained(path, dataset, dataset.load([tmp_path / "data"]))
    words = ["run", "--dataset", "celeba64[crop=148]", *RUN, "--results", tmp_path / "r", "--data-root"]
    (tmp_path / "no-data" / "celeba64.npz").parent.mkdir()
    (tmp_path / "no-data" / "celeba64.npz").touch()  # so that nothing is downloaded
    line = only_line(cli(*words, tmp_path / "no-data"))
    told = shlex.split(re.search(r"make it with: python -m benchmark (.*?) \(", line)[1])
    done = cli(*told, "--device", "cpu", "--data-root", tmp_path / "data")
    assert done.code == 0, done.err
    done = cli(*words, tmp_path / "no-data")
    assert done.code == 0, done.err


def test_the_subsample_of_a_reference_is_of_its_images(small_bundle):
    for split, count in (("train", 160), ("test", 60)):
        reference = find_reference(open_bundle(small_bundle), DigitCNN(), split)
        features = reference.subsample(CPU)
        assert features.dtype == torch.float32
        assert len(features) == count  # all of so few
        assert torch.allclose(features.double().mean(0), reference.statistics(CPU).mean, rtol=1e-2, atol=1e-2)


def test_of_a_vae_of_a_part_of_the_images_the_reference_is_of_that_part(small_bundle, tmp_path):
    """What it never saw is as new to it as held-out images are; those of all bundles of the whole stay theirs."""
    whole = open_bundle(small_bundle)
    dataset = PathDataset(small_bundle.parent / "small.npz")
    asked = Asked(Registry(), dataset, 0, CPU, [], None, tmp_path / "part", images=64)
    part = pretrain(asked, ConvVAE, {"width": 1, "nz": 4, "epochs": 1, "batch_size": 32})
    assert find_reference(part, DigitCNN(), "train") is None
    images = dataset.load([])
    made = make_reference(part, images, DigitCNN(), "train", CPU, None, lambda *_, **__: None)
    known = choose_training(images, 64, "small").train
    assert torch.allclose(made.statistics(CPU).mean, Features(DigitCNN(), CPU)(known).double().mean(0), atol=1e-6)
    assert find_reference(part, DigitCNN(), "train").card["count"] == len(made.subsample(CPU)) == 64
    again = make_reference(whole, images, DigitCNN(), "train", CPU, None, lambda *_, **__: None)
    assert again.card["count"] == 160
    assert again.path != made.path
    assert find_reference(part, DigitCNN(), "train").path == made.path
