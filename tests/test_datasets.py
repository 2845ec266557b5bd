"""Image sources: fixed disjoint splits, the same every time; and bad input told in one clear line."""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from sklearn.datasets import load_digits

from benchmark.bundles.bundle import open_bundle
from benchmark.bundles.find import SHIPPED
from benchmark.datasets.digits import Digits
from benchmark.datasets.mnist import MNIST, FashionMNIST
from benchmark.datasets.path import PathDataset
from benchmark.errors import UsageError
from benchmark.registry import Registry
from benchmark.store.places import data_roots

SPLITS = ("train", "val", "test")


def refused(dataset, roots=()):
    """The one line in which a data set refuses to load."""
    with pytest.raises(UsageError) as error:
        dataset.load(list(roots))
    assert "\n" not in str(error.value)
    return str(error.value)


def check_images(images):
    for split in SPLITS:
        part = getattr(images, split)
        assert part.dtype == torch.uint8 and part.ndim == 4 and part.device.type == "cpu"
        assert tuple(part.shape[1:]) == images.shape
        assert part.is_contiguous()


def test_digits_are_all_of_scikit_learn_s_in_three_disjoint_splits():
    images = Digits().load([])
    check_images(images)
    assert [len(getattr(images, split)) for split in SPLITS] == [1097, 200, 500] and images.shape == (1, 32, 32)
    everything = torch.cat([images.train, images.val, images.test])
    assert everything[:, :, 6:26, 6:26].amax() == 255
    border = everything.clone()
    border[:, :, 6:26, 6:26] = 0
    assert not border.any()
    assert sorted(places_in_source(everything)) == list(range(1797))


def places_in_source(images):
    """Where each image stands in scikit-learn's order."""
    originals = torch.from_numpy(load_digits().images).float()[:, None] * (255 / 16)
    enlarged = F.interpolate(originals, size=20, mode="bicubic").round().clamp(0, 255).flatten(1)
    distances = torch.cdist(images[:, :, 6:26, 6:26].float().flatten(1), enlarged)
    assert distances.amin(1).max() < 1
    return distances.argmin(1).tolist()


def test_digits_are_the_same_every_time_and_those_of_the_shipped_bundle():
    first, second = Digits().load([]), Digits().load([])
    torch.manual_seed(5)
    assert first.content_hash() == second.content_hash() == Digits().load([]).content_hash()
    card = open_bundle(SHIPPED / "digits-conv_vae").card["dataset"]
    assert card["sha256"] == first.content_hash() and card["preparation"] == first.preparation


def test_the_splits_of_digits_are_random():
    """The source's writers come one after another: every split draws from all of it, in no order."""
    images = Digits().load([])
    for split in SPLITS:
        positions = places_in_source(getattr(images, split)[:200])
        assert np.mean(positions) == pytest.approx(898, abs=150)  # 4 standard errors of 200 draws
        assert np.corrcoef(positions, range(len(positions)))[0, 1] == pytest.approx(0, abs=0.3)


def test_a_content_hash_tells_every_pixel_and_every_split():
    images = Digits().load([])
    changed = images.train.clone()
    changed[0, 0, 0, 0] += 1
    moved = replace(images, train=torch.cat([images.train, images.val[:1]]), val=images.val[1:])
    others = [replace(images, train=changed), replace(images, train=images.val, val=images.train), moved]
    assert len({each.content_hash() for each in [images, *others]}) == 4


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
    assert [len(getattr(images, split)) for split in SPLITS] == [50_000, 10_000, 10_000] and images.shape == (1, 32, 32)
    train, val, test = (numbers_of(getattr(images, split)) for split in SPLITS)
    assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(60_000))
    assert torch.equal(test, torch.arange(10_000))
    assert abs(val.double().mean() - 30_000) < 1_000 and not torch.equal(val, val.sort().values)
    for part in (images.train, images.val, images.test):
        assert part[:, :, 16, 12:15].sum() == part.sum()  # nothing but the numbers, moved by the two padded pixels
    torch.manual_seed(5)
    again = dataset().load([idx_root])
    assert again.content_hash() == images.content_hash()
    assert "50000/10000" in images.preparation and "padded to 32x32" in images.preparation


