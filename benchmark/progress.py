"""What a user sees while work is done: a bar with ETA on a terminal, plain lines now and then in a log."""

from __future__ import annotations

import io
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from benchmark.text import printable


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Go on: that nobody listens is no reason to stop work."""
        _give_up(sys.stderr)


console = _Console(stderr=True, highlight=False, soft_wrap=True)

#: called as `progress(step, total, name=value, ...)`
Progress = Callable[..., None]

#: seconds between two lines of one task in a log
LOG_INTERVAL = 20.0


#: characters of a line that are shown
LONGEST = 5_000


_redirected: Callable[[str], None] | None = None


def redirect(show: Callable[[str], None] | None) -> None:
    """From now on, lines of this process are shown by somebody else, and there are no bars; None ends that."""
    global _redirected
    _redirected = show


def prepare_streams() -> None:
    """Whatever the terminal's encoding is, what it does not have is shown by its code: no word is a reason to fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(line: str) -> None:
    """One line for the user, above any bar. Brackets are shown as they are, what a terminal obeys by its code."""
    if _redirected is not None:
        _redirected(line)
    else:
        say_here(line)


def say_here(line: str) -> None:
    """`say` for whoever lines are redirected to: it ends on the terminal of this process."""
    try:
        console.print(_shown(line), markup=False)
    except OSError:  # of a disk that is full, say
        _give_up(sys.stderr)


def show(text: str) -> None:
    """What a command was asked for, on standard output, in lines; nothing where nobody reads any more."""
    try:
        print(_shown(text), flush=True)
    except BrokenPipeError:
        _give_up(sys.stdout)
    except OSError:
        _give_up(sys.stdout)  # or the end of the process would try again
        raise


def _shown(text: str) -> str:
    return "\n".join(
        printable(line[:LONGEST]) + (f" ... ({len(line):,} characters)" if len(line) > LONGEST else "")
        for line in text.split("\n")
    )


def _give_up(stream: TextIO) -> None:
    """Let a stream that nobody reads lead nowhere from now on."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def format_seconds(seconds: float) -> str:
    """Hours and minutes, minutes and seconds, or seconds: `1h05m`, `2m03s`, `7s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def _format_facts(values: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in values.items())


@contextmanager
def track(what: str) -> Iterator[Progress]:
    """Yields `progress(step, total, name=value, ...)`, shown as a bar or as lines with an ETA."""
    if console.is_terminal and _redirected is None:
        columns = [
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[facts]}", markup=False),
        ]
        with rich.progress.Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(printable(what), total=None, facts="")

            def show(step: int, total: int, **values: float) -> None:
                bar.update(task, completed=step, total=total, facts=_format_facts(values))

            yield show
        return

    last = time.monotonic()
    first: tuple[int, float] | None = None  # where a run is resumed, it is not told from which step

    def log(step: int, total: int, **values: float) -> None:
        nonlocal last, first
        now = time.monotonic()
        first = first or (step, now)
        if now - last >= LOG_INTERVAL:
            last = now
            done, seconds = step - first[0], now - first[1]
            left = f", {format_seconds(seconds / done * (total - step))} left" if done > 0 else ""
            say(f"{what}: {step}/{total}{left}  {_format_facts(values)}".rstrip())

    yield log


def parse_tracked(line: str) -> tuple[str, str]:
    """A line of `track` -> what it is about, and how far that is; ("", "") of any other line."""
    found = re.fullmatch(r"(.+): (\d+/\d+(, \S+ left)?)(  .*)?", line)
    return (found[1], found[2]) if found else ("", "")
