"""Where tasks run: every executor does the same, and whatever dies, hangs or misbehaves costs its own job alone."""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from boards import all_pages
from commands import contents, finish, record_files, start, the_record
from safetensors.torch import save

import benchmark
from benchmark.errors import UsageError
from benchmark.executors import processes
from benchmark.executors.api import Terms
from benchmark.executors.processes import Processes
from benchmark.jobs.fitting import Specimen
from benchmark.jobs.foreign import Foreign, ForeignSource
from benchmark.jobs.task import Listener, Task, execute
from benchmark.plugin_files import Plugin
from benchmark.processes.child import Child, Died
from benchmark.registry import Registry
from benchmark.request import Request, resolve
from benchmark.store.sealed import write_atomic

CPU = torch.device("cpu")
ROOT = Path(benchmark.__file__).resolve().parent.parent
CLOCK = {"fit_seconds", "sampling_time", "extraction_time"}  # what a clock decides, by value or by kind


# ---- the contract -------------------------------------------------------------------------------------------------


class Keeping:
    """An owner that keeps what it is told."""

    def __init__(self):
        self.contents, self.outcomes, self.losses = {}, {}, {}

    def began(self, number, kind):
        assert number not in self.outcomes

    def made(self, number, kind, content):
        assert (number, kind) not in self.contents
        self.contents[number, kind] = content

    def said(self, line): ...

    def done(self, number, outcome):
        assert number not in self.outcomes
        self.outcomes[number] = outcome

    def lost(self, number, loss):
        self.losses[number] = loss


class Direct(Listener):
    def __init__(self):
        self.contents = {}

    def made(self, kind, content):
        self.contents[kind] = content


def tasks(small_bundle, results, priors="gaussian,evalp[steps=20]", metrics=("fd", "mmd", "cross_entropy"), **fields):
    request = Request(bundle=small_bundle, priors=priors, seeds=2, device="cpu", results=results, **fields)
    resolved = resolve(request)
    return [Task(job, resolved.work, metrics if job.row.prior else ("fd",), 1) for job in resolved.jobs]


def untimed(content):
    kept = {name: value for name, value in content.items() if name not in ("seconds", "provenance")}
    if "values" in kept:
        kept["values"] = {name: value for name, value in kept["values"].items() if name not in CLOCK}
    return kept


#: Ray's needs an extra
EXECUTORS = [
    pytest.param(name, marks=[pytest.mark.ray] if name == "ray" else []) for name in Registry().all("executor")
]


@pytest.mark.parametrize("name", EXECUTORS)
def test_an_executor_does_every_task_once_with_the_numbers_of_execute(name, small_bundle, tmp_path, monkeypatch):
    asked = tasks(small_bundle, tmp_path)
    expected = []
    for task in asked:
        direct = Direct()
        assert execute(task, direct).failures == []
        expected.append(direct.contents)
    monkeypatch.setenv("LATENT_PRIOR_CACHE", str(tmp_path / "another"))
    owner = Keeping()
    order = [5, 0, 7, 3, 1, 6, 2, 4]  # any order, and more than the executor takes at once
    with Registry().get("executor", name)(owner, Terms(2, CPU)) as executor:
        assert executor.capacity >= 1
        for number in order:
            executor.submit(number, asked[number])
            while sum(map(len, (owner.outcomes, owner.losses))) + executor.capacity <= order.index(number) + 1:
                executor.wait()
        while len(owner.outcomes) < len(asked):
            executor.wait()
    assert not owner.losses
    for number, contents_of in enumerate(expected):
        assert set(owner.outcomes[number].measured) == set(contents_of) - {"fit"}
        assert owner.outcomes[number].failures == []
        for kind, content in contents_of.items():
            assert untimed(owner.contents[number, kind]) == untimed(content)


@pytest.mark.parametrize("name", EXECUTORS)
def test_a_closed_executor_ends_at_once_and_tells_nothing_more(name, small_bundle, tmp_path):
    owner = Keeping()
    executor = Registry().get("executor", name)(owner, Terms(2, CPU))
    (task, *_) = tasks(small_bundle, tmp_path, priors="evalp[steps=2_000_000]")[0 if name == "here" else 2 :]
    executor.submit(0, task)
    start_of = time.monotonic()
    executor.close()
    assert time.monotonic() - start_of < 5
    if name != "here":
        assert not owner.outcomes


def test_a_task_is_pickled_without_what_it_has_read(small_bundle, tmp_path):
    task = tasks(small_bundle, tmp_path)[3]
    task.work.split("train")
    task.work.reference.statistics(CPU)
    size = len(pickle.dumps(task))
    assert size < 50_000
    again = pickle.loads(pickle.dumps(task))
    assert again.job == task.job
    assert again.work is pickle.loads(pickle.dumps(task)).work, "what jobs share is opened once"


