"""Commands that messages suggest: every one is made in one place, and works as it stands, pasted into a shell."""

import ast
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from boards import all_pages
from commands import RUN

import benchmark
from benchmark.bundles.bundle import open_bundle
from benchmark.bundles.reference import reference_command
from benchmark.extractors.digit_cnn import DigitCNN
from benchmark.suggestion import spell

ROOT = Path(benchmark.__file__).parent
DATASET_PLUGIN = """
import torch
from benchmark.datasets.api import Dataset, Images, hookimpl
class Stripes(Dataset):
    name, extractor, terms = "stripes", "digit-cnn", "drawn here"
    def load(self, roots):
        parts = torch.randint(0, 256, (60, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        return Images(parts[:40], parts[40:48], parts[48:], "noise")
@hookimpl
def register_datasets():
    return [Stripes]
"""
QUICKLY = [word for each in ("epochs=1", "width=1", "batch_size=8", "nz=3") for word in ("--set", each)]


def suggested(text):
    """The words of each command that a text suggests, as a shell splits them; a sentence ends them, or a bracket."""
    found = re.findall(r"python -m benchmark (.*?)(?:; | \(|`|\n|$)", text)
    return [shlex.split(command) for command in found]


def follow(cli, text):
    """Run every command that is suggested, with settings that take no time, and return how many there were."""
    commands = suggested(text)
    for words in commands:
        more = {"pretrain": QUICKLY, "run": ["--seeds", 1, "--metrics", "fd", "--priors", "gaussian"]}.get(words[0], [])
        done = cli(*words, *more)
        assert done.code == 0, f"{words}: {done.err}"
    return len(commands)


@pytest.fixture
def there(tmp_path, monkeypatch):
    """A folder with a space and a quote in its name, to stand in, with images and a data set of a plugin."""
    place = tmp_path / "it's here"
    place.mkdir()
    monkeypatch.chdir(place)
    noise = np.random.default_rng(0).integers(0, 256, (60, 16, 16), np.uint8)
    np.savez(place / "my faces.npz", train=noise[:40], val=noise[40:48], test=noise[48:])
    (place / "my plugin.py").write_text(DATASET_PLUGIN)
    return place


OF = {"path": ["--dataset", "./my faces.npz"], "plugin": ["--dataset", "stripes", "--plugin", "my plugin.py"]}


@pytest.mark.usefixtures("nothing_shipped")
@pytest.mark.parametrize("out", [[], ["--out", "my vae"]], ids=["cache", "out"])
@pytest.mark.parametrize("of", OF)
def test_from_nothing_to_a_table_by_suggestions_alone(of, out, there, cli):
    run = ["run", *OF[of], *RUN]
    first = cli(*run)
    assert first.code == 2
    (words,) = suggested(first.err)
    done = cli(*words, *QUICKLY, *out)
    assert done.code == 0, done.err
    assert follow(cli, done.err) == 1
    assert cli(*run).code == 0
    assert "gaussian" in cli("leaderboard").err + all_pages(Path("results"))


@pytest.mark.usefixtures("nothing_shipped")
def test_the_images_of_a_bundle_are_found_again_from_its_name_alone(there, cli, monkeypatch, tmp_path):
    assert cli("pretrain", *OF["path"], *QUICKLY, "--out", "my vae").code == 0
    command = reference_command(open_bundle(Path("my vae")), DigitCNN(), "val", Path("my vae/reference"))
    assert follow(cli, command) == 1
    assert Path("my vae/reference/digit-cnn-val.json").exists()
    monkeypatch.chdir(tmp_path)
    assert cli("bound", "--bundle", there / "my vae").code == 2, "squared errors have no likelihood"
    assert "no likelihood" in cli("bound", "--bundle", there / "my vae").err


@pytest.mark.usefixtures("nothing_shipped")
def test_what_verify_says_to_type_makes_the_reference_that_it_misses(there, cli):
    assert cli("pretrain", *OF["path"], *QUICKLY).code == 0
    assert cli("run", *OF["path"], *RUN).code == 0
    done = cli("verify", "--share", 1)
    assert "make it with" in done.out
    assert follow(cli, done.out) >= 1
    again = cli("verify", "--share", 1)
    assert "make it with" not in again.out
    assert ", 0 disagree" in again.out


def test_what_new_prior_says_to_type_works(there, cli):
    done = cli("new-prior", "mine", "--folder", "my priors")
    assert done.code == 0, done.err
    check, run = suggested(done.out)
    assert cli(*check, "--target", "gaussian").code in (0, 1, 2)
    assert cli(*run, "--seeds", 1, "--metrics", "mmd", "--device", "cpu").code == 0


def test_a_folder_by_its_bare_name_is_told_how_to_type(there, cli):
    (there / "a b").mkdir()
    told = re.search(r"the folder is (.*)", cli("pretrain", "--dataset", "a b").err)[1]
    assert shlex.split(told) == ["./a b"]


@pytest.mark.parametrize("word", ["plain", "a b", "it's", "$HOME", "a;b", "猫", "-x", "[a]", "`ls`", "*"])
def test_a_shell_reads_what_was_meant(word):
    line = spell("run", bundle=word, plugin=[word, "two"]).replace("python -m benchmark", "printf '%s\\n'")
    read = subprocess.run(["sh", "-c", line], capture_output=True, check=True).stdout.decode().splitlines()
    assert read == ["run", "--bundle", word, "--plugin", word, "--plugin", "two"]


def test_no_message_has_a_command_of_its_own():
    """Else it would lose what was typed, and quote nothing: only docstrings, and what a page says of itself."""
    spelt = []
    for path in sorted(ROOT.rglob("*.py")):
        tree = ast.parse(path.read_text())
        docs = {
            node.body[0].value
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None
        }
        spelt += [
            path.relative_to(ROOT).as_posix()
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and node not in docs and "python -m benchmark" in str(node.value)
        ]
    said_of_themselves = {"report/first_screen.py", "report/parity.py", "store/provenance.py"}
    assert set(spelt) - said_of_themselves == {"suggestion.py"}
