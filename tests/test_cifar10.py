"""CIFAR-10 from the files that people have: the official test images, or a part of the training file."""

from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from images import SPLITS, check_images, counts, refused, with_settings

from benchmark.datasets.cifar10 import CIFAR10


def numbered(numbers):
    """Images of 32x32x3 that hold their number in the red and green of one pixel, far from every symmetry."""
    images = np.zeros((len(numbers), 32, 32, 3), np.uint8)
    images[:, 3, 20] = np.stack([numbers >> 8, numbers & 255, np.full(len(numbers), 77)], 1)
    return images


def numbers_of(images):
    """The numbers, of images whose colours and places are as they were and that hold nothing else."""
    pixels = images[:, :, 3, 20].long()
    assert (pixels[:, 2] == 77).all()
    assert images.sum() == pixels.sum()
    return pixels[:, 0] * 256 + pixels[:, 1]


@pytest.fixture(scope="module")
def cifar_files():
    """What torchvision reads from the training file and from the test file: numbered from 0, and from 50,000."""
    return {True: numbered(np.arange(50_000)), False: numbered(np.arange(50_000, 60_000))}


@pytest.fixture
def served(cifar_files, monkeypatch):
    """torchvision's class without its md5 sums, serving those files from any folder; the folders it was asked for."""
    asked = []

    class Served(torchvision.datasets.CIFAR10):
        def __init__(self, root, train, download):
            asked.append(Path(root))
            self.data = cifar_files[train]

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Served)
    return asked


@pytest.fixture
def no_network(monkeypatch):
    """torchvision's own class, and no network; the addresses it asked for."""
    asked = []

    def refuse(url, *_, **__):
        asked.append(url)
        raise URLError("no network here")

    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", refuse)
    return asked


@pytest.fixture(scope="module")
def cifar_npz(cifar_files, tmp_path_factory):
    """A folder with the training file alone, as an .npz that is cut elsewhere."""
    root = tmp_path_factory.mktemp("cifar")
    parts = np.split(cifar_files[True], [45_000, 49_000])
    np.savez(root / "cifar10.npz", **dict(zip(SPLITS, parts)))
    return root


def test_official_cifar10_splits_its_training_file_at_random_the_same_way_each_time(served, tmp_path):
    images = CIFAR10().load([tmp_path])
    check_images(images)
    assert counts(images) == [48_000, 2_000, 10_000] == list(CIFAR10.counts)
    assert images.shape == (3, 32, 32)
    train, val, test = (numbers_of(getattr(images, split)) for split in SPLITS)
    assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(50_000))
    assert torch.equal(test, torch.arange(50_000, 60_000))
    assert abs(val.double().mean() - 25_000) < 1_300  # 4 standard errors
    assert not torch.equal(val, val.sort().values)
    torch.manual_seed(5)
    again = CIFAR10().load([tmp_path])
    assert torch.equal(again.train, images.train)
    assert torch.equal(again.val, images.val)
    assert "48000/2000" in images.preparation
    assert "random" in images.preparation


def test_cifar10_of_the_training_file_keeps_its_order(served, tmp_path):
    images = with_settings(CIFAR10, test="training_file").load([tmp_path])
    check_images(images)
    assert counts(images) == [38_000, 2_000, 10_000]
    assert images.shape == (3, 32, 32)
    parts = [numbers_of(getattr(images, split)) for split in SPLITS]
    assert torch.equal(torch.cat(parts), torch.arange(50_000))
    assert "38000/2000/10000" in images.preparation
    assert "not the official" in images.preparation


def test_cifar10_of_the_training_file_is_the_same_from_an_npz_and_asks_for_nothing(cifar_npz, no_network, tmp_path):
    images = with_settings(CIFAR10, test="training_file").load([tmp_path, cifar_npz])
    assert not no_network
    check_images(images)
    assert counts(images) == [38_000, 2_000, 10_000]
    assert torch.equal(torch.cat([numbers_of(getattr(images, split)) for split in SPLITS]), torch.arange(50_000))
    assert "38000/2000/10000" in images.preparation
    assert "not the official" in images.preparation


CIFAR_FILES = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch", "batches.meta"]


def name_cifar_files(root, names=CIFAR_FILES):
    """Empty files: which folder is taken is decided by names."""
    for name in names:
        path = root / name if name.endswith(".gz") else root / "cifar-10-batches-py" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


@pytest.mark.parametrize("names", [CIFAR_FILES, ["cifar-10-python.tar.gz"]], ids=["unpacked", "packed"])
@pytest.mark.parametrize("test", ["official", "training_file"])
def test_cifar10_s_own_files_are_taken_where_they_lie_before_an_npz(test, names, cifar_npz, served, tmp_path):
    root = name_cifar_files(tmp_path / "mine", names)
    with_settings(CIFAR10, test=test).load([cifar_npz, root, tmp_path / "cache"])
    assert set(served) == {root}


def test_a_folder_with_a_part_of_cifar10_hides_no_whole_one(served, tmp_path):
    part, whole = name_cifar_files(tmp_path / "part", CIFAR_FILES[:2]), name_cifar_files(tmp_path / "whole")
    CIFAR10().load([part, whole])
    assert set(served) == {whole}


def test_cifar10_that_is_nowhere_is_fetched_into_the_last_folder(served, tmp_path):
    CIFAR10().load([tmp_path / "mine", tmp_path / "cache"])
    assert set(served) == {tmp_path / "cache"}


@pytest.mark.parametrize("shape", [(30, 32, 32, 3), (50_000, 2, 2, 3), (50_000, 2, 2)])
def test_a_cifar10_npz_of_another_size_is_refused(shape, no_network, tmp_path):
    rest = (5, *shape[1:])
    arrays = {"train": np.zeros((shape[0] - 10, *shape[1:]), np.uint8), "val": np.zeros(rest, np.uint8)}
    np.savez(tmp_path / "cifar10.npz", **arrays, test=np.zeros(rest, np.uint8))
    message = refused(with_settings(CIFAR10, test="training_file"), [tmp_path])
    assert str(tmp_path / "cifar10.npz") in message
    assert str(shape[0]) in message
    assert "50000 of 32x32x3" in message


@pytest.mark.parametrize("test", ["official", "training_file"])
def test_cifar10_without_a_network_names_the_source_and_the_folders(test, no_network, tmp_path):
    roots = [tmp_path / "one", tmp_path / "two"]
    message = refused(with_settings(CIFAR10, test=test), roots)
    assert no_network
    assert no_network[0] in message
    assert no_network[0].endswith("cifar-10-python.tar.gz")
    assert str(roots[0]) in message
    assert str(roots[1]) in message
    assert "cifar10.npz" not in message


def test_official_cifar10_where_there_is_but_an_npz_names_the_alternative(no_network, tmp_path):
    (tmp_path / "cifar10.npz").touch()
    message = refused(CIFAR10(), [tmp_path])
    assert no_network[0] in message
    assert str(tmp_path / "cifar10.npz") in message
    assert "cifar10[test=training_file]" in message


def test_what_was_typed_is_not_the_alternative(no_network, tmp_path):
    """The training file's .npz is there, and so is a part of the original files."""
    name_cifar_files(tmp_path, CIFAR_FILES[:2])
    np.savez(tmp_path / "cifar10.npz", train=np.zeros(1))
    message = refused(with_settings(CIFAR10, test="training_file"), [tmp_path])
    assert "cifar10[test=training_file]" not in message
