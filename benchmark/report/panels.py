"""Small multiples: many small axes in one figure, each named by what it shows."""

from __future__ import annotations

import math
import textwrap
from typing import Any

from benchmark.text import one_line

ACROSS = 4  # panels side by side
LINE = 30  # characters of a line over a panel
LONGEST = 3 * LINE


def make_panels(titles: list[str], width: float, height: float, marks: list[Any]) -> tuple[Any, list[Any]]:
    """A matplotlib figure and its axes, one a title; `width` and `height` of one in inches; `marks` for its legend."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    rows = math.ceil(len(titles) / ACROSS)
    figure = Figure(figsize=(ACROSS * width, rows * height + 0.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)  # pyplot, with its figures and its backend, stays as the user has it
    panels = [figure.add_subplot(rows, ACROSS, place) for place, _ in enumerate(titles, 1)]
    for panel, title in zip(panels, titles, strict=True):
        panel.set_title(textwrap.fill(one_line(title, LONGEST), LINE), fontsize=8, parse_math=False)
        panel.tick_params(labelsize=7)
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.spines[["top", "right"]].set_visible(False)
    figure.legend(handles=marks, loc="outside upper left", ncols=len(marks), fontsize=8, frameon=False)
    return figure, panels
