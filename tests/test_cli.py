"""The commands as typed: wrong words get one line and exit code 2, and stage 1 survives a kill."""

from __future__ import annotations

import errno
import json
import re
import shutil
import time

import numpy as np
import pandas as pd
import pytest
import torch
from commands import finish, only_line, start

from backbones.conv_vae import ConvVAE
from backbones.training import posterior
from benchmark.bundles.bundle import open_bundle
from benchmark.bundles.find import SHIPPED, name_of, note_bundle
from benchmark.bundles.reference import find_reference
from benchmark.cli.app import app
from benchmark.datasets.digits import Digits
from benchmark.extractors.digit_cnn import DigitCNN
from benchmark.store.sealed import file_hash

CPU = torch.device("cpu")
TINY = ["--dataset", "digits", "--device", "cpu", "--set", "width=2", "--set", "nz=4"]
COMMANDS = {command.name or command.callback.__name__: command.callback for command in app.registered_commands}


def test_help_names_every_command(cli):
    done = cli("--help")
    expected = {"pretrain", "run", "reference", "bound", "list", "show", "leaderboard", "verify", "check"}
    expected |= {
        "groups",
        "joint",
        "new-prior",
        "report",
        "pack",
        "export",
        "wrap",
        "tune",
        "suite",
        "submit",
        "status",
    }
    assert done.code == 0
    assert expected == set(COMMANDS)
    for name in COMMANDS:
        assert re.search(rf"\b{name}\b", done.out)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, cli):
    done = cli(command, "--help")
    first_words = " ".join(COMMANDS[command].__doc__.split()[:4])
    assert done.code == 0
    assert "Usage" in done.out
    assert first_words in " ".join(done.out.split())


@pytest.mark.parametrize(
    "words, parts",
    [
        (["--dataset", "digts"], ["dataset 'digts'", "did you mean 'digits'"]),
        (["--priors", "evlap"], ["prior 'evlap'", "did you mean 'evalp'"]),
        (["--priors", "evalp[step=20]"], ["'step'", "did you mean 'steps'"]),
        (["--priors", "evalp[steps=0]"], ["evalp", "steps=0"]),
        (["--priors", "evalp[steps=20"], ["--priors evalp[steps=20", "evalp[gp_weight=1,10],gaussian"]),
        (["--priors", "reconstruction"], ["'reconstruction' is a reference row"]),
        (["--backbone", "conv_va"], ["backbone 'conv_va'", "did you mean 'conv_vae'"]),
        (["--extractor", "digit-cn"], ["extractor 'digit-cn'", "did you mean 'digit-cnn'"]),
        (["--bundle", "digit-conv_vae"], ["bundle 'digit-conv_vae'", "did you mean 'digits-conv_vae'"]),
        (["--dataset", "fashion_mnist"], ["no bundle of fashion_mnist", "pretrain --dataset fashion_mnist"]),
        (["--dataset", "no/such/place"], ["no/such/place: no such file or folder"]),
        (["--plugin", "no-such-plugin.py"], ["no-such-plugin.py: no such file"]),
    ],
    ids=lambda words: " ".join(words) if words[0].startswith("--") else "",
)
def test_a_wrong_word_of_run_is_one_line_and_exit_code_2(words, parts, tmp_path, cli):
    line = only_line(cli("run", *words, "--device", "cpu", "--results", tmp_path / "results"))
    for part in parts:
        assert part in line
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    "words, parts",
    [
        (["--dataset", "digts"], ["dataset 'digts'", "did you mean 'digits'"]),
        (["--dataset", "digits", "--backbone", "convvae"], ["backbone 'convvae'", "did you mean 'conv_vae'"]),
        (["--dataset", "digits", "--set", "width"], ["--set width", "NAME=VALUE"]),
        (["--dataset", "digits", "--set", "=3"], ["--set =3", "NAME=VALUE"]),
        (["--dataset", "digits", "--set", "width="], ["--set width=", "NAME=VALUE"]),
        (
            ["--dataset", "digits", "--set", "width=8", "--set", " width=16"],
            ["--set  width=16: 'width' is given twice"],
        ),
        (["--dataset", "digits", "--set", "widht=3"], ["'widht'", "did you mean 'width'"]),
        (["--dataset", "digits", "--set", "width=wide"], ["width='wide'", "integer"]),
        (["--dataset", "digits", "--set", "epochs=0"], ["epochs=0", "greater than or equal to 1"]),
        (["--dataset", "nowhere/images.npz"], ["nowhere/images.npz: no such file or folder"]),
    ],
    ids=lambda words: " ".join(words) if words[0].startswith("--") else "",
)
def test_a_wrong_word_of_pretrain_is_one_line_and_exit_code_2(words, parts, tmp_path, cli):
    line = only_line(cli("pretrain", *words, "--device", "cpu", "--out", tmp_path / "bundle"))
    for part in parts:
        assert part in line
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    "setting, part",
    [
        ("batch_size=5000", "batch_size 5000 is larger than the 1097 training images"),
        ("learning_rate=1e30", "the loss is not finite in epoch 1: lower learning_rate"),
        ("learning_rate=Infinity", "learning_rate"),
    ],
)
def test_settings_that_cannot_train_are_told_in_one_line(setting, part, tmp_path, cli):
    done = cli("pretrain", *TINY, "--set", "epochs=1", "--set", setting, "--out", tmp_path / "bundle")
    assert done.code in (1, 2)
    assert "Traceback" not in done.err
    last = done.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert part in last
    assert list(tmp_path.glob("*bundle*")) == []