# ---- the same numbers ---------------------------------------------------------------------------------------------


def numbers(results, *left_out):
    """Values of every record but a clock's, by the path that is the record's id."""
    found = {}
    for path in record_files(results):
        record = json.loads(path.read_text())
        if record["row"]["prior"] not in left_out and record["kind"] not in CLOCK:
            found[path.relative_to(results)] = untimed({name: record.get(name) for name in ("status", "values", "log")})
    return found


def test_two_workers_give_the_numbers_of_one_bit_for_bit(small_bundle, tmp_path):
    words = ["run", "--bundle", small_bundle, "--priors", "gaussian,evalp[steps=100],ncp[steps=50,proposals=5]"]
    words += ["--seeds", 1, "--metrics", "scores,extraction_time"]
    for workers in (1, 2):
        more = ["--device", "cpu", "--workers", workers, "--results", tmp_path / str(workers)]
        done = finish(start([*words, *more], tmp_path / f"cache{workers}", tmp_path / "log"), tmp_path / "log")
        assert done.code == 0, done.output
    assert numbers(tmp_path / "1") == numbers(tmp_path / "2")
    records = [json.loads(path.read_text()) for path in record_files(tmp_path / "2")]
    threads = {record["kind"]: record["provenance"]["threads"] for record in records}
    assert {kind for kind, count in threads.items() if count != 1} <= {"extraction_time"}
    assert threads["extraction_time"] == torch.get_num_threads(), "timings have all threads"
    assert {record["provenance"]["command"].split()[3] for record in records} == {"run"}


def test_workers_are_spread_over_the_gpus_that_the_run_may_see(monkeypatch):
    monkeypatch.setattr(processes, "_find_gpus", lambda: ["3", "7"])
    with Processes(Keeping(), Terms(9, torch.device("cuda"), per_gpu=2)) as executor:
        assert executor.capacity == 4
        seen = [executor._hire().child.call(_visible).value for _ in range(4)]
    assert seen == ["3", "7", "3", "7"]


def _visible():
    return os.environ["CUDA_VISIBLE_DEVICES"], {}


