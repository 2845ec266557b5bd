"""CelebA at 64x64 from an archive, a folder or an .npz, prepared once; and its preview."""

import errno
import io
import os
import re
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from faces import jpeg, lay
from images import SPLITS, check_images, counts, refused, splits_of, with_settings
from PIL import Image

from benchmark.datasets import celeba64
from benchmark.datasets.celeba64 import CelebA64, CelebA64Preview
from benchmark.datasets.path import PathDataset
from benchmark.store.places import cache_root

#: name -> part, in an order that is not theirs
PARTITION = {f"{number:06}.jpg": part for number, part in zip((1, 2, 4, 3, 7, 5, 9, 8, 6), (0, 2, 0, 1, 0, 1, 2, 2, 0))}
FACES = SimpleNamespace(ARCHIVE="img_align_celeba.zip", FOLDER="img_align_celeba", LIST="list_eval_partition.txt")
LAYOUTS = ["zip", "folder", "zip in celeba", "folder in celeba"]


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
    assert images.shape == (3, 64, 64)
    assert counts(images) == [4, 2, 3]
    for part, split in enumerate(SPLITS):
        listed = [name for name, its_part in PARTITION.items() if its_part == part]
        for name, image in zip(listed, getattr(images, split), strict=True):
            assert (image - shrunk(faces[name], crop)).abs().max() <= 1, "PIL rounds twice"
    assert f"central {crop} of 178x218" in images.preparation
    assert "64x64" in images.preparation


def test_celeba64_without_settings_takes_the_crop_of_148_and_is_named_so_only_where_it_is_typed(faces, tmp_path):
    lay(tmp_path, faces)
    usual = CelebA64().load([tmp_path])
    assert usual.content_hash() == with_settings(CelebA64, crop=148).load([tmp_path]).content_hash()
    assert usual.content_hash() != with_settings(CelebA64, crop=140).load([tmp_path]).content_hash()
    assert CelebA64().label == "celeba64"
    assert with_settings(CelebA64, crop=148).label == "celeba64[crop=148]"


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
    assert len(kept()) == 2
    assert capsys.readouterr().err.count("preparing") == 2
    monkeypatch.setattr(Image, "open", no_reading)
    for crop, images in first.items():
        again = with_settings(CelebA64, crop=crop).load([tmp_path])
        assert again.content_hash() == images.content_hash()
        assert again.preparation == images.preparation
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
    assert str(path) in message
    assert str(path.parent / FACES.LIST) in message
    assert not kept()


KAGGLE = ("image_id,partition\n" + "".join(f"{name},{part}\n" for name, part in PARTITION.items())).encode()


@pytest.mark.parametrize("folder", ["img_align_celeba/img_align_celeba", "img_align_celeba"])
@pytest.mark.parametrize("content", [KAGGLE, b"\xef\xbb\xbf" + KAGGLE, KAGGLE.replace(b"\n", b"\r\n")], ids=len)
def test_celeba64_is_read_as_kaggle_has_it(content, folder, faces, tmp_path):
    expected = CelebA64().load([lay(tmp_path / "authors", faces).parent])
    home = lay(tmp_path / "kaggle", faces, "folder", partition=content).parent
    (home / FACES.LIST).rename(home / "list_eval_partition.csv")
    (home / "list_attr_celeba.csv").write_text("image_id,Smiling\n")
    (home / "img_align_celeba").rename(tmp_path / "faces")
    (home / folder).parent.mkdir(exist_ok=True)
    (tmp_path / "faces").rename(home / folder)
    assert CelebA64().load([home]).content_hash() == expected.content_hash()


def test_the_authors_list_may_begin_with_a_byte_order_mark(faces, tmp_path):
    lines = "".join(f"{name} {part}\n" for name, part in PARTITION.items())
    lay(tmp_path, faces, partition=b"\xef\xbb\xbf" + lines.encode())
    assert counts(CelebA64().load([tmp_path])) == [4, 2, 3]


