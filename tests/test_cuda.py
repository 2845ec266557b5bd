"""Where there is a GPU: the commands run on it, keep float32 there, and agree with the CPU about one fit's scores."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmark.machine import arithmetic
from benchmark.registry import Registry
from benchmark.report.tables import make_tables

ROOT = Path(__file__).parents[1]


def search_path(*folders):
    """These folders before those that were given."""
    return os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture
def from_here(with_gpu):
    """The environment of a script that sees the GPU and imports the code that is tested."""
    return with_gpu | {"PYTHONPATH": search_path(ROOT)}


@pytest.fixture
def command(with_gpu):
    """`command("run", ...)` in a process of its own that sees the GPU."""

    def call(*words):
        words = [sys.executable, "-m", "benchmark", *map(str, words)]
        done = subprocess.run(words, env=with_gpu, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    return call


def test_workers_of_the_tests_give_commands_the_gpus_that_the_tests_were_given():
    """A worker of pytest-xdist starts from the environment that its parent has already taken the GPUs out of."""
    environment = {k: v for k, v in os.environ.items() if k not in ("CUDA_VISIBLE_DEVICES", "GPUS_OF_TESTS")}
    environment["PYTHONPATH"] = search_path(*Path(__file__).parents[:2])
    ask = "import devices; print(devices.AS_IT_WAS.get('CUDA_VISIBLE_DEVICES'))"
    parent = "import subprocess, sys; import devices; subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"
    done = subprocess.run([sys.executable, "-c", parent, ask], env=environment, capture_output=True, text=True)
    assert done.stdout == "None\n", done.stderr


def test_float32_alone_leaves_no_tf32_and_the_record_says_so():
    before = [(of, of.allow_tf32) for of in (torch.backends.cuda.matmul, torch.backends.cudnn)]
    deterministic = torch.backends.cudnn.deterministic
    try:
        torch.backends.cudnn.allow_tf32 = True
        assert arithmetic.describe_arithmetic()["tf32"] is True
        arithmetic.require_float32()
        assert arithmetic.describe_arithmetic() == {
            **arithmetic.describe_arithmetic(),
            "tf32": False,
            "deterministic": True,
        }
    finally:
        for of, allowed in before:
            of.allow_tf32 = allowed
        torch.backends.cudnn.deterministic = deterministic


@pytest.mark.parametrize("prior", Registry().at_hand("prior"))
def test_every_prior_keeps_its_contract_on_a_gpu(prior, command):
    command("check", prior, "--device", "cuda")


def test_the_same_latents_score_alike_on_gpu_and_cpu(from_here):
    script = Path(__file__).with_name("score_latents.py")
    scores = []
    for device in ("cuda", "cpu"):
        words = [sys.executable, script, "digits-conv_vae", "digits", "digit-cnn", device]
        done = subprocess.run(words, env=from_here, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        scores.append(float(done.stdout))
    assert scores[0] == pytest.approx(scores[1], rel=1e-3)


def test_a_fit_by_graph_is_the_eager_fit_bit_for_bit(from_here, tmp_path):
    script = ROOT / "tools" / "gpu" / "speed.py"
    words = ["--bundle", "digits-conv_vae", "--steps", 20, "--draws", "gaussian", "--batches", 1]
    words = [sys.executable, script, *map(str, words), "--json", tmp_path / "speed.json"]
    done = subprocess.run(words, env=from_here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for row in json.loads((tmp_path / "speed.json").read_text())["fits"]:
        assert row.get("difference at 10") == 0, row


def test_reference_rows_score_alike_on_gpu_and_cpu_and_priors_run_on_both(command, tmp_path):
    for device in ("cuda", "cpu"):
        words = ["--priors", "gaussian,evalp[steps=100],ncp[steps=100,proposals=20]", "--seeds", 1]
        command("run", "--dataset", "digits", *words, "--device", device, "--results", tmp_path)
    made = {table.device: table for table in make_tables(tmp_path)[0]}
    assert set(made) == {"cuda", "cpu"}
    assert not made["cuda"].failures
    on_gpu, on_cpu = (made[device].rows["aggregate_posterior"].mean(("fd", "fd")) for device in ("cuda", "cpu"))
    assert on_gpu == pytest.approx(on_cpu, rel=0.2)  # other noise, the same distribution
    command("verify", "--share", 1, "--results", tmp_path)
    record = made["cuda"].records[-1]["provenance"]
    assert record["driver"]["tf32"] is False
    assert record["driver"]["deterministic"] is True
