"""What Ray and Slurm cost over the processes of one machine, a job: `python tests/speed/engines.py [ENGINE ...]`.

The same small jobs of two workers, each engine with caches and results of its own. `begin`: seconds until the first
job is done; `a job`: the median of what jobs take, as the run says it, without each worker's first; `all`: the whole
command, for Slurm from sbatch to the end of the array. Say what else the machine was doing.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from slurm_cluster import Cluster, wait_for  # noqa: E402

RUN = ["run", "--dataset", "digits", "--priors", "gaussian,fitted_gaussian", "--seeds", "6", "--metrics", "fd"]
RUN += ["--device", "cpu"]


def on_this_machine(folder, environment, *executor):
    """Begin and all, in seconds, and what the run said."""
    words = [*RUN, "--workers", "2", "--results", str(folder / "r"), *executor]
    start = time.monotonic()
    with open(folder / "log", "w") as log:
        called = [sys.executable, "-m", "benchmark", *words]
        run = subprocess.Popen(called, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=log)
        wait_for(lambda: "measured" in (folder / "log").read_text(), "the first job", 300)
        begin = time.monotonic() - start
        assert run.wait() == 0, (folder / "log").read_text()
    return begin, time.monotonic() - start, [(folder / "log").read_text()]


def on_slurm(folder, environment):
    (folder / "slurm.toml").write_text('workers = 2\ntime = "30"\n')
    with Cluster(folder / "slurm", nodes=1, cpus=2) as cluster:
        words = ["submit", "--slurm", str(folder / "slurm.toml"), "--", *RUN, "--results", str(folder / "r")]
        cluster.environment |= {name: environment[name] for name in ("LATENT_PRIOR_CACHE", "PYTHONPATH")}
        environment = cluster.environment
        called = [sys.executable, "-m", "benchmark", *words]
        subprocess.run(called, env=environment, cwd=ROOT, check=True, capture_output=True)
        start = time.monotonic()
        cluster.call("sbatch", str(folder / "r" / "slurm" / "submit.sh"))
        logs = folder / "r" / "slurm"
        wait_for(lambda: any("measured" in log.read_text() for log in logs.glob("*.log")), "the first job", 300)
        begin = time.monotonic() - start
        wait_for(lambda: {state for state, _ in cluster.states().values()} == {"COMPLETED"}, "the end", 300)
        return begin, time.monotonic() - start, [log.read_text() for log in sorted(logs.glob("*.log"))]


ENGINES = {
    "processes": lambda *given: on_this_machine(*given),
    "ray": lambda *given: on_this_machine(*given, "--executor", "ray"),
    "slurm": on_slurm,
}


def main(asked):
    """Print a line an engine."""
    for name in asked or ENGINES:
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, "LATENT_PRIOR_CACHE": f"{folder}/cache", "PYTHONPATH": str(ROOT)}
            load = os.getloadavg()[0]
            begin, whole, said = ENGINES[name](Path(folder), environment)
        jobs = [[float(each) for each in re.findall(r"measured fd, ([\d.]+) s", log)] for log in said]
        first = 1 if name == "slurm" else 2
        later = [seconds for log in jobs for seconds in log[first:]]
        count = sum(map(len, jobs))
        print(
            f"{name:10} begin {begin:5.1f} s, a job {statistics.median(later):5.2f} s, all {whole:5.1f} s"
            f" for {count} jobs; load {load:.1f} before, {os.cpu_count()} cores",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