def test_a_prepared_file_that_cannot_be_kept_costs_no_images(faces, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(celeba64, "write_atomic", full)
    assert counts(CelebA64().load([lay(tmp_path, faces).parent])) == [4, 2, 3]
    assert "cannot be written (No space left on device)" in capsys.readouterr().err


BAD_LISTS = {
    "a file outside": b"../000001.jpg 0\n",
    "a file far outside": b"/etc/passwd 0\n",
    "a folder": b". 0\n",
    "a header alone": b"image_id,partition\n",
    "another header": b"name,split\n000001.jpg,0\n",
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
    assert FACES.LIST in refused(CelebA64(), [tmp_path])
    assert not kept()


def small(content):
    """An image that somebody cropped already."""
    return jpeg(np.asarray(Image.open(io.BytesIO(content)))[50:150, 50:150])


DAMAGE = {
    "missing": lambda content: None,
    "text": lambda content: b"no face",
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "too small": small,
    "a bomb": lambda content: bomb(),
    "PostScript": lambda content: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 178 218\n%%EndComments\nshowpage\n",
}


def bomb():
    """20,000 x 10,000 pixels in some kilobytes."""
    buffer = io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("what", ["pipe", "sparse", "folder"])
def test_a_face_that_is_no_file_that_ends_is_named(what, faces, tmp_path):
    path = lay(tmp_path, faces, "folder") / "000005.jpg"
    path.unlink()
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        path.touch()
        os.truncate(path, 2**31)
    assert path.name in refused(CelebA64(), [tmp_path])


@pytest.mark.parametrize("what", ["pipe", "sparse"])
def test_a_partition_list_is_read_where_it_is_a_small_file_alone(what, faces, tmp_path):
    path = lay(tmp_path, faces).parent / FACES.LIST
    path.unlink()
    if what == "pipe":
        os.mkfifo(path)
    else:
        path.touch()
        os.truncate(path, 2**31)
    assert FACES.LIST in refused(CelebA64(), [tmp_path])


@pytest.mark.parametrize("layout", LAYOUTS[:2])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_face_that_cannot_be_read_is_named_and_leaves_nothing_half_prepared(damage, layout, faces, tmp_path):
    """The last one that is read: others were prepared by then."""
    last = [name for name, part in PARTITION.items() if part == 2][-1]
    others = {**faces, last: DAMAGE[damage](faces[last])}
    path = lay(tmp_path, {name: content for name, content in others.items() if content is not None}, layout)
    message = refused(CelebA64(), [tmp_path])
    assert last in message
    assert str(path) in message
    assert not kept()


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
    assert str(path) in message
    assert Path(inside.filename).name in message
    assert not kept()


@pytest.mark.parametrize("content", [b"", b"<html>quota exceeded</html>" * 40, None], ids=["empty", "a page", "a half"])
def test_a_celeba_archive_that_is_no_whole_zip_is_named(content, faces, tmp_path):
    path = lay(tmp_path, faces)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content is None else content)
    message = refused(CelebA64(), [tmp_path])
    assert str(path) in message
    assert "zip" in message
    assert "fetch it again" in message
    assert not kept()


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
    assert "4/2/3" in message
    assert f"3x{side}x{side}" in message
    assert "/".join(map(str, counted)) in message
    assert f"--dataset {path}" in message
    assert "--dataset celeba64-preview" in message
    assert counts(PathDataset(path).load([])) == list(sizes)


def test_the_counts_of_celeba64_are_those_of_the_official_partition():
    assert celeba64.COUNTS == (162_770, 19_867, 19_962)
    assert sum(celeba64.COUNTS) == 202_599


@pytest.mark.parametrize("error", [URLError("no network"), RuntimeError("Too many users\n\ntry later"), KeyError("x")])
def test_celeba64_that_cannot_be_downloaded_says_what_to_put_where(error, faces, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(torchvision.datasets.celeba, "download_file_from_google_drive", refuse)
    roots = [tmp_path / "one", tmp_path / "two"]
    message = refused(CelebA64(), roots)
    assert FACES.ARCHIVE in message
    assert FACES.LIST in message
    assert "https://mmlab.ie.cuhk.edu.hk" in message
    assert str(roots[0]) in message
    assert str(roots[1]) in message
    assert not kept()
    place = Path(re.search(r"put both into (\S+)$", message)[1])
    path = lay(tmp_path / "fetched", faces)
    place.mkdir(parents=True)
    for name in (path.name, FACES.LIST):
        shutil.move(path.parent / name, place / name)
    assert counts(CelebA64().load(roots)) == [4, 2, 3]


def test_celeba64_that_can_be_downloaded_is(faces, tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "CelebA", lambda root, download: lay(Path(root), faces, "zip in celeba"))
    assert counts(CelebA64().load([tmp_path / "one", tmp_path / "two"])) == [4, 2, 3]
    assert (tmp_path / "two" / "celeba" / FACES.ARCHIVE).exists()
    assert not (tmp_path / "one").exists()


# The preview


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
    assert "celeba64-preview.npz" in message
    assert str(roots[0]) in message
    if sizes is None:
        assert "6/4/5" in message
        assert str(roots[1]) in message
        assert "--dataset celeba64" in message
