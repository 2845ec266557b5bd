"""Images at a path are told by their pixels: what was made from others under the same name is never shown for them."""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import RUN, only_line

from benchmark.bundles.bundle import open_bundle
from benchmark.datasets import content
from benchmark.datasets.content import hash_images, last_seen
from benchmark.datasets.path import PathDataset
from benchmark.names import find_dataset
from benchmark.registry import Registry

pytestmark = pytest.mark.usefixtures("nothing_shipped")
TINY = [word for each in ("epochs=1", "width=1", "batch_size=8", "nz=3") for word in ("--set", each)]


def write(path, seed):
    """An .npz of 16x16 noise: of the same size whatever the seed."""
    path.parent.mkdir(exist_ok=True, parents=True)
    noise = np.random.default_rng(seed).integers(0, 256, (60, 16, 16), np.uint8)
    np.savez(path, train=noise[:40], val=noise[40:48], test=noise[48:])
    return path


def backdate(path):
    os.utime(path, (1e9, 1e9))
    return path


@pytest.fixture
def pretrain(tmp_path, cli):
    def train(path, *words):
        done = cli("pretrain", "--dataset", path, *TINY, "--device", "cpu", *words)
        assert done.code == 0, done.err
        return done.err

    return train


@pytest.fixture
def run(tmp_path, cli):
    return lambda *words: cli("run", *words, *RUN, "--results", tmp_path / "r")


def test_two_files_of_one_name_are_two_data_sets(pretrain, run, tmp_path):
    """Each has the bundle made from it; the one that has none is an error, whatever was recorded of the other."""
    a, b = write(tmp_path / "a" / "faces.npz", 1), write(tmp_path / "b" / "faces.npz", 2)
    pretrain(a)
    assert run("--dataset", a).code == 0
    line = only_line(run("--dataset", b))
    assert f"no bundle of {b} with conv_vae" in line
    assert "made from other images" in line
    pretrain(b)
    assert run("--dataset", b).code == 0
    assert set(pd.read_csv(tmp_path / "r" / "leaderboard.csv").groupby("bundle")["dataset"].first()) == {"faces"}
    ids = {open_bundle(path).id[:16] for path in (tmp_path / "cache" / "bundles").iterdir()}
    assert set(pd.read_csv(tmp_path / "r" / "leaderboard.csv")["bundle"]) == ids
    assert len(ids) == 2


def replace(path, other):
    shutil.copyfile(other, path)


def rename_onto(path, other):
    os.replace(other, path)


def link_to(path, other):
    path.unlink()
    path.symlink_to(other)


@pytest.mark.parametrize("change", [replace, rename_onto, link_to])
def test_a_file_that_was_replaced_by_one_of_the_same_size_and_time_is_another_data_set(
    change, pretrain, run, tmp_path, monkeypatch
):
    monkeypatch.setattr(content, "COARSE", 0.0)
    path, other = write(tmp_path / "faces.npz", 1), write(tmp_path / "other.npz", 2)
    pretrain(backdate(path))
    assert run("--dataset", path).code == 0
    assert path.stat().st_size == other.stat().st_size
    change(path, backdate(other))
    backdate(path)
    assert "made from other images" in only_line(run("--dataset", path))


def test_a_file_that_is_gone_is_told_though_all_is_recorded(pretrain, run, tmp_path):
    path = write(tmp_path / "faces.npz", 1)
    pretrain(path)
    assert run("--dataset", path).code == 0
    path.unlink()
    assert f"{path}: no such file" in only_line(run("--dataset", path))


def test_a_file_that_was_renamed_keeps_its_bundle(pretrain, run, tmp_path):
    path = write(tmp_path / "faces.npz", 1)
    pretrain(path)
    path.rename(tmp_path / "people.npz")
    assert run("--dataset", tmp_path / "people.npz").code == 0