@pytest.mark.parametrize(
    "visible, found", [("5", ["5"]), ("2,GPU-8932f937", ["2", "GPU-8932f937"]), (None, ["0", "1", "2"])]
)
def test_gpus_are_those_that_this_process_was_given(visible, found, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert processes._find_gpus() == found


LEAVES_A_THREAD = """
import threading, time
from benchmark.metrics.api import Metric, hookimpl

class Leaves(Metric):
    name = "leaves"
    reads = ("split",)
    def measure(self, evaluation):
        threading.Thread(target=time.sleep, args=(600,)).start()
        return {"leaves": 1.0}

@hookimpl
def register_metrics():
    return [Leaves]
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_thread_that_a_metric_leaves_keeps_nobody_waiting(workers, small_bundle, tmp_path):
    (tmp_path / "leaves.py").write_text(LEAVES_A_THREAD)
    words = ["run", "--bundle", small_bundle, "--priors", "gaussian", "--plugin", tmp_path / "leaves.py"]
    words += ["--seeds", 1, "--device", "cpu", "--metrics", "leaves", "--workers", workers, "--results", tmp_path / "r"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    called = [sys.executable, "-m", "benchmark", *map(str, words)]
    done = subprocess.run(called, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "| gaussian" in done.stdout
    assert "measured leaves" in done.stderr


# ---- what misbehaves ----------------------------------------------------------------------------------------------

MISBEHAVING = r"""
import ctypes, gc, os, random, resource, signal, subprocess, sys, threading, time, warnings
import numpy as np
import torch
from priors.api import LatentPrior, hookimpl

class Base(LatentPrior):
    def __init__(self, latent_shape, config):
        super().__init__(latent_shape, config)
        self.weight = torch.nn.Parameter(torch.zeros(2))
    def fit(self, posterior, generator, progress):
        self.harm(posterior)
    def sample(self, n, generator):
        return torch.randn(n, *self.latent_shape, generator=generator)

class Switches(Base):
    name = "switches"
    def harm(self, posterior):
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.set_num_threads(7)
        torch.set_flush_denormal(True)
        torch.use_deterministic_algorithms(True)
        torch.manual_seed(5); np.random.seed(5); random.seed(5)
        np.seterr(all="raise")
        warnings.simplefilter("error")
        sys.setrecursionlimit(60 + len(__import__("inspect").stack()))
        gc.disable()
        os.environ["LATENT_PRIOR_CACHE"] = "/nowhere"
        os.chdir("/")

class InPlace(Base):
    name = "in_place"
    def harm(self, posterior):
        posterior.train._mean.mul_(0)
        posterior.val._std.fill_(100)

class Patches(Base):
    name = "patches"
    def harm(self, posterior):
        torch.randn = lambda *a, **k: 0
        torch.Tensor.mean = torch.Tensor.sum
        torch.linalg.eigvalsh = lambda x: x.new_zeros(len(x))
        import benchmark.streams, json
        benchmark.streams.stream = None
        time.perf_counter = lambda: 0.0

class Threads(Base):
    name = "threads"
    def harm(self, posterior):
        for _ in range(4):
            threading.Thread(target=time.sleep, args=(600,)).start()
        subprocess.Popen(["sleep", "600"])

class Exits(Base):
    name = "exits"
    def harm(self, posterior):
        os._exit(0)

class SysExits(Base):
    name = "sys_exits"
    def harm(self, posterior):
        sys.exit(0)

class Segfaults(Base):
    name = "segfaults"
    def harm(self, posterior):
        ctypes.string_at(0)

class Signals(Base):
    name = "signals"
    def harm(self, posterior):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(0, signal.SIGINT)

class Floods(Base):
    name = "floods"
    def harm(self, posterior):
        for _ in range(200_000):
            print("water " * 10)
        os.write(2, b"x" * 10_000_000)

class Closes(Base):
    name = "closes"
    def harm(self, posterior):
        os.closerange(3, 256)

class ClosesAll(Base):
    name = "closes_all"
    def harm(self, posterior):
        os.closerange(3, 4096)

class Garbles(Base):
    name = "garbles"
    def harm(self, posterior):
        for descriptor in range(3, 200):
            try:
                os.write(descriptor, (1 << 62).to_bytes(8, "big") + b"x" * 100)
            except OSError:
                pass

class StopsClock(Base):
    name = "stops_clock"
    def harm(self, posterior):
        time.perf_counter = lambda: float("nan")

class Babbles(Base):
    name = "babbles"
    def harm(self, posterior):
        raise ValueError("\x1b[2J\x00\a" + "A" * 30_000_000)

class Mute(Base):
    name = "mute"
    class Error(Exception):
        def __str__(self):
            raise RuntimeError("no words")
    def harm(self, posterior):
        raise self.Error

class Hoards(Base):
    name = "hoards"
    def fit(self, posterior, generator, progress):
        return {f"fact {number}": "x" * 400 for number in range(20_000)}

class Escapes(Base):
    name = "escapes"
    def harm(self, posterior):
        print("\x1b[2J\x1b]0;pwned\a")
        subprocess.Popen(["sleep", "601"], start_new_session=True, env={})
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
                os.execvp("sleep", ["sleep", "602"])
            os._exit(0)

class StopsParent(Base):
    name = "stops_parent"
    def harm(self, posterior):
        os.kill(os.getppid(), signal.SIGSTOP)

class Swallows(Base):
    name = "swallows"
    def harm(self, posterior):
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
        np.ones(1 << 40)

class DiesInSample(Base):
    name = "dies_in_sample"
    def harm(self, posterior): ...
    def sample(self, n, generator):
        os.abort()

@hookimpl
def register_priors():
    return Base.__subclasses__()
"""
#: what is said of each in one line; None where it harms nobody, itself included
SAID = {
    "switches": None,
    "in_place": None,
    "patches": r"fit failed: its process's clock says -[\d.]+ s of a fit that took [\d.]+ s",
    "threads": None,
    "exits": r"fit crashed: the process ended by itself, with exit code 0, twice",
    "sys_exits": r"fit failed: SystemExit: 0",
    "segfaults": r"fit crashed: the process was killed by SIGSEGV.*, twice",
    "signals": r"fit failed: KeyboardInterrupt",
    "floods": None,
    "closes": None,
    "closes_all": r"fit crashed: the process .*, twice",
    "garbles": None,
    "stops_clock": r"fit failed: its process handed in what is no number",
    "babbles": r"fit failed: ValueError: \\x1b\[2J\\x00\\x07A{400}.* \.\.\. \(30,000,0\d\d characters\)",
    "mute": r"fit failed: Error: \(its message cannot be read\)",
    "hoards": r"fit failed: its record would be [\d,]+ characters long",
    "escapes": None,
    "stops_parent": None,
    "swallows": r"fit: .*not recorded, so the next run tries again",
    "dies_in_sample": r"fd: the process was killed by SIGABRT.*, twice",
}


@pytest.fixture(scope="module")
def harmed(small_bundle, tmp_path_factory):
    """A run of good priors alone, and one of them among misbehaving ones, in two workers."""
    folder = tmp_path_factory.mktemp("harmed")
    (folder / "misbehaving.py").write_text(MISBEHAVING)
    words = ["run", "--bundle", small_bundle, "--seeds", 1, "--device", "cpu", "--workers", 2]
    words += ["--metrics", "fd,mmd,cross_entropy,c2st"]
    for name, priors in (("alone", []), ("among", list(SAID))):
        more = ["--priors", ",".join(["evalp[steps=40]", *priors, "latent_flow[steps=20]"])]
        more += ["--results", folder / name, *(["--plugin", folder / "misbehaving.py"] if priors else [])]
        done = finish(start([*words, *more], folder / f"cache-{name}", folder / "log"), folder / "log")
    return SimpleNamespace(folder=folder, done=done)


def test_whatever_a_prior_does_all_other_rows_are_equal_bit_for_bit(harmed):
    alone = numbers(harmed.folder / "alone")
    assert len(alone) > 10
    assert numbers(harmed.folder / "among", *SAID) == alone
    assert harmed.done.code == 1


@pytest.mark.parametrize("name", SAID)
def test_what_misbehaves_is_told_in_one_line(name, harmed):
    lines = [line for line in harmed.done.output.splitlines() if line.startswith("[") and f" {name} seed" in line]
    failed = [line for line in lines if "FAILED" in line]
    if SAID[name] is None:
        assert not failed
        assert any("measured fd" in line for line in lines)
    else:
        (line,) = failed
        assert re.search(SAID[name], line), line
    shown = [line for line in harmed.done.output.splitlines() if line.startswith(f"{name}:")]
    assert len(shown) <= 6, "what it prints is no flood"


def test_nothing_of_it_is_left(harmed):
    """No process that it started, and none of ours."""
    listed = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True).stdout
    assert [line for line in listed.splitlines() if line.startswith("sleep 60")] == []
    assert "\x1b" not in harmed.done.output
    assert len(harmed.done.output) < 100_000
    assert max(path.stat().st_size for path in harmed.folder.rglob("*.json")) < 1_000_000
    states = subprocess.run(["ps", "-ww", "-eo", "stat,args"], capture_output=True, text=True).stdout
    assert not [line for line in states.splitlines() if line.startswith("T") and "fork_server" in line]
    assert (harmed.folder / "among" / "leaderboard.md").read_text().count("crashed") >= 3


AT_IMPORT = {
    "exits": ("import os; os._exit(3)", "exit code 3"),
    "segfaults": ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
    "switches": ("import torch; torch.set_default_dtype(torch.float64); torch.set_grad_enabled(False)", None),
    "patches": ("import torch; torch.randn = torch.Tensor.mean = None; import json; json.dumps = None", None),
    "signals": ("import os, signal; signal.raise_signal(signal.SIGTERM)", "SIGTERM"),
}


@pytest.mark.parametrize("name", AT_IMPORT)
def test_a_plugin_that_misbehaves_when_it_is_imported_harms_nobody(name, small_bundle, tmp_path, cli):
    line, said = AT_IMPORT[name]
    source = (Path(__file__).parent / "old_plugins" / "prior_full_gaussian.py").read_text()
    (tmp_path / "p.py").write_text(f"{source}\n{line}\n")
    words = ["run", "--bundle", small_bundle, "--seeds", 1, "--metrics", "fd,mmd", "--results", tmp_path / "r"]
    before = torch.get_default_dtype(), torch.is_grad_enabled()
    done = cli(*words, "--priors", "gaussian", "--plugin", tmp_path / "p.py")
    assert done.code == (0 if said is None else 1), done.err  # a plugin that was named is left out
    assert (torch.get_default_dtype(), torch.is_grad_enabled()) == before
    if said is not None:
        assert f"broken plugin {tmp_path / 'p.py'}: when it is imported, " in done.err
        assert said in done.err
    alone = cli(*words[:-1], tmp_path / "alone", "--priors", "gaussian")
    assert alone.code == 0
    assert numbers(tmp_path / "r") == numbers(tmp_path / "alone")


# ---- what dies and what hangs -------------------------------------------------------------------------------------

HANGS = """
import signal, time
from priors.api import LatentPrior, hookimpl

class Hangs(LatentPrior):
    name = "hangs"
    def fit(self, posterior, generator, progress):
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))
        time.sleep(10_000)
    def sample(self, n, generator): ...

