"""Stage 2 from end to end: kills, repeats, company, broken priors, damaged files, and no image that is opened."""

from __future__ import annotations

import errno
import functools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from boards import all_pages, draw_pictures
from commands import contents, finish, record_files, start, the_record

import benchmark
from backbones.conv_vae import ConvVAE
from benchmark.bundles.bundle import open_bundle
from benchmark.bundles.find import SHIPPED
from benchmark.bundles.reference import find_reference, make_reference, obtain_reference
from benchmark.coordinator import _expected
from benchmark.datasets.digits import Digits
from benchmark.datasets.mnist import MNIST
from benchmark.datasets.path import PathDataset
from benchmark.errors import UsageError
from benchmark.extractors.api import Features
from benchmark.extractors.digit_cnn import DigitCNN
from benchmark.jobs.evaluation import Evaluation
from benchmark.jobs.fit import is_kept
from benchmark.jobs.forecast import Forecast, _keys
from benchmark.jobs.task import execute
from benchmark.protocol import PRESETS, Protocol, make_protocol
from benchmark.registry import Registry
from benchmark.store.records import RecordStore
from benchmark.store.sealed import read_sealed, write_sealed
from priors.api import Diverged, PosteriorSplit
from priors.gaussian import Gaussian

ROOT = Path(benchmark.__file__).resolve().parent.parent
CPU = torch.device("cpu")
DIGITS = SHIPPED / "digits-conv_vae"
METRICS = Registry().at_hand("metric")
OF_VECTORS = set(METRICS) - {"mmd_pca64", "groups"}  # which are of spatial latents, and of several groups
OF_PRIORS = OF_VECTORS - {"redraws", "extraction_time"}  # of full protocols, of a reference row
TIMED = r"fit_seconds|(prior|decode|images)_(seconds|repeats)_\d+|extraction_(seconds|repeats)"


def grids(results):
    return {path.name: path.read_bytes() for path in (results / "samples").iterdir()}


def untimed(results):
    """The leaderboard's rows, in a fixed order, but for what a clock decides."""
    board = pd.read_csv(results / "leaderboard.csv", dtype=str)
    board = board[~board["metric"].str.fullmatch(TIMED)]
    return board.sort_values(["bundle", "prior", "metric"]).to_csv(index=False)


@pytest.fixture(scope="session")
def work(small_bundle, tmp_path_factory):
    """A run that nothing disturbed: `words` without --results, `results`, `cache`."""
    folder = tmp_path_factory.mktemp("undisturbed")
    words = ["run", "--bundle", small_bundle, "--priors", "evalp[steps=50]", "--seeds", 2, "--device", "cpu"]
    process = start([*words, "--results", folder / "results"], folder / "cache", folder / "log")
    done = finish(process, folder / "log")
    assert done.code == 0, done.output
    return SimpleNamespace(words=words, results=folder / "results", cache=folder / "cache")


@pytest.fixture
def copied(work, tmp_path):
    """A copy of the undisturbed run, and `again(*words)` that repeats its command on that copy."""
    results, cache = tmp_path / "results", tmp_path / "fits"
    shutil.copytree(work.results, results)
    shutil.copytree(work.cache, cache)

    def again(*words):
        log = tmp_path / "log"
        return finish(start([*work.words, "--results", results, *words], cache, log), log)

    return SimpleNamespace(results=results, cache=cache, again=again, original=work.results)


def test_a_run_killed_at_any_moment_ends_as_one_that_was_not(work, tmp_path):
    results, cache, log = tmp_path / "results", tmp_path / "fits", tmp_path / "log"
    words = [*work.words, "--results", results]
    chance, recorded, kills = random.Random(0), {}, 0
    for _ in range(5):
        due = len(recorded) + chance.randint(1, 6)
        process = start(words, cache, log)
        while process.is_alive() and len(record_files(results)) < due:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.15))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        for path in record_files(results):
            recorded.setdefault(path, path.read_bytes())
    assert kills >= 3
    assert len(recorded) > 5

    done = finish(start(words, cache, log), log)
    assert done.code == 0, done.output
    assert {path: path.read_bytes() for path in recorded} == recorded
    assert untimed(results) == untimed(work.results)
    assert {path.name for path in record_files(results)} == {path.name for path in record_files(work.results)}
    assert grids(results) == grids(work.results)


