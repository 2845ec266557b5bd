"""What ends a command early: damaged files, two of one kind at once, interrupts, and what nobody foresaw."""

import re
import shutil
from pathlib import Path

import pytest
from commands import only_line

from benchmark.bundles import pretrain as pretraining
from benchmark.bundles.making import held, new_folder
from benchmark.cli import app
from benchmark.cli.app import COMMANDS

TINY = [word for each in ("epochs=2", "width=1", "batch_size=32", "nz=3") for word in ("--set", each)]


@pytest.fixture
def words(small_bundle, tmp_path):
    return [
        "pretrain",
        "--dataset",
        small_bundle.parent / "small.npz",
        *TINY,
        "--device",
        "cpu",
        "--out",
        tmp_path / "b",
    ]


def with_setting(words, setting):
    """The command with a setting in place of the one of its name."""
    name, _, _ = setting.partition("=")
    kept = [setting if str(word).startswith(f"{name}=") else word for word in words]
    return kept if setting in kept else [*kept, "--set", setting]


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def folder(path):
    path.unlink()
    path.mkdir()


def foreign(path):
    import torch

    torch.save({"weights": torch.zeros(3)}, path)


def of_another_width(path):
    import torch

    state = torch.load(path, weights_only=True)
    state["best"] = {name: value[None] for name, value in state["best"].items()}
    torch.save(state, path)


def without_epochs(path):
    import torch

    state = torch.load(path, weights_only=True)
    state["log"]["best_epoch"] = 7
    torch.save(state, path)


HARMS = [cut, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(bytes(999)), folder, foreign]


