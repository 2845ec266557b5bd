"""MNIST and Fashion-MNIST from the files that people have: split at random, binarised, missing and damaged."""

import struct
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from images import SPLITS, check_images, refused

from benchmark.datasets.mnist import MNIST, FashionMNIST
from benchmark.store.places import data_roots


def idx(array):
    """An array of bytes in the IDX format."""
    return struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def numbered(n):
    """n images of 28x28 that hold their number in three pixels of the middle."""
    images, numbers = np.zeros((n, 28, 28), np.uint8), np.arange(n)
    for place, shift in enumerate((16, 8, 0)):
        images[:, 14, 10 + place] = numbers >> shift & 255
    return images


def numbers_of(images):
    pixels = images[:, 0, 16, 12:15].long()
    return (pixels * torch.tensor([65536, 256, 1])).sum(1)


@pytest.fixture(scope="module")
def idx_root(tmp_path_factory):
    """A folder with the eight unpacked files of MNIST's and of Fashion-MNIST's format, images numbered."""
    root = tmp_path_factory.mktemp("idx")
    for name in ("MNIST", "FashionMNIST"):
        raw = root / name / "raw"
        raw.mkdir(parents=True)
        for part, n in (("train", 60_000), ("t10k", 10_000)):
            (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(numbered(n)))
            (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.zeros(n, np.uint8)))
    return root


@pytest.fixture
def offline(monkeypatch):
    """No network, and how often it was asked for."""
    asked = []

    def refuse(url, *_, **__):
        asked.append(url)
        raise URLError("no network here")

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", refuse)
    return asked


@pytest.mark.parametrize("dataset", [MNIST, FashionMNIST])
def test_mnist_from_files_is_padded_and_split_at_random_the_same_way_each_time(dataset, idx_root, tmp_path, offline):
    images = dataset().load([tmp_path / "nothing here", idx_root])
    assert not offline
    check_images(images)
    assert [len(getattr(images, split)) for split in SPLITS] == [50_000, 10_000, 10_000] == list(dataset.counts)
    assert images.shape == (1, 32, 32)
    train, val, test = (numbers_of(getattr(images, split)) for split in SPLITS)
    assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(60_000))
    assert torch.equal(test, torch.arange(10_000))
    assert abs(val.double().mean() - 30_000) < 1_000
    assert not torch.equal(val, val.sort().values)
    for part in (images.train, images.val, images.test):
        assert part[:, :, 16, 12:15].sum() == part.sum()  # nothing but the numbers, moved by the two padded pixels
    torch.manual_seed(5)
    again = dataset().load([idx_root])
    assert again.content_hash() == images.content_hash()
    assert "50000/10000" in images.preparation
    assert "padded to 32x32" in images.preparation


def test_binarised_mnist_is_drawn_once_with_the_grey_value_as_probability(idx_root, offline):
    grey = MNIST().load([idx_root])
    binary = MNIST(MNIST.Config(binarised=True)).load([idx_root])
    again = MNIST(MNIST.Config(binarised=True)).load([idx_root])
    assert binary.content_hash() == again.content_hash() != grey.content_hash()
    assert "binarised" in binary.preparation
    assert "binarised" not in grey.preparation
    p = torch.arange(256, dtype=torch.float64) / 255
    for split in SPLITS:
        drawn, level = getattr(binary, split), getattr(grey, split)
        assert ((drawn == 0) | (drawn == 255)).all()
        pixels, white = (part.flatten().bincount(minlength=256) for part in (level, level[drawn == 255]))
        assert white[0] == 0
        assert white[255] == pixels[255]
        error = (pixels * p * (1 - p)).sqrt()
        assert abs(white.sum() - pixels.double() @ p) < 4 * error.norm()
        for one in (64, 200):  # one grey value alone: no other probability would do
            if pixels[one] > 100:
                assert abs(white[one] - pixels[one] * p[one]) < 4 * error[one]


def test_data_is_found_in_the_folder_that_the_environment_names(idx_root, monkeypatch, offline, tmp_path):
    monkeypatch.setenv("LATENT_PRIOR_DATA", str(idx_root))
    assert data_roots()[0] == idx_root
    assert data_roots(tmp_path)[:2] == [tmp_path, idx_root]
    assert len(MNIST().load(data_roots(tmp_path)).test) == 10_000
    assert not offline


@pytest.mark.parametrize("dataset", [MNIST, FashionMNIST])
def test_missing_data_without_a_network_names_files_folders_and_source(dataset, tmp_path, offline):
    roots = [tmp_path / "one", tmp_path / "two"]
    message = refused(dataset(), roots)
    assert offline
    for name in ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"):
        assert name in message
    for name in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        assert name in message
    assert str(roots[0]) in message
    assert str(roots[1]) in message
    assert f"{dataset().source.__name__}/raw" in message
    assert dataset().source.mirrors[0] in message
    assert dataset.name in message


def test_a_folder_with_a_part_of_the_files_is_no_find(idx_root, tmp_path, offline):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "t10k-images-idx3-ubyte").write_bytes(idx(numbered(10_000)))
    assert len(MNIST().load([tmp_path, idx_root]).train) == 50_000
    assert "t10k-labels" in refused(MNIST(), [tmp_path])


@pytest.mark.parametrize("spoil", ["truncated", "not idx", "empty"])
def test_a_damaged_file_of_mnist_is_named_in_one_line(spoil, idx_root, tmp_path, offline):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in (idx_root / "MNIST" / "raw").iterdir():
        (raw / file.name).symlink_to(file)
    bad = raw / "t10k-images-idx3-ubyte"
    bad.unlink()
    whole = idx(numbered(10_000))
    bad.write_bytes({"truncated": whole[:100_000], "not idx": b"<html>" * 2_000, "empty": b""}[spoil])
    message = refused(MNIST(), [tmp_path])
    assert str(tmp_path) in message
    assert "mnist" in message