@pytest.mark.parametrize("what", ["fit", "sample"])
@pytest.mark.parametrize(
    "fault",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError("Unable to allocate 2.00 GiB"),
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_a_fault_of_the_machine_is_said_and_not_recorded(fault, what, small_bundle, tmp_path, cli, monkeypatch):
    """A GPU that others have filled says nothing of a prior: the next run tries again."""
    words = ["run", "--bundle", small_bundle, "--priors", "gaussian", "--seeds", 1, "--results", tmp_path]
    words += ["--metrics", "fd", "--device", "cpu"]

    given_back = []

    def full(*_):
        given_back.clear()
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr(Gaussian, what, full)
        patch.setattr("benchmark.jobs.task.give_back_freed_memory", given_back.append)
        done = cli(*words)
    assert given_back, "the next task is not to begin with what this one could not use"
    assert done.code == 1
    assert re.search("gaussian seed 0: .*not recorded", done.err)
    assert str(fault) in done.err
    assert not [path for path in record_files(tmp_path) if json.loads(path.read_text())["status"] != "ok"]
    assert cli(*words).code == 0
    assert "| gaussian" in all_pages(tmp_path)


def test_a_recorded_fit_that_fails_when_it_is_repeated_stays_as_it_is(small_bundle, tmp_path, cli, monkeypatch):
    """The records came without their cache, as those in a clone do, and here the fit does not succeed."""
    words = ["run", "--bundle", small_bundle, "--priors", "gaussian,evalp[steps=20]", "--seeds", 1]
    words += ["--results", tmp_path / "r", "--device", "cpu"]
    assert cli(*words, "--metrics", "fd").code == 0
    before = contents(tmp_path / "r" / "records")
    shutil.rmtree(tmp_path / "cache" / "fits")

    def diverges(*_):
        raise Diverged("the loss ran away")

    monkeypatch.setattr(Gaussian, "fit", diverges)
    done = cli(*words, "--metrics", "mmd")
    assert done.code == 1, done.err
    assert "gaussian seed 0: FAILED fit diverged here, though it is recorded as fine: the loss ran away" in done.err
    after = contents(tmp_path / "r" / "records")
    assert before.items() <= after.items()
    assert {path.parent.name for path in set(after) - set(before)} == {"aggregate_posterior", "evalp"}


def test_running_again_repeats_nothing(copied):
    before = contents(copied.results), contents(copied.cache / "fits")
    done = copied.again()
    assert done.code == 0
    assert "8 jobs fine, 0 failed" in done.output
    assert (contents(copied.results), contents(copied.cache / "fits")) == before


def test_metrics_asked_for_by_name_come_alone_and_the_others_later_without_a_new_fit(small_bundle, tmp_path, cli):
    words = ["run", "--bundle", small_bundle, "--priors", "gaussian", "--seeds", 1, "--results", tmp_path]
    assert cli(*words, "--metrics", "fd, mmd").code == 0
    kinds = {path.name.split("-")[0] for path in record_files(tmp_path)}
    assert kinds == {"fit", "fd", "mmd"}
    first = contents(tmp_path / "records")
    assert cli(*words).code == 0
    all_kinds = {path.name.split("-")[0] for path in record_files(tmp_path)}
    assert all_kinds == {"fit", "extraction_time", *OF_PRIORS}
    assert first.items() <= contents(tmp_path / "records").items()
    assert cli(*words[:-1], tmp_path / "scores", "--metrics", "scores").code == 0
    assert cli(*words[:-1], tmp_path / "timings", "--metrics", "timings").code == 0
    scores, timings = (
        {path.name.split("-")[0] for path in record_files(tmp_path / name)} - {"fit"} for name in ("scores", "timings")
    )
    assert timings == {"sampling_time", "extraction_time"}
    assert not scores & timings
    assert {"fd", "mmd", "samples"} <= scores
    refused = cli(*words, "--metrics", "fd,mdm")
    assert refused.code == 2
    assert "unknown metric 'mdm'; did you mean 'mmd'?" in refused.err


METRIC = """
from benchmark.metrics.api import Metric, hookimpl

class MeanNorm(Metric):
    name = "mean_norm"
    reads = ("split",)
    reference_rows = ("aggregate_posterior",)

    def measure(self, evaluation):
        n = 2000 if hasattr(evaluation.source, "fit") else 60
        return {"mean_norm": evaluation.latents(n, "norm").norm(dim=1).mean().item()}

@hookimpl
def register_metrics():
    return [MeanNorm]
"""


def test_the_counter_counts_the_steps_that_are_announced(small_bundle, tmp_path, cli):
    words = ["run", "--bundle", small_bundle, "--priors", "gaussian", "--seeds", 2, "--results", tmp_path / "r"]
    said = cli(*words, "--metrics", "fd,sampling_time").err
    assert "6 jobs: 3 rows, 2 seeds" in said
    assert "8 steps: the scores of all jobs, then their timings" in said, "those of reference rows are none"
    assert re.findall(r"^\[(\d+)/(\d+)\] ", said, re.MULTILINE) == [(str(number), "8") for number in range(1, 9)]
    assert "by the seconds that are recorded" not in said, "none is"
    said = cli(*words, "--priors", "gaussian,fitted_gaussian", "--metrics", "fd").err
    assert "steps" not in said, "a step is a job"


def test_fits_that_are_gone_are_made_again_before_any_timing_and_as_they_were_made(
    small_bundle, tmp_path, cli, monkeypatch
):
    """Else a timing would fit with all threads, alone, while other processors wait, and be taken by a warm machine."""
    monkeypatch.setenv("LATENT_PRIOR_CACHE", str(tmp_path / "cache"))
    words = ["run", "--bundle", small_bundle, "--priors", "fitted_gaussian", "--seeds", 2, "--results", tmp_path / "r"]
    assert cli(*words, "--metrics", "fd").code == 0
    recorded = {path: path.read_bytes() for path in record_files(tmp_path / "r") if path.name.startswith("fit-")}
    fits = {path.name: path.read_bytes() for path in (tmp_path / "cache" / "fits").glob("*.safetensors")}
    assert len(fits) == 4, "two priors, two seeds"
    shutil.rmtree(tmp_path / "cache" / "fits")
    asked = []

    def watch(task, listener):
        asked.append((task.metrics, task.threads, is_kept(task.job)))
        return execute(task, listener)

    monkeypatch.setattr("benchmark.executors.here.execute", watch)
    done = cli(*words, "--metrics", "fd,sampling_time")
    assert done.code == 0
    assert done.err.count(": fitted again, ") == 4
    assert [metrics for metrics, *_ in asked] == [()] * 4 + [("sampling_time",)] * 4
    assert [(threads, kept) for metrics, threads, kept in asked if not metrics] == [(1, False)] * 4
    assert all(kept for metrics, _, kept in asked if metrics)
    assert {path.name: path.read_bytes() for path in (tmp_path / "cache" / "fits").glob("*.safetensors")} == fits
    assert {path: path.read_bytes() for path in recorded} == recorded, "a fit has one record"
    asked.clear()
    shutil.rmtree(tmp_path / "cache" / "fits")
    assert cli(*words, "--metrics", "fd,sampling_time").code == 0
    assert asked == [], "nothing asks for them"


def test_a_reference_row_has_no_time_of_another_bundle():
    """Ten thousand faces say nothing of two thousand digits; of a prior its budget says how long."""
    row = {"bundle": "b", "device": "cpu", "label": "gmm", "prior": "gmm", "budget": "quick"}
    assert any("b" not in key for key in _keys(row, "fd"))
    row |= {"label": "aggregate_posterior", "prior": "aggregate_posterior", "budget": None}
    assert all("b" in key for key in _keys(row, "fd"))


def test_what_is_expected_tells_what_has_a_recorded_time_from_what_has_none():
    known, unknown = Forecast("gmm", seconds=437.0), Forecast("mine", unknown=405)
    assert _expected([known]) == "about 7m17s of work, by the seconds that are recorded"
    assert _expected([known, unknown]) == (
        "about 7m17s of work, by the seconds that are recorded, and 405 fits and scores more, of which none is recorded"
    )
    assert _expected([unknown]) == ""


def test_a_new_metric_measures_without_a_new_fit(copied, tmp_path):
    (tmp_path / "norm.py").write_text(METRIC)
    before = contents(copied.results / "records"), contents(copied.cache / "fits")
    done = copied.again("--plugin", tmp_path / "norm.py")
    assert done.code == 0, done.output
    after = contents(copied.results / "records")
    added = set(after) - set(before[0])
    assert {path: after[path] for path in before[0]} == before[0]
    assert contents(copied.cache / "fits") == before[1]
    assert len(added) == 6  # 3 rows, 2 seeds
    assert all(path.name.startswith("mean_norm-") for path in added)
    board = pd.read_csv(copied.results / "leaderboard.csv")
    norms = board[board["metric"] == "mean_norm"].set_index("prior")["mean"]
    assert set(norms.index) == {"aggregate_posterior", "gaussian", "evalp[steps=50]"}
    assert norms["gaussian"] == pytest.approx(1.88, abs=0.06)  # E|z| of N(0, I) in 4 dimensions


def test_two_processes_share_the_work_of_one_command(work, tmp_path):
    results, cache, logs = tmp_path / "results", tmp_path / "fits", [tmp_path / "log0", tmp_path / "log1"]
    processes = [start([*work.words, "--results", results], cache, log) for log in logs]
    done = [finish(process, log) for process, log in zip(processes, logs)]
    assert [d.code for d in done] == [0, 0], "\n".join(d.output for d in done)
    _, damaged = RecordStore(results / "records").all()
    assert not damaged
    assert {path.name for path in record_files(results)} == {path.name for path in record_files(work.results)}
    assert untimed(results) == untimed(work.results)
    told = [re.findall(r"^\[(\d+)/\d+\] (.*) seed (\d): measured", d.output, re.MULTILINE) for d in done]
    assert len(set(told[0] + told[1])) == len(told[0] + told[1])  # each piece measured once, by one of the two
    assert len({each[1:] for each in told[0] + told[1]}) == 8  # jobs
    assert not [path for path in results.rglob("*") if path.name.endswith(".tmp") or ".tmp." in path.name]


def test_grids_drawn_by_several_at_once_are_whole(copied):
    expected = grids(copied.results)
    with ThreadPoolExecutor(6) as pool:
        for drawn in [pool.submit(draw_pictures, copied.results) for _ in range(18)]:
            drawn.result()
    assert grids(copied.results) == expected


def test_a_grid_that_a_kill_left_behind_is_drawn_again(small_bundle, tmp_path, cli, monkeypatch):
    words = ["run", "--bundle", small_bundle, "--seeds", 1, "--device", "cpu", "--results", tmp_path / "r"]
    cli(*words, "--priors", "gaussian")

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # after the last record, before the grid
        patch.setattr("benchmark.report.board.Board.draw", killed)
        cli(*words, "--priors", "gaussian,evalp[steps=20]")
    cli(*words, "--priors", "gaussian,evalp[steps=20]")
    after_run = grids(tmp_path / "r")
    cli("leaderboard", "--results", tmp_path / "r")
    assert after_run == grids(tmp_path / "r")


def test_ctrl_c_leaves_a_true_leaderboard(small_bundle, tmp_path):
    words = ["--bundle", small_bundle, "--priors", "evalp[steps=1000000]", "--budget", "full", "--device", "cpu"]
    results = tmp_path / "results"
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmark", "run", *map(str, words), "--seeds", "1", "--results", str(results)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "LATENT_PRIOR_CACHE": str(tmp_path / "cache")},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job would ignore it
    )
    for line in process.stderr:
        if "] gaussian seed 0: measured" in line:
            break
    time.sleep(0.5)  # well into the fit
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert "Traceback" not in rest
    records, damaged = RecordStore(results / "records").all()
    assert not damaged
    assert not list(results.rglob("*.tmp"))
    board = pd.read_csv(results / "leaderboard.csv")
    assert set(board["prior"]) == {"aggregate_posterior", "reconstruction", "gaussian"}
    fd = {record["row"]["label"]: record["values"]["fd"] for record in records if record["kind"] == "fd"}
    shown = board[board["metric"] == "FD digit-cnn"].set_index("prior")["mean"]
    assert shown.to_dict() == pytest.approx(fd, rel=1e-6)