def test_images_are_read_once_until_a_file_of_the_folder_changes(tmp_path, monkeypatch):
    from PIL import Image

    for number in range(24):
        split = ("train", "val", "test")[number % 3]
        (tmp_path / "faces" / split).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32), number, np.uint8)).save(tmp_path / "faces" / split / f"{number}.png")
    monkeypatch.setattr(content, "COARSE", 0.0)
    reads = []
    monkeypatch.setattr(
        PathDataset, "load", lambda self, roots, load=PathDataset.load: reads.append(1) or load(self, roots)
    )
    first = hash_images(PathDataset(tmp_path / "faces"))
    assert (
        hash_images(PathDataset(tmp_path / "faces")) == first == PathDataset(tmp_path / "faces").load([]).content_hash()
    )
    assert len(reads) == 2, "one for the hash, one by this test"
    Image.fromarray(np.full((32, 32), 99, np.uint8)).save(tmp_path / "faces" / "train" / "0.png")
    changed = hash_images(PathDataset(tmp_path / "faces"))
    (tmp_path / "faces" / "train" / "3.png").unlink()
    assert len({first, changed, hash_images(PathDataset(tmp_path / "faces"))}) == 3
    assert last_seen(changed) is None
    for note in (tmp_path / "cache" / "images").iterdir():
        note.write_text("{}")
    hash_images(PathDataset(tmp_path / "faces"))
    assert len(reads) == 5, "a damaged note is made again"


def test_what_was_changed_a_moment_ago_is_read_again(tmp_path):
    """Within a tick of the file system's clock, a second change leaves no trace."""
    path = write(tmp_path / "faces.npz", 1)
    first, then = hash_images(PathDataset(path)), path.stat()
    with open(path, "r+b") as file, open(write(tmp_path / "other.npz", 2), "rb") as other:
        file.write(other.read())
    os.utime(path, ns=(then.st_atime_ns, then.st_mtime_ns))
    assert hash_images(PathDataset(path)) != first


@pytest.mark.parametrize(
    "one, other", [("猫", "狗"), ("caffè", "caffé"), ("лица", "кошки"), ("a" * 90 + "b", "a" * 90 + "c")]
)
def test_names_in_other_scripts_and_long_ones_stay_apart(one, other):
    names = [PathDataset(f).name for f in (Path(f"{one}.npz"), Path(f"{other}.npz"))]
    assert names[0] != names[1]
    for name in names:
        assert name.isascii()
        assert len(name) < 100
        assert name.replace("-", "_").isidentifier()


@pytest.mark.parametrize("name, called", [("mnist.npz", "own_mnist"), ("Faces 2.npz", "faces_2")])
def test_own_images_never_have_the_name_of_a_registered_data_set(name, called):
    assert find_dataset(Registry(), f"./{name}").name == called


def test_a_bundle_of_own_images_called_mnist_finds_them_where_they_were_and_never_mnist(
    pretrain, run, tmp_path, monkeypatch
):
    from benchmark.datasets.mnist import MNIST

    monkeypatch.setattr(MNIST, "load", lambda *_: pytest.fail("MNIST was asked for"))
    path = write(tmp_path / "mnist.npz", 1)
    pretrain(path, "--out", tmp_path / "mine")
    done = run("--bundle", tmp_path / "mine")
    assert done.code == 0, done.err
    assert "own_mnist, conv_vae" in done.out
    shutil.rmtree(tmp_path / "cache" / "references")
    path.unlink()
    line = only_line(run("--bundle", tmp_path / "mine"))
    assert "where the images of mine ('own_mnist') lie is not known here" in line
    assert "--dataset" in line


def test_what_contradicts_the_bundle_is_an_error_that_says_both(small_bundle, run, tmp_path):
    own, other = small_bundle.parent / "small.npz", write(tmp_path / "small.npz", 1)
    for words, parts in [
        (["--dataset", "digits"], ["--dataset digits", "'small'"]),
        (["--dataset", other], [f"--dataset {other}", "'small'"]),
        (["--backbone", "nvae"], ["--backbone nvae", "conv_vae"]),
        (["--dataset", own, "--backbone", "nvae"], ["--backbone nvae", "conv_vae"]),
    ]:
        line = only_line(run("--bundle", small_bundle, *words))
        for part in [*parts, f"--bundle {small_bundle}", "contradicts"]:
            assert part in line
    for words in ([], ["--dataset", own], ["--backbone", "conv_vae"]):
        assert run("--bundle", small_bundle, *words).code == 0


@pytest.mark.parametrize("command", ["reference", "bound"])
def test_the_other_commands_on_images_know_contradictions_too(command, small_bundle, cli):
    line = only_line(cli(command, "--bundle", small_bundle, "--dataset", "digits", "--device", "cpu"))
    assert "--dataset digits contradicts" in line


def test_a_bundle_that_was_written_elsewhere_is_found_by_its_data_set(pretrain, run, tmp_path):
    path = write(tmp_path / "faces.npz", 1)
    pretrain(path, "--out", tmp_path / "mine")
    assert run("--dataset", path).code == 0
    shutil.rmtree(tmp_path / "mine")
    assert "no bundle of" in only_line(run("--dataset", path))