@hookimpl
def register_priors():
    return [Hangs]
"""


def test_a_job_that_hangs_is_ended_and_recorded_and_the_others_go_on(small_bundle, tmp_path):
    (tmp_path / "hangs.py").write_text(HANGS)
    words = ["run", "--bundle", small_bundle, "--priors", "hangs,gaussian", "--plugin", tmp_path / "hangs.py"]
    words += ["--seeds", 1, "--device", "cpu", "--metrics", "fd", "--job-timeout", 6, "--results", tmp_path / "r"]
    done = finish(start(words, tmp_path / "cache", tmp_path / "log"), tmp_path / "log")
    assert done.code == 1
    assert "hangs seed 0: FAILED fit timed out: no end after 6s" in done.output
    record, _ = the_record(tmp_path / "r", "fit", prior="hangs")
    assert (record["status"], record["reason"]) == ("timed out", "no end after 6s")
    assert the_record(tmp_path / "r", "fd", prior="gaussian")[0]["status"] == "ok"
    assert "hangs seed 0: fit timed out" in (tmp_path / "r" / "leaderboard.md").read_text()
    again = finish(start(words, tmp_path / "cache", tmp_path / "log"), tmp_path / "log")
    assert "hangs seed 0: FAILED fit timed out earlier: no end after 6s" in again.output


class _Dying:
    """A child whose end is told no sooner than after its limit."""

    def __init__(self, reads, limit):
        self.waited_for, self.limit = [reads], limit

    def start(self, function, task): ...

    def receive(self):
        time.sleep(2 * self.limit)
        raise Died("killed by SIGKILL", [])

    def close(self): ...


def test_a_worker_whose_limit_passes_while_its_end_is_told_is_lost_once(monkeypatch):
    reads, writes = os.pipe()
    os.close(writes)  # so there is something to read at once
    monkeypatch.setattr(processes, "Child", lambda **_: _Dying(reads, limit=0.05))
    lost = []
    owner = SimpleNamespace(lost=lambda number, loss: lost.append((number, loss.status)))
    with Processes(owner, Terms(1, CPU, limit=0.05)) as executor:
        executor.submit(7, SimpleNamespace(limit=None))
        executor.wait()
    os.close(reads)
    assert lost == [(7, "crashed")]


SLOW = """
import time
import torch
from benchmark.metrics.api import Metric, hookimpl as of_metrics
from priors.api import LatentPrior, hookimpl