def test_stage_2_opens_no_image_file(tmp_path, cli, monkeypatch, brief):
    opened, listening = [], [False]

    def hear(event, arguments):
        if listening[0] and event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
            opened.append(os.fsdecode(arguments[0]))

    def images(paths):
        looks = re.compile(r"digits\.csv|\.(png|jpe?g|bmp|tiff?|webp|npz|npy)$|ubyte|idx\d", re.IGNORECASE)
        return [path for path in paths if looks.search(path) and not Path(path).is_relative_to(tmp_path / "results")]

    sys.addaudithook(hear)
    listening[0] = True
    Digits().load([])
    assert images(opened), "the check itself must notice images"
    opened.clear()

    def forbidden(*_):
        raise AssertionError("stage 2 asked for images")

    for dataset in (Digits, MNIST, PathDataset):
        monkeypatch.setattr(dataset, "load", forbidden)
    words = ["--priors", "evalp[steps=20]", "--seeds", 1, "--device", "cpu", "--results", tmp_path / "results"]
    done = cli("run", "--dataset", "digits", *words)
    listening[0] = False
    assert done.code == 0, done.err
    assert any(path.endswith("leaderboard.md") or "leaderboard.md" in path for path in opened)
    assert images(opened) == []


class Nosy:
    """A protocol that shows only some of its fields."""

    def __init__(self, protocol, shown):
        self._protocol, self._shown = protocol, shown

    def __getattr__(self, name):
        if name not in self._shown:
            raise AssertionError(f"the field '{name}' is read but no part of the identity")
        return getattr(self._protocol, name)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_reads_no_setting_but_those_of_its_identity(name, small_bundle):
    bundle, registry = open_bundle(small_bundle), Registry()
    metric = registry.get("metric", name)()
    extractor = DigitCNN()
    protocol = make_protocol(bundle, PRESETS["quick"], "test", extractor, features=64).model_copy(
        update={"timing_batches": (4,), "timing_seconds": 0.0, "redraws": 2, "groups": {"chosen": [0, 1]}}
    )
    prior = Gaussian(bundle.latent_shape, Gaussian.Config())
    evaluation = Evaluation(
        prior,
        {"fit": name},
        bundle.backbone(ConvVAE, CPU),
        PosteriorSplit(*bundle.posterior("test", CPU)),
        Features(extractor, CPU),
        find_reference(bundle, extractor, "test"),
        Nosy(protocol, metric.reads),
        0,
        CPU,
        functools.partial(bundle.posterior, "train", CPU),
        find_reference(bundle, extractor, "train"),
    )
    assert set(metric.reads) <= set(Protocol.model_fields)
    if name == "groups":
        evaluation.backbone = SimpleNamespace(latent_shape=(4,), group_shapes=((1,), (3,)))
    elif name not in OF_VECTORS:
        evaluation.held_out = PosteriorSplit(*(part.unflatten(1, (4, 1, 1)) for part in bundle.posterior("test", CPU)))
        evaluation.source = Gaussian((4, 1, 1), Gaussian.Config())
        evaluation.backbone = SimpleNamespace(latent_shape=(4, 1, 1))
    assert bool(metric.measure(evaluation)) is (name != "fd_infinity")  # of so few images it is blank


