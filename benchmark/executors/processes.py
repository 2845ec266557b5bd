"""Processes on this machine, each at one task. One that dies, or takes too long, costs its task alone."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import wait
from typing import Any

import torch

from benchmark import progress
from benchmark.executors.api import Executor, Loss, Owner, Terms, hookimpl
from benchmark.jobs.task import Listener, Outcome, Task, execute
from benchmark.processes.child import Answer, Child, Died, Raised, Told, tell
from benchmark.progress import format_seconds

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass
class _Worker:
    """A process, the GPU that it sees, and the number of its task while it has one.

    `limit`: the seconds that the task's fit, or a measurement, may take since it `started`.
    """

    child: Child
    gpu: str | None
    task: int | None = None
    limit: float | None = None
    started: float = field(default_factory=time.monotonic)


class Processes(Executor):
    name = "processes"

    def __init__(self, owner: Owner, terms: Terms) -> None:
        super().__init__(owner, terms)
        self._workers: list[_Worker] = []
        self._gpus = _find_gpus() if terms.device.type == "cuda" else []

    @property
    def capacity(self) -> int:
        if not self._gpus:
            return self.terms.workers
        return min(self.terms.workers, len(self._gpus) * self.terms.per_gpu)

    def submit(self, number: int, task: Task) -> None:
        worker = next((worker for worker in self._workers if worker.task is None), None) or self._hire()
        worker.task, worker.started = number, time.monotonic()
        worker.limit = self.terms.limit if task.limit is None else task.limit
        worker.child.start(_work, task)

    def wait(self) -> None:
        busy = [worker for worker in self._workers if worker.task is not None]
        owned = {id(each): worker for worker in busy for each in worker.child.waited_for}
        ready = wait([each for worker in busy for each in worker.child.waited_for], self._until_the_first_limit(busy))
        for worker in {id(owned[id(each)]): owned[id(each)] for each in ready}.values():
            self._listen(worker)
        for worker in busy:
            limit = worker.limit
            if limit is not None and worker.task is not None and time.monotonic() - worker.started >= limit:
                self._lose(worker, Loss("timed out", f"no end after {format_seconds(limit)}"))

    def close(self) -> None:
        for worker in self._workers:
            worker.child.close()
        self._workers.clear()

    def _hire(self) -> _Worker:
        gpu = None
        if self._gpus:  # the one that the fewest have
            taken = [worker.gpu for worker in self._workers]
            gpu = min(self._gpus, key=taken.count)
        worker = _Worker(Child(environment={} if gpu is None else {VISIBLE: gpu}), gpu)
        self._workers.append(worker)
        return worker

    def _until_the_first_limit(self, busy: list[_Worker]) -> float | None:
        ends = [worker.started + worker.limit for worker in busy if worker.limit is not None]
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def _listen(self, worker: _Worker) -> None:
        assert worker.task is not None
        try:
            message = worker.child.receive()
        except Died as death:
            self._lose(worker, Loss("crashed", str(death), death.output))
        except Raised as error:
            lines = str(error).splitlines()
            self._lose(worker, Loss("crashed", lines[-1], lines))
        else:
            if isinstance(message, Told):
                if message.kind == "began":  # a measurement is not to end for what the fit took
                    worker.started = time.monotonic()
                self._pass_on(worker.task, message)
            else:
                number, worker.task = worker.task, None
                self.owner.done(number, Outcome(**message.value))

    def _pass_on(self, number: int, message: Told) -> None:
        if message.kind == "said":
            self.owner.said(message.value)
        elif message.kind == "began":
            self.owner.began(number, message.value)
        else:
            self.owner.made(number, *message.value)

    def _lose(self, worker: _Worker, loss: Loss) -> None:
        worker.child.close()
        self._workers.remove(worker)
        assert worker.task is not None
        number, worker.task = worker.task, None  # else `wait` loses it again where its limit is over by now
        self.owner.lost(number, loss)


def _find_gpus() -> list[str]:
    """As they are named to CUDA: those that this process may see, and no more."""
    visible = os.environ.get(VISIBLE)
    return visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]


# What follows runs in the worker.


class _Telling(Listener):
    def began(self, kind: str) -> None:
        tell("began", kind)

    def made(self, kind: str, content: dict[str, Any]) -> None:
        tell("made", [kind, content])


def _work(task: Task) -> Answer:
    progress.redirect(lambda line: tell("said", line))
    return asdict(execute(task, _Telling())), {}


@hookimpl
def register_executors() -> list[type[Executor]]:
    return [Processes]
