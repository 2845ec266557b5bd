"""A run on a Ray cluster: no folder is shared, a machine is lost in the middle, and the numbers are the usual ones.

What every executor does is proved of this one too in `tests/test_executors.py`.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from commands import RUN, contents, numbers, only_line, record_files

from benchmark.executors.api import Terms
from benchmark.executors.ray import Ray
from benchmark.jobs.parcels import Sent, parcel_of_plugins, parcel_of_run, plugins_of, sent_folder, unpack
from benchmark.jobs.task import Task
from benchmark.request import Request, resolve

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "words, parts",
    [
        (["--executor", "rya"], ["executor 'rya'", "did you mean 'ray'"]),
        (["--executor", "ray[num_cpu=2]"], ["setting of executor ray 'num_cpu'", "did you mean 'num_cpus'"]),
        (["--executor", "ray[num_cpus=-1]"], ["executor ray", "num_cpus=-1"]),
        (["--executor", "ray[num_cpus=1,2]"], ["--executor ray[num_cpus=1,2]", "one value for each setting"]),
        (["--executor", "here,processes"], ["expected one"]),
        (["--executor", "processes", "--address", "auto"], ["setting of executor processes 'address'"]),
    ],
)
def test_a_wrong_word_of_an_executor_is_one_line(words, parts, small_bundle, tmp_path, cli):
    line = only_line(cli("run", "--bundle", small_bundle, *RUN, *words, "--results", tmp_path / "r"))
    for part in parts:
        assert part in line


def test_without_ray_it_says_what_to_install(small_bundle, tmp_path, cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    done = cli("run", "--bundle", small_bundle, *RUN, "--executor", "ray", "--results", tmp_path / "r")
    assert done.code == 2
    assert "error: --executor ray: it is not installed" in done.err
    assert "pip install '.[ray]'" in done.err


@pytest.mark.parametrize(
    "settings, per_gpu, device, have, tasks",
    [
        ({}, 1, "cpu", {"CPU": 12}, 12),
        ({"num_cpus": 0.5}, 1, "cpu", {"CPU": 3}, 6),
        ({"num_cpus": 0.2}, 1, "cpu", {"CPU": 0.6}, 3),
        ({}, 2, "cuda", {"CPU": 16, "GPU": 3}, 6),
        ({"num_gpus": 0.25}, 1, "cuda", {"CPU": 16, "GPU": 1}, 4),
        ({"num_cpus": 8}, 2, "cuda", {"CPU": 16, "GPU": 3}, 2),
        ({}, 1, "cpu", {}, 1),
    ],
)
def test_as_many_tasks_are_submitted_as_the_cluster_has_room_for(settings, per_gpu, device, have, tasks, monkeypatch):
    cluster = SimpleNamespace(
        is_initialized=lambda: True,
        cluster_resources=lambda: have,
        nodes=lambda: [{"Alive": True}],
        remote=lambda _: SimpleNamespace(options=lambda **_: None),
    )
    monkeypatch.setattr("benchmark.executors.ray._import_ray", lambda: cluster)
    owner = SimpleNamespace(said=lambda _: None)
    executor = Ray(owner, Terms(1, torch.device(device), per_gpu, settings=Ray.Config(**settings)))
    assert executor.capacity == tasks


# ---- what is sent -------------------------------------------------------------------------------------------------

HELPED = """
from helper import SCALE
from priors.api import LatentPrior, hookimpl
import torch

class Scaled(LatentPrior):
    name = "scaled"
    def fit(self, posterior, generator, progress): ...
    def sample(self, n, generator):
        return SCALE * torch.randn(n, *self.latent_shape, generator=generator)

@hookimpl
def register_priors():
    return [Scaled]
