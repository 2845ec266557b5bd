"""Cells -> a markdown table."""

from __future__ import annotations

from tabulate import tabulate


def as_grid(header: list[str], body: list[list[str]]) -> str:
    """A table of cells that are markdown already: the first column to the left, the others to the right."""
    alignment = ["left"] + ["right"] * (len(header) - 1)
    return tabulate(body, header, tablefmt="pipe", disable_numparse=True, colalign=alignment)