class Slow(LatentPrior):
    name = "slow"
    def fit(self, posterior, generator, progress):
        time.sleep(4)
    def sample(self, n, generator):
        return torch.randn(n, *self.latent_shape, generator=generator)

class Waits(Metric):
    name = "waits"
    reads = ("split",)
    def measure(self, evaluation):
        time.sleep(4)
        return {"waits": 1.0}

@hookimpl
def register_priors():
    return [Slow]

@of_metrics
def register_metrics():
    return [Waits]
"""


def test_a_measurement_is_not_ended_for_what_the_fit_took(small_bundle, tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    words = ["run", "--bundle", small_bundle, "--priors", "slow", "--plugin", tmp_path / "slow.py", "--seeds", 1]
    words += ["--device", "cpu", "--metrics", "waits", "--job-timeout", 7, "--results", tmp_path / "r"]
    done = finish(start(words, tmp_path / "cache", tmp_path / "log"), tmp_path / "log")
    assert done.code == 0, done.output
    assert the_record(tmp_path / "r", "waits", prior="slow")[0]["status"] == "ok"


DIES = """
import os
from pathlib import Path
from benchmark.metrics.api import Metric, hookimpl

class Dies(Metric):
    name = "dies"
    reads = ("split",)
    reference_rows = ("aggregate_posterior",)
    def measure(self, evaluation):
        times = Path(__file__).with_suffix(f".{evaluation.seed}.{evaluation.source is None}")
        with open(times, "a") as file:
            file.write("x")
        if len(times.read_text()) <= AT_FIRST:
            os.kill(os.getpid(), 9)
        return {"dies": 1.0}

@hookimpl
def register_metrics():
    return [Dies]