def test_images_that_a_backbone_cannot_take_are_one_line(tmp_path, cli):
    np.savez(tmp_path / "odd.npz", **{split: np.zeros((20, 24, 24), np.uint8) for split in ("train", "val", "test")})
    words = ["--dataset", f"{tmp_path / 'odd.npz'}[size=24]", "--set", "batch_size=8", "--device", "cpu"]
    done = cli("pretrain", *words, "--out", tmp_path / "bundle")
    assert done.code == 2
    assert "power of two, 16 or more; these are 24x24" in done.err.splitlines()[-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
@pytest.mark.parametrize("command", [["run"], ["pretrain", "--dataset", "digits"]], ids=lambda words: words[0])
def test_cuda_is_refused_where_there_is_none(command, tmp_path, cli):
    line = only_line(cli(*command, "--device", "cuda"))
    assert "--device cuda" in line
    assert "--device cpu" in line


@pytest.mark.parametrize("words", ["run --seeds 0", "run --budget huge", "run --split train", "run --steps 3", "rnu"])
def test_what_the_parser_refuses_is_exit_code_2(words, cli):
    done = cli(*words.split())
    assert done.code == 2
    assert "Traceback" not in done.err


def test_list_shows_all_there_is_and_what_is_broken(small_bundle, tmp_path, cli):
    (tmp_path / "bad.py").write_text("raise RuntimeError('not today')\n")
    made = tmp_path / "cache" / "bundles"
    shutil.copytree(small_bundle, made / "mine")
    shutil.copytree(small_bundle, made / "spoilt")
    (made / "spoilt" / "weights.safetensors").write_bytes(b"")
    done = cli("list", "--plugin", tmp_path / "bad.py")
    assert done.code == 0
    for name in ("gaussian", "evalp", "conv_vae", "digits", "fashion_mnist", "fd", "mmd", "digit-cnn", "inception"):
        assert f"\n  {name} " in done.out  # and what it is
    bundle = open_bundle(small_bundle)
    assert re.search(rf"\n  mine  \(small, conv_vae, latent 4, epoch \d+, {bundle.id[:16]}\)", done.out)
    assert "\n  digits-conv_vae  (digits, conv_vae, latent 16" in done.out
    assert f"broken plugins:\n  {tmp_path / 'bad.py'}: RuntimeError: not today" in done.out
    damaged = done.out.partition("damaged bundles:\n")[2].splitlines()[0]
    assert damaged.startswith("  spoilt: ")
    assert str(made / "spoilt" / "weights.safetensors") in damaged


def test_a_damaged_bundle_asked_for_by_name_is_told(small_bundle, tmp_path, cli):
    made = tmp_path / "cache" / "bundles" / "mine"
    shutil.copytree(small_bundle, made)
    (made / "posterior.safetensors").unlink()
    line = only_line(cli("run", "--bundle", "mine", "--results", tmp_path / "r"))
    assert str(made / "posterior.safetensors") in line
    assert "missing" in line


def test_of_several_bundles_one_is_taken_and_the_others_are_named(small_bundle, tmp_path, cli):
    made = tmp_path / "cache" / "bundles"
    for name in ("a-first", "b-second"):
        shutil.copytree(small_bundle, made / name)
    words = ["--priors", "gaussian", "--seeds", 1, "--device", "cpu", "--results", tmp_path / "r"]
    done = cli("run", "--dataset", small_bundle.parent / "small.npz", *words)
    assert done.code == 0, done.err
    assert "using bundle a-first; there are also b-second (--bundle NAME)" in done.err


def test_a_bundle_in_a_folder_named_as_a_shipped_one_has_a_name_of_its_own(small_bundle, tmp_path, cli):
    made = tmp_path / "cache" / "bundles"
    shutil.copytree(small_bundle, made / "digits-conv_vae")
    shutil.copytree(SHIPPED / "digits-conv_vae", made / "mnist-conv_vae")
    bundle = open_bundle(small_bundle)
    name = f"digits-conv_vae-{bundle.id[:8]}"
    assert name_of(open_bundle(made / "digits-conv_vae")) == name, "as `pretrain` suggests it"
    listed = cli("list").out
    assert f"\n  {name}  (small, conv_vae" in listed
    assert "\n  digits-conv_vae  (digits, conv_vae" in listed
    words = ["--priors", "gaussian", "--seeds", 1, "--metrics", "mmd", "--device", "cpu", "--results", tmp_path / "r"]
    assert cli("run", "--bundle", name, *words).code == 0
    assert set(pd.read_csv(tmp_path / "r" / "leaderboard.csv")["bundle"]) == {bundle.id[:16]}


def test_a_name_that_two_folders_elsewhere_share_is_neither_s(small_bundle, tmp_path, cli):
    for folder, source in (("a", small_bundle), ("b", SHIPPED / "digits-conv_vae")):
        shutil.copytree(source, tmp_path / folder / "mine")
        note_bundle(tmp_path / folder / "mine")
    words = ["run", "--bundle", "mine", "--priors", "gaussian", "--dry-run"]
    said = only_line(cli(*words))
    assert all(str(tmp_path / folder / "mine") in said for folder in ("a", "b"))
    shutil.rmtree(tmp_path / "a")
    assert cli(*words).code == 0


def test_a_wrong_word_is_told_before_any_image_is_looked_at(small_bundle, tmp_path, cli):
    """The bundle has no reference: making one would come first, and takes long."""
    shutil.copytree(small_bundle, tmp_path / "bare", ignore=shutil.ignore_patterns("reference"))
    words = ["run", "--bundle", tmp_path / "bare", "--device", "cpu", "--results", tmp_path / "r"]
    assert "did you mean 'mmd'" in only_line(cli(*words, "--metrics", "mdm"))
    assert "did you mean 'evalp'" in only_line(cli(*words, "--priors", "evlap"))
    assert "did you mean 'steps'" in only_line(cli("check", "evalp[stepz=1]", "--device", "cpu"))


def test_a_folder_by_its_bare_name_is_told_how_to_type(tmp_path, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "faces").mkdir()
    assert "the folder is ./faces" in only_line(cli("pretrain", "--dataset", "faces"))


@pytest.mark.parametrize(
    "name, part", [("none", "lower-case"), ("My", "lower-case"), ("evalp", "already"), ("a b", "my_")]
)
def test_a_name_that_no_new_prior_can_have_is_one_line(name, part, tmp_path, cli):
    assert part in only_line(cli("new-prior", name, "--folder", tmp_path))
    assert not list(tmp_path.glob("*.py"))


def test_a_full_disk_is_one_line(small_bundle, tmp_path, cli, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "r"))

    monkeypatch.setattr("benchmark.protocol.write_sealed", full)
    words = ["--bundle", small_bundle, "--priors", "gaussian", "--device", "cpu", "--results", tmp_path / "r"]
    line = only_line(cli("run", *words))
    assert "no space left on device" in line
    assert str(tmp_path / "r") in line