BROKEN = """
from pathlib import Path
import torch
from torch import nn
from priors.api import Diverged, LatentPrior, hookimpl

class Base(LatentPrior):
    def __init__(self, latent_shape, config):
        super().__init__(latent_shape, config)
        self.weight = nn.Parameter(torch.ones(1))

    def note(self, what):
        with open(Path(__file__).with_suffix(".calls"), "a") as calls:
            calls.write(f"{self.name} {what}\\n")

    def fit(self, posterior, generator, progress):
        self.note("fit")

    def sample(self, n, generator):
        self.note("sample")
        return torch.randn(n, *self.latent_shape, generator=generator)

class RaisesInFit(Base):
    name = "raises_in_fit"
    def fit(self, posterior, generator, progress):
        self.note("fit")
        raise ValueError("no such luck")

class Diverges(Base):
    name = "diverges"
    def fit(self, posterior, generator, progress):
        self.note("fit")
        raise Diverged("the loss ran away in step 7")

class NanState(Base):
    name = "nan_state"
    def fit(self, posterior, generator, progress):
        self.note("fit")
        self.weight.data.fill_(float("nan"))

class NanFacts(Base):
    name = "nan_facts"
    def fit(self, posterior, generator, progress):
        self.note("fit")
        return {"bound": float("nan")}

class ListFacts(Base):
    name = "list_facts"
    def fit(self, posterior, generator, progress):
        self.note("fit")
        return {"losses": [1.0, 2.0]}

class Grows(Base):
    name = "grows"
    def fit(self, posterior, generator, progress):
        self.note("fit")
        self.register_buffer("bank", posterior.train.sample(10, generator))

class Tied(Base):
    name = "tied"
    def __init__(self, latent_shape, config):
        super().__init__(latent_shape, config)
        self.same = self.weight

class RaisesInSample(Base):
    name = "raises_in_sample"
    def sample(self, n, generator):
        self.note("sample")
        raise RuntimeError("out of samples")

class NanSample(Base):
    name = "nan_sample"
    def sample(self, n, generator):
        z = super().sample(n, generator)
        z[1] = float("nan")
        return z

class WrongShape(Base):
    name = "wrong_shape"
    def sample(self, n, generator):
        return super().sample(n, generator)[:, :-1]

class WrongType(Base):
    name = "wrong_dtype"
    def sample(self, n, generator):
        return super().sample(n, generator).double()

class Mends(Base):
    name = "mends"
    def fit(self, posterior, generator, progress):
        self.note("fit")
        if not Path(__file__).with_suffix(".mended").exists():
            raise OSError("not yet")

@hookimpl
def register_priors():
    return Base.__subclasses__()
"""
OUTCOMES = {
    "raises_in_fit": ("fit", "failed", "ValueError: no such luck"),
    "diverges": ("fit", "diverged", "the loss ran away in step 7"),
    "nan_state": ("fit", "diverged", "weight is not finite"),
    "nan_facts": ("fit", "diverged", "bound"),
    "list_facts": ("fit", "failed", "fit returned losses of type list; expected a number or a sentence"),
    "grows": ("fit", "failed", "the fitted state needs every parameter and buffer from __init__ on"),
    "raises_in_sample": ("fd", "failed", "RuntimeError: out of samples"),
    "nan_sample": ("fd", "failed", "1 of 60 samples are not finite"),
    "wrong_shape": ("fd", "failed", "returned shape (60, 3), expected (60, 4)"),
    "wrong_dtype": ("fd", "failed", "float64"),
    "mends": ("fit", "failed", "OSError: not yet"),
}


