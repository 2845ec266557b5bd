"""What an executor is: it takes tasks, has each done somewhere, and says what becomes of it.

An executor file defines an `Executor` and returns it from a hook:

    @hookimpl
    def register_executors():
        return [MyExecutor]
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import pluggy
import torch
from pydantic import BaseModel, ConfigDict

hookimpl = pluggy.HookimplMarker("latent_prior_benchmark")


class Owner(Protocol):
    """Whoever submits tasks, each under a number of its own; called in the thread that called the executor."""

    def began(self, number: int, kind: str) -> None:
        """The task's fit, or its metric of that name, is being worked at."""

    def made(self, number: int, kind: str, content: dict[str, Any]) -> None:
        """The content of a record is there: keep it, for the task may be lost later."""

    def said(self, line: str) -> None:
        """A line for the user."""

    def done(self, number: int, outcome: Any) -> None:
        """The task is through; nothing more comes of it. `outcome`: what `execute` returned."""

    def lost(self, number: int, loss: Loss) -> None:
        """The task ended before it was through, with the process or machine that it ran on."""


@dataclass(frozen=True)
class Loss:
    """`status`: `crashed`, or `timed out`. `reason`: one line. `output`: the last lines that were seen, if any were."""

    status: str
    reason: str
    output: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Terms:
    """What a run asks of an executor.

    `workers`: how many tasks are worked at once. `device`: where; with `per_gpu` of the workers on each GPU. `limit`:
    seconds that a task's fit, or a measurement, may take before it is ended and lost, None for no such limit.
    `settings`: the executor's own, as its `Config` has them; None for the defaults.
    """

    workers: int
    device: torch.device
    per_gpu: int = 1
    limit: float | None = None
    settings: Any = None


class NoConfig(BaseModel):
    """Of an executor that has no settings."""

    model_config = ConfigDict(extra="forbid")


class Executor(ABC):
    """Has each task done with `benchmark.jobs.task.execute`, in any order. A context, left when the run ends or stops.

    `Config`: its settings, typed as `--executor 'NAME[setting=value]'`. `in_this_process`: what ends a task's process
    ends the run, which notes beforehand what it was at.

    A task can be pickled, and is idempotent: an executor may do it again where it lost it. It is `lost` at most once.
    """

    name: ClassVar[str]
    Config: ClassVar[type[BaseModel]] = NoConfig
    in_this_process: ClassVar[bool] = False

    def __init__(self, owner: Owner, terms: Terms) -> None:
        self.owner, self.terms = owner, terms

    @property
    def capacity(self) -> int:
        """How many tasks are worth submitting at once."""
        return self.terms.workers

    @abstractmethod
    def submit(self, number: int, task: Any) -> None:
        """Have a task done; may wait for its end. What becomes of it is told to the owner, here or by `wait`."""

    @abstractmethod
    def wait(self) -> None:
        """Wait until there is something to tell of what was submitted, and tell it."""

    @abstractmethod
    def close(self) -> None:
        """End whatever is running, at once; nothing is told any more."""

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