"""


def test_a_parcel_holds_all_that_a_task_names_and_is_unpacked_once(small_bundle, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "scaled.py").write_text(HELPED)
    (tmp_path / "mine" / "helper.py").write_text("SCALE = 0.5\n")
    request = Request(
        bundle=small_bundle,
        priors="scaled",
        seeds=1,
        metrics=["fd"],
        device="cpu",
        results=tmp_path / "r",
        plugins=[tmp_path / "mine" / "scaled.py"],
    )
    resolved = resolve(request)
    (job,) = [job for job in resolved.jobs if job.row.plugin]
    parcel = parcel_of_run(resolved.work)
    names = {place.rpartition("/")[2] for place in parcel.files}
    assert {"bundle.json", "weights.safetensors", "posterior.safetensors"} <= names
    assert {f"digit-cnn-{split}.json" for split in ("train", "val", "test")} <= names
    plugins = parcel_of_plugins(plugins_of(Task(job, resolved.work, ("fd",), 1)))
    assert {place.rpartition("/")[2] for place in plugins.files} == {"scaled.py", "helper.py"}
    unpack(parcel.key, parcel.read())
    before = contents(sent_folder(parcel.key))
    unpack(parcel.key, {})
    assert contents(sent_folder(parcel.key)) == before
    assert parcel_of_run(resolved.work).key == parcel.key != plugins.key


def test_a_task_says_nothing_of_where_it_was_made_but_its_files(small_bundle, tmp_path):
    """What is rebased: bundle and reference, and so what the child opens."""
    resolved = resolve(
        Request(bundle=small_bundle, priors="gaussian", seeds=1, metrics=["fd"], device="cpu", results=tmp_path / "r")
    )
    task = Task(resolved.jobs[-1], resolved.work, ("fd",), 1)
    there = Sent.of(task).task("run", "plugins")
    root = sent_folder("run")
    assert there.job.bundle.path == root / str(small_bundle).lstrip("/")
    bundle, _, _, _, reference, *_ = there.work.parts
    assert bundle == there.job.bundle
    assert reference.path.is_relative_to(root)
    assert there.job.fit_id == task.job.fit_id


# ---- on a real cluster --------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path):
    """A machine for the coordinator, without room for tasks, and two for them, each with a cache of its own."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [
        started.add_node(num_cpus=2, env_vars={"LATENT_PRIOR_CACHE": str(tmp_path / f"cache{name}")}) for name in "ab"
    ]
    yield SimpleNamespace(address=started.address, nodes=nodes, lose=lambda node: started.remove_node(node, False))
    started.shutdown()


@pytest.mark.ray
def test_a_machine_lost_in_the_middle_costs_no_record_and_changes_no_number(small_bundle, cluster, tmp_path, cli):
    words = ["run", "--bundle", small_bundle, "--priors", "gaussian,evalp[steps=200],latent_flow[steps=200]"]
    words += ["--seeds", 3, "--device", "cpu", "--metrics", "fd,mmd"]
    alone = cli(*words, "--results", tmp_path / "alone")
    assert alone.code == 0, alone.err
    (tmp_path / "cache" / "fits").rename(tmp_path / "fits of before")  # what the run alone has fitted

    def lose_one():
        while len(record_files(tmp_path / "r")) < 6:
            time.sleep(0.1)
        cluster.lose(cluster.nodes[0])

    losing = threading.Thread(target=lose_one)
    losing.start()
    words += ["--executor", "ray", "--address", cluster.address, "--results", tmp_path / "r"]
    done = cli(*words)
    losing.join()
    assert done.code == 0, done.err
    assert "Ray: 3 machines, 4 tasks at once" in done.err
    assert "its machine was lost" in done.err
    assert numbers(tmp_path / "r") == numbers(tmp_path / "alone")
    assert len(list((tmp_path / "cache" / "fits").glob("*.safetensors"))) == 9, "fits came back"
    for name in "ab":
        assert len(list((tmp_path / f"cache{name}" / "sent").rglob("bundle.json"))) == 1, "a bundle once a machine"
    commands = {json.loads(path.read_text())["provenance"]["command"] for path in record_files(tmp_path / "r")}
    assert all(command.startswith("python -m benchmark run") for command in commands)


@pytest.mark.ray
def test_a_later_metric_finds_the_fits_on_whichever_machine(small_bundle, cluster, tmp_path, cli):
    words = ["run", "--bundle", small_bundle, "--priors", "evalp[steps=200]", "--seeds", 2, "--device", "cpu"]
    words += ["--results", tmp_path / "r", "--executor", f"ray[address={cluster.address},num_cpus=0.5]"]
    assert "8 tasks at once" in cli(*words, "--metrics", "fd").err
    for name in "ab":  # the machines forget
        for path in (tmp_path / f"cache{name}" / "fits").glob("*"):
            path.unlink()
    before = contents(tmp_path / "cache" / "fits")
    assert cli(*words, "--metrics", "mmd").code == 0
    assert contents(tmp_path / "cache" / "fits") == before
    shipped = [path.name for name in "ab" for path in (tmp_path / f"cache{name}" / "fits").glob("*")]
    assert sorted(set(shipped)) == sorted(str(path) for path in before)


