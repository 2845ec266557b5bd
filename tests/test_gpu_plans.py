"""The plans for a lent GPU: what they ask for is there, which is to be known before a machine is lent."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.bundles.find import SHIPPED

PLANS = sorted((Path(__file__).parents[1] / "tools" / "gpu").glob("*.plan"))


def commands_of(plan):
    """The commands of a plan as lanes.sh reads them."""
    lines = [line for line in plan.read_text().splitlines() if line and not line.startswith(("#", "alone "))]
    return list(dict.fromkeys(command for line in lines for command in line.split(" ; ")))


def named_after(words, option):
    return words[words.index(option) + 1] if option in words else None


def is_trained_by_a_plan(bundle):
    """A lane of some plan makes it, so that it need not be shipped."""
    pretraining = (of.split() for plan in PLANS for of in commands_of(plan) if " pretrain " in of)
    return any(Path(named_after(words, "--out")).name == bundle for words in pretraining)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.stem)
def test_a_plan_asks_for_what_travels_with_it(plan, tmp_path, cli, monkeypatch):
    (travelling,) = re.findall(r"^# bundles: (.+)$", plan.read_text(), re.MULTILINE)
    for bundle in travelling.split():
        (tmp_path / "shipped").mkdir(exist_ok=True)
        (tmp_path / "shipped" / bundle).symlink_to(SHIPPED / bundle)
        assert (tmp_path / "shipped" / bundle / "bundle.json").exists()
    trained = re.findall(r"^# trained: (.+)$", plan.read_text(), re.MULTILINE)
    monkeypatch.setattr("benchmark.bundles.find.SHIPPED", tmp_path / "shipped")
    commands = [command for command in commands_of(plan) if command.startswith("benchmark ")]
    assert commands
    drawn = []
    for command in commands:
        _, *words = command.replace("RESULTS", str(tmp_path)).replace("--device cuda", "--device cpu").split()
        bundle = named_after(words, "--bundle")
        if words[0] == "pretrain":
            assert Path(named_after(words, "--out")).name in trained
            continue
        if words[0] == "groups":
            assert bundle in travelling.split()
            drawn.append(bundle)
            continue
        if bundle in trained:
            assert is_trained_by_a_plan(bundle)
            continue
        done = cli(*words, "--dry-run")
        missing = ["no tuning of it", *(f"no draws of the latent groups of {made}" for made in drawn)]
        assert done.code == 0 or any(each in done.err for each in missing), done.err
        images_travel = "MNIST/raw" in plan.read_text() and str(bundle).startswith("mnist-")
        assert images_travel or "would be computed first" not in done.err, "a reference, of images that are not there"


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.stem)
def test_what_shares_a_gpu_says_with_how_many(plan):
    """Else one process at a time is on it, whatever their number."""
    for command in commands_of(plan):
        words = command.split()
        if "--workers" in words and (count := words[words.index("--workers") + 1]) != "1":
            assert words[words.index("--per-gpu") + 1] == count


def test_speed_tells_of_fits_and_draws_where_there_is_no_gpu(tmp_path):
    words = ["--bundle", "digits-conv_vae", "--steps", 2, "--fits", "evalp", "--draws", "gaussian", "--batches", 1]
    script = PLANS[0].with_name("speed.py")
    command = [sys.executable, script, *map(str, words), "--device", "cpu", "--json", tmp_path / "speed.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    fit = json.loads((tmp_path / "speed.json").read_text())["fits"][0]
    assert (fit["fit"], fit["difference at 10"]) == ("evalp", 0)