def test_binarised_mnist_is_drawn_once_with_the_grey_value_as_probability(idx_root, offline):
    grey = MNIST().load([idx_root])
    binary = MNIST(MNIST.Config(binarised=True)).load([idx_root])
    again = MNIST(MNIST.Config(binarised=True)).load([idx_root])
    assert binary.content_hash() == again.content_hash() != grey.content_hash()
    assert "binarised" in binary.preparation and "binarised" not in grey.preparation
    for split in SPLITS:
        drawn, probability = getattr(binary, split), getattr(grey, split).double() / 255
        assert set(drawn.unique().tolist()) == {0, 255}
        assert (drawn[probability == 0] == 0).all() and (drawn[probability == 1] == 255).all()
        white = (drawn == 255).double()
        error = (probability * (1 - probability)).sum().sqrt()
        assert abs(white.sum() - probability.sum()) < 4 * error
        for level in (64, 200):  # one grey value alone: no other probability would do
            at = getattr(grey, split) == level
            if at.sum() > 100:
                share, p = white[at].mean(), level / 255
                assert abs(share - p) < 4 * (p * (1 - p) / at.sum()) ** 0.5


def test_data_is_found_in_the_folder_that_the_environment_names(idx_root, monkeypatch, offline, tmp_path):
    monkeypatch.setenv("LATENT_PRIOR_DATA", str(idx_root))
    assert data_roots()[0] == idx_root and data_roots(tmp_path)[:2] == [tmp_path, idx_root]
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
    assert str(roots[0]) in message and str(roots[1]) in message
    assert f"{dataset.source.__name__}/raw" in message and dataset.source.mirrors[0] in message
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
    assert str(tmp_path) in message and "mnist" in message


def npz(path, **arrays):
    np.savez(path, **arrays)
    return PathDataset(path)


def pictures(n, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(16, 16), (16, 16, 1), (16, 16, 3)])
def test_an_npz_gives_the_very_images_it_holds(shape, tmp_path):
    arrays = {split: pictures(n, *shape, seed=n) for split, n in zip(SPLITS, (7, 3, 2))}
    dataset = npz(tmp_path / "My Own-owls 2.npz", **arrays, extra=np.zeros(3))
    images = dataset.load([])
    check_images(images)
    assert images.shape == (shape[2] if len(shape) == 3 else 1, 16, 16)
    for split, array in arrays.items():
        back = getattr(images, split).permute(0, 2, 3, 1).numpy()
        assert np.array_equal(back.reshape(array.shape), array)
    assert dataset.name == "my_own-owls_2"


