"""A run on a terminal, in place: of each row the steps that are done, running and failed, and what is left of the time.

Elsewhere nothing is shown in place: a log has a line for each step, a job's scores or its timings.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rich.live import Live
from rich.table import Table
from rich.text import Text

from benchmark.progress import console, format_seconds, parse_tracked, redirect, say_here
from benchmark.text import one_line

LONGEST = 60  # characters of a row's label and of what it is at


class LiveTable:
    """Told of each step's begin and end by its number; `steps`: how many each row has, by label, in order."""

    def __init__(self, steps: dict[str, int]) -> None:
        self._steps = steps
        self._done: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._running: dict[int, tuple[str, str]] = {}  # number -> row and what is tracked: row and seed
        self._doing: dict[str, str] = {}  # what is tracked -> how far it is
        self._started = time.monotonic()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show it on the terminal, where there is one; what is said meanwhile stands above it."""
        if not console.is_terminal:
            yield
            return
        with Live(get_renderable=self._as_table, console=console, transient=True, refresh_per_second=2):
            redirect(self.take)
            try:
                yield
            finally:
                redirect(None)

    def begin(self, number: int, label: str, seed: int) -> None:
        self._running[number] = label, f"{label} seed {seed}"

    def move(self, number: int, doing: str) -> None:
        """What a job is at: its fit, or a metric."""
        self._doing[self._running[number][1]] = doing

    def end(self, number: int, done: bool, failed: bool) -> None:
        """A job has nothing under way; `done`: nor will it have."""
        label, tracked = self._running.pop(number)
        self._doing.pop(tracked, None)
        self._done[label] += done
        self._failed[label] += done and failed

    def skip(self, label: str) -> None:
        """A job turned out to be done: another command was at it."""
        self._done[label] += 1

    def take(self, line: str) -> None:
        """A line that is said: how far a job is belongs into its row, all else above the table."""
        tracked, how_far = parse_tracked(line)
        if tracked in (what for _, what in self._running.values()):
            self._doing[tracked] = how_far
        else:
            say_here(line)

    def _as_table(self) -> Table:
        done, total = sum(self._done.values()), sum(self._steps.values())
        table = Table(title=self._titled(done, total), title_justify="left", box=None, pad_edge=False)
        for name in ("done", "failed"):
            table.add_column(name, justify="right")
        table.add_column("row")
        table.add_column("at", style="dim")
        for label, count in self._steps.items():
            at = [
                one_line(f"{what.removeprefix(label).strip()}: {self._doing.get(what, 'begins')}", LONGEST)
                for row, what in self._running.values()
                if row == label
            ]
            failed = Text(str(self._failed[label] or ""), style="red")
            table.add_row(f"{self._done[label]}/{count}", failed, Text(one_line(label, LONGEST)), Text("\n".join(at)))
        return table

    def _titled(self, done: int, total: int) -> str:
        seconds = time.monotonic() - self._started
        left = f", about {format_seconds(seconds / done * (total - done))} left" if 0 < done < total else ""
        return f"{done} of {total} steps, {format_seconds(seconds)}{left}"
