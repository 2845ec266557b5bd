"""A Ray cluster: each task on a machine that has room for it. Nothing is shared but an environment with this suite.

Bundles, plugins' files and fits travel through Ray's object store, a bundle once to each machine; fits come back into
the cache here. A task that a lost machine had is begun again on another. Each runs in a process below Ray's, as with
`processes`, so that what ends it is told of that task and ends none of Ray's. Timings are this machine's, and are taken
here.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from benchmark.errors import UsageError
from benchmark.executors.api import Executor, Loss, Owner, Terms, hookimpl
from benchmark.executors.processes import Processes
from benchmark.jobs.fit import fit_files, keep_fit_files
from benchmark.jobs.parcels import Parcel, Sent, is_unpacked, parcel_of_plugins, parcel_of_run, plugins_of, unpack
from benchmark.jobs.task import Outcome, Task

#: machines that one task may lose before it is held to be the task's own doing
MOST_LOST = 3
#: seconds in which a cluster is to answer
PATIENCE = 10.0


@dataclass
class _Flight:
    """A task on its way: what it tells comes as a stream. `told`: kinds that were handed in, also by a lost machine."""

    number: int
    task: Task
    stream: Any = None
    lost: int = 0
    told: set[str] = field(default_factory=set)


class Ray(Executor):
    name = "ray"

    class Config(BaseModel):
        """`address`: of a cluster to join (also: $RAY_ADDRESS); else one is started here and ends with the run.

        `num_cpus`, `num_gpus`: what a task claims of a machine, fractions too; None: a share of a GPU on CUDA, as
        --per-gpu says, and else none.
        """

        model_config = ConfigDict(extra="forbid")

        address: str | None = None
        num_cpus: float = Field(1.0, ge=0, allow_inf_nan=False)
        num_gpus: float | None = Field(None, ge=0, allow_inf_nan=False)

    def __init__(self, owner: Owner, terms: Terms) -> None:
        super().__init__(owner, terms)
        config = terms.settings or self.Config()
        gpus = config.num_gpus
        if gpus is None:
            gpus = 1 / terms.per_gpu if terms.device.type == "cuda" else 0.0
        self._claims = {"CPU": config.num_cpus, "GPU": gpus}
        self._ray = _import_ray()
        self._started = not self._ray.is_initialized()
        if self._started:
            self._connect(config.address)
        self._local = Processes(owner, replace(terms, workers=1))
        self._flights: dict[int, _Flight] = {}
        self._stored: dict[Any, tuple[str, list[Any]]] = {}
        options = {"num_cpus": config.num_cpus, "num_gpus": gpus, "max_retries": 0, "num_returns": "streaming"}
        self._do = self._ray.remote(_do).options(**options)
        machines = sum(node["Alive"] for node in self._ray.nodes())
        owner.said(f"Ray: {machines} machines, {self.capacity} tasks at once")

    @property
    def capacity(self) -> int:
        have = self._ray.cluster_resources()  # which grows and shrinks
        return max(
            1, min((int(have.get(kind, 0) / each + 1e-9) for kind, each in self._claims.items() if each), default=1)
        )

    def submit(self, number: int, task: Task) -> None:
        if any(metric.machine_bound for metric in task.work.metrics if metric.name in task.metrics):
            self._local.submit(number, task)
            return
        self._flights[number] = flight = _Flight(number, task)
        self._send(flight)

    def wait(self) -> None:
        if not self._flights:
            self._local.wait()
            return
        of_stream = {flight.stream: flight for flight in self._flights.values()}
        ready, _ = self._ray.wait(list(of_stream), fetch_local=False)
        for stream in ready:
            self._listen(of_stream[stream])

    def close(self) -> None:
        for flight in self._flights.values():
            with contextlib.suppress(Exception):  # Ray's words of a task that is through, or of a cluster that is gone
                self._ray.cancel(flight.stream, force=True)
        self._flights.clear()
        self._local.close()
        if self._started:
            self._ray.shutdown()

    def _connect(self, address: str | None) -> None:
        """Join a cluster, or start one of this machine. Raises `UsageError`."""
        address = address or os.environ.get("RAY_ADDRESS") or "local"
        _require_listener(address)
        quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
        of_own = {"num_cpus": max(1, math.ceil(self.terms.workers * self._claims["CPU"])), "include_dashboard": False}
        try:
            self._ray.init(address=address, **quiet, **(of_own if address == "local" else {}))
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            raise UsageError(f"no Ray cluster answers at {address}: {' '.join(str(error).split())[:300]}") from error
        have = self._ray.cluster_resources()
        for kind, each in self._claims.items():
            if have.get(kind, 0) < each:
                self._ray.shutdown()
                raise UsageError(
                    f"a task claims {each:g} {kind}, and the Ray cluster at {address} has {have.get(kind, 0):g} in all"
                )

    def _send(self, flight: _Flight) -> None:
        task = flight.task if flight.task.limit else replace(flight.task, limit=self.terms.limit)
        plugins = plugins_of(task)
        parcels = [
            self._store(id(task.work), lambda: parcel_of_run(task.work)),
            self._store(plugins, lambda: parcel_of_plugins(plugins)),
        ]
        known = fit_files(task.job)
        kept = [] if known is None else [self._ray.put(known)]
        flight.stream = self._do.remote(Sent.of(task), parcels, kept, sys.argv)

    def _store(self, of: Any, make: Callable[[], Parcel]) -> tuple[str, list[Any]]:
        """What a parcel is called, and where it is in the object store: in a list, and so sent to who asks alone."""
        if of not in self._stored:
            parcel = make()
            self._stored[of] = parcel.key, [self._ray.put(parcel.read())]
        return self._stored[of]

    def _listen(self, flight: _Flight) -> None:
        """Take the next of what a task tells, and pass it on."""
        errors = self._ray.exceptions
        try:
            kind, value = self._ray.get(next(flight.stream))
        except errors.RayTaskError as error:
            said = str(error).strip().splitlines()
            self._end(flight, Loss("crashed", said[-1], said))
        except errors.OutOfMemoryError:
            self._end(flight, Loss("crashed", "Ray ended its process, since the machine's memory ran out"))
        except (errors.RayError, StopIteration) as error:
            self._begin_again(flight, type(error).__name__)
        else:
            self._pass_on(flight, kind, value)

    def _pass_on(self, flight: _Flight, kind: str, value: Any) -> None:
        if kind == "said":
            self.owner.said(value)
        elif kind == "began":
            self.owner.began(flight.number, value)
        elif kind == "made":
            if value[0] not in flight.told:
                flight.told.add(value[0])
                self.owner.made(flight.number, *value)
        elif kind == "fitted":
            keep_fit_files(flight.task.job, value)
        elif kind == "done":
            del self._flights[flight.number]
            self.owner.done(flight.number, Outcome(**value))
        else:
            self._end(flight, Loss(**value))

    def _begin_again(self, flight: _Flight, why: str) -> None:
        flight.lost += 1
        row, seed = flight.task.job.row, flight.task.job.seed
        if flight.lost == MOST_LOST:
            self._end(flight, Loss("crashed", f"the machine that had it was lost ({why}), {MOST_LOST} times"))
            return
        self.owner.said(f"{row.label} seed {seed}: its machine was lost ({why}); it begins again on another")
        self._send(flight)

    def _end(self, flight: _Flight, loss: Loss) -> None:
        del self._flights[flight.number]
        self.owner.lost(flight.number, loss)


def _require_listener(address: str) -> None:
    """Raise `UsageError` where nobody listens at a host and port: Ray itself would try for many minutes."""
    found = re.fullmatch(r"(?:ray://)?(?P<host>.+):(?P<port>\d+)", address)
    if found:
        try:
            socket.create_connection((found["host"], int(found["port"])), timeout=PATIENCE).close()
        except (OSError, OverflowError) as error:
            raise UsageError(f"no Ray cluster answers at {address}: {error}") from error


def _import_ray() -> Any:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else each start says so, in ten lines
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise UsageError(f"--executor ray: it is not installed ({error}): pip install '.[ray]'") from error
    return ray


# What follows runs on the machine that has the task, in a process of Ray's.


class _Heard:
    """An owner that keeps what it is told until it is passed on."""

    def __init__(self) -> None:
        self.messages: deque[tuple[str, Any]] = deque()

    def began(self, number: int, kind: str) -> None:
        self.messages.append(("began", kind))

    def made(self, number: int, kind: str, content: dict[str, Any]) -> None:
        self.messages.append(("made", (kind, content)))

    def said(self, line: str) -> None:
        self.messages.append(("said", line))

    def done(self, number: int, outcome: Outcome) -> None:
        self.messages.append(("done", asdict(outcome)))

    def lost(self, number: int, loss: Loss) -> None:
        self.messages.append(("lost", asdict(loss)))


@functools.cache
def _below_ray(device: str) -> Processes:
    """One process below this one, which is kept for the next task that Ray gives to it."""
    return Processes(_Heard(), Terms(1, torch.device(device)))


def _do(
    sent: Sent, parcels: list[tuple[str, list[Any]]], kept: list[Any], words: list[str]
) -> Iterator[tuple[str, Any]]:
    """Do a task, and yield what it tells."""
    ray = _import_ray()
    sys.argv[:] = words  # of the run, for records to name
    for key, (stored,) in parcels:
        if not is_unpacked(key):
            unpack(key, ray.get(stored))
    task = sent.task(*(key for key, _ in parcels))
    if kept and fit_files(task.job) is None:
        keep_fit_files(task.job, ray.get(kept[0]))
    executor = _below_ray(task.job.device_type)
    executor.owner = heard = _Heard()
    executor.submit(0, task)
    while True:
        while heard.messages:
            kind, value = heard.messages.popleft()
            if kind in ("done", "lost"):
                if not kept and (fitted := fit_files(task.job)):
                    yield "fitted", fitted
                yield kind, value
                return
            yield kind, value
        executor.wait()


@hookimpl
def register_executors() -> list[type[Executor]]:
    return [Ray]
