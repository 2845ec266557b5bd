"""Images from a path: an .npz or a folder, taken as they are; and bad ones told in one clear line."""

import errno
import io
import os
import re
import shlex
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import only_line
from images import SPLITS, check_images, counts, refused
from PIL import Image

from benchmark.datasets.path import PathDataset
from benchmark.datasets.sizes import SizeConfig
from benchmark.names import find_dataset
from benchmark.registry import Registry


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
ACCEPTED = {
    "floats in [0, 1]": (lambda array: array / 255, "float64 in [0, 1], times 255"),
    "half floats in [0, 1]": (lambda array: (array / 255).astype(np.float16), "float16 in [0, 1], times 255"),
    "floats in [-1, 1]": (lambda array: (array / 127.5 - 1).astype(np.float32), "float32 in [-1, 1]"),
    "whole floats": (lambda array: array.astype(np.float32), "float32 of whole numbers"),
    "integers": (lambda array: array.astype(np.int64), "int64 of whole numbers"),
    "big-endian": (lambda array: array.astype(">i2"), "of whole numbers"),
    "channels first": (lambda array: array.transpose(0, 3, 1, 2), "channels first"),
    "Fortran's order": (np.asfortranarray, ""),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_arrays_that_can_mean_one_thing_alone_are_read_so_and_said_to_be(case, tmp_path, capsys):
    change, words = ACCEPTED[case]
    arrays = {split: pictures(4, 16, 16, 3, seed=seed) for seed, split in enumerate(SPLITS)}
    arrays["val"] //= 2  # whose brightest pixel alone would tell another scale
    images = npz(tmp_path / "owls.npz", **{split: change(array) for split, array in arrays.items()}).load([])
    check_images(images)
    for split, array in arrays.items():
        assert np.array_equal(getattr(images, split).permute(0, 2, 3, 1).numpy(), array)
    assert words in images.preparation
    assert words in capsys.readouterr().err


def test_booleans_are_black_and_white(tmp_path):
    images = npz(tmp_path / "owls.npz", **{split: array > 99 for split, array in GOOD.items()}).load([])
    assert images.train.unique().tolist() == [0, 255]
    assert np.array_equal(images.val[:, 0].numpy() > 0, GOOD["val"] > 99)


BAD_ARRAYS = {
    "no val, no test": ({"train": GOOD["train"]}, "no array named val, test, but 'train'"),
    "no splits": ({"images": GOOD["train"]}, "no array named train, val, test, but images"),
    "valid": ({"valid": GOOD["val"], "train": GOOD["train"], "test": GOOD["test"]}, "rename 'valid' to 'val'"),
    "Keras's names": ({"x_train": GOOD["train"], "x_test": GOOD["test"]}, "rename 'x_test' to 'test'"),
    "too few to validate with": ({"train": GOOD["train"][:3], "test": GOOD["test"]}, "there is no val"),
    "one kind among others": ({**GOOD, "val": GOOD["val"] / 255}, "'val' is float64 (4, 16, 16)"),
    "16 bits": ({split: array.astype(np.uint16) * 257 for split, array in GOOD.items()}, "uint16 from 0 to 65535"),
    "a mask": ({split: array % 2 for split, array in GOOD.items()}, "uint8 from 0 to 1"),
    "standardised": ({split: array / 64 - 2 for split, array in GOOD.items()}, "float64 from -2 to 1.98438"),
    "negative": ({split: array.astype(int) - 1 for split, array in GOOD.items()}, "int64 from -1 to 254"),
    "divided twice": ({split: array / 255 / 255 for split, array in GOOD.items()}, "float64 from 0 to 0.00392157"),
    "cubic overshoot": ({split: array / 250 - 0.01 for split, array in GOOD.items()}, "float64 from -0.01 to 1.01"),
    "half of [-1, 1]": ({split: array / 255 - 0.2 for split, array in GOOD.items()}, "float64 from -0.2 to 0.8"),
    "not a number": (
        {split: np.where(array > 9, array / 255, np.nan) for split, array in GOOD.items()},
        "float64 from nan",
    ),
    "complex": ({split: array + 0j for split, array in GOOD.items()}, "'train' is complex128"),
    "text": ({split: array.astype(str) for split, array in GOOD.items()}, "'train' is <U3"),
    "flat": ({**GOOD, "train": pictures(4, 256)}, "'train' is uint8 (4, 256)"),
    "either axis": ({split: pictures(4, 3, 16, 3) for split in SPLITS}, "two may be the channels"),
    "no pixel": ({split: pictures(4, 0, 0) for split in SPLITS}, "no pixel"),
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


def _zip_of_images():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("train/0.png", b"")
    return buffer.getvalue()


WHOLE = _bytes(lambda buffer: np.savez(buffer, **GOOD))
NOT_NPZ = {
    "text": b"these are not images\n" * 10,
    "empty": b"",
    "truncated at the end": WHOLE[:-50],
    "truncated at the start": WHOLE[:200],
    "spoilt in the middle": WHOLE[:400] + bytes(200) + WHOLE[600:],
    "a zip of images": _zip_of_images(),
    "a single array": _bytes(lambda buffer: np.save(buffer, GOOD["train"])),
    "a pickle": b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00]\x94K\x01a.",
}


@pytest.mark.parametrize("case", NOT_NPZ)
def test_what_is_no_npz_is_refused_in_one_line(case, tmp_path):
    (tmp_path / "owls.npz").write_bytes(NOT_NPZ[case])
    message = refused(PathDataset(tmp_path / "owls.npz"))
    assert str(tmp_path / "owls.npz") in message
    assert "npz" in message


def test_a_file_that_is_not_an_npz_by_name_is_refused(tmp_path):
    (tmp_path / "owl.txt").write_text("owl")
    assert str(tmp_path / "owl.txt") in refused(PathDataset(tmp_path / "owl.txt"))


def save(path, array, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **more)


def plain(level, size=(32, 32), channels=None):
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


def test_a_folder_without_images_is_said_to_have_none(tmp_path):
    (tmp_path / "readme.txt").write_text("owls")
    message = refused(PathDataset(tmp_path))
    assert str(tmp_path) in message
    assert "no images" in message
    assert ".png" in message
    assert "but readme.txt" in message


def test_a_split_without_images_is_named(tmp_path):
    for split, n in (("train", 5), ("val", 0), ("test", 5)):
        (tmp_path / split).mkdir()
        for number in range(n):
            save(tmp_path / split / f"{number}.png", plain(number))
    message = refused(PathDataset(tmp_path))
    assert "val" in message
    assert str(tmp_path) in message


def test_few_images_are_split_as_well_as_can_be_and_fewer_refused(tmp_path, capsys):
    for number in range(6):
        save(tmp_path / f"{number}.png", plain(number))
        if number == 4:
            assert "5 images are too few to split: 6 are needed" in refused(PathDataset(tmp_path))
    assert counts(PathDataset(tmp_path).load([])) == [2, 2, 2]


def test_where_val_alone_is_missing_it_is_a_tenth_of_train(tmp_path, capsys):
    for split, values in (("train", range(40)), ("test", range(40, 50))):
        for value in values:
            save(tmp_path / split / f"{value:02}.png", plain(value))
    images = PathDataset(tmp_path).load([])
    assert counts(images) == [36, 4, 10]
    assert sorted(levels(images.train) + levels(images.val)) == list(range(40))
    assert levels(images.test) == list(range(40, 50))
    assert "val a random tenth of train (36/4/10)" in capsys.readouterr().err
    arrays = {"train": np.concatenate([images.train, images.val])[:, 0], "test": images.test[:, 0].numpy()}
    assert counts(npz(tmp_path / "same.npz", **arrays).load([])) == [36, 4, 10]


NEAR_MISSES = {
    "valid": (["train", "valid", "test"], "rename 'valid' to 'val'"),
    "validation": (["train", "validation", "test"], "rename 'validation' to 'val'"),
    "a prefix beside splits": (["train", "test", "seg_val"], "rename 'seg_val' to 'val'"),
    "dev": (["train", "dev", "test"], "rename 'dev' to 'val'"),
    "capitals": (["Train", "Val", "Test"], "rename 'Test' to 'test', 'Train' to 'train', 'Val' to 'val'"),
    "training and testing": (["training", "testing"], "'testing' to 'test', 'training' to 'train'"),
    "words around": (["train_images", "test-set 1"], "'test-set 1' to 'test', 'train_images' to 'train'"),
    "prefixes": (["seg_train", "seg_test"], "'seg_test' to 'test', 'seg_train' to 'train'"),
    "no test": (["train", "val"], "no folder named test, but 'train', 'val'"),
    "train alone": (["train"], "train to have that split at random"),
    "slips of the keys": (["trian", "tset"], "rename 'trian' to 'train', 'tset' to 'test'"),
    "letters left out": (["trn", "tst"], "rename 'trn' to 'train', 'tst' to 'test'"),
    "a slip beside splits": (["train", "test", "valdiation"], "rename 'valdiation' to 'val'"),
    "below another": (["all/train", "all/test"], "all/test, all/train look like splits, but below"),
    "below classes": (["cat/train", "dog/train", "cat/val"], "look like splits, but below"),
    "behind a link": (["link"], "look like splits, but below"),
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_folders_that_are_nearly_splits_are_an_error_that_says_both_sides(case, tmp_path):
    folders, words = NEAR_MISSES[case]
    for folder in folders:
        if folder == "link":
            save(tmp_path / "elsewhere" / "train" / "0.png", plain(0))
            save(tmp_path / "elsewhere" / "test" / "0.png", plain(0))
            (tmp_path / "here").mkdir()
            (tmp_path / "here" / "link").symlink_to(tmp_path / "elsewhere")
        for number in range(20):
            save(tmp_path / "here" / folder / f"new{number}.png", plain(number))
    message = refused(PathDataset(tmp_path / "here"))
    assert words in message
    assert "train" in message
    assert "test" in message


def test_classes_whose_names_have_a_word_of_a_split_are_classes(tmp_path):
    for folder in ("train_station", "trainers", "valley", "rain", "crash test dummy", "evaluate", "contest"):
        for number in range(5):
            save(tmp_path / folder / f"{number}.png", plain(number))
    save(tmp_path / "rain" / "deeper" / "6.png", plain(6))
    assert sum(counts(PathDataset(tmp_path).load([]))) == 36


def test_hidden_files_and_folders_never_count(tmp_path, capsys):
    for number in range(20):
        save(tmp_path / "cats" / f"{number}.png", plain(10 * number))
    for hidden in (".ipynb_checkpoints", "__MACOSX", "cats/.thumbnails", "cats/@eaDir"):
        save(tmp_path / hidden / "copy.png", plain(255))
    save(tmp_path / "cats" / "._1.png", plain(255))
    (tmp_path / "cats" / "Thumbs.db").write_bytes(b"")
    images = PathDataset(tmp_path).load([])
    assert 255 not in levels(torch.cat([images.train, images.val, images.test]))
    assert sum(counts(images)) == 20
    line = capsys.readouterr().err
    assert "what is hidden" in line
    assert ".ipynb_checkpoints" in line
    own = tmp_path / ".hidden" / "data"
    save(own / "a" / "0.png", plain(0))
    (own / "b").symlink_to(tmp_path / "cats")
    assert sum(counts(PathDataset(own).load([]))) == 21, "what is hidden is hidden below the folder that is named"


def test_links_are_followed_once_and_never_around_in_circles(tmp_path, capsys):
    home, outside = tmp_path / "home", tmp_path / "outside"
    for number in range(10):
        save(home / "real" / f"{number}.png", plain(number))
        save(outside / f"{number}.png", plain(100 + number))
    (home / "also").symlink_to("real")
    (home / "out").symlink_to(outside)
    (outside / "back").symlink_to(home)
    (home / "real" / "up").symlink_to("../..")
    save(tmp_path / "neighbour.png", plain(250))
    (home / "one.png").symlink_to(outside / "file.png")
    save(outside / "file.png", plain(200))
    images = PathDataset(home).load([])
    found = sorted(levels(torch.cat([images.train, images.val, images.test])))
    assert found == [*range(10), *range(100, 110), 200, 200], "a linked file is a file of its own"
    assert "links to what is read already (also, " in capsys.readouterr().err


def test_what_is_no_image_by_name_or_beside_the_splits_is_said_to_be_left_out(tmp_path, capsys):
    for split in SPLITS:
        for number in range(5):
            save(tmp_path / split / "class" / f"{number}.png", plain(10 * SPLITS.index(split) + number))
    save(tmp_path / "extra" / "0.png", plain(9))
    save(tmp_path / "loose.png", plain(9))
    for name in ("labels.csv", "train/a.gif", "val/b.txt", "val/c.txt"):
        (tmp_path / name).write_text("x")
    (tmp_path / "test" / "line\nbreak.txt").write_text("x")
    (tmp_path / "test" / os.fsdecode(b"caf\xe9.txt")).write_text("x")
    assert counts(PathDataset(tmp_path).load([])) == [5, 5, 5]
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "6 other files (" in line
    assert "beside the splits (extra, loose.png)" in line
    assert "and 3 more" in line
    line.encode()


def test_images_in_train_and_test_alike_are_worth_a_word(tmp_path, capsys):
    for split, values in (("train", [1, 2, 3]), ("val", [4, 5]), ("test", [3, 6, 2])):
        for value in values:
            save(tmp_path / split / f"{value}.png", plain(value))
    PathDataset(tmp_path).load([])
    assert "2 of 3 test images are in train as well" in capsys.readouterr().err


def test_grey_among_colour_and_grey_saved_as_colour_are_worth_a_word(tmp_path, capsys):
    for number in range(20):
        save(tmp_path / f"{number}.png", plain(number, channels=None if number else 3))
    PathDataset(tmp_path).load([])
    line = capsys.readouterr().err
    assert "19 grey ones made colour" in line
    assert "saved as colour, though all are grey" in line


# Files that are none


def spoil(path, kind):
    """Make the file at `path` one that cannot be read."""
    whole = path.read_bytes()
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to nothing":
        path.symlink_to("nothing.png")
    elif kind == "link to itself":
        path.symlink_to(path.name)
    elif kind == "sparse":
        with path.open("wb") as file:
            file.write(b"RIFF\0\0\0\0WEBPVP8 ")
            file.truncate(2**31)
    elif kind == "bomb":
        Image.new("1", (20_000, 10_000)).save(path)
    elif kind == "GIF":
        Image.fromarray(plain(0)).save(path, "GIF")
    elif kind == "32-bit floats":
        Image.fromarray(np.zeros((32, 32), np.float32)).save(path, "TIFF")
    elif kind == "32-bit integers":
        Image.fromarray(np.zeros((32, 32), np.int32)).save(path, "TIFF")
    elif kind == "L*a*b*":
        Image.new("LAB", (32, 32)).save(path, "TIFF")
    else:
        content = {"text": b"an owl", "truncated": whole[: len(whole) // 2], "empty": b"", "EPS": EPS}
        content["spoilt"] = whole[:60] + bytes(200) + whole[260:]
        path.write_bytes(content[kind])


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n"
UNREADABLE = {
    "text": "none of JPEG",
    "empty": "none of JPEG",
    "truncated": "truncated",
    "spoilt": "",
    "EPS": "none of JPEG",
    "GIF": "none of JPEG",
    "pipe": "not a regular file",
    "sparse": "2,048 MiB",
    "link to nothing": "no such file",
    "link to itself": "symbolic links",
    "bomb": "200000000 pixels",
    "32-bit floats": "mode F",
    "32-bit integers": "mode I",
    "L*a*b*": "mode LAB",
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_few_files_that_cannot_be_read_are_left_out_and_more_refused_all_named(kind, tmp_path, monkeypatch, capsys):
    def no_program(*_, **__):
        raise AssertionError("a program is started")

    monkeypatch.setattr("subprocess.check_call", no_program)
    for number in range(40):
        save(tmp_path / f"{number:02}.png", pictures(1, 32, 32, seed=number)[0])
    for number in (3, 7):
        spoil(tmp_path / f"{number:02}.png", kind)
    assert sum(counts(PathDataset(tmp_path).load([]))) == 38
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "2 of 40 files left out as unreadable" in line
    for words in ("unreadable: 03.png", "07.png", UNREADABLE[kind]):
        assert words in line
    spoil(tmp_path / "09.png", "text")
    message = refused(PathDataset(tmp_path))
    assert "3 of 40 image files cannot be read" in message
    for name in ("03.png", "07.png", "09.png", UNREADABLE[kind]):
        assert name in message


def test_a_machine_that_cannot_read_is_no_fault_of_the_file(tmp_path, monkeypatch):
    for number in range(40):
        save(tmp_path / f"{number:02}.png", plain(number))
    opened = Image.open

    def fail(file, **more):
        if file.name == "13.png":
            raise OSError(errno.EIO, "Input/output error", str(file))
        return opened(file, **more)

    monkeypatch.setattr(Image, "open", fail)
    message = refused(PathDataset(tmp_path))
    assert "13.png: cannot be read (Input/output error)" in message


@pytest.mark.parametrize("name", ["none.npz", "no/such/folder", "pipe.npz", "bomb.npz", "sparse.npz", "page.npz"])
def test_a_path_that_is_no_data_set_is_one_line(name, tmp_path):
    path = tmp_path / name
    if name == "pipe.npz":
        os.mkfifo(path)
    elif name == "bomb.npz":
        write_bomb(path)
    elif name == "sparse.npz":
        path.write_bytes(b"\x93NUMPY")
        os.truncate(path, 2**31)
    elif name == "page.npz":
        path.write_text("<html>")
    words = {"none.npz": "no such file or folder", "no/such/folder": "no such file or folder", "bomb.npz": "would fill"}
    message = refused(PathDataset(path))
    assert message.startswith(f"{path}: ")
    assert words.get(name, "not an .npz file of plain arrays") in message


def write_bomb(path):
    """An .npz whose list says that it unpacks to 4 GiB."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train.npy", b"")
        archive.getinfo("train.npy").file_size = 2**32 - 2


# Pixels mean what a viewer shows


TOP_WHITE = np.repeat(np.array([255, 0], np.uint8), 16)[:, None].repeat(32, 1)


def as_shown(folder, image, **more):
    """The pixels (C, 32, 32) that 20 copies of an image are read as."""
    for number in range(20):
        image.save(
            folder / f"{number:02}.{more.get('suffix', 'png')}", **{k: v for k, v in more.items() if k != "suffix"}
        )
    images = PathDataset(folder).load([])
    assert (images.train == images.train[:1]).all()
    return images.train[0]


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_an_image_is_turned_upright_as_its_exif_says(orientation, suffix, tmp_path, capsys):
    """Orientation n says which transposition undoes what the camera did."""
    upright = Image.fromarray(TOP_WHITE).crop((0, 0, 24, 32)).convert("RGB")
    back = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
    back |= {6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}
    stored = upright.transpose(Image.Transpose[back[orientation]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if suffix == "webp" else {}
    shown = as_shown(tmp_path, stored, suffix=suffix, exif=exif, **lossless)
    expected = np.asarray(upright)
    assert abs(shown[:, :, 4:28].permute(1, 2, 0).numpy() - expected.astype(int)).max() < 40
    line = capsys.readouterr().err
    assert "24x32 padded to 32x32" in line
    assert "20 turned upright as EXIF says" in line


def cut_out(mode, hidden):
    """A white-on-screen square with a dark middle, whose transparent rest hides a colour."""
    shape = np.zeros((32, 32), bool)
    shape[8:24, 8:24] = True
    grey = np.where(shape, 60, hidden).astype(np.uint8)
    alpha = Image.fromarray(np.where(shape, 255, 0).astype(np.uint8))
    if mode in ("LA", "RGBA"):
        return Image.merge(mode, [*[Image.fromarray(grey)] * (len(mode) - 1), alpha]), {}
    image = Image.fromarray(grey)
    if mode == "P":
        image = Image.fromarray(np.where(shape, 0, 1).astype(np.uint8), "P")
        image.putpalette([60] * 3 + [hidden] * 3)
        return image, {"transparency": 1}
    return image.convert(mode), {"transparency": (hidden,) * 3 if mode == "RGB" else hidden}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
def test_what_is_transparent_is_white_whatever_colour_it_hides(mode, tmp_path, capsys):
    hashes = set()
    for hidden in (0, 200):
        image, more = cut_out(mode, hidden)
        (tmp_path / str(hidden)).mkdir()
        shown = as_shown(tmp_path / str(hidden), image, **more)
        assert len(shown) == (1 if mode in ("L", "LA") else 3)
        assert shown[:, 0, 0].unique().tolist() == [255]
        assert shown[:, 16, 16].unique().tolist() == [60]
        hashes.add(shown.numpy().tobytes())
    assert len(hashes) == 1
    assert "20 with transparency laid on white" in capsys.readouterr().err


DEPTHS = {
    "1 bit": (lambda: Image.fromarray(TOP_WHITE).convert("1"), "png", 1),
    "16-bit PNG": (lambda: Image.fromarray(TOP_WHITE.astype(np.uint16) * 257), "png", 1),
    "16-bit TIFF": (lambda: Image.fromarray(TOP_WHITE.astype(np.uint16) * 257), "tif", 1),
    "16-bit big-endian TIFF": (lambda: Image.fromarray(TOP_WHITE.astype(">u2") * 257), "tif", 1),
    "16-bit PGM": (lambda: Image.fromarray(TOP_WHITE.astype(np.uint16) * 257), "pgm", 1),
    "palette": (lambda: Image.fromarray(TOP_WHITE).convert("P"), "png", 3),
    "CMYK TIFF": (lambda: Image.fromarray(TOP_WHITE).convert("RGB").convert("CMYK"), "tif", 3),
    "CMYK JPEG": (lambda: Image.fromarray(TOP_WHITE).convert("RGB").convert("CMYK"), "jpg", 3),
    "YCbCr TIFF": (lambda: Image.fromarray(TOP_WHITE).convert("RGB").convert("YCbCr"), "tif", 3),
}


@pytest.mark.parametrize("case", DEPTHS)
def test_white_stays_white_and_black_black_whatever_the_mode(case, tmp_path):
    make, suffix, channels = DEPTHS[case]
    shown = as_shown(tmp_path, make(), suffix=suffix)
    assert len(shown) == channels
    assert abs(shown.int().numpy() - TOP_WHITE.astype(int)).max() <= 3


def test_16_bit_images_keep_their_tones(tmp_path):
    for number in range(20):
        Image.fromarray(np.full((32, 32), 3_000 * number, np.uint16)).save(tmp_path / f"{number:02}.png")
    images = PathDataset(tmp_path).load([])
    found = sorted(levels(torch.cat([images.train, images.val, images.test])))
    assert found == pytest.approx([3_000 * number / 257 for number in range(20)], abs=1)


# Sizes


def sized(shape, **settings):
    """20 images of that height and width -> the data set with those settings, of each kind."""

    def make(path, kind):
        arrays = pictures(20, *shape, 3)
        if kind == "npz":
            np.savez(path / "a.npz", train=arrays[:10], val=arrays[10:15], test=arrays[15:])
        else:
            for number, array in enumerate(arrays):
                save(path / f"{number:02}.png", array)
        return PathDataset(path / "a.npz" if kind == "npz" else path, SizeConfig(**settings)), arrays

    return make


USUAL = {
    (28, 28): (32, "28x28 padded to 32x32"),
    (20, 20): (32, "20x20 padded to 32x32"),
    (8, 8): (16, "8x8 padded to 16x16"),
    (48, 48): (64, "48x48 padded to 64x64"),
    (20, 40): (64, "40x20 padded to 64x64"),
    (32, 32): (32, "32x32 as they are"),
    (64, 64): (64, "64x64 as they are"),
    (80, 64): (64, "central square of 64x80, resized to 64x64"),
    (100, 100): (64, "100x100 resized to 64x64"),
    (40, 120): (32, "central square of 120x40, resized to 32x32"),
}


@pytest.mark.parametrize("kind", ["npz", "folder"])
@pytest.mark.parametrize("size", USUAL, ids=str)
def test_images_of_one_size_are_made_what_backbones_take_and_it_is_said(size, kind, tmp_path, capsys):
    side, words = USUAL[size]
    dataset, arrays = sized(size)(tmp_path, kind)
    images = dataset.load([])
    check_images(images)
    assert images.shape == (3, side, side)
    assert words in images.preparation
    assert words in capsys.readouterr().err
    if max(size) <= side:
        top, left = (side - size[0]) // 2, (side - size[1]) // 2
        inner = images.test[:, :, top : top + size[0], left : left + size[1]].permute(0, 2, 3, 1).numpy()
        assert all((arrays == image).all((1, 2, 3)).any() for image in inner), "no pixel is changed"
        assert images.test.sum() == inner.astype(np.int64).sum(), "around them it is black"


def test_a_large_square_that_backbones_take_is_left_in_an_npz_and_made_64_in_a_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    assert sized((128, 128))(tmp_path, "npz")[0].load([]).shape == (3, 128, 128)
    assert sized((128, 128))(tmp_path / "folder", "folder")[0].load([]).shape == (3, 64, 64)


@pytest.mark.parametrize("kind", ["npz", "folder"])
@pytest.mark.parametrize(
    "size, settings, words",
    [
        ((128, 128), {"size": 128}, "128x128 as they are"),
        ((28, 28), {"size": 28}, "28x28 as they are"),
        ((48, 48), {"size": 32}, "48x48 resized to 32x32"),
        ((48, 40), {"size": 32}, "central square of 40x48, resized to 32x32"),
        ((48, 40), {"size": 32, "fit": "stretch"}, "40x48 stretched to 32x32"),
        ((48, 40), {"size": 32, "fit": "pad"}, "40x48 shrunk (bicubic) and padded to 32x32"),
        ((80, 64), {"fit": "pad"}, "64x80 shrunk (bicubic) and padded to 64x64"),
        ((28, 28), {"fit": "crop"}, "28x28 resized to 32x32"),
    ],
)
def test_settings_say_the_size_and_how_images_are_made_so(size, settings, words, kind, tmp_path):
    dataset, _ = sized(size, **settings)(tmp_path, kind)
    images = dataset.load([])
    check_images(images)
    assert words in images.preparation
    assert f"{images.shape[1]}x{images.shape[2]}" in words
    if settings.get("fit") == "pad":
        edges = images.train[:, :, :, 0], images.train[:, :, :, -1]
        assert not any(edge.any() for edge in edges), "higher than wide: black on the left and on the right"
        assert images.train[:, :, 0].any(), "and no further up"


def test_sizes_that_differ_need_a_setting_that_says_what_they_are_made(tmp_path, cli):
    folder = tmp_path / "my owls"
    for number in range(20):
        save(folder / f"{number}.png", plain(100, (64, 90)))
    save(folder / "banner.png", plain(100, (40, 90)))
    message = refused(PathDataset(folder))
    for words in ("20 of 21 are 90x64", "others 90x40", "banner.png"):
        assert words in message
    typed = shlex.split(re.search(r"as in (--dataset .*?) \(", message)[1])[1]
    dataset = find_dataset(Registry(), typed)
    assert dataset.load([]).shape == (1, 64, 64), "the small one does not set the size of all"
    assert dataset.label == typed == f"{folder}[size=64]"


def test_pictures_of_a_phone_held_both_ways_are_of_one_size_once_they_are_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(20):
        array = pictures(1, *((40, 30) if number % 2 else (30, 40)), 3, seed=number)[0]
        save(tmp_path / f"{number}.jpg", array, **({} if number % 2 else {"exif": exif}))
    assert "30x40 padded" in PathDataset(tmp_path).load([]).preparation


# How a path is typed


@pytest.mark.parametrize("name", ["owls", "owls.npz", "my owls, two", "owls[1]", "[a=b] owls", "sub/owls"])
@pytest.mark.parametrize("settings", ["", "[size=32]", "[size=32,fit=pad]"])
def test_a_path_is_typed_with_settings_and_suggested_as_it_was_typed(name, settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir(parents=True)
    typed = f"{name if '/' in name or name.endswith('.npz') else f'./{name}'}{settings}"
    dataset = find_dataset(Registry(), typed)
    assert dataset.path == Path(name)
    assert dataset.config.size == (32 if settings else None)
    assert dataset.config.fit == ("pad" if "pad" in settings else None)
    assert dataset.label == typed
    assert find_dataset(Registry(), dataset.label).label == typed
    absolute = f"{tmp_path / name}{settings}"
    assert find_dataset(Registry(), absolute).label == absolute


@pytest.mark.parametrize("name, typed", [("owls", "owls"), ("owls", "owls[size=32]"), ("owls[1]", "owls[1]")])
def test_a_folder_typed_as_a_name_is_answered_with_its_path(name, typed, tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    line = only_line(cli("pretrain", "--dataset", typed, "--device", "cpu"))
    assert line.endswith(f"the folder is {shlex.quote(f'./{typed}')}")


def test_a_path_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_dataset(Registry(), "~/owls[size=32]").path == tmp_path / "owls"


@pytest.mark.parametrize(
    "settings, parts",
    [
        ("[siz=32]", ["'siz'", "did you mean 'size'"]),
        ("[size=big]", ["size='big'"]),
        ("[size=1]", ["size=1", "8"]),
        ("[size=1e20]", ["size=1e+20"]),
        ("[size=1000000]", ["size=1000000", "1024"]),
        ("[size=32,64]", ["one value for each setting"]),
        ("[fit=zoom]", ["fit='zoom'", "'crop', 'pad' or 'stretch'"]),
        ("[size]", ["NAME=VALUE"]),
        ("[size=32", ["no such file or folder"]),
    ],
)
def test_bad_settings_of_a_path_are_one_line(settings, parts, tmp_path, cli):
    (tmp_path / "owls").mkdir()
    line = only_line(cli("pretrain", "--dataset", f"{tmp_path / 'owls'}{settings}", "--device", "cpu"))
    for part in parts:
        assert part in line
