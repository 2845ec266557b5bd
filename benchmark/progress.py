"""What a user sees while work is done: a bar with ETA on a terminal, plain lines now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False, soft_wrap=True)

#: called as `progress(step, total, name=value, ...)`
Progress = Callable[..., None]

#: seconds between two lines of one task in a log
LOG_INTERVAL = 20.0


_redirected: Callable[[str], None] | None = None


def redirect(show: Callable[[str], None]) -> None:
    """From now on, lines of this process are shown by somebody else, and there are no bars."""
    global _redirected
    _redirected = show


def say(line: str) -> None:
    """One line for the user, above any bar. Square brackets are shown as they are."""
    if _redirected is not None:
        _redirected(line)
    else:
        console.print(line, markup=False)


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
    start = time.monotonic()
    if console.is_terminal and _redirected is None:
        columns = [
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[facts]}", markup=False),
        ]
        with rich.progress.Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(what, total=None, facts="")

            def show(step: int, total: int, **values: float) -> None:
                bar.update(task, completed=step, total=total, facts=_format_facts(values))

            yield show
        return

    last, first = start, None

    def log(step: int, total: int, **values: float) -> None:
        nonlocal last, first
        now = time.monotonic()
        first = step if first is None else first  # above 0 where a run is resumed
        if now - last >= LOG_INTERVAL:
            last = now
            remaining = (now - start) / max(step - first, 1) * (total - step)
            say(f"{what}: {step}/{total}, {format_seconds(remaining)} left  {_format_facts(values)}".rstrip())

    yield log
