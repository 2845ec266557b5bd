"""Whose failure it is: the row's, which is recorded, or the machine's, which is told and tried by the next run."""

from __future__ import annotations

import traceback
from pathlib import Path

import torch

from benchmark.errors import NO_SPACE
from benchmark.processes.child import Died
from priors.api import Diverged

#: machine faults (out of memory): reported, never recorded, retried by the next run
_FAULTS = (MemoryError, torch.OutOfMemoryError, getattr(torch, "AcceleratorError", torch.OutOfMemoryError))


class Failed(Exception):
    """A job that cannot go on; the reason is recorded already, where it is the row's."""


class Reported(Exception):
    """An error of foreign code, in the words of the process that it happened in. `fault`: it was the machine's."""

    def __init__(self, said: str, fault: bool) -> None:
        super().__init__(said)
        self.fault = fault


def is_machine_fault(error: BaseException) -> bool:
    """Whether an error is a fault of the machine (out of memory, disk full), so that it is not recorded."""
    if isinstance(error, Reported):
        return error.fault
    full = isinstance(error, OSError) and error.errno in NO_SPACE
    # the CPU's allocator raises a plain RuntimeError
    return full or isinstance(error, _FAULTS) or "DefaultCPUAllocator" in str(error)


def describe_error(error: BaseException) -> str:
    """The error in one line; for one that nobody raised on purpose, with the place in the code."""
    if isinstance(error, Died):
        words = f"; its last words: {error.output[-1]}" if error.output else ""
        return f"{error}{words}"
    if isinstance(error, (Diverged, Reported)):
        return _in_one_line(str(error))
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return _in_one_line(f"{type(error).__name__}: {error}") + where


def _in_one_line(text: str) -> str:
    return " ".join(text.split()).encode(errors="backslashreplace").decode()
