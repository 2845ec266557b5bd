"""What a stranger's metric does to its process changes no other measurement: records are equal bit for bit."""

from __future__ import annotations

import json
import os
import re

import pytest
import torch
from commands import record_files

from benchmark.machine.switches import kept_functions, kept_switches

METRICS = r"""
import os, sys, time, threading, random, gc, signal
import numpy as np
import torch
from benchmark.metrics.api import IMAGE_SETTINGS, LATENT_SETTINGS, Metric, hookimpl

class Base(Metric):
    reads = (*IMAGE_SETTINGS, "mmd_latents")
    reference_rows = ("aggregate_posterior",)
    def measure(self, evaluation):
        self.harm(evaluation)
        return {self.name: float(evaluation.features.mean())}

class Switches(Base):
    name = "a_switches"
    def harm(self, evaluation):
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.set_num_threads(3)
        torch.set_float32_matmul_precision("medium")
        torch.use_deterministic_algorithms(True)
        torch.manual_seed(5); np.random.seed(5); random.seed(5)
        np.seterr(all="raise")
        os.environ["LATENT_PRIOR_CACHE"] = "/nowhere"
        os.chdir("/")

class InPlace(Base):
    name = "a_in_place"
    def harm(self, evaluation):
        evaluation.held_out._std.mul_(3)
        evaluation.held_out._mean.data.numpy()[:] = 0
        evaluation.features.mul_(0)
        evaluation.latents(evaluation.protocol.generated, "sample").add_(5)
        evaluation.reference.statistics(evaluation.device).mean.zero_()
        for parameter in evaluation.backbone.parameters():
            parameter.data.mul_(2)

class Patches(Base):
    name = "a_patches"
    reference_rows = ()
    def harm(self, evaluation):
        torch.randn = lambda *a, **k: 0
        torch.Tensor.mean = torch.Tensor.sum
        torch.linalg.eigvalsh = lambda x: x.new_zeros(len(x))
        import benchmark.scores.frechet as frechet
        frechet.frechet_distance = lambda *_: 0.0
    def measure(self, evaluation):
        self.harm(evaluation)
        evaluation.latents(7, "of mine")
        return {self.name: 1.0}

class Exits(Base):
    name = "a_exits"
    def harm(self, evaluation):
        os._exit(0)

class Aborts(Base):
    name = "a_aborts"
    def harm(self, evaluation):
        os.abort()

class Leaves(Base):
    name = "a_leaves"
    def harm(self, evaluation):
        threading.Thread(target=time.sleep, args=(600,)).start()

class Mute(Base):
    name = "a_mute"
    class Error(Exception):
        def __str__(self):
            raise RuntimeError("no words")
    def harm(self, evaluation):
        raise self.Error

torch.set_default_dtype(torch.float64)
torch.randperm = None

@hookimpl
def register_metrics():
    torch.set_num_threads(5)
    return Base.__subclasses__()
"""
SAID = {
    "a_switches": "expected torch.float32|must have the same dtype",
    "a_in_place": None,
    "a_patches": "returned a int|AttributeError|TypeError",
    "a_exits": "the process ended by itself, with exit code 0, twice",
    "a_aborts": "the process was killed by SIGABRT.*, twice",
    "a_leaves": None,
    "a_mute": r"Error: \(its message cannot be read\)",
}
OURS = "fd,mmd,c2st"


def numbers(results):
    """Of the suite's own metrics: what -> values."""
    records = [json.loads(path.read_text()) for path in record_files(results)]
    return {
        (r["kind"], r["row"]["label"], r["row"]["seed"]): r.get("values")
        for r in records
        if r["kind"] in OURS.split(",")
    }


@pytest.fixture(scope="module")
def harmed(small_bundle, tmp_path_factory):
    """The suite's metrics alone, and after those of a plugin, which come first and are in the cache first."""
    from benchmark.cli.app import main

    folder = tmp_path_factory.mktemp("harmed")
    (folder / "metrics.py").write_text(METRICS)
    words = ["run", "--bundle", str(small_bundle), "--priors", "latent_flow[steps=20]", "--seeds", "1"]
    words += ["--device", "cpu", "--workers", "1"]
    more = {"alone": [["--metrics", OURS]]}
    plugin = ["--plugin", str(folder / "metrics.py")]
    more["among"] = [[*plugin, "--metrics", ",".join([*SAID, OURS])], [*plugin, "--metrics", OURS]]
    before = torch.get_default_dtype(), torch.randperm, torch.get_num_threads(), os.getcwd()
    for name, commands in more.items():
        for command in commands:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("LATENT_PRIOR_CACHE", str(folder / f"cache-{name}"))
                patch.setattr("sys.argv", ["benchmark", *words, *command, "--results", str(folder / name)])
                with pytest.raises(SystemExit):
                    main()
    assert (torch.get_default_dtype(), torch.randperm, torch.get_num_threads(), os.getcwd()) == before
    return folder


def test_whatever_a_metric_does_all_other_records_are_equal_bit_for_bit(harmed):
    alone = numbers(harmed / "alone")
    assert len(alone) == 3 + 3 + 3 + 1
    assert all(alone.values())
    assert numbers(harmed / "among") == alone


@pytest.mark.parametrize("name", SAID)
def test_what_became_of_it_is_recorded(name, harmed):
    records = [json.loads(path.read_text()) for path in record_files(harmed / "among")]
    found = [record for record in records if record["kind"] == name]
    assert len(found) == (2 if name == "a_patches" else 3)
    for record in found:
        if SAID[name] is None:
            assert record["status"] == "ok", record
        else:
            assert re.search(SAID[name], record["reason"])
            assert record["status"] in ("failed", "crashed")


def test_switches_and_functions_are_put_back():
    replaced: list[str] = []
    before = torch.randn, torch.Tensor.mean, torch.get_rng_state()
    with kept_functions(replaced.append), kept_switches():
        torch.set_default_dtype(torch.float64)
        torch.set_flush_denormal(True)
        torch.set_grad_enabled(False)
        torch.randn = torch.Tensor.mean = None
        torch.manual_seed(99)
    assert (torch.get_default_dtype(), torch.is_grad_enabled()) == (torch.float32, True)
    assert (torch.randn, torch.Tensor.mean) == before[:2]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert replaced == ["torch.randn", "Tensor.mean"]