@pytest.mark.ray
def test_strangers_priors_travel_with_what_they_import(small_bundle, cluster, tmp_path, cli):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "scaled.py").write_text(HELPED)
    (tmp_path / "mine" / "helper.py").write_text("SCALE = 0.5\n")
    words = ["run", "--bundle", small_bundle, "--priors", "scaled", "--seeds", 2, "--device", "cpu", "--metrics", "fd"]
    words += ["--plugin", tmp_path / "mine" / "scaled.py"]
    assert cli(*words, "--results", tmp_path / "alone").code == 0
    done = cli(*words, "--results", tmp_path / "r", "--executor", "ray", "--address", cluster.address)
    assert done.code == 0, done.err
    assert numbers(tmp_path / "r") == numbers(tmp_path / "alone")


@pytest.mark.ray
def test_what_dies_below_ray_costs_its_job_alone(small_bundle, cluster, tmp_path, cli):
    (tmp_path / "dies.py").write_text(
        "import os\nfrom benchmark.metrics.api import Metric, hookimpl\n\n"
        "class Dies(Metric):\n    name = 'dies'\n    reads = ('split',)\n"
        "    def measure(self, evaluation):\n        os.kill(os.getpid(), 9)\n\n"
        "@hookimpl\ndef register_metrics():\n    return [Dies]\n"
    )
    words = ["run", "--bundle", small_bundle, "--priors", "gaussian", "--seeds", 1, "--device", "cpu"]
    words += ["--metrics", "fd,dies", "--plugin", tmp_path / "dies.py", "--results", tmp_path / "r"]
    done = cli(*words, "--executor", "ray", "--address", cluster.address)
    assert done.code == 1, done.err
    records = [json.loads(path.read_text()) for path in record_files(tmp_path / "r")]
    kinds = {record["kind"]: record for record in records if record["row"]["prior"] == "gaussian"}
    assert kinds["dies"]["status"] == "crashed"
    assert kinds["fd"]["status"] == "ok"


HANGS = """
import time
from priors.api import LatentPrior, hookimpl

class Hangs(LatentPrior):
    name = "hangs"
    def fit(self, posterior, generator, progress):
        time.sleep(10_000)
    def sample(self, n, generator): ...

@hookimpl
def register_priors():
    return [Hangs]
"""


@pytest.mark.ray
def test_a_task_that_hangs_is_ended_on_its_machine(small_bundle, cluster, tmp_path, cli):
    (tmp_path / "hangs.py").write_text(HANGS)
    words = ["run", "--bundle", small_bundle, "--priors", "hangs", "--plugin", tmp_path / "hangs.py", "--seeds", 1]
    words += ["--device", "cpu", "--metrics", "fd", "--job-timeout", 30, "--results", tmp_path / "r"]
    done = cli(*words, "--executor", "ray", "--address", cluster.address)
    assert done.code == 1, done.err
    assert "hangs seed 0: FAILED fit timed out: no end after 30s" in done.err


@pytest.mark.ray
def test_a_cluster_without_room_for_a_task_is_one_line(small_bundle, cluster, tmp_path, cli):
    words = ["run", "--bundle", small_bundle, *RUN, "--results", tmp_path / "r"]
    wide = cli(*words, "--executor", "ray[num_cpus=5]", "--address", cluster.address)
    assert wide.code == 2
    assert "a task claims 5 CPU, and the Ray cluster at" in wide.err


@pytest.mark.ray
def test_an_address_at_which_nobody_listens_is_one_line_at_once(small_bundle, tmp_path, cli):
    pytest.importorskip("ray")
    words = ["run", "--bundle", small_bundle, *RUN, "--results", tmp_path / "r"]
    done = cli(*words, "--executor", "ray", "--address", "127.0.0.1:1")
    assert done.code == 2
    assert "error: no Ray cluster answers at 127.0.0.1:1: " in done.err
