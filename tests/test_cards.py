"""Cards and parts made elsewhere: one bad bundle is one line, the others are shown, and nothing leaves its folder."""

import copy
import json
import os
import shutil

import pytest
import torch
from commands import RUN, only_line
from safetensors.torch import load_file, save_file

from benchmark.bundles.bundle import open_bundle
from benchmark.bundles.find import all_bundles
from benchmark.store.sealed import file_hash, read_sealed, write_sealed

pytestmark = pytest.mark.usefixtures("nothing_shipped")


@pytest.fixture
def cached(small_bundle, tmp_path):
    """A good bundle in the cache and one to be spoilt beside it."""
    for name in ("good", "bad"):
        shutil.copytree(small_bundle, tmp_path / "cache" / "bundles" / name)
    return tmp_path / "cache" / "bundles" / "bad"


def reseal(bundle, at, value):
    """Put a value into a card, or take one out (`...`), and seal it again."""
    card = copy.deepcopy(read_sealed(bundle / "bundle.json"))
    inner = card
    for key in at[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[at[-1]]
    else:
        inner[at[-1]] = value
    write_sealed(bundle / "bundle.json", card)


NONSENSE = [
    (("parts",), ...),
    (("parts",), {}),
    (("parts",), []),
    (("parts", "weights.safetensors"), "../../secret"),
    (("dataset",), "digits"),
    (("dataset", "name"), "../../../escaped"),
    (("dataset", "name"), "a/b"),
    (("dataset", "name"), ".."),
    (("dataset", "name"), ""),
    (("dataset", "name"), "small\n"),
    (("dataset", "name"), "a" * 4000),
    (("dataset", "name"), 7),
    (("dataset", "sha256"), "../../../../escaped"),
    (("dataset", "counts", "test"), "60"),
    (("dataset", "image_shape"), [1, 16]),
    (("dataset", "image_shape"), [1, 16, -16]),
    (("dataset", "extractor"), None),
    (("backbone", "name"), "../conv_vae"),
    (("backbone", "config"), ...),
    (("training",), {}),
    (("training", "seed"), "0"),
    (("latent_shape",), []),
    (("latent_shape",), [10**12]),
    (("latent_shape",), [5]),
    (("posterior_counts", "val"), 41),
    (("posterior_counts", "val"), 1e308),
]


@pytest.mark.parametrize("at, value", NONSENSE, ids=lambda value: str(value)[:30])
def test_a_card_of_nonsense_is_one_line_and_the_others_are_shown(at, value, cached, cli, tmp_path):
    reseal(cached, at, value)
    bundles, damaged = all_bundles()
    assert list(bundles) == ["good"]
    assert str(cached) in damaged["bad"]
    line = only_line(cli("run", "--bundle", cached, *RUN, "--results", tmp_path / "r"))
    assert "json" in line or "safetensors" in line
    assert len(line) < 1000
    assert not (tmp_path / "r").exists()


def raw(text):
    return lambda path: path.write_text(text)


def fifo(path):
    path.unlink()
    os.mkfifo(path)


def folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("part", ["bundle.json", "weights.safetensors", "posterior.safetensors"])
@pytest.mark.parametrize("harm", [raw(""), raw("{}"), raw("[]"), raw('{"seal": NaN}'), fifo, folder])
def test_a_part_that_is_no_such_file_is_one_line(part, harm, cached, cli):
    harm(cached / part)
    done = cli("list")
    assert done.code == 0
    assert "\n  good  (" in done.out
    assert done.out.partition("damaged bundles:\n")[2].count("\n") == 1


@pytest.mark.parametrize("part", ["weights.safetensors", "posterior.safetensors"])
def test_a_pipe_in_place_of_a_part_is_not_waited_for(part, cached):
    fifo(cached / part)
    assert part in all_bundles()[1]["bad"]


def retensor(bundle, part, change):
    """Change the tensors of a part, and have the card say their hash."""
    tensors = load_file(bundle / part)
    change(tensors)
    save_file(tensors, bundle / part)
    reseal(bundle, ("parts", part), file_hash(bundle / part))


def test_posteriors_that_are_missing_or_of_another_shape_are_told_when_it_is_opened(cached):
    whole = load_file(cached / "posterior.safetensors")
    for change in (
        lambda tensors: tensors.pop("val.std"),
        lambda tensors: tensors.update({"val.std": whole["test.std"].clone()}),
    ):
        retensor(cached, "posterior.safetensors", change)
        assert "val.std" in all_bundles()[1]["bad"]
        save_file(whole, cached / "posterior.safetensors")


def test_posteriors_that_are_not_finite_are_one_line(cached, cli, tmp_path):
    retensor(cached, "posterior.safetensors", lambda tensors: tensors["test.mean"].fill_(torch.nan))
    done = cli("run", "--bundle", cached, *RUN, "--results", tmp_path / "r")
    assert done.code in (1, 2)
    assert "Traceback" not in done.err
    assert "not finite" in done.err


@pytest.mark.parametrize(
    "at, value, part",
    [
        (("backbone", "name"), "no_such_vae", "no_such_vae"),
        (("backbone", "config", "nz"), 7, "not the weights of the conv_vae"),
        (("backbone", "config", "nz"), "seven", "nz='seven'"),
        (("backbone", "config", "no_such_setting"), 7, "no_such_setting"),
        (("dataset", "extractor"), "no-such-extractor", "no-such-extractor"),
    ],
)
def test_what_a_card_names_and_is_not_here_is_one_line(at, value, part, cached, cli, tmp_path):
    reseal(cached, at, value)
    line = only_line(cli("run", "--bundle", cached, *RUN, "--results", tmp_path / "r"))
    assert part in line
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("harm", [raw(""), raw("{}"), fifo, folder])
def test_a_reference_that_cannot_be_read_is_made_again(harm, cached, cli, tmp_path):
    shutil.rmtree(cached.parent / "good")
    harm(cached / "reference" / "digit-cnn-test.json")
    done = cli("run", "--bundle", cached, *RUN, "--results", tmp_path / "r")
    assert "digit-cnn-test.json" in done.err
    assert "Traceback" not in done.err
    assert done.code == 2, "where its images lie is not known here"


def test_a_reference_card_without_what_it_is_read_for_is_damaged(cached, cli, tmp_path):
    path = cached / "reference" / "digit-cnn-test.json"
    card = json.loads(path.read_text())
    del card["sha256"]
    write_sealed(path, card)
    shutil.rmtree(cached.parent / "good")
    done = cli("run", "--bundle", cached, *RUN, "--results", tmp_path / "r")
    assert "sha256: field required" in done.err
    assert "Traceback" not in done.err


def test_the_name_of_a_folder_stays_one_line(cached, cli):
    cached.rename(cached.parent / "bad\n  digits-conv_vae  (digits, conv_vae)")
    done = cli("list")
    assert "\n  digits-conv_vae" not in done.out
    assert "rename the folder" in done.out


def test_a_good_bundle_passes(cached):
    assert open_bundle(cached).dataset == "small"
