"""A run as a Slurm array: what is asked of Slurm, a worker that is to stop, and all of it on a real Slurm."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import ROOT, finish, numbers, only_line, record_files, start
from experiments import suite_text
from slurm_cluster import Cluster, missing, wait_for

from benchmark.machine import slurm as slurm_of_this_process
from benchmark.machine import stopping
from benchmark.machine.stopping import Stopped, stoppable
from benchmark.slurm import Slurm, _seconds_of, read_slurm, script_of
from benchmark.store.held import STALE, Claims, read_claims

TOML = """
workers = 4
partition = "main"
time = "4:00:00"
cpus = 2
"""
RUN = ["--priors", "gaussian", "--seeds", 1, "--metrics", "fd", "--device", "cpu"]


@pytest.fixture
def toml(tmp_path):
    def write(text=TOML):
        (tmp_path / "slurm.toml").write_text(text)
        return tmp_path / "slurm.toml"

    return write


def executable(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


# ---- what is asked ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, parts",
    [
        ("partion = 'main'\n" + TOML, ["setting of", "slurm.toml 'partion'", "did you mean 'partition'"]),
        (TOML.replace("4:00:00", "four hours"), ["time='four hours'", "4:00:00 or 2-12"]),
        (TOML.replace("4:00:00", "0:03:00"), ["time='0:03:00'", "4 minutes at least"]),
        (TOML.replace("workers = 4", "workers = 0"), ["workers=0"]),
        (TOML.replace("workers = 4", ""), ["workers is missing"]),
        (TOML + "gpus = 'two'", ["gpus='two'"]),
        (TOML + "options = ['account=vision']", ["--account=vision", "'account=vision'"]),
        (TOML + "options = '--account=a'", ["options='--account=a': expected a list: ['--account=a']"]),
        (TOML + "setup = 'module load a'", ["setup='module load a': expected a list: ['module load a']"]),
        (TOML + 'options = ["--account=a\\n#SBATCH --uid=0"]', ["expected options of sbatch"]),
        (TOML.replace('"main"', '"a b"'), ["partition='a b'"]),
        ("workers = ", ["not readable as TOML"]),
        (None, ["no such file"]),
    ],
)
def test_a_wrong_word_in_the_toml_is_one_line(text, parts, toml, tmp_path, cli):
    path = tmp_path / "slurm.toml" if text is None else toml(text)
    line = only_line(cli("submit", "--slurm", path, "--", "run", *RUN, "--results", tmp_path / "r"))
    for part in parts:
        assert part in line
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    "words, parts",
    [
        (["rnu"], ["'rnu'", "did you mean 'run'"]),
        (["run", "--prios", "gmm"], ["--prios", "--priors", "see: python -m benchmark run --help"]),
        (["run", "--priors", "gmn"], ["prior 'gmn'", "did you mean 'gmm'"]),
        (["run", "--seeds", "none"], ["--seeds"]),
        (["run", "--file", "none.toml"], ["none.toml: no such file"]),
        (["run", "--device", "cuda"], ["--device cuda, but the workers have no GPU: gpus = 1"]),
        (["tune", "--dataset", "digits", "--device", "cuda"], ["--device cuda, but the workers have no GPU"]),
        (["suite", "mixtures", "--device", "cuda"], ["--device cuda, but the workers have no GPU"]),
        (["run", "--dry-run"], ["a run with --dry-run does nothing: leave it out"]),
        (["run", "--executor", "ray"], ["--executor has other workers than the array's"]),
        (["run", "--file", "ray.toml"], ["--executor has other workers than the array's"]),
        (["suite", "own.toml", "--preset", "quick"], ["extractor 'incepton'", "inception"]),
        (["tune", "--dataset", "digits", "--priors", "gmn"], ["prior 'gmn'", "did you mean 'gmm'"]),
        (["tune", "--dataset", "digits", "--priors", "gaussian"], ["prior gaussian has no search space"]),
        (["suite", "mixtres"], ["mixtres", "mixtures"]),
        (["suite", "mixtures", "--preset", "fast"], ["fast"]),
        (["suite", "mixtures", "--recorded"], ["a suite with --recorded runs nothing: leave it out"]),
    ],
)
def test_a_wrong_word_of_the_run_is_told_before_anything_waits_in_a_queue(
    words, parts, small_bundle, toml, tmp_path, cli, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("ray.toml").write_text("executor = 'ray'\n")
    of = {"bundle": str(small_bundle), "seeds": 2, "metrics": "fd"}
    Path("own.toml").write_text(suite_text("fd", extractor="incepton", **of))
    line = only_line(cli("submit", "--slurm", toml(), "--", *words, "--results", tmp_path / "r"))
    for part in parts:
        assert part in line
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    "text, seconds",
    [("30", 1800), ("30:10", 1810), ("4:00:00", 14_400), ("2-12", 216_000), ("1-0:30", 88_200), ("1-0:0:5", 86_405)],
)
def test_times_are_read_as_sbatch_reads_them(text, seconds):
    assert _seconds_of(text) == seconds
    assert Slurm(workers=1, time=text).time == text


def test_the_script_is_an_array_of_workers_that_are_alike(small_bundle, toml, tmp_path, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cli("submit", "--slurm", toml(), "--", "run", "--bundle", small_bundle, *RUN, "--results", "my results")
    assert done.code == 0, done.err
    script = "my results/slurm/submit.sh"
    assert f"written: {script}: 4 workers (2 cores, 0 GPUs, 4:00:00 each) for 3 jobs" in done.err
    assert done.out.splitlines() == [
        f"next: sbatch '{script}'",
        "who is at what: python -m benchmark status --results 'my results'",
    ]
    lines = Path(script).read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    asked = [line for line in lines if line.startswith("#SBATCH ")]
    assert lines[1 : len(asked) + 1] == asked, "what stands behind a command is no option to sbatch"
    for option in ("--array=0-3", "--partition=main", "--time=4:00:00", "--cpus-per-task=2", "--requeue"):
        assert f"#SBATCH {option}" in asked
    assert "#SBATCH --signal=B:USR1@120" in asked
    assert f"#SBATCH --output='{tmp_path}/my results/slurm/%A_%a.log'" in asked
    assert "gres" not in "".join(asked)
    assert 'export OMP_NUM_THREADS="$SLURM_CPUS_PER_TASK"' in lines
    assert lines[-1].startswith(f"exec {sys.executable} -m benchmark run --bundle ")
    assert lines[-1].endswith("--results 'my results' --shared --workers 2")
    assert (tmp_path / "my results" / "slurm").is_dir(), "for the logs"


@pytest.mark.parametrize(
    "words, of, timed",
    [
        (["tune", "--dataset", "digits", "--priors", "gmm", "--trials", 2], "a tuning", False),
        (["suite", "gp-weight", "--preset", "quick"], "suite gp-weight, quick", False),
        (["suite", "one-pass", "--preset", "quick"], "suite one-pass, quick", True),
    ],
)
def test_a_tuning_and_a_suite_are_shared_as_a_run_is(words, of, timed, toml, tmp_path, cli):
    done = cli("submit", "--slurm", toml(), "--", *words, "--results", tmp_path / "r")
    assert done.code == 0, done.err
    assert f"for {of}\n" in done.err
    assert ("timings of workers on one node disturb each other" in done.err) == timed
    last = (tmp_path / "r" / "slurm" / "submit.sh").read_text().splitlines()[-1]
    assert f"-m benchmark {words[0]} " in last
    assert last.endswith("--shared --workers 2")


def test_workers_of_a_suite_that_trains_its_vaes_are_shown(tmp_path, cli):
    """They share the folder apart, which is below the one that is named."""
    apart = tmp_path / "r" / "suites" / "hole"
    claims = Claims(apart / "claims")
    assert claims.take("job", "gmm seed 0")
    try:
        done = cli("status", "--results", tmp_path / "r")
    finally:
        claims.close()
    assert done.code == 0, done.err
    assert "gmm seed 0" in done.out
    assert "1 workers at 1 jobs; 0 records" in done.out


def test_words_are_read_as_the_commands_read_them(small_bundle, toml, tmp_path, cli, monkeypatch):
    """A home folder is one, and a worker's device decides which tunings are asked for, not that of this machine."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    Path("own.toml").write_text(suite_text("fd", bundle=str(small_bundle), seeds=2, metrics="fd"))
    done = cli("submit", "--slurm", toml(), "--", "suite", "own.toml", "--preset", "quick", "--results=~/r")
    assert done.code == 0, done.err
    assert (tmp_path / "home" / "r" / "slurm" / "submit.sh").exists()
    assert not Path("~").exists()
    words = ["run", "--bundle", "mnist-conv_vae", "--settings", "tuned", "--budget", "full", "--metrics", "scores"]
    for part in ("records", "tunings"):
        (tmp_path / "r").mkdir(exist_ok=True)
        (tmp_path / "r" / part).symlink_to(ROOT / "results" / part)
    words += ["--results", tmp_path / "r"]
    for gpus, prior, code in ((1, "nsf", 0), (0, "nsf", 2), (1, "maf", 2)):
        array = toml(f"{TOML}gpus = {gpus}\n")
        done = cli("submit", "--slurm", array, "--out", "s.sh", "--", *words, "--priors", prior)
        assert done.code == code, done.err
        assert code == 0 or f"{prior}: no tuning of it" in done.err