GOOD = {split: pictures(4, 16, 16) for split in SPLITS}
BAD_ARRAYS = {
    "missing split": ({"train": GOOD["train"], "test": GOOD["test"]}, "no array named val"),
    "two missing splits": ({"train": GOOD["train"]}, "no array named val, test"),
    "floats": ({**GOOD, "val": GOOD["val"] / 255}, "'val' is float64 (4, 16, 16)"),
    "16 bits": ({**GOOD, "test": GOOD["test"].astype(np.uint16)}, "'test' is uint16"),
    "flat": ({**GOOD, "train": pictures(4, 256)}, "'train' is uint8 (4, 256)"),
    "channels first": ({**GOOD, "train": pictures(4, 3, 16, 16)}, "'train' is uint8 (4, 3, 16, 16)"),
    "four channels": ({**GOOD, "train": pictures(4, 16, 16, 4)}, "'train' is uint8 (4, 16, 16, 4)"),
    "five dimensions": ({**GOOD, "train": pictures(4, 1, 16, 16, 3)}, "'train' is uint8"),
    "a number": ({**GOOD, "train": np.uint8(3)}, "'train' is uint8 ()"),
    "different sizes": ({**GOOD, "val": pictures(4, 8, 8)}, "differ in shape"),
    "grey and colour": ({**GOOD, "val": pictures(4, 16, 16, 3)}, "differ in shape"),
    "no images": ({**GOOD, "val": pictures(0, 16, 16)}, "'val' has fewer than 2 images"),
    "one image": ({**GOOD, "test": pictures(1, 16, 16)}, "'test' has fewer than 2 images"),
    "objects": ({**GOOD, "train": np.array([{"a": 1}, None], dtype=object)}, "plain arrays"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_a_bad_npz_is_refused_with_what_is_wrong(case, tmp_path):
    arrays, why = BAD_ARRAYS[case]
    message = refused(npz(tmp_path / "owls.npz", **arrays))
    assert why in message and str(tmp_path / "owls.npz") in message


def _bytes(save):
    buffer = io.BytesIO()
    save(buffer)
    return buffer.getvalue()


WHOLE = _bytes(lambda buffer: np.savez(buffer, **GOOD))
NOT_NPZ = {
    "text": b"these are not images\n" * 10,
    "empty": b"",
    "truncated at the end": WHOLE[:-50],
    "truncated at the start": WHOLE[:200],
    "spoilt in the middle": WHOLE[:400] + bytes(200) + WHOLE[600:],
    "a single array": _bytes(lambda buffer: np.save(buffer, GOOD["train"])),
    "a pickle": b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00]\x94K\x01a.",
}


@pytest.mark.parametrize("case", NOT_NPZ)
def test_what_is_no_npz_is_refused_in_one_line(case, tmp_path):
    (tmp_path / "owls.npz").write_bytes(NOT_NPZ[case])
    message = refused(PathDataset(tmp_path / "owls.npz"))
    assert str(tmp_path / "owls.npz") in message and "npz" in message


@pytest.mark.parametrize("name", ["none.npz", "no/such/folder"])
def test_a_path_that_does_not_exist_is_said_to(name, tmp_path):
    assert refused(PathDataset(tmp_path / name)) == f"{tmp_path / name}: no such file or folder"


def test_a_file_that_is_not_an_npz_by_name_is_refused(tmp_path):
    (tmp_path / "owl.txt").write_text("owl")
    assert str(tmp_path / "owl.txt") in refused(PathDataset(tmp_path / "owl.txt"))


def save(path, array, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **more)


def plain(level, size=(40, 40), channels=None):
    return np.full((*size, channels) if channels else size, level, np.uint8)


def levels(images):
    """The grey level of each image of one colour."""
    assert (images == images[:, :1, :1, :1]).all()
    return images[:, 0, 0, 0].tolist()


def test_a_flat_folder_is_split_at_random_in_80_10_10(tmp_path):
    for number in range(60):
        save(tmp_path / f"{'deep/' if number % 2 else ''}{number:02}.png", plain(4 * number))
    images = PathDataset(tmp_path).load([])
    check_images(images)
    assert images.shape == (1, 32, 32)
    parts = [levels(getattr(images, split)) for split in SPLITS]
    assert [len(part) for part in parts] == [48, 6, 6]
    assert sorted(sum(parts, [])) == [4 * number for number in range(60)] and parts[0] != sorted(parts[0])
    assert PathDataset(tmp_path).load([]).content_hash() == images.content_hash()


def test_a_folder_with_splits_keeps_them(tmp_path):
    given = {"train": [10, 20, 30, 40], "val": [50, 60], "test": [70, 80, 90]}
    for split, values in given.items():
        for value in values:
            save(tmp_path / split / f"{value}.png", plain(value, (70, 70)))
    images = PathDataset(tmp_path).load([])
    assert {split: levels(getattr(images, split)) for split in SPLITS} == given
    assert images.shape == (1, 64, 64) and "64x64" in images.preparation


def test_one_colour_image_makes_all_of_them_colour(tmp_path):
    for number in range(19):
        save(tmp_path / f"{number:02}.png", plain(10 * number))
    colour = plain(0, channels=3)
    colour[:] = (10, 200, 30)
    save(tmp_path / "colour.png", colour)
    for number in range(19):
        save(tmp_path / f"also{number:02}.jpg", plain(10 * number))
    images = PathDataset(tmp_path).load([])
    check_images(images)
    assert images.shape == (3, 32, 32)
    everything = torch.cat([images.train, images.val, images.test])
    coloured = everything[(everything[:, 0] != everything[:, 1]).flatten(1).any(1)]
    assert len(coloured) == 1 and coloured[0, :, 5, 5].tolist() == [10, 200, 30]


@pytest.mark.parametrize("size", [(40, 120), (120, 40), (41, 120)])
def test_images_that_are_not_square_give_their_central_square(size, tmp_path):
    height, width = size
    array = plain(0, size)
    edge, top, left = min(size), (height - min(size)) // 2, (width - min(size)) // 2
    array[top : top + edge, left : left + edge] = 200
    for number in range(20):
        save(tmp_path / f"{number}.png", array)
    images = PathDataset(tmp_path).load([])
    assert images.shape == (1, 32, 32)
    inner = images.train[:, :, 2:-2, 2:-2].float()
    assert (inner - 200).abs().max() <= 1


def test_up_stays_up_and_left_stays_left(tmp_path):
    array = plain(0, (64, 64), 3)
    array[:32, :, 0], array[:, :32, 1] = 255, 255
    for number in range(20):
        save(tmp_path / f"{number}.png", array)
    image = PathDataset(tmp_path).load([]).train[0]
    assert image.shape == (3, 64, 64)
    assert image[0, 5, 32] == 255 and image[0, 60, 32] == 0
    assert image[1, 32, 5] == 255 and image[1, 32, 60] == 0 and not image[2].any()


def test_the_smallest_image_decides_the_size_of_all(tmp_path):
    for number in range(20):
        save(tmp_path / f"{number}.png", plain(100, (64, 90) if number else (63, 90)))
    assert PathDataset(tmp_path).load([]).shape == (1, 32, 32)


def test_transparent_and_palette_images_are_read_as_colour(tmp_path):
    for number in range(20):
        image = Image.fromarray(plain(120, channels=3))
        (image.convert("RGBA") if number % 2 else image.quantize(4)).save(tmp_path / f"{number}.png")
    images = PathDataset(tmp_path).load([])
    assert images.shape == (3, 32, 32) and set(levels(images.train)) == {120}


def test_16_bit_images_keep_their_tones(tmp_path):
    for number in range(20):
        Image.fromarray(np.full((40, 40), 3_000 * number, np.uint16)).save(tmp_path / f"{number:02}.png")
    images = PathDataset(tmp_path).load([])
    found = sorted(levels(torch.cat([images.train, images.val, images.test])))
    assert found == pytest.approx([3_000 * number / 257 for number in range(20)], abs=1)


def test_a_folder_without_images_is_said_to_have_none(tmp_path):
    (tmp_path / "readme.txt").write_text("owls")
    message = refused(PathDataset(tmp_path))
    assert str(tmp_path) in message and "no images" in message and ".png" in message


def test_a_split_without_images_is_named(tmp_path):
    for split, n in (("train", 5), ("val", 0), ("test", 5)):
        (tmp_path / split).mkdir()
        for number in range(n):
            save(tmp_path / split / f"{number}.png", plain(number))
    message = refused(PathDataset(tmp_path))
    assert "val" in message and str(tmp_path) in message


def test_too_few_images_to_split_are_refused(tmp_path):
    for number in range(9):
        save(tmp_path / f"{number}.png", plain(number))
    assert "'val' has fewer than 2 images" in refused(PathDataset(tmp_path))


@pytest.mark.parametrize("spoil", ["text", "truncated", "spoilt", "empty"])
def test_an_image_file_that_is_none_is_named(spoil, tmp_path):
    for number in range(20):
        save(tmp_path / f"{number}.png", pictures(1, 64, 64, seed=number)[0])
    whole = (tmp_path / "7.png").read_bytes()
    content = {"text": b"an owl", "truncated": whole[: len(whole) // 2], "empty": b""}
    content["spoilt"] = whole[:60] + bytes(200) + whole[260:]
    (tmp_path / "owl.png").write_bytes(content[spoil])
    message = refused(PathDataset(tmp_path))
    assert "owl.png" in message


def test_every_named_data_set_says_what_a_user_needs_to_know():
    for name, cls in Registry().all("dataset").items():
        assert cls.name == name and cls.terms and cls.extractor in Registry().all("extractor")