@pytest.fixture(scope="session")
def broken(small_bundle, tmp_path_factory):
    """Runs of broken priors among good ones: `first`, `second` and `retried`, with the calls each made."""
    folder = tmp_path_factory.mktemp("broken")
    plugin, results, calls = folder / "broken.py", folder / "results", folder / "broken.calls"
    plugin.write_text(BROKEN)
    words = ["run", "--bundle", small_bundle, "--plugin", plugin, "--seeds", 1, "--device", "cpu", "--results", results]
    words += ["--priors", ",".join([*OUTCOMES, "tied", "evalp[steps=20]"])]
    made = {"results": results}
    for name, more in {"first": [], "second": [], "retried": ["--retry"]}.items():
        calls.write_text("")
        done = finish(start([*words, *more], folder / "cache", folder / "log"), folder / "log")
        files = {path: path.read_bytes() for path in record_files(results)}
        board = all_pages(results)
        made[name] = SimpleNamespace(
            code=done.code, output=done.output, calls=calls.read_text(), files=files, board=board
        )
        if name == "second":
            (folder / "broken.mended").touch()
    return SimpleNamespace(**made)


@pytest.mark.parametrize("name", OUTCOMES)
def test_a_broken_prior_is_recorded_and_shown_with_its_reason(name, broken):
    kind, status, reason = OUTCOMES[name]
    records = [json.loads(content) for content in broken.first.files.values()]
    record = next(r for r in records if r["row"]["prior"] == name and r["kind"] == kind)
    assert record["status"] == status
    assert reason in record["reason"]
    assert "values" not in record
    failed = rf"- Failed: {re.escape(name)} seed 0: [a-z0-9_, ]*\b{kind}\b.*"
    line = next(line for line in broken.first.board.splitlines() if re.fullmatch(failed, line)).replace("\\_", "_")
    assert status in line
    assert reason in line
    if kind == "fit":
        assert [r["kind"] for r in records if r["row"]["prior"] == name] == ["fit"]


