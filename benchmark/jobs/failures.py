"""Whose failure it is: the row's, which is recorded, or the machine's, which is told and tried by the next run."""

from __future__ import annotations

import traceback
from pathlib import Path

import torch

from benchmark.errors import NO_SPACE
from benchmark.processes.child import LONGEST, Died
from benchmark.text import printable
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
    return full or isinstance(error, _FAULTS) or "DefaultCPUAllocator" in _words_of(error)


def describe_error(error: BaseException) -> str:
    """The error in one line; for one that nobody raised on purpose, with the place in the code."""
    if isinstance(error, Died):
        words = f"; its last words: {error.output[-1]}" if error.output else ""
        return f"{error}{words}"
    said = _words_of(error)
    if isinstance(error, (Diverged, Reported)):
        return in_one_line(said)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return in_one_line(f"{type(error).__name__}: {said}") + where


def _words_of(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # of a stranger's class
        return "(its message cannot be read)"


def in_one_line(text: str) -> str:
    """Words of strangers as a record and a terminal can have them: one line, of printable characters, not too long."""
    words = " ".join(text[: 2 * LONGEST].split())
    shown = printable(words[:LONGEST])
    return shown if len(words) <= LONGEST and len(text) <= 2 * LONGEST else f"{shown} ... ({len(text):,} characters)"
