"""What Slurm says of this process, where it is one of Slurm's, and the one thing that is asked of Slurm in return."""

from __future__ import annotations

import os
import subprocess


def name_of_job() -> str | None:
    """As `squeue` shows it, `17_3` of an array; None where Slurm did not start this process."""
    array, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    # an array's first task has the number of the whole array as its own: requeued by that, all of them would be
    return f"{array}_{index}" if array and index else os.environ.get("SLURM_JOB_ID")


def end_of_job() -> float | None:
    """When the job's time is over, in seconds since 1970; None where that is not known."""
    said = os.environ.get("SLURM_JOB_END_TIME", "")
    return float(said) if said.isdecimal() else None


def requeue() -> str | None:
    """Have this job started again later, which ends it soon; why that is not done, where it is not."""
    name = name_of_job()
    if name is None:
        return "Slurm did not start this process"
    try:
        done = subprocess.run(["scontrol", "requeue", name], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"scontrol: {error}"
    return " ".join(done.stderr.split()) or "scontrol refused" if done.returncode else None