def test_the_other_priors_of_the_grid_finish_beside_broken_ones(broken):
    assert broken.first.code == 1, broken.first.output
    records = [json.loads(content) for content in broken.first.files.values()]
    for label in ("gaussian", "tied", "evalp[steps=20]"):
        kinds = {r["kind"]: r["status"] for r in records if r["row"]["label"] == label}
        assert kinds == dict.fromkeys(["fit", *OF_PRIORS], "ok")
    assert f"{len(OUTCOMES)} failed" in broken.first.output


def test_failures_are_tried_again_only_when_asked(broken):
    assert broken.second.code == 1
    assert broken.second.calls == ""
    assert broken.second.files == broken.first.files
    for name, (kind, _, reason) in OUTCOMES.items():
        assert re.search(rf"{name} seed 0: .*earlier: .*{re.escape(reason)}", broken.second.output)
        assert f"{name} {'fit' if kind == 'fit' else 'sample'}\n" in broken.retried.calls
    assert broken.retried.code == 1
    fitted_before = [name for name, (kind, _, _) in OUTCOMES.items() if kind != "fit"]
    assert not [name for name in fitted_before if f"{name} fit\n" in broken.retried.calls]


def test_a_retry_that_succeeds_replaces_the_failure(broken):
    records = [json.loads(content) for content in broken.retried.files.values()]
    assert {r["kind"]: r["status"] for r in records if r["row"]["prior"] == "mends"} == dict.fromkeys(
        ["fit", *OF_PRIORS], "ok"
    )
    assert "Failed: mends" in broken.first.board
    assert "Failed: mends" not in broken.retried.board
    ok = {path: content for path, content in broken.first.files.items() if json.loads(content)["status"] == "ok"}
    assert {path: broken.retried.files[path] for path in ok} == ok


ODD_VALUES = """
import torch
from benchmark.metrics.api import Metric, hookimpl as metric
from priors.api import LatentPrior, hookimpl as prior

class Tensors(Metric):
    name, reads = "tensors", ()
    def measure(self, evaluation):
        return {"tensors": torch.tensor(1.0)}

class Nans(Metric):
    name, reads = "nans", ()
    def measure(self, evaluation):
        return {"nans": [1.0, float("nan")]}

class Nothing(Metric):
    name, reads = "nothing", ()
    def measure(self, evaluation):
        pass

class Talkative(LatentPrior):
    name = "talkative"
    def fit(self, posterior, generator, progress):
        progress(1, 2, loss=torch.tensor(0.5))
        progress(2, 2, loss=torch.tensor(0.25))
        return {"best": torch.tensor(0.25)}
    def sample(self, n, generator):
        return torch.randn(n, *self.latent_shape, generator=generator)

@metric
def register_metrics():
    return [Tensors, Nans, Nothing]

@prior
def register_priors():
    return [Talkative]
"""


def test_values_that_no_record_can_hold_are_failures_and_not_crashes(small_bundle, tmp_path, cli):
    (tmp_path / "odd.py").write_text(ODD_VALUES)
    words = ["--plugin", tmp_path / "odd.py", "--seeds", 1, "--device", "cpu", "--results", tmp_path / "r"]
    done = cli("run", "--bundle", small_bundle, "--priors", "talkative,evalp[steps=20]", *words)
    assert done.code == 1, done.err
    for name in ("gaussian", "evalp", "talkative"):
        records = [read_sealed(path) for path in record_files(tmp_path / "r")]
        records = {record["kind"]: record for record in records if record["row"]["prior"] == name}
        assert records["fd"]["status"] == "ok" == records["fit"]["status"]
        if name == "talkative":
            assert [point["loss"] for point in records["fit"]["log"]] == [0.5, 0.25]
            assert records["fit"]["values"]["best"] == 0.25
        for kind in ("tensors", "nans", "nothing"):
            assert records[kind]["status"] == "failed"
            assert records[kind]["reason"]


ODD_METRICS = r"""
from benchmark.metrics.api import Column, Metric, hookimpl

class Odd(Metric):
    reads = ()
    def measure(self, evaluation):
        return {self.name: 1.0}

class Digits(Odd):
    name = "digits"
    @classmethod
    def columns(cls, protocol):
        return [Column("digits", "digits", "main", digits=-3)]

class Columns(Odd):
    name = "columns"
    @classmethod
    def columns(cls, protocol):
        raise SystemExit(3)

class Numbered(Odd):
    name = "numbered"
    def measure(self, evaluation):
        return {1: 2.0}

class Nested(Odd):
    name = "nested"
    def measure(self, evaluation):
        return {"nested": {9: 1.0, 10: 2.0}}  # numbers and text are sorted otherwise, for a seal

class Named(Odd):
    name = "named"
    def measure(self, evaluation):
        return {"lone \ud800": 1.0}

class Reason(Odd):
    name = "reason"
    def measure(self, evaluation):
        raise ValueError("lone \ud800")

class Applies(Odd):
    name = "applies"
    def applies(self, facts):
        raise KeyError("no such fact")

class Exits(Odd):
    name = "exits"
    def applies(self, facts):
        raise SystemExit(3)

@hookimpl
def register_metrics():
    return [Digits, Columns, Numbered, Nested, Named, Reason, Applies, Exits]
"""


