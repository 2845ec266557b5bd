"""What becomes of a command that is to stop while it shares its work with other machines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from benchmark.machine import slurm
from benchmark.machine.stopping import Stopped, stoppable
from benchmark.progress import say

#: exit code of a worker that was stopped with work left: EX_TEMPFAIL, try again later
STOPPED = 75


@contextmanager
def giving_back(shared: bool) -> Iterator[None]:
    """Meanwhile a worker that is to stop ends with `STOPPED`, once what it held is free, and asks Slurm to go on later.

    `shared`: whether the command is such a worker; else nothing is done.
    """
    if not shared:
        yield
        return
    try:
        with stoppable(slurm.end_of_job()):
            yield
    except Stopped as stop:
        say(f"stopped, since {stop}: what was under way is given back, and the same command goes on from here")
        if stop.warned:  # else somebody cancelled it, or Slurm itself queues it again
            why_not = slurm.requeue()
            say(f"not queued again: {why_not}" if why_not else "queued again")
        raise typer.Exit(STOPPED) from None