def test_what_the_toml_says_is_in_the_script_and_no_gpu_is_named(toml, tmp_path):
    text = 'workers = 1\ntime = "9"\ngpus = 2\nmemory = "16G"\noptions = ["--account=vision"]\n'
    asked = read_slurm(toml(text + 'setup = ["module load cuda"]'))
    lines = script_of(asked, ["run"], tmp_path, tmp_path).splitlines()
    for option in ("--array=0-0", "--gres=gpu:2", "--mem=16G", "--account=vision"):
        assert f"#SBATCH {option}" in lines
    assert lines.index("module load cuda") < lines.index(f"exec {sys.executable} -m benchmark run")
    assert "CUDA_VISIBLE_DEVICES" not in "\n".join(lines), "Slurm says which are a worker's"
    assert "OMP_NUM_THREADS" not in "\n".join(lines), "there is one core"
    assert not [line for line in lines if "partition" in line]


@pytest.mark.parametrize("option", ["-G1", "-G 1", "--gres=gpu:1", "--gpus-per-node=1", "--gpus=h100:1"])
def test_options_of_sbatch_ask_for_gpus_too(option, small_bundle, toml, tmp_path, cli):
    array = toml(TOML + f'options = ["{option}"]')
    words = ["run", "--bundle", small_bundle, *RUN, "--results", tmp_path / "r", "--device", "cuda"]
    assert cli("submit", "--slurm", array, "--", *words).code == 0
    assert "--workers" not in (tmp_path / "r" / "slurm" / "submit.sh").read_text(), "as where gpus = 1: one on each GPU"


