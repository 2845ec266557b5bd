"""Cells -> a markdown table."""

from __future__ import annotations

from typing import NamedTuple

from tabulate import tabulate


class Grid(NamedTuple):
    """A table in markdown, and what it shows."""

    caption: str
    text: str


def as_grid(header: list[str], body: list[list[str]]) -> str:
    """A table of cells that are markdown already: the first column to the left, the others to the right."""
    alignment = ["left"] + ["right"] * (len(header) - 1)
    return tabulate(body, header, tablefmt="pipe", disable_numparse=True, colalign=alignment)
