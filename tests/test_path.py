"""Images from a path: an .npz or a folder, taken as they are; and bad ones told in one clear line."""

import io

import numpy as np
import pytest
import torch
from images import SPLITS, check_images, refused
from PIL import Image

from benchmark.datasets.path import PathDataset


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
    assert why in message
    assert str(tmp_path / "owls.npz") in message


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
    assert str(tmp_path / "owls.npz") in message
    assert "npz" in message


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
    assert sorted(level for part in parts for level in part) == [4 * number for number in range(60)]
    assert parts[0] != sorted(parts[0])
    assert PathDataset(tmp_path).load([]).content_hash() == images.content_hash()


def test_a_folder_with_splits_keeps_them(tmp_path):
    given = {"train": [10, 20, 30, 40], "val": [50, 60], "test": [70, 80, 90]}
    for split, values in given.items():
        for value in values:
            save(tmp_path / split / f"{value}.png", plain(value, (70, 70)))
    images = PathDataset(tmp_path).load([])
    assert {split: levels(getattr(images, split)) for split in SPLITS} == given
    assert images.shape == (1, 64, 64)
    assert "64x64" in images.preparation


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
    assert len(coloured) == 1
    assert coloured[0, :, 5, 5].tolist() == [10, 200, 30]


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
    assert image[0, 5, 32] == 255
    assert image[0, 60, 32] == 0
    assert image[1, 32, 5] == 255
    assert image[1, 32, 60] == 0
    assert not image[2].any()


def test_the_smallest_image_decides_the_size_of_all(tmp_path):
    for number in range(20):
        save(tmp_path / f"{number}.png", plain(100, (64, 90) if number else (63, 90)))
    assert PathDataset(tmp_path).load([]).shape == (1, 32, 32)


def test_transparent_and_palette_images_are_read_as_colour(tmp_path):
    for number in range(20):
        image = Image.fromarray(plain(120, channels=3))
        (image.convert("RGBA") if number % 2 else image.quantize(4)).save(tmp_path / f"{number}.png")
    images = PathDataset(tmp_path).load([])
    assert images.shape == (3, 32, 32)
    assert set(levels(images.train)) == {120}


def test_16_bit_images_keep_their_tones(tmp_path):
    for number in range(20):
        Image.fromarray(np.full((40, 40), 3_000 * number, np.uint16)).save(tmp_path / f"{number:02}.png")
    images = PathDataset(tmp_path).load([])
    found = sorted(levels(torch.cat([images.train, images.val, images.test])))
    assert found == pytest.approx([3_000 * number / 257 for number in range(20)], abs=1)


def test_a_folder_without_images_is_said_to_have_none(tmp_path):
    (tmp_path / "readme.txt").write_text("owls")
    message = refused(PathDataset(tmp_path))
    assert str(tmp_path) in message
    assert "no images" in message
    assert ".png" in message


def test_a_split_without_images_is_named(tmp_path):
    for split, n in (("train", 5), ("val", 0), ("test", 5)):
        (tmp_path / split).mkdir()
        for number in range(n):
            save(tmp_path / split / f"{number}.png", plain(number))
    message = refused(PathDataset(tmp_path))
    assert "val" in message
    assert str(tmp_path) in message


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