@pytest.mark.parametrize(
    "option", ["-G0", "--gpus=0", "--gres=gpu:0", "--gpu-bind=none", "--gres=license:gpus", "--mem=0"]
)
def test_other_options_of_sbatch_ask_for_none(option, small_bundle, toml, tmp_path, cli):
    array = toml(TOML + f'options = ["{option}"]')
    words = ["run", "--bundle", small_bundle, *RUN, "--results", tmp_path / "r", "--device", "cuda"]
    assert "the workers have no GPU" in only_line(cli("submit", "--slurm", array, "--", *words))


def test_timings_of_workers_side_by_side_are_warned_of(small_bundle, toml, tmp_path, cli):
    words = ["run", "--bundle", small_bundle, "--priors", "gaussian", "--results", tmp_path / "r", "--device", "cpu"]
    assert "timings of workers on one node disturb each other" in cli("submit", "--slurm", toml(), "--", *words).err


def test_it_is_sent_where_there_is_a_slurm_and_one_line_where_there_is_none(
    small_bundle, toml, tmp_path, cli, monkeypatch
):
    words = ["run", "--bundle", small_bundle, *RUN, "--results", tmp_path / "r"]
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    refused = cli("submit", "--slurm", toml(), "--send", "--", *words)
    assert refused.code == 2
    assert f"there is no sbatch here: where Slurm is, type: sbatch {tmp_path / 'r' / 'slurm'}" in refused.err
    executable(tmp_path / "bin" / "sbatch", 'echo "$2" > sent; echo "17;here"')
    monkeypatch.chdir(tmp_path)
    assert "sent: array 17\n" in cli("submit", "--slurm", toml(), "--send", "--", *words).out
    assert (tmp_path / "sent").read_text().strip() == str(tmp_path / "r" / "slurm" / "submit.sh")
    executable(tmp_path / "bin" / "sbatch", "echo 'sbatch: error: invalid partition' >&2; exit 1")
    done = cli("submit", "--slurm", toml(), "--send", "--", *words)
    assert (done.code, done.err.count("sbatch refused")) == (2, 1)
    assert "invalid partition" in done.err


