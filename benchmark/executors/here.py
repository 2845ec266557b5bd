"""The process of the run itself: one task after the other. A debugger stops where one expects it to."""

from __future__ import annotations

from typing import Any

from benchmark.executors.api import Executor, hookimpl
from benchmark.jobs.task import Listener, Task, execute


class Here(Executor):
    name = "here"
    in_this_process = True

    @property
    def capacity(self) -> int:
        return 1

    def submit(self, number: int, task: Task) -> None:
        owner = self.owner

        class Forwarded(Listener):
            def began(self, kind: str) -> None:
                owner.began(number, kind)

            def made(self, kind: str, content: dict[str, Any]) -> None:
                owner.made(number, kind, content)

        owner.done(number, execute(task, Forwarded()))

    def wait(self) -> None:
        """Everything was told when it was submitted."""

    def close(self) -> None:
        """Nothing runs between two calls."""


@hookimpl
def register_executors() -> list[type[Executor]]:
    return [Here]
