"""Data sets: what every one of them says, how settings are typed, and a hash that tells images apart."""

from dataclasses import replace

import pytest
import torch
from commands import only_line

from benchmark.datasets.digits import Digits
from benchmark.registry import Registry


def test_a_content_hash_tells_every_pixel_and_every_split():
    images = Digits().load([])
    changed = images.train.clone()
    changed[0, 0, 0, 0] += 1
    moved = replace(images, train=torch.cat([images.train, images.val[:1]]), val=images.val[1:])
    others = [replace(images, train=changed), replace(images, train=images.val, val=images.train), moved]
    assert len({each.content_hash() for each in [images, *others]}) == 4


def test_every_named_data_set_says_what_a_user_needs_to_know():
    for name, cls in Registry().all("dataset").items():
        assert cls.name == name
        assert cls.terms
        assert cls.extractor in Registry().all("extractor")


@pytest.mark.parametrize("command", ["run", "pretrain"])
@pytest.mark.parametrize(
    "dataset, parts",
    [
        ("celeba64[crop=150]", ["data set celeba64", "crop=150", "148", "140"]),
        ("celeba64[crop=wide]", ["data set celeba64", "crop='wide'", "148", "140"]),
        ("celeba64[corp=140]", ["'corp'", "did you mean 'crop'"]),
        ("celeba64[crop=140,148]", ["celeba64[crop=140,148]", "one value for each setting"]),
        ("celeba64[crop=140", ["celeba64[crop=140"]),
        ("celeba64[crop]", ["'crop'", "NAME=VALUE"]),
        ("celeba64,cifar10", ["celeba64,cifar10", "one data set"]),
        ("mnist[crop=1]", ["data set mnist", "'crop'", "known: binarised"]),
        ("digits[crop=1]", ["data set digits", "'crop'", "known: none"]),
        ("cifar10[test=val]", ["data set cifar10", "test='val'", "official", "training_file"]),
        ("celeba[crop=140]", ["dataset 'celeba'", "did you mean 'celeba64'"]),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_bad_settings_of_a_data_set_are_one_line_and_exit_code_2(command, dataset, parts, cli):
    line = only_line(cli(command, "--dataset", dataset, "--device", "cpu"))
    for part in parts:
        assert part in line
