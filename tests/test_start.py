"""What a command imports before it does anything: what takes long to import is imported where it is used."""

import json
import shutil
import subprocess
import sys

import pytest
from commands import ROOT, contents

from benchmark.bundles.bundle import Bundle
from benchmark.extractors.api import Features
from benchmark.protocol import make_protocol

#: torchvision and what it brings take as long as torch; the others a tenth to a half of a second each
DRAWING = {"matplotlib", "seaborn"}
NEVER_TO_START = {"torchvision", "torch_fidelity", "sklearn", "pandas", "scipy.stats", *DRAWING}
COMPILER = {"torch._dynamo", "torch._inductor", "sympy"}  # which torchvision imports, and every optimiser of torch
COMMAND = "import runpy; runpy.run_module('benchmark', run_name='__main__', alter_sys=True)"
JOB = """
from benchmark.jobs.task import Listener, Task, execute
from benchmark.request import request_from, resolve
resolved, names = resolve(request_from(given)), tuple(given["metrics"].split(","))
tasks = [Task(job, resolved.work, names, 1) for job in resolved.jobs if job.row.prior]
outcomes = [execute(task, Listener()) for task in tasks]
assert all(outcome.measured == list(names) for outcome in outcomes), outcomes
"""


def imported(code, *words, **given):
    """The modules that a process holds when this code has come to its end, as a command of these words."""
    told = f"import json, sys; given = json.loads({json.dumps(given, default=str)!r})\ntry:\n"
    body = "".join(f"    {line}\n" for line in code.splitlines())
    last = "finally:\n    print('\\n' + json.dumps(sorted(sys.modules)), file=sys.stderr)"
    call = [sys.executable, "-c", f"{told}{body}{last}", *map(str, words)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.fixture
def recorded(small_bundle, tmp_path, cli, monkeypatch):
    """The words of a run that is recorded whole, and its results, by the protocol that a process of its own has."""
    monkeypatch.setattr("benchmark.request.make_protocol", make_protocol)
    words = ["run", "--bundle", small_bundle, "--priors", "evalp[steps=5],gaussian", "--seeds", 2, "--device", "cpu"]
    words += ["--metrics", "fd,mmd,samples", "--results", tmp_path / "results"]
    assert cli(*words).code == 0
    return words, tmp_path / "results"


@pytest.mark.parametrize("command", [[], ["run"], ["list"], ["verify"], ["reference"], ["check"], ["pretrain"]])
def test_help_imports_no_torch(command):
    found = imported(COMMAND, *command, "--help")
    assert "benchmark.cli.app" in found
    assert not found & {"torch", "numpy", "scipy", *NEVER_TO_START}


def test_list_imports_classes_and_not_what_they_use():
    found = imported(COMMAND, "list")
    assert {"priors.evalp", "benchmark.extractors.inception", "benchmark.datasets.mnist"} <= found
    assert not found & (NEVER_TO_START | COMPILER | {"scipy"})


def test_a_recorded_run_and_its_leaderboard_import_neither_training_nor_drawing(recorded):
    words, results = recorded
    before = contents(results)
    for command in (words, ["leaderboard", "--results", results]):
        found = imported(COMMAND, *command)
        assert "benchmark.report.board" in found
        assert not found & (NEVER_TO_START | COMPILER)
    assert contents(results) == before, "nor do they write what is there"


def test_a_recorded_run_opens_no_weights_no_posteriors_and_no_extractor(recorded, cli, monkeypatch):
    words, _ = recorded

    def refuse(*_, **__):
        raise AssertionError("opened")

    for owner, name in ((Bundle, "backbone"), (Bundle, "posterior"), (Features, "__init__")):
        monkeypatch.setattr(owner, name, refuse)
    monkeypatch.setattr("benchmark.jobs.fit.load_file", refuse)
    assert cli(*words).code == 0


def test_a_job_imports_what_fits_decodes_and_scores_it_alone(small_bundle, tmp_path):
    words = {"priors": "evalp[steps=5]", "seeds": 1, "bundle": small_bundle, "device": "cpu", "results": tmp_path / "r"}
    fits = imported(JOB, **words, metrics="fd,mmd")
    scores = imported(JOB, **words, metrics="kid")
    assert "benchmark.jobs.task" in fits & scores
    elsewhere = NEVER_TO_START | {"tabulate", "typer", "scipy", "benchmark.report"}
    assert not fits & elsewhere
    assert not scores & (elsewhere | COMPILER), "the fit was there"


PRIOR = """
import sys
from priors.api import LatentPrior, PriorConfig, hookimpl
from priors.gaussian import Gaussian

class Asks(Gaussian):
    name = "asks"
    def fit(self, posterior, generator, log):
        return {"compiler": float("torch._dynamo" in sys.modules)}

@hookimpl
def register_priors():
    return [Asks]
"""


def test_what_the_first_optimiser_imports_is_no_part_of_the_time_of_a_fit(small_bundle, tmp_path):
    (tmp_path / "asks.py").write_text(PRIOR)
    words = ["--priors", "asks", "--seeds", 1, "--metrics", "fd", "--bundle", small_bundle, "--device", "cpu"]
    imported(COMMAND, "run", *words, "--plugin", tmp_path / "asks.py", "--results", tmp_path / "results")
    (fit,) = (tmp_path / "results").rglob("asks/fit-*.json")
    assert json.loads(fit.read_text())["values"]["compiler"] == 1


def test_a_namesake_of_a_standard_module_beside_the_packages_is_not_imported(tmp_path):
    """Old backports are installed so: pythae brings a `dataclasses`, which no torch of today can do with."""
    packages = tmp_path / "packages"
    for name in ("benchmark", "priors", "backbones"):
        left_out = shutil.ignore_patterns("pretrained", "*.safetensors", "__pycache__")
        shutil.copytree(ROOT / name, packages / name, ignore=left_out)
    (packages / "dataclasses.py").write_text("raise ImportError('the namesake was imported')\n")
    code = (
        f"import sys; sys.path.append({str(packages)!r})\n"
        "import benchmark; from benchmark.processes.child import Child\n"
        "with Child(print): print(benchmark.__file__)"
    )
    found = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert "namesake" not in found.stderr
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith(str(packages))