"""


@pytest.mark.parametrize("at_first, status", [(1, "ok"), (100, "crashed")])
def test_a_worker_that_dies_costs_its_job_alone_and_is_tried_once_more(at_first, status, small_bundle, tmp_path):
    (tmp_path / "dies.py").write_text(DIES.replace("AT_FIRST", str(at_first)))
    words = ["run", "--bundle", small_bundle, "--priors", "gaussian", "--plugin", tmp_path / "dies.py", "--seeds", 1]
    words += ["--device", "cpu", "--workers", 2, "--metrics", "dies,fd,mmd", "--results", tmp_path / "r"]
    done = finish(start(words, tmp_path / "cache", tmp_path / "log"), tmp_path / "log")
    assert done.code == (0 if status == "ok" else 1), done.output
    kinds = {}
    for path in record_files(tmp_path / "r"):
        record = json.loads(path.read_text())
        kinds.setdefault(record["kind"], set()).add(record["status"])
    assert kinds == {"fit": {"ok"}, "fd": {"ok"}, "mmd": {"ok"}, "dies": {status}}
    said = "dies: the process was killed by SIGKILL, as happens where memory or a limit runs out; tried once more"
    assert said in done.output
    if status == "crashed":
        record, _ = the_record(tmp_path / "r", "dies", prior="gaussian")
        assert record["reason"].endswith("twice")


def test_ctrl_c_ends_the_workers_too_and_the_same_command_goes_on(small_bundle, tmp_path):
    words = ["run", "--bundle", str(small_bundle), "--priors", "evalp[steps=1_500]", "--seeds", "2", "--device", "cpu"]
    words += ["--workers", "2", "--metrics", "fd,mmd", "--results", str(tmp_path / "r")]
    environment = {**os.environ, "LATENT_PRIOR_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    command = subprocess.Popen(
        [sys.executable, "-m", "benchmark", *words],
        env=environment,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while len(record_files(tmp_path / "r")) < 3:
        assert command.poll() is None
        time.sleep(0.05)
    command.send_signal(signal.SIGINT)
    _, said = command.communicate(timeout=20)
    assert command.returncode == 130, said
    assert "interrupted: the leaderboard holds what was measured" in said
    assert "aggregate_posterior" in all_pages(tmp_path / "r")
    before = contents(tmp_path / "r" / "records")
    assert stray(tmp_path) == []
    done = finish(start(words, tmp_path / "cache", tmp_path / "log"), tmp_path / "log")
    assert done.code == 0, done.output
    assert before.items() <= contents(tmp_path / "r" / "records").items()


def stray(folder):
    """Processes that still name a folder in their environment a second after they should be gone."""
    found = []
    for _ in range(20):
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                if int(place.name) != os.getpid() and str(folder).encode() in (place / "environ").read_bytes():
                    found.append((place / "cmdline").read_bytes())
            except OSError:
                continue
        if not found:
            break
        time.sleep(0.1)
    return found


# ---- a script, a notebook -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["script", "cell"])
def test_code_without_a_guard_is_not_run_again_by_its_workers(where, small_bundle, tmp_path):
    """A cell of a notebook is code without a file, as `python -c` has it."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import benchmark
        print("once")
        found = benchmark.run(bundle={str(small_bundle)!r}, priors="gaussian", seeds=2, metrics=["fd"], device="cpu",
                              workers=2, results={str(tmp_path / "r")!r})
        print(len(found))
        """)
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    called = [sys.executable, *([script] if where == "script" else ["-c", script.read_text()])]
    done = subprocess.run(called, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    once, count = done.stdout.splitlines()
    assert once == "once"
    assert int(count) > 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_class_of_a_notebook_gets_one_line_that_says_how_it_joins(workers):
    from priors.gaussian import Gaussian

    class Mine(Gaussian):
        name = "mine"

    for priors in (Mine, [Mine], ["gaussian", Mine]):
        with pytest.raises(UsageError) as refused:
            benchmark.run(priors=priors, workers=workers)
        assert "\n" not in str(refused.value)
        assert "--plugin FILE" in str(refused.value)


# ---- a foreign prior's process ------------------------------------------------------------------------------------

LARGE = """
import torch
from priors.api import LatentPrior, hookimpl

class Large(LatentPrior):
    name = "large"
    network_evaluations = 3
    def __init__(self, latent_shape, config):
        super().__init__(latent_shape, config)
        self.register_buffer("kept", torch.zeros(400, *latent_shape))
        self.weight = torch.nn.Parameter(torch.zeros(4, 5))
    def fit(self, posterior, generator, progress): ...
    def sample(self, n, generator):
        return self.kept[:n]
    def log_prob(self, z):
        return -z.flatten(1).square().sum(1)
    def diagnostics(self, generator):
        return {"drawn": torch.randn(1, generator=generator).item()}

@hookimpl
def register_priors():
    return [Large]
