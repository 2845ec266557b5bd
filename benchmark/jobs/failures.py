"""Whose failure it is: the row's, which is recorded, or the machine's, which is told and tried by the next run.

The row's is what the code of its prior, or of its metric, raised, and what it broke of its contract. All else is the
machine's: files, processes and networks fail in ways that nobody can list. So it counts where an error came from, and
not which it is: code of a prior or a metric is called through `call_theirs`, and an error belongs to the innermost of
those calls, unless that asked the suite for something (`SERVICES`) and the error came out of that.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

from benchmark.errors import NO_SPACE, words_of
from benchmark.processes.child import LONGEST, Died
from benchmark.text import one_line
from priors.api import Diverged

P = ParamSpec("P")
R = TypeVar("R")

#: parts of the suite that read, write, decode and look at images in the name of whoever calls them
SERVICES = ("benchmark.store", "benchmark.bundles", "benchmark.extractors", "benchmark.datasets", "benchmark.processes")
#: the machine's, whoever's code met them (out of memory)
_FAULTS = (MemoryError, torch.OutOfMemoryError, getattr(torch, "AcceleratorError", torch.OutOfMemoryError))
#: plain RuntimeErrors of a shortage: the CPU's allocator; a GPU's library that gets no memory, or not even its handle
_SHORTAGES = re.compile(r"DefaultCPUAllocator|_STATUS_ALLOC_FAILED|_STATUS_NOT_INITIALIZED|calling `\w+Create\(")


class Failed(Exception):
    """A job that cannot go on; the reason is recorded already, where it is the row's."""


class Broken(Exception):
    """A prior or a metric did not return what it owes; the message says what it did."""


class Reported(Exception):
    """An error of foreign code, in the words of the process that it happened in. `fault`: it was the machine's."""

    def __init__(self, said: str, fault: bool) -> None:
        super().__init__(said)
        self.fault = fault


def call_theirs(function: Callable[P, R], *given: P.args, **named: P.kwargs) -> R:
    """Call code of a prior or a metric: what it raises is the row's."""
    return function(*given, **named)


@contextmanager
def told_of(what: str) -> Iterator[None]:
    """Whatever is raised here becomes `Failed`: the machine's, told and not recorded."""
    try:
        yield
    except Failed:
        raise
    except Exception as error:
        raise Failed(f"{what}: {describe_error(error)}; not recorded, so the next run tries again") from error


def is_machine_fault(error: BaseException) -> bool:
    """Whether an error is the machine's, so that it is not recorded."""
    if isinstance(error, Reported):
        return error.fault
    if isinstance(error, (Broken, Diverged)):
        return False
    return is_shortage(error) or not _is_theirs(error)


def is_shortage(error: BaseException) -> bool:
    """Whether memory, or the room on a disk, was not enough."""
    full = isinstance(error, OSError) and error.errno in NO_SPACE
    return full or isinstance(error, _FAULTS) or _SHORTAGES.search(words_of(error)) is not None


def _is_theirs(error: BaseException) -> bool:
    """Whether an error came out of a call of a prior's or a metric's code, and of nothing that this asked the suite."""
    theirs = False
    for frame, _ in traceback.walk_tb(error.__traceback__):
        name = frame.f_globals.get("__name__", "")
        if frame.f_code is call_theirs.__code__:
            theirs = True
        elif any(name == service or name.startswith(f"{service}.") for service in SERVICES):
            theirs = False
    return theirs


def describe_error(error: BaseException) -> str:
    """The error in one line; for one that nobody raised on purpose, with the place in the code."""
    if isinstance(error, Died):
        words = f"; its last words: {error.output[-1]}" if error.output else ""
        return f"{error}{words}"
    said = words_of(error)
    if isinstance(error, (Broken, Diverged, Reported)):
        return in_one_line(said)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return in_one_line(f"{type(error).__name__}: {said}") + where


def in_one_line(text: str) -> str:
    """Words of strangers as a record and a terminal can have them: one line, of printable characters, not too long."""
    return one_line(text, LONGEST)
