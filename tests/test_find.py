"""Which bundle a data set gets: its own settings first, the preview where there is none, and never somebody's file."""

import re
import shlex
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from boards import all_pages
from commands import RUN, only_line
from faces import lay
from images import as_images, splits_of, with_settings
from vaes import write_untrained

from benchmark.bundles.bundle import open_bundle
from benchmark.bundles.find import find_bundle
from benchmark.datasets import celeba64
from benchmark.datasets.celeba64 import CelebA64, CelebA64Preview
from benchmark.datasets.cifar10 import CIFAR10
from benchmark.errors import UsageError
from benchmark.names import find_dataset
from benchmark.registry import Registry

pytestmark = pytest.mark.usefixtures("nothing_shipped")


@pytest.fixture
def cached(tmp_path):
    """Writes a bundle of 64x64 images into the cache: `cached(dataset, preparation) -> its folder's name`."""

    def make(dataset, preparation="made up", name=None):
        name = name or f"{dataset.name}-conv_vae"
        write_untrained(tmp_path / "cache" / "bundles" / name, dataset, as_images(splits_of(6, 4, 5), preparation))
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


def test_a_bundle_is_found_by_the_id_that_tables_show(cached, tmp_path):
    cached(CelebA64())
    id = open_bundle(tmp_path / "cache" / "bundles" / cached(CelebA64Preview())).id
    for name in (id, id[:16], id[:8]):
        assert find_bundle(None, "conv_vae", name)[0].id == id
    for name in (id[:7], "", id[:15] + "x"):
        with pytest.raises(UsageError, match="bundle"):
            find_bundle(None, "conv_vae", name)


def test_a_start_that_two_ids_share_names_both(monkeypatch):
    bundles = {name: SimpleNamespace(id=name * 4 + end) for name, end in (("aa", "1"), ("bb", "2"))}
    bundles["twin"] = SimpleNamespace(id="aa" * 4 + "3")
    monkeypatch.setattr("benchmark.bundles.find.all_bundles", lambda: (bundles, {}))
    assert find_bundle(None, None, "bbbbbbbb") == (bundles["bb"], [])
    with pytest.raises(UsageError, match="several bundles begin with aaaaaaaa: aaaaaaaa1, aaaaaaaa3"):
        find_bundle(None, None, "aaaaaaaa")


def test_settings_that_are_typed_select_bundles_made_with_them_alone(cached):
    cached(CelebA64Preview())
    narrow, wide = with_settings(CelebA64, crop=140), with_settings(CelebA64, crop=148)
    cached(narrow, name="b-narrow")
    assert found(narrow) == ("b-narrow", [])
    with pytest.raises(UsageError, match=r"no bundle of celeba64\[crop=148\] with conv_vae"):
        find_bundle(wide, "conv_vae", None)
    cached(CelebA64(), name="a-usual")
    cached(narrow, name="c-narrow")
    assert found(wide) == ("a-usual", [])
    assert found(narrow) == ("b-narrow", ["c-narrow"])
    assert found(CelebA64()) == ("a-usual", ["b-narrow", "c-narrow"])


def test_without_settings_the_usual_images_come_first_whatever_the_folders_are_called(cached):
    narrow = with_settings(CelebA64, crop=140)
    cached(narrow, name="a-narrow")
    assert found(CelebA64()) == ("a-narrow", [])
    cached(CelebA64(), name="b-usual")
    assert found(CelebA64()) == ("b-usual", ["a-narrow"])
    assert found(narrow) == ("a-narrow", [])


def test_a_bundle_that_is_missing_names_the_command_that_makes_it_as_a_shell_reads_it():
    asked = with_settings(CelebA64, crop=140)
    with pytest.raises(UsageError) as error:
        find_bundle(asked, "conv_vae", None)
    command = re.search(r"python -m benchmark pretrain (.*?)(;|$)", str(error.value))[1]
    words = shlex.split(command)
    typed = dict(zip(words[::2], words[1::2]))
    made = find_dataset(Registry(), typed["--dataset"])
    assert (type(made), made.config, typed["--backbone"]) == (CelebA64, asked.config, "conv_vae")
    assert "'celeba64[crop=140]'" in command, "brackets are patterns to a shell"


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
    assert len(lines) == 1
    assert "no bundle of celeba64 here" in lines[0]
    assert "celeba64-preview-conv_vae" in lines[0]
    assert preparation in lines[0]
    assert preparation in " ".join(all_pages(tmp_path / "r").split())
    assert set(pd.read_csv(tmp_path / "r" / "leaderboard.csv")["dataset"]) == {"celeba64-preview"}

    write_untrained(tmp_path / "cache" / "bundles" / "celeba64-conv_vae", CelebA64(), CelebA64().load([tmp_path]))
    done = cli(*words, "--results", tmp_path / "other")
    assert done.code == 0
    assert "stands in" not in done.err
    assert "preview" not in done.err
    assert set(pd.read_csv(tmp_path / "other" / "leaderboard.csv")["dataset"]) == {"celeba64"}


def test_what_pretrain_makes_of_typed_settings_run_finds_by_them(faces, tmp_path, cli):
    """And it computes the reference of the images that the bundle was made from, though it is asked for the default."""
    lay(tmp_path, faces)
    words = ["--data-root", tmp_path, "--device", "cpu"]
    settings = [word for each in ("width=1", "nz=2", "epochs=1", "batch_size=2") for word in ("--set", each)]
    done = cli("pretrain", "--dataset", "celeba64[crop=140]", *words, *settings)
    assert done.code == 0, done.err
    (path,) = (tmp_path / "cache" / "bundles").iterdir()
    assert "celeba64" in path.name
    assert "crop140" in path.name
    card = open_bundle(path).card["dataset"]
    assert card["settings"] == {"crop": 140}
    assert "central 140" in card["preparation"]
    assert card["sha256"] == with_settings(CelebA64, crop=140).load([tmp_path]).content_hash()
    line = only_line(cli("run", "--dataset", "celeba64[crop=148]", *RUN, *words, "--results", tmp_path / "none"))
    assert "no bundle of celeba64[crop=148]" in line
    for dataset in ("celeba64[crop=140]", "celeba64"):
        done = cli("run", "--dataset", dataset, *RUN, *words, "--results", tmp_path / "r")
        assert done.code == 0, done.err
        assert "stands in" not in done.err, done.err


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
