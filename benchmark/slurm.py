"""A Slurm array of identical workers that share the jobs of a run: its script, from a TOML file and the run's words.

Nothing hands out jobs: each worker takes what nobody else is at (`benchmark/store/held.py`), so that one that fails, or
comes late, or is lost, costs the others nothing. A worker that runs out of time asks to be queued again.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from benchmark.errors import UsageError
from benchmark.machine.stopping import MARGIN, WARNING
from benchmark.settings import construct, read_toml

#: seconds that a worker is to have at least: Slurm may warn a minute early, and Python takes some to begin
SHORTEST = MARGIN + 120
#: minutes, minutes:seconds, hours:minutes:seconds, days-hours and so on, as Slurm has them
_TIME = re.compile(r"(?:(?P<days>\d+)-(?P<h>\d+)(?::(?P<m>\d+))?(?::(?P<s>\d+))?|(?P<rest>\d+(?::\d+){0,2}))")

#: -G1, --gpus=h100:2, --gpus-per-node=1, --gres=gpu:1, and none of them with 0
_GPUS = re.compile(r"(?:-G ?|--gpus(?:-per-\w+)?[= ]|--gres[= ](?:.*,)?gpu\b)(?!\s*(?:.*[:=])?0\s*$)")


class Slurm(BaseModel):
    """What is asked of Slurm for each worker, by the names that a TOML file has.

    `workers`: how many. `time`: the limit of each, as `sbatch --time` takes it. `cpus`, `gpus`: how many each has.
    `memory`: as `--mem`. `options`: further ones of sbatch, as they are typed, `--account=vision`. `setup`: lines of a
    shell that come before the run.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    workers: int = Field(ge=1, le=1000)
    time: str
    partition: str | None = Field(None, pattern=r"^[\w.,-]+$")
    cpus: int = Field(1, ge=1)
    gpus: int = Field(0, ge=0)
    memory: str | None = Field(None, pattern=r"^\d+[KMGT]?$")
    options: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()

    @property
    def has_gpu(self) -> bool:
        """Whether a worker has a GPU, by `gpus` or by an option of sbatch's own."""
        return self.gpus > 0 or any(_GPUS.match(option) for option in self.options)

    @field_validator("time")
    @classmethod
    def _long_enough(cls, given: str) -> str:
        seconds = _seconds_of(given)
        if seconds is None:
            raise ValueError("expected a time as sbatch takes it, e.g. 4:00:00 or 2-12 (two days and twelve hours)")
        if seconds < SHORTEST:
            raise ValueError(f"expected {SHORTEST // 60} minutes at least, {MARGIN // 60} of which are for stopping")
        return given

    @field_validator("options")
    @classmethod
    def _require_options(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for each in given:
            if not re.fullmatch(r"--?\w.*", each):  # one line, for it is one in the script
                raise ValueError(f"expected options of sbatch such as --account=vision, got {each!r}")
        return given


def _seconds_of(time: str) -> int | None:
    found = _TIME.fullmatch(time)
    if found is None:
        return None
    if found["rest"] is None:
        return 86_400 * int(found["days"]) + sum(
            size * int(found[part] or 0) for part, size in (("h", 3600), ("m", 60), ("s", 1))
        )
    parts = [int(part) for part in found["rest"].split(":")]
    if len(parts) == 1:  # a single number is minutes
        return 60 * parts[0]
    return sum(size * part for size, part in zip((1, 60, 3600), reversed(parts)))


def read_slurm(file: Path) -> Slurm:
    """What a TOML file asks of Slurm. Raises `UsageError`."""
    return construct(Slurm, read_toml(file, f"--slurm {file}"), str(file))


def script_of(slurm: Slurm, words: list[str], logs: Path, folder: Path) -> str:
    """The script of an array: `words` of the command that each worker is, in `folder`; what they say goes to `logs`."""
    asked = {
        "job-name": "latent-priors",
        "array": f"0-{slurm.workers - 1}",
        "partition": slurm.partition,
        "time": slurm.time,
        "cpus-per-task": slurm.cpus,
        "gres": f"gpu:{slurm.gpus}" if slurm.gpus else None,
        "mem": slurm.memory,
        "chdir": folder,
        "output": logs / "%A_%a.log",
        "open-mode": "append",  # a worker that is started again goes on with its log
        "signal": f"B:{WARNING.name.removeprefix('SIG')}@{MARGIN}",
    }
    options = [f"--{name}={shlex.quote(str(value))}" for name, value in asked.items() if value is not None]
    lines = ["#!/usr/bin/env bash", *(f"#SBATCH {option}" for option in [*options, "--requeue", *slurm.options])]
    lines += ["set -euo pipefail", *slurm.setup]
    if slurm.cpus > 1:
        lines.append('export OMP_NUM_THREADS="$SLURM_CPUS_PER_TASK"')
    # in the shell's place, so that what Slurm sends to the script reaches the worker
    lines.append(f"exec {shlex.join([sys.executable, '-m', 'benchmark', *words])}")
    return "\n".join(lines) + "\n"


def send(script: Path) -> str:
    """Hand a script to Slurm; the number of its array. Raises `UsageError`."""
    try:
        done = subprocess.run(["sbatch", "--parsable", str(script)], capture_output=True, text=True)
    except FileNotFoundError:
        raise UsageError(f"there is no sbatch here: where Slurm is, type: sbatch {shlex.quote(str(script))}") from None
    if done.returncode:
        raise UsageError(f"sbatch refused {script}: {' '.join(done.stderr.split())}")
    return done.stdout.strip().partition(";")[0]  # behind which a federation's cluster stands
