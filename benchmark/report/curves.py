"""Learning curves: what the fits of a table's rows logged, step by step, a line a seed."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from benchmark.metrics.api import FIT
from benchmark.report.frame import is_number
from benchmark.report.panels import make_panels
from benchmark.report.tables import Key, Table
from benchmark.text import one_line

HELD_OUT = "held_out_"  # begins the name of a value that a prior logs of validation draws
BEST_STEP: Key = (FIT, "best_step")
MOST = 4  # panels of a row that logs no such value
OUTSIDE = 0.02  # of a panel's values those that may lie below it, and above it: the first of a fit are often far off
LONGEST = 24  # characters of a value's name

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Curve:
    """One value of a row's fits: seed -> points (step, value).

    `fitted`: the same value of the draws that were fitted, where both were logged. `best`: seed -> the point whose
    weights the prior kept, where it says which.
    """

    label: str
    name: str
    points: dict[int, Points]
    fitted: dict[int, Points]
    best: dict[int, tuple[float, float]]


def find_curves(table: Table) -> list[Curve]:
    """Of each row, the best first, its validation loss; of one that logs none the first values that it logs."""
    curves = []
    for row in table.priors:
        logs = fit_logs(table, row.label)
        names = list(dict.fromkeys(name for log in logs.values() for entry in log for name in entry if name != "step"))
        shown = [name for name in names if name.startswith(HELD_OUT)][:1] or names[:MOST]
        steps = row.numbers(BEST_STEP)
        curves += [_curve(row.label, name, logs, steps) for name in shown]
    return [curve for curve in curves if curve.points]


def fit_logs(table: Table, label: str) -> dict[int, list[dict[str, Any]]]:
    """Seed -> the log of the fit behind the measurements of the row with this label."""
    measured = [record for record in table.measured if record["row"]["label"] == label]
    fits = {r["row"]["seed"]: fit for r in measured if (fit := table.fits.get(r["identity"]["fit"]))}
    return {seed: fit.get("log", []) for seed, fit in sorted(fits.items())}


def _curve(label: str, name: str, logs: dict[int, list[dict[str, Any]]], steps: dict[int, float]) -> Curve:
    points = _points(name, logs)
    if not name.startswith(HELD_OUT):
        return Curve(label, name, points, {}, {})
    best = {seed: (steps[seed], _between(of, steps[seed])) for seed, of in points.items() if seed in steps}
    return Curve(label, name, points, _points(name.removeprefix(HELD_OUT), logs), best)


def _points(name: str, logs: dict[int, list[dict[str, Any]]]) -> dict[int, Points]:
    """Seed -> what is a number, of a log with two of them at least."""
    found = {
        seed: [(of["step"], of[name]) for of in log if is_number(of.get("step")) and is_number(of.get(name))]
        for seed, log in logs.items()
    }
    return {seed: points for seed, points in found.items() if len(points) > 1}


def _between(points: Points, step: float) -> float:
    """The value at a step, on the line: not every step that may be kept is logged."""
    import numpy as np

    return float(np.interp(step, [at for at, _ in points], [value for _, value in points]))


def curves_figure(curves: list[Curve]) -> Any:
    """The matplotlib figure: a panel a curve."""
    import seaborn
    from matplotlib.lines import Line2D

    held_out, fitted, other = seaborn.color_palette("colorblind", 3)
    looks: dict[str, Any] = {
        "held-out draws": {"color": held_out},
        "draws that were fitted": {"color": fitted},
        "another value": {"color": other},
        "weights that were kept": {"color": held_out, "marker": "o", "linestyle": "", "markersize": 4},
    }
    marks = [Line2D([], [], label=name, **look) for name, look in looks.items()]
    figure, panels = make_panels([curve.label for curve in curves], 2.3, 1.7, marks)
    for panel, curve in zip(panels, curves, strict=True):
        shown = held_out if curve.name.startswith(HELD_OUT) else other
        for of, colour in ((curve.fitted, fitted), (curve.points, shown)):
            for points in of.values():
                panel.plot(*zip(*points), color=colour, linewidth=0.8, alpha=0.8)
        for point in curve.best.values():
            panel.plot(*point, "o", color=held_out, markersize=3.5)
        panel.set_ylabel(one_line(curve.name.removeprefix(HELD_OUT), LONGEST), fontsize=7, parse_math=False)
        shown_values = [value for of in (curve.points, curve.fitted) for points in of.values() for _, value in points]
        panel.set_ylim(*value_limits(shown_values))
        panel.locator_params(nbins=4)
    figure.supxlabel("step", fontsize=8)
    return figure


def value_limits(values: list[float]) -> tuple[float, float]:
    """Where a panel begins and ends: from the lowest value but `OUTSIDE` of them to the highest but as many."""
    import numpy as np

    low, high = np.quantile(values, [OUTSIDE, 1 - OUTSIDE])
    margin = 0.05 * (high - low) or 0.5
    return low - margin, high + margin


def describe_curves(curves: list[Curve]) -> str:
    """What the figure shows, for those who hear it: where each curve ends, and the steps that were kept."""
    said = []
    for curve in curves:
        last = statistics.fmean(points[-1][1] for points in curve.points.values())
        kept = f", kept at step {', '.join(f'{step:g}' for step, _ in curve.best.values())}" if curve.best else ""
        said.append(f"{curve.label}: {curve.name} of {len(curve.points)} seeds ends at {last:.3g}{kept}")
    return "; ".join(said)