@pytest.mark.parametrize("harm", [*HARMS, of_another_width, without_epochs])
def test_a_damaged_checkpoint_is_one_line_and_the_training_ends_as_if_there_were_none(
    harm, words, tmp_path, cli, monkeypatch
):
    with monkeypatch.context() as patch:  # the training is done, and its bundle cannot be written
        patch.setattr(pretraining, "make_bundle", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")))
        done = cli(*words)
    assert done.code == 2
    assert "no space left" in done.err.lower()
    assert "the training is kept" in done.err
    (checkpoint,) = (tmp_path / "cache" / "pretrain").glob("*.pt")
    harm(checkpoint)
    done = cli(*words)
    assert done.code == 0, done.err
    assert len([line for line in done.err.splitlines() if str(checkpoint) in line]) == 1
    assert "the training begins again" in done.err
    assert checkpoint.with_suffix(".damaged").exists()
    weights = (tmp_path / "b" / "weights.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "b")
    shutil.rmtree(tmp_path / "cache" / "pretrain")
    assert cli(*words).code == 0
    assert (tmp_path / "b" / "weights.safetensors").read_bytes() == weights


@pytest.mark.parametrize("same", ["folder", "training"])
def test_a_second_pretrain_is_told_before_its_first_epoch(same, words, tmp_path, cli, monkeypatch):
    asked = []
    monkeypatch.setattr(pretraining, "_trained", lambda training: asked.append(training.checkpoint) or 1 // 0)
    assert cli(*words).code == 3  # only to learn which checkpoint it has
    (checkpoint,) = asked
    with new_folder(tmp_path / "b") if same == "folder" else held(Path(checkpoint).stem, "taken"):
        assert "by another" in cli(*words).err
    assert len(asked) == 1
    assert not (tmp_path / "b").exists()


def test_a_folder_that_cannot_be_written_is_told_before_the_first_epoch(words, tmp_path, cli, monkeypatch):
    monkeypatch.setattr(pretraining, "_trained", lambda *_: pytest.fail("it was trained"))
    (tmp_path / "file").write_text("")
    only_line(cli(*words[:-1], tmp_path / "file" / "b"))


@pytest.mark.parametrize("setting", ["width=1000000", "nz=1000000000000"])
def test_a_backbone_beyond_the_machine_is_one_line(setting, words, cli):
    assert "parameters" in only_line(cli(*with_setting(words, setting)))


@pytest.mark.parametrize("command", app.COMMANDS)
def test_ctrl_c_says_how_to_go_on_in_every_command(command, cli, monkeypatch, tmp_path):
    """In the first thing that a command does."""

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "set_typed", lambda _: None)
    given = {"check": ["gaussian"], "new-prior": ["mine"], "pretrain": ["--dataset", "digits"], "show": ["gmm"]}
    given["joint"] = ["--prior", "evalp"]
    given["wrap"] = [__file__, "--dataset", "digits"]
    given["export"] = ["--prior", "gmm", "--out", "gmm.pt2"]
    given["pack"] = ["mine.py", "--author", "A"]
    given["suite"] = ["one-pass"]
    given["leaderboard"] = ["--results", tmp_path]
    for place in ("benchmark.registry.Registry.__post_init__", "benchmark.cli.results._require_records"):
        monkeypatch.setattr(place, interrupted)
    given["submit"] = ["--slurm", "slurm.toml", "--", "run"]
    monkeypatch.setattr("benchmark.cli.pretrain.choose_device", interrupted)
    for place in ("benchmark.slurm.read_slurm", "benchmark.store.places.claims_folder"):
        monkeypatch.setattr(place, interrupted)
    done = cli(command, *given.get(command, []))
    assert done.code == 130
    assert done.err.startswith("interrupted: ")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_words_that_no_command_takes_are_one_line(command, cli):
    assert f"{command} --help" in only_line(cli(command, "--no-such-option", "3"))


@pytest.mark.parametrize(
    "words, part",
    [
        (["rnu"], "'run'"),
        (["run", "--sedes", "3"], "--seeds"),
        (["run", "--seeds", "1e20"], "--seeds"),
        (["run", "--workers", ""], "--workers"),
        (["verify", "--share", "a\n\x1b[31mb"], "--share"),
        (["bound", "--samples"], "--samples"),
        (["run", "--executor", "", "--dry-run"], "--executor"),
        (["leaderboard", "--results", " "], "--results"),
        (["report", "--out="], "--out"),
        (["show"], "name"),
        (["show", "gaussian", "ncp"], "ncp"),
        (["pretrain"], "--dataset"),
    ],
)
def test_wrong_words_are_one_line_that_names_them(words, part, cli):
    assert part in only_line(cli(*words))


@pytest.mark.parametrize("setting", ["epochs=x", "nosuch=1", "learning_rate=nan", "width=0"])
def test_a_setting_is_refused_before_images_are_read(setting, words, cli):
    said = only_line(cli(*with_setting(words, setting)))
    assert setting.partition("=")[0] in said
    assert "twice" not in said


def test_what_nobody_foresaw_is_one_line_with_its_traceback_in_a_file(cli, monkeypatch):
    monkeypatch.setattr("benchmark.bundles.find.all_bundles", lambda: 1 // 0)
    done = cli("list")
    assert done.code == 3
    assert done.err.count("\n") == 1
    assert "ZeroDivisionError" in done.err
    path = Path(re.search(r"is in (\S+)$", done.err.strip())[1])
    assert "1 // 0" in path.read_text()
    path.unlink()


def test_without_a_home_folder_the_variable_is_named(cli, monkeypatch):
    monkeypatch.delenv("LATENT_PRIOR_CACHE")
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: f"~/.cache/{name}")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    assert "LATENT_PRIOR_CACHE" in only_line(cli("run", "--priors", "gaussian"))


def test_the_home_folder_and_relative_ones_are_read_in_variables_and_options(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    words = ["reference", "--bundle", "digits-conv_vae", "--split", "val", "--device", "cpu"]
    monkeypatch.setenv("LATENT_PRIOR_CACHE", "~/lpc")
    assert cli(*words).code == 0
    assert list((tmp_path / "home" / "lpc" / "references").rglob("*.json"))
    monkeypatch.setenv("LATENT_PRIOR_CACHE", "relative")
    assert cli(*words, "--out", "~/out").code == 0
    assert (tmp_path / "home" / "out" / "digit-cnn-val.json").exists()
    assert not (tmp_path / "~").exists()