# ---- a worker that is to stop -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent, warned", [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_a_signal_stops_once_and_handlers_are_put_back(sent, warned):
    before = signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGTERM)

    @contextmanager
    def giving_back():
        try:
            yield
        finally:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped) as stopped, stoppable(), giving_back():
        signal.raise_signal(sent)
    assert stopped.value.warned is warned
    assert (signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGTERM)) == before


def test_it_warns_itself_where_slurm_says_when_the_time_is_over(monkeypatch):
    monkeypatch.setattr(stopping, "MARGIN", 100)
    with pytest.raises(Stopped) as stopped, stoppable(time.time() + 100.2):
        time.sleep(10)
    assert stopped.value.warned
    with stoppable(time.time() + 1_000):
        pass


def test_a_task_of_an_array_is_queued_again_by_its_name_and_not_by_the_arrays(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert slurm_of_this_process.requeue() == "Slurm did not start this process"
    monkeypatch.setenv("SLURM_JOB_ID", "17")  # as the whole array's
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert "scontrol" in slurm_of_this_process.requeue()
    executable(tmp_path / "bin" / "scontrol", f'echo "$@" > {tmp_path}/asked')
    assert slurm_of_this_process.requeue() is None
    assert (tmp_path / "asked").read_text() == "requeue 17_3\n"
    executable(tmp_path / "bin" / "scontrol", "echo 'Job/step already completing' >&2; exit 1")
    assert slurm_of_this_process.requeue() == "Job/step already completing"
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1795768186")
    assert slurm_of_this_process.end_of_job() == 1795768186


@pytest.mark.parametrize("sent, queued", [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_a_worker_that_is_to_stop_gives_back_what_it_holds(sent, queued, small_bundle, tmp_path):
    words = ["run", "--bundle", small_bundle, "--priors", "evalp[steps=2_000_000]", "--seeds", 1, "--device", "cpu"]
    words += ["--metrics", "fd", "--results", tmp_path / "r", "--shared"]
    worker = start(words, tmp_path / "cache", tmp_path / "log")
    claims = tmp_path / "r" / "claims"
    wait_for(lambda: any(claim.doing == "fit" for claim, _ in read_claims(claims)), "the fit")
    os.kill(worker.pid, sent)
    done = finish(worker, tmp_path / "log")
    assert done.code == 75, done.output
    reason = "its time runs out" if queued else "it is to end"
    assert f"stopped, since {reason}: what was under way is given back" in done.output
    assert ("not queued again: Slurm did not start this process" in done.output) is queued
    assert list(claims.iterdir()) == []
    assert "aggregate_posterior" in (tmp_path / "r" / "leaderboard.csv").read_text()


# ---- on a real Slurm ----------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path):
    if missing():
        pytest.skip(f"no {', '.join(missing())} here")
    with Cluster(tmp_path / "slurm", nodes=2, cpus=2) as started:
        started.environment |= {"PYTHONPATH": str(ROOT), "LATENT_PRIOR_CACHE": str(tmp_path / "cache")}
        yield started


def workers_on(results, cluster, node):
    """Numbers of the processes of workers that Slurm started on a node."""
    here = {name for name, (_, place) in cluster.states().items() if place == node}
    return {claim.job: claim.process for claim, _ in read_claims(results / "claims") if claim.job in here}


@pytest.mark.slurm
def test_an_array_ends_with_every_record_whatever_becomes_of_its_workers(small_bundle, tmp_path, cluster, toml, cli):
    """A node lost with one worker dead and one that runs on, a job that preempts, a worker cancelled."""
    words = ["run", "--bundle", small_bundle, "--priors", "evalp[steps=400],latent_flow[steps=400]", "--seeds", 6]
    words += ["--device", "cpu", "--metrics", "fd"]
    alone = cli(*words, "--results", tmp_path / "alone")
    assert alone.code == 0, alone.err
    results = tmp_path / "r"
    text = 'workers = 4\npartition = "main"\ntime = "30"\ncpus = 1\n'
    sending = ["submit", "--slurm", toml(text), "--send", "--", *words, "--results", results]
    called = [sys.executable, "-m", "benchmark", *map(str, sending)]
    sent = subprocess.run(called, env=cluster.environment, capture_output=True, text=True, cwd=tmp_path)
    array = re.search(r"sent: array (\d+)", sent.stdout)[1]

    at_work = {}

    def both_of_n2_are_at_work():
        at_work.update(workers_on(results, cluster, "n2"))
        return len(at_work) == 2 and len(record_files(results)) > 2

    wait_for(both_of_n2_are_at_work, "jobs on n2", 200)
    (dead, process), (twin, _) = sorted(at_work.items())
    cluster.lose("n2")
    os.kill(process, signal.SIGKILL)
    # the twin is another process than the one that Slurm starts in its place, and runs on
    wait_for(lambda: cluster.states()[twin][0] == "PENDING", "the lost node's workers in the queue")
    (tmp_path / "urgent.sh").write_text("#!/bin/sh\nsleep 5\n")
    before = {name for name, (state, _) in cluster.states().items() if state == "RUNNING"}
    urgent = ["sbatch", "-p", "urgent", "-c", "1", "--time", "9", "-o", "/dev/null", str(tmp_path / "urgent.sh")]
    cluster.call(*urgent)
    wait_for(lambda: any(cluster.states()[name][0] != "RUNNING" for name in before), "one that makes place", 90)
    cancelled = next(name for name in sorted(before) if cluster.states()[name][0] == "RUNNING")
    cluster.call("scancel", cancelled)

    def is_over():
        cluster.begin_now()
        states = {name: state for name, (state, _) in cluster.states().items() if name.startswith(array)}
        return not {"PENDING", "RUNNING", "COMPLETING"} & set(states.values())

    wait_for(is_over, "the end of the array", STALE + 400)
    logs = "".join(path.read_text() for path in sorted((results / "slurm").glob("*.log")))
    assert numbers(results) == numbers(tmp_path / "alone"), logs
    fits = [path for path in record_files(results) if path.name.startswith("fit-")]
    assert len([path for path in fits if path.parent.name != "gaussian"]) == 12
    wait_for(lambda: not list((results / "claims").iterdir()), "the twin", 60)
    assert cluster.states()[cancelled][0] == "CANCELLED", "nobody queues again what was cancelled"
    assert {cluster.states()[name][0] for name in (dead, twin)} == {"COMPLETED"}


@pytest.mark.slurm
def test_an_array_shares_a_tuning(small_bundle, tmp_path, cluster, toml, cli):
    words = ["tune", "--bundle", small_bundle, "--priors", "latent_flow,gmm", "--trials", 4, "--device", "cpu"]
    alone = cli(*words, "--results", tmp_path / "alone")
    assert alone.code == 0, alone.err
    sending = ["submit", "--slurm", toml('workers = 3\ntime = "30"\n'), "--send", "--", *words]
    called = [sys.executable, "-m", "benchmark", *map(str, sending), "--results", str(tmp_path / "r")]
    subprocess.run(called, env=cluster.environment, check=True, cwd=tmp_path, capture_output=True)

    def is_over():
        cluster.begin_now()
        return not {"PENDING", "RUNNING", "COMPLETING"} & {state for state, _ in cluster.states().values()}

    wait_for(is_over, "the end of the array", 400)
    logs = [path.read_text() for path in sorted((tmp_path / "r" / "slurm").glob("*.log"))]
    assert numbers(tmp_path / "r") == numbers(tmp_path / "alone"), "\n".join(logs)
    assert sum("2 of 2 priors tuned" in log for log in logs) == 3, "\n".join(logs)
    assert [*read_claims(tmp_path / "r" / "claims")] == []


@pytest.mark.slurm
def test_a_worker_whose_time_runs_out_is_queued_again(small_bundle, tmp_path, cluster, toml):
    words = ["run", "--bundle", small_bundle, "--priors", "evalp[steps=2_000_000]", "--seeds", 1, "--device", "cpu"]
    words += ["--metrics", "fd", "--results", tmp_path / "r"]
    sending = ["submit", "--slurm", toml('workers = 1\ntime = "4"\n'), "--send", "--", *words]
    called = [sys.executable, "-m", "benchmark", *map(str, sending)]
    subprocess.run(called, env=cluster.environment, check=True, cwd=tmp_path, capture_output=True)
    wait_for(lambda: any(c.doing == "fit" for c, _ in read_claims(tmp_path / "r" / "claims")), "the fit", 200)
    (name,) = cluster.states()
    log = tmp_path / "r" / "slurm" / f"{name}.log"
    wait_for(lambda: "stopped, since its time runs out" in log.read_text(), "the warning", 240)
    wait_for(lambda: cluster.states()[name][0] == "PENDING", "its place in the queue", 90)
    assert list((tmp_path / "r" / "claims").iterdir()) == []
    assert Claims(tmp_path / "r" / "claims").take("whatever")