"""


@pytest.fixture
def large(tmp_path):
    (tmp_path / "large.py").write_text(LARGE)
    plugin = Plugin(str(tmp_path / "large.py"))
    registry = Registry(plugins=[plugin])
    of = Specimen({}, (65_536,), 0, CPU)
    prior = of.build(registry.get("prior", "large"))
    write_atomic(tmp_path / "state", save(prior.state_dict()))
    source = ForeignSource(Foreign(plugin, "large", registry.source(type(prior))), of, tmp_path / "state")
    yield SimpleNamespace(prior=prior, source=source, path=tmp_path / "large.py")
    source.close()


def test_the_time_of_a_foreign_draw_has_no_message_in_it(large):
    """A draw is a view that takes microseconds; to hand over its 100 MB takes a tenth of a second."""
    generator = torch.Generator()
    start_of = time.perf_counter()
    z = large.source.sample(400, generator)
    handed_over = time.perf_counter() - start_of
    runs = large.source.measure_draws(400, generator, 5, 1.0)
    assert z.shape == (400, 65_536)
    assert len(runs.seconds) == 5
    assert max(runs.seconds) < 0.01 < handed_over


def test_a_foreign_prior_answers_as_the_class_does(large):
    z = torch.randn(3, 65_536)
    assert torch.equal(large.source.log_prob(z), large.prior.log_prob(z))
    assert large.source.energy(z) is None
    assert large.source.network_evaluations == 3
    assert sum(parameter.numel() for parameter in large.source.parameters()) == 20
    drawn = large.source.diagnostics(torch.Generator().manual_seed(4))
    assert drawn == large.prior.diagnostics(torch.Generator().manual_seed(4))


def test_a_plugin_edited_while_the_run_goes_on_is_not_scored_as_what_it_was(large):
    large.path.write_text(LARGE + "\nEDITED = True\n")
    with pytest.raises(Exception, match=r"large\.py was edited while the run went on"):
        large.source.sample(2, torch.Generator())


def test_a_foreign_prior_draws_with_the_generators_of_its_caller(tmp_path):
    source = LARGE.replace(
        "return self.kept[:n]",
        "return torch.stack([torch.randn(6, generator=generator), torch.randn(6), "
        "torch.tensor(__import__('numpy').random.randn(6)).float()])",
    )
    (tmp_path / "draws.py").write_text(source)
    plugin = Plugin(str(tmp_path / "draws.py"))
    registry = Registry(plugins=[plugin])
    of = Specimen({}, (6,), 0, CPU)
    prior = of.build(registry.get("prior", "large"))
    write_atomic(tmp_path / "state", save(prior.state_dict()))
    apart = ForeignSource(Foreign(plugin, "large", registry.source(type(prior))), of, tmp_path / "state")
    from benchmark.streams import seeded_globals

    drawn = []
    for each in (prior, apart):
        generator = torch.Generator().manual_seed(7)
        with seeded_globals(CPU, "sample", 1):
            drawn.append([each.sample(3, generator), torch.randn(2, generator=generator)])
    apart.close()
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert torch.equal(drawn[0][1], drawn[1][1])


# ---- processes ----------------------------------------------------------------------------------------------------


def test_a_child_is_killed_with_all_that_it_started_when_its_caller_is_no_more(tmp_path):
    script = tmp_path / "caller.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, sys, time
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from benchmark.processes.child import Child
        import subprocess
        child = Child()
        child.start(subprocess.check_call, ["sleep", "321"])
        time.sleep(3)
        print("ready", flush=True)
        time.sleep(100)
        """)
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    caller = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment)
    assert caller.stdout.readline() == "ready\n"
    assert "sleep 321" in subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True).stdout
    caller.kill()
    caller.wait()
    for _ in range(50):
        listed = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True).stdout
        if "sleep 321" not in listed and str(script) not in listed:
            break
        time.sleep(0.1)
    else:
        pytest.fail("the child, or what it started, is still there")


