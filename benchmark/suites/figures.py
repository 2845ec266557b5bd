"""A suite's figure: a panel for each of its `figures`, with a line, or a cloud, for each row.

Over a setting, points of one row are joined, and rows without that setting, such as N(0, I), are lines across. Over
another quantity each row is a point. What fits logged is a thin line a seed. Bars are 95 % intervals over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.report.curves import value_limits
from benchmark.report.frame import is_number
from benchmark.report.pictures import draw_figure
from benchmark.report.tables import ZERO_LINE
from benchmark.store.sealed import content_hash
from benchmark.suites.claims import without_setting
from benchmark.suites.places import Recorded
from benchmark.suites.quantities import Quantity, parse_quantity
from benchmark.suites.suite import Figure, Suite
from benchmark.text import one_line

VERSION = 1  # of the drawing: a picture of another is drawn again
ACROSS = 3  # panels side by side
WIDE = 20.0  # an axis whose ends are so many times apart is logarithmic
LONGEST = 60  # characters of a name

#: x, y, and how far down and up the interval of y reaches; these are nan where there is none
Dot = tuple[float, float, float, float]


@dataclass
class Series:
    """One line of a panel, or one point. `across`: a level with no x of its own."""

    name: str
    dots: list[Dot] = field(default_factory=list)
    curves: list[list[tuple[float, float]]] = field(default_factory=list)
    across: list[float] = field(default_factory=list)


def make_series(figure: Figure, recorded: Sequence[Recorded]) -> list[Series]:
    """What a panel shows, a series a row; those without any value are left out."""
    x, y = parse_quantity(figure.x), parse_quantity(figure.y)
    made: dict[str, Series] = {}
    for each in recorded:
        for label in each.place.rows:
            _add(made, each, label, x, y, len(recorded) > 1)
    for series in made.values():
        series.dots.sort()
    return [series for series in made.values() if series.dots or series.curves or series.across]


def _add(made: dict[str, Series], recorded: Recorded, label: str, x: Quantity, y: Quantity, several: bool) -> None:
    """Add what is recorded of one row at one place."""
    name = label if x.kind == "bundle" or not several else f"{label} on {recorded.place.name}"
    if y.kind == "log":
        curves = [list(_curve(log, y.name)) for log in recorded.logs(label).values()]
        made.setdefault(name, Series(name)).curves += [curve for curve in curves if curve]
        return
    mean, low, high = recorded.interval(label, y)
    if not math.isfinite(mean):
        return
    if x.kind in ("prior", "bundle"):
        at = recorded.setting(label, x)
        if at is None:
            if label == ZERO_LINE:  # a line across, whichever the bundle
                made.setdefault(name, Series(name)).across.append(mean)
            return
        if x.kind == "prior":
            name = without_setting(label, x.name) + (f" on {recorded.place.name}" if several else "")
    else:
        at = recorded.interval(label, x)[0]
        if not math.isfinite(at):
            return
        name = label
    made.setdefault(name, Series(name)).dots.append((at, mean, mean - low, high - mean))


def _curve(log: Sequence[dict[str, Any]], name: str) -> Iterator[tuple[float, float]]:
    for at in log:
        if is_number(at.get("step")) and is_number(at.get(name)):
            yield at["step"], at[name]


def draw_suite(suite: Suite, recorded: Sequence[Recorded], path: Path, note: str) -> bool:
    """Draw the figure to `path`, unless it is there already; False where there is nothing to draw. `note`: its foot."""
    panels = [(figure, series) for figure in suite.figures if (series := make_series(figure, recorded))]
    if not panels:
        path.unlink(missing_ok=True)
        return False
    shown = [[figure.model_dump(), [_rounded(series) for series in of]] for figure, of in panels]
    drawn_from = content_hash([VERSION, suite.title, note, shown])
    draw_figure(path, drawn_from, lambda: _figure(suite.title, note, panels))
    return True


def _rounded(series: Series) -> list[Any]:
    """A series as far as it can be seen."""
    points: list[Sequence[float]] = [*series.dots, *(point for curve in series.curves for point in curve)]
    return [series.name, [[f"{value:.5g}" for value in each] for each in (*points, series.across)]]


def _figure(title: str, note: str, panels: list[tuple[Figure, list[Series]]]) -> Any:
    """A matplotlib figure."""
    import seaborn
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    columns = min(ACROSS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Canvas(figsize=(1 + 4.2 * columns, 0.8 + 3.6 * rows), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)  # pyplot, with its figures and its backend, stays as the user has it
    figure.suptitle(f"{one_line(title, 120)}\n{one_line(note, 160)}", fontsize=10, parse_math=False)
    names = list(dict.fromkeys(series.name for _, of in panels for series in of))
    colours = dict(zip(names, seaborn.color_palette("colorblind" if len(names) <= 10 else "husl", len(names))))
    for place, (said, of) in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, place)
        for series in of:
            _draw(axes, series, colours[series.name], joined=parse_quantity(said.x).kind in ("prior", "bundle"))
        axes.set_xlabel(one_line(parse_quantity(said.x).title, LONGEST), fontsize=8, parse_math=False)
        axes.set_ylabel(one_line(parse_quantity(said.y).title, LONGEST), fontsize=8, parse_math=False)
        dots = [dot for series in of for dot in series.dots]
        for values, scale in (([dot[0] for dot in dots], axes.set_xscale), ([dot[1] for dot in dots], axes.set_yscale)):
            if values and min(values) > 0 and max(values) / min(values) >= WIDE:
                scale("log")
        if logged := [value for series in of for curve in series.curves for _, value in curve]:
            axes.set_ylim(*value_limits(logged))
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        seaborn.despine(ax=axes)
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        handles |= dict(zip(*axes.get_legend_handles_labels()[::-1]))
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _draw(axes: Any, series: Series, colour: Any, joined: bool) -> None:
    label = one_line(series.name, LONGEST).replace("$", r"\$")
    if series.dots:
        x, y, below, above = zip(*series.dots)
        bars = [[0 if math.isnan(value) else max(value, 0) for value in side] for side in (below, above)]
        look = {"color": colour, "marker": "o", "markersize": 4, "linewidth": 1, "capsize": 2}
        axes.errorbar(x, y, yerr=bars, linestyle="-" if joined else "none", label=label, **look)
    for place, curve in enumerate(series.curves):
        axes.plot(*zip(*curve), color=colour, linewidth=0.8, alpha=0.8, label=label if place == 0 else None)
    for place, level in enumerate(series.across):
        axes.axhline(level, color=colour, linewidth=1, linestyle="--", label=label if place == 0 else None)