def test_pretrain_writes_a_bundle_that_run_uses(tmp_path, cli):
    """From images to a leaderboard; the bundle holds what its own encoder says, and its reference is made once."""
    out = tmp_path / "bundle"
    done = cli("pretrain", *TINY, "--set", "epochs=1", "--out", out)
    assert done.code == 0, done.err
    bundle, digits = open_bundle(out), Digits().load([])
    assert bundle.dataset == "digits"
    assert bundle.latent_shape == (4,)
    assert bundle.card["posterior_counts"] == {"train": 1097, "val": 200, "test": 500}
    mean, std = posterior(bundle.backbone(ConvVAE, CPU), digits.val)
    kept_mean, kept_std = bundle.posterior("val", CPU)
    torch.testing.assert_close(kept_mean, mean, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(kept_std, std, rtol=2e-3, atol=2e-3)
    assert not list((tmp_path / "cache").rglob("*.pt"))
    assert list(tmp_path.glob("*bundle*")) == [out]

    words = ["--bundle", out, "--priors", "gaussian", "--seeds", 1, "--device", "cpu", "--results", tmp_path / "r"]
    first = cli("run", *words)
    assert first.code == 0
    assert "computing the digit-cnn reference of bundle, test split, once" in first.err
    assert find_reference(bundle, DigitCNN(), "test").path.is_relative_to(tmp_path / "cache")
    again = cli("run", *words)
    assert again.code == 0
    assert "computing" not in again.err
    board = pd.read_csv(tmp_path / "r" / "leaderboard.csv")
    assert set(board["prior"]) == {"gaussian", "aggregate_posterior", "reconstruction"}
    assert set(board["bundle"]) == {bundle.id[:16]}


def test_the_shipped_reference_is_what_the_reference_command_makes(tmp_path, cli):
    done = cli("reference", "--dataset", "digits", "--device", "cpu", "--out", tmp_path / "made")
    assert done.code == 0, done.err
    for split in ("train", "val", "test"):
        shipped = find_reference(open_bundle(SHIPPED / "digits-conv_vae"), DigitCNN(), split)
        card = json.loads((tmp_path / "made" / f"digit-cnn-{split}.json").read_text())
        told = ("images", "extractor", "split", "count")
        assert [card[each] for each in told] == [shipped.card[each] for each in told]
        ours = type(shipped)(tmp_path / "made" / f"digit-cnn-{split}.safetensors", card).statistics(CPU)
        theirs = shipped.statistics(CPU)
        torch.testing.assert_close(ours.mean, theirs.mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.covariance, theirs.covariance, rtol=1e-3, atol=1e-5)


def test_the_reference_of_one_split_can_be_made_alone(tmp_path, cli):
    done = cli("reference", "--dataset", "digits", "--split", "val", "--device", "cpu", "--out", tmp_path / "made")
    assert done.code == 0, done.err
    assert {path.name for path in (tmp_path / "made").iterdir()} == {"digit-cnn-val.json", "digit-cnn-val.safetensors"}


@pytest.mark.parametrize("taken", ["results", "results/protocols"])
def test_a_file_where_results_belong_is_one_line_and_left_alone(taken, tmp_path, cli):
    path = tmp_path / taken
    path.parent.mkdir(exist_ok=True)
    path.write_text("four years of work")
    line = only_line(cli("run", "--priors", "gaussian", "--device", "cpu", "--results", tmp_path / "results"))
    assert str(path) in line
    assert "--results" in line
    assert path.read_text() == "four years of work"


def test_a_folder_that_is_taken_is_refused_and_left_alone(tmp_path, cli):
    out = tmp_path / "bundle"
    out.mkdir()
    (out / "thesis.txt").write_text("four years of work")
    line = only_line(cli("pretrain", *TINY, "--set", "epochs=1", "--out", out))
    assert str(out) in line
    assert "--out" in line
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_a_training_killed_and_started_again_ends_with_the_same_weights(small_bundle, tmp_path):
    words = ["pretrain", "--dataset", small_bundle.parent / "small.npz", "--device", "cpu"]
    words += [word for setting in ("width=2", "nz=4", "batch_size=32", "epochs=24") for word in ("--set", setting)]
    undisturbed = start([*words, "--out", tmp_path / "one"], tmp_path / "cache1", tmp_path / "log1")
    assert finish(undisturbed, tmp_path / "log1").code == 0

    cache = tmp_path / "cache2"
    for epochs in (3, 8):
        process = start([*words, "--out", tmp_path / "two"], cache, tmp_path / "log2")
        while process.is_alive() and _epochs(cache) < epochs:
            time.sleep(0.02)
        process.kill()
        process.join()
        assert process.exitcode == -9
        assert not (tmp_path / "two").exists()
        assert epochs <= _epochs(cache) < 24
    process = start([*words, "--out", tmp_path / "two"], cache, tmp_path / "log2")
    assert finish(process, tmp_path / "log2").code == 0
    for part in ("weights.safetensors", "posterior.safetensors"):
        assert file_hash(tmp_path / "one" / part) == file_hash(tmp_path / "two" / part)
    logs = [open_bundle(tmp_path / name).card["training"] for name in ("one", "two")]
    for name in ("train_loss", "val_loss", "best_epoch"):
        assert logs[0][name] == logs[1][name]
    assert len(logs[1]["val_loss"]) == 24


def _epochs(cache):
    """How many epochs the checkpoint holds."""
    found = list((cache / "pretrain").glob("*[0-9a-f].pt"))
    return len(torch.load(found[0], weights_only=True)["log"]["val_loss"]) if found else 0


@pytest.mark.parametrize("change", [["--seed", "1"], ["--set", "learning_rate=0.002"]], ids=lambda words: words[-1])
def test_another_training_has_other_weights(change, tmp_path, cli):
    for name, more in (("a", []), ("b", change)):
        assert cli("pretrain", *TINY, "--set", "epochs=1", *more, "--out", tmp_path / name).code == 0
    hashes = [file_hash(tmp_path / name / "weights.safetensors") for name in ("a", "b")]
    assert hashes[0] != hashes[1]


@pytest.mark.parametrize("extractor", ["inception", "inception-768"])
def test_without_inception_weights_it_says_what_to_fetch_and_scores_with_nothing_else(
    extractor, small_bundle, tmp_path, cli, no_inception
):
    words = ["--bundle", small_bundle, "--priors", "gaussian", "--seeds", 1, "--metrics", "fd", "--device", "cpu"]
    line = only_line(cli("run", "--extractor", extractor, *words, "--results", tmp_path / "r"))
    assert f"{extractor} cannot be used" in line
    assert "https://" in line
    assert "--inception-weights" in line
    assert str(tmp_path / "torch") in line
    assert len(no_inception) == 1
    assert no_inception[0] in line
    assert not (tmp_path / "r").exists()


def test_the_reference_command_without_inception_weights_is_one_line(tmp_path, cli, no_inception):
    line = only_line(cli("reference", "--dataset", "digits", "--extractor", "inception", "--device", "cpu"))
    assert no_inception[0] in line
    assert "--inception-weights" in line


@pytest.mark.parametrize("content", [None, b"<html>not found</html>", b""])
def test_a_file_that_is_no_inception_weights_is_named(content, tmp_path, cli, no_inception):
    weights = tmp_path / "weights.pth"
    if content is not None:
        weights.write_bytes(content)
    words = ["--extractor", "inception", "--inception-weights", weights, "--device", "cpu"]
    line = only_line(cli("reference", "--dataset", "digits", *words))
    assert str(weights) in line
    assert not no_inception