def test_a_server_that_was_killed_is_started_again():

    with Child() as child:
        child.call(_number)
    listed = subprocess.run(["ps", "-ww", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout
    (server,) = [
        int(line.split()[0])
        for line in listed.splitlines()
        if "fork_server import main" in line and int(line.split()[1]) == os.getpid()
    ]
    os.kill(server, signal.SIGKILL)
    time.sleep(0.2)
    with Child() as child:
        assert child.call(_number).value != os.getpid()


def _number():
    return os.getpid(), {}


def test_a_child_that_gives_no_answer_in_time_is_said_to(tmp_path):
    with Child() as child, pytest.raises(Died, match=r"gave no answer in 0\.3 s"):
        child.call(time.sleep, 60, limit=0.3)


# ---- kills --------------------------------------------------------------------------------------------------------


def children_of_the_server():
    """Processes that run tasks: forks of the tests' server that lead a session of their own."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            session = int((place / "stat").read_text().rpartition(")")[2].split()[3])
            if session == int(place.name) and _is_of_these_tests(place):
                found.append(int(place.name))
        except OSError:
            continue
    return found


def _is_of_these_tests(place):
    """Whether it was forked by a guard of a server that this process started."""
    above = [place]
    while len(above) < 4:
        above.append(Path("/proc", (above[-1] / "stat").read_text().rpartition(")")[2].split()[1]))
    return above[3].name == str(os.getpid())


@pytest.mark.slow
def test_fifty_kills_of_workers_and_of_the_coordinator_lose_and_change_nothing(small_bundle, tmp_path):
    """At random moments; the run is begun anew, with an empty cache, whenever it gets to its end."""
    words = ["run", "--bundle", small_bundle, "--priors", "gaussian,evalp[steps=300],ncp[steps=40]", "--seeds", 3]
    words += ["--device", "cpu", "--workers", 2, "--metrics", "scores"]
    undisturbed = [*words, "--results", tmp_path / "undisturbed"]
    done = finish(start(undisturbed, tmp_path / "cache", tmp_path / "log"), tmp_path / "log")
    assert done.code == 0, done.output
    expected, chance = numbers(tmp_path / "undisturbed"), random.Random(0)
    kills, rounds = {"worker": 0, "coordinator": 0}, 0
    while sum(kills.values()) < 50:
        rounds += 1
        results, cache, log = tmp_path / f"results{rounds}", tmp_path / f"cache{rounds}", tmp_path / f"log{rounds}"
        recorded, ended = {}, False
        while not ended:
            process = start([*words, "--results", results], cache, log)
            process.join(chance.uniform(0.2, 4))
            if sum(kills.values()) < 50 and process.is_alive():
                victims = children_of_the_server()
                who = chance.choice(["worker", "coordinator"]) if victims else "coordinator"
                os.kill(chance.choice(victims) if who == "worker" else process.pid, signal.SIGKILL)
                kills[who] += 1
            elif process.is_alive():
                finish(process, log)
            if process.exitcode is None and who == "worker":
                process.join(chance.uniform(0, 3))  # it goes on with another worker, and is killed itself, or not
                if process.is_alive() and sum(kills.values()) < 50:
                    process.kill()
                    kills["coordinator"] += 1
                elif process.is_alive():
                    finish(process, log)
            process.join()
            for path in record_files(results):
                content = path.read_bytes()
                assert recorded.setdefault(path, content) == content, "a record that was finished is as it was"
            ended = process.exitcode == 0
            assert process.exitcode in (0, -signal.SIGKILL), log.read_text()
        assert numbers(results) == expected
        assert not list(results.rglob("*.tmp"))
        assert not list(cache.rglob("*.tmp"))
    assert min(kills.values()) >= 15, kills
    for _ in range(30):
        if not children_of_the_server():
            break
        time.sleep(0.1)
    assert children_of_the_server() == []


BEFORE_THE_FIT = {
    "config": ("os._exit(3)", "pass", "when its settings were read, the process ended by itself, with exit code 3"),
    "recipe": ("pass", "raise ZeroDivisionError('in recipe')", "ZeroDivisionError: in recipe (p.py:"),
    "hangs": ("pass", "import time; time.sleep(600)", "when its settings were read, the process gave no answer in 6 s"),
}
EARLY = """
import os
from pydantic import field_validator
from priors.api import LatentPrior, PriorConfig, hookimpl

class Config(PriorConfig):
    steps: int = 1
    @field_validator("steps")
    @classmethod
    def _check(cls, value):
        IN_CONFIG
        return value

class Early(LatentPrior):
    name = "early"
    Config = Config
    @classmethod
    def recipe(cls, dataset, latent_shape):
        IN_RECIPE
        return {"steps": 2}, None
    def fit(self, posterior, generator, progress): ...
    def sample(self, n, generator): ...

@hookimpl
def register_priors():
    return [Early]
"""


@pytest.mark.parametrize("where", BEFORE_THE_FIT)
def test_a_prior_that_fails_before_its_fit_is_left_out_and_the_others_go_on(where, small_bundle, tmp_path, cli):
    config, recipe, said = BEFORE_THE_FIT[where]
    (tmp_path / "p.py").write_text(EARLY.replace("IN_CONFIG", config).replace("IN_RECIPE", recipe))
    words = ["run", "--bundle", small_bundle, "--seeds", 1, "--metrics", "fd", "--results", tmp_path / "r"]
    more = ["--job-timeout", 6, "--executor", "here"] if where == "hangs" else []
    done = cli(*words, "--priors", "gaussian,early", "--plugin", tmp_path / "p.py", *more)
    assert done.code == 1
    (line,) = [line for line in done.err.splitlines() if line.startswith("left out: ")]
    assert said in line
    assert "3 jobs fine, 0 failed, 1 left out" in done.err
    assert the_record(tmp_path / "r", "fd", prior="gaussian")[0]["status"] == "ok"