def test_what_is_odd_about_a_metric_is_told_and_harms_no_other(small_bundle, tmp_path, cli):
    (tmp_path / "odd.py").write_text(ODD_METRICS)
    metrics = "digits,columns,numbered,nested,named,reason,applies,exits,fd"
    words = ["--plugin", tmp_path / "odd.py", "--metrics", metrics, "--seeds", 1, "--device", "cpu"]
    done = cli("run", "--bundle", small_bundle, "--priors", "gaussian", *words, "--results", tmp_path / "r")
    assert done.code == 1
    assert "Traceback" not in done.err
    records = [read_sealed(path) for path in record_files(tmp_path / "r") if path.parent.name == "gaussian"]
    records = {record["kind"]: record for record in records}
    assert {kind: record["status"] for kind, record in records.items()} == {
        **dict.fromkeys(["fit", "fd", "digits", "columns"], "ok"),
        **dict.fromkeys(["numbered", "reason", "nested", "named"], "failed"),
    }
    assert records["numbered"]["reason"].startswith("measure returned a value called 1")
    assert "nested" in records["nested"]["reason"]
    assert "metric digits: its columns cannot be read (ValueError: a column's digits are -3" in done.err
    assert "metric columns: its columns cannot be read (SystemExit: 3" in done.err
    assert "applies: applies: KeyError: 'no such fact'" in done.err
    assert "exits: applies: SystemExit: 3" in done.err
    assert cli("leaderboard", "--results", tmp_path / "r").code == 0
    assert "ValueError: lone \\ud800" in (tmp_path / "r" / "leaderboard.md").read_text().replace("\\\\", "\\")
    board = pd.read_csv(tmp_path / "r" / "leaderboard.csv")
    assert {"digits", "columns"} <= set(board["metric"])


FAILS = """
from priors.api import LatentPrior, hookimpl

class Fails(LatentPrior):
    name = "fails"
    def fit(self, posterior, generator, progress):
        raise ValueError("a bad day")
    def sample(self, n, generator):
        pass

@hookimpl
def register_priors():
    return [Fails]
"""


def test_an_interrupted_run_shows_its_failures_too(small_bundle, tmp_path, cli, monkeypatch):
    (tmp_path / "fails.py").write_text(FAILS)
    words = ["--plugin", tmp_path / "fails.py", "--seeds", 1, "--device", "cpu", "--results", tmp_path / "r"]

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("priors.evalp.EVaLP.fit", stop)
    done = cli("run", "--bundle", small_bundle, "--priors", "fails,evalp", *words)
    assert done.code == 130
    assert "Failed: fails seed 0: fit failed: ValueError: a bad day" in (tmp_path / "r" / "leaderboard.md").read_text()


def _cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _tamper(path):
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)


def _edit(path):
    value = json.loads(path.read_text())
    value["record"]["parameters"] += 1
    path.write_text(json.dumps(value))


DAMAGE = {
    "cut": (".safetensors", _cut),
    "tampered": (".safetensors", _tamper),
    "missing": (".safetensors", Path.unlink),
    "card cut": (".json", _cut),
    "card edited": (".json", _edit),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_fitted_state_is_named_and_fitted_again_to_the_same(damage, copied):
    suffix, spoil = DAMAGE[damage]
    fit, fit_path = the_record(copied.results, "fit")
    score, score_path = the_record(copied.results, "fd")
    state = copied.cache / "fits" / f"{fit['id']}.safetensors"
    whole, kept = state.read_bytes(), fit_path.read_bytes()
    spoil(state.with_suffix(suffix))
    score_path.unlink()
    done = copied.again()
    assert done.code == 0, done.output
    assert re.search(rf"damaged.*{re.escape(str(state.with_suffix(suffix)))}", done.output)
    assert state.read_bytes() == whole
    assert fit_path.read_bytes() == kept
    assert json.loads(score_path.read_text())["values"] == score["values"]


@pytest.mark.parametrize("kind", ["fd", "fit"])
@pytest.mark.parametrize("damage", ["cut", "edited"])
def test_a_damaged_record_is_named_and_made_again(kind, damage, copied):
    record, path = the_record(copied.results, kind)
    others = {p: p.read_bytes() for p in record_files(copied.results) if p != path}
    if damage == "cut":
        _cut(path)
    else:
        path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    done = copied.again()
    assert done.code == 0
    assert f"record is damaged and will be made again: {path}" in done.output
    made = read_sealed(path)
    assert (made["row"], made["identity"], made["values"]) == (record["row"], record["identity"], record["values"])
    assert {p: p.read_bytes() for p in others} == others
    assert untimed(copied.results) == untimed(copied.original)


def test_a_seed_decides_every_number(work, tmp_path):
    words = [*work.words, "--results", tmp_path / "r", "--seeds", 1]
    assert finish(start(words, tmp_path / "fits", tmp_path / "log"), tmp_path / "log").code == 0
    for prior in ("gaussian", "evalp", "aggregate_posterior"):
        for kind in ("fd", "mmd", "samples"):
            values = [the_record(folder, kind, prior)[0]["values"] for folder in (tmp_path / "r", work.results)]
            assert values[0] == values[1]
            other = the_record(work.results, kind, prior, seed=1)[0]["values"]
            assert all(other[name] != value for name, value in values[0].items() if not name.endswith("_p"))


def test_a_sampling_setting_needs_no_new_fit(copied):
    before = contents(copied.cache / "fits")
    done = copied.again("--priors", "evalp[steps=50,proposals=4]", "--seeds", 1)
    assert done.code == 0, done.output
    assert contents(copied.cache / "fits") == before
    labels = ("evalp[steps=50]", "evalp[steps=50,proposals=4]")
    one, four = (the_record(copied.results, "fd", label=label)[0] for label in labels)
    assert one["identity"]["fit"] == four["identity"]["fit"]
    assert one["values"] != four["values"]
    board = pd.read_csv(copied.results / "leaderboard.csv")
    assert set(labels) <= set(board["prior"])


def _copy_of_digits(tmp_path):
    shutil.copytree(DIGITS, tmp_path / "digits-copy")
    return tmp_path / "digits-copy"


@pytest.mark.parametrize("part", ["digit-cnn-test.safetensors", "digit-cnn-test.json"])
def test_a_damaged_reference_is_named_and_made_again_once(part, tmp_path, capsys, monkeypatch):
    bundle = open_bundle(_copy_of_digits(tmp_path))
    whole = find_reference(bundle, DigitCNN(), "test").statistics(CPU)
    spoilt = bundle.path / "reference" / part
    _cut(spoilt)
    asked = (bundle, Digits(), DigitCNN(), "test", CPU, [])
    reference = obtain_reference(*asked)
    assert re.search(rf"reference is damaged.*{re.escape(str(spoilt))}", capsys.readouterr().err)
    made = reference.statistics(CPU)
    torch.testing.assert_close(made.mean, whole.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made.covariance, whole.covariance, rtol=1e-3, atol=1e-5)

    def once(*_):
        raise AssertionError("the reference is computed a second time")

    monkeypatch.setattr(Digits, "load", once)
    assert obtain_reference(*asked).path == reference.path


def test_a_damaged_reference_without_images_is_one_line_and_a_command(small_bundle, tmp_path, cli):
    shutil.copytree(small_bundle, tmp_path / "small")
    _cut(tmp_path / "small" / "reference" / "digit-cnn-test.safetensors")
    done = cli("run", "--bundle", tmp_path / "small", "--priors", "gaussian", "--results", tmp_path / "r")
    assert done.code == 2
    assert str(tmp_path / "small" / "reference" / "digit-cnn-test.safetensors") in done.err
    last = done.err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "name their path with --dataset" in last
    assert "Traceback" not in done.err


@pytest.mark.parametrize("part", ["weights.safetensors", "posterior.safetensors", "bundle.json"])
@pytest.mark.parametrize("spoil", [_cut, _tamper, Path.unlink])
def test_a_tampered_bundle_is_refused_in_one_line(part, spoil, small_bundle, tmp_path, cli):
    shutil.copytree(small_bundle, tmp_path / "small")
    spoil(tmp_path / "small" / part)
    done = cli("run", "--bundle", tmp_path / "small", "--priors", "gaussian", "--results", tmp_path / "r")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert done.err.startswith("error: ")
    assert str(tmp_path / "small") in done.err
    assert not (tmp_path / "r").exists()


def test_a_reference_of_other_images_is_not_used(small_bundle, tmp_path):
    """A reference is taken for the images and weights that its card names, and for no others."""
    shutil.copytree(small_bundle, tmp_path / "small")
    card_path = tmp_path / "small" / "reference" / "digit-cnn-test.json"
    card = read_sealed(card_path)
    write_sealed(card_path, {**card, "images": "0" * 64})
    bundle = open_bundle(tmp_path / "small")
    assert find_reference(bundle, DigitCNN(), "test") is None
    with pytest.raises(UsageError, match="hash differs"):
        make_reference(bundle, Digits().load([]), DigitCNN(), "test", CPU, None, lambda *_, **__: None)


def test_bundles_of_the_same_images_share_their_references(small_bundle, tmp_path):
    """A second backbone seed needs no statistics of its own, whether they lie beside its neighbour or in the cache."""
    first, second = (shutil.copytree(small_bundle, tmp_path / "made" / name) for name in ("first", "second"))
    shutil.rmtree(second / "reference")
    assert find_reference(open_bundle(second), DigitCNN(), "test").path.parent == first / "reference"
    images = PathDataset(small_bundle.parent / "small.npz").load([])
    make_reference(open_bundle(first), images, DigitCNN(), "val", CPU, None, lambda *_, **__: None)
    found = find_reference(open_bundle(second), DigitCNN(), "val")
    assert found.path.is_relative_to(tmp_path / "cache" / "references")
