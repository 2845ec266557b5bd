"""Two pictures of a tuning: what trials bring and cost, and how the score goes with each setting."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

from benchmark.report.best_of import expected_best, expected_best_band
from benchmark.report.choice import SEEDS, Judged
from benchmark.report.panels import make_panels
from benchmark.report.pictures import draw_figure
from benchmark.report.tuning import Tuned, curves_file, minutes_of, scores_of, settings_file
from benchmark.settings import format_value
from benchmark.store.sealed import content_hash
from benchmark.text import one_line

VERSION = 1  # raised when the pictures are to be drawn again
LONGEST = 60  # characters of a label


def draw_tuning(tuned: Tuned, results: Path) -> None:
    """Draw both pictures where what they show is new."""
    shown = [
        [each.tuning.label, each.ends, [[trial.settings, trial.score, trial.seconds] for trial in each.trials]]
        for each in tuned.judged
    ]
    drawn_from = content_hash([VERSION, _finite(shown)])
    for file, make in ((curves_file(tuned), curves_figure), (settings_file(tuned), settings_figure)):
        draw_figure(results / file, drawn_from, partial(make, tuned))


def _finite(value: Any) -> Any:
    """What JSON has no numbers for, in words."""
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def curves_figure(tuned: Tuned) -> Any:
    """Expected best of k trials with its bootstrap band, against k and against the core-minutes of k trials."""
    import seaborn
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)  # pyplot, with its figures and its backend, stays as the user has it
    panels = figure.subplots(1, 2, sharey=True)
    for each, colour in zip(tuned.judged, seaborn.color_palette("husl", len(tuned.judged)), strict=True):
        scores = scores_of(each)
        ks = list(range(1, len(scores) + 1))
        best = [100 * each.closed(expected_best(scores, k)) for k in ks]
        ends = [expected_best_band(scores, k) for k in ks]
        low, high = ([100 * each.closed(end[place]) for end in ends] for place in (1, 0))
        for panel, at in zip(panels, (ks, [k * minutes_of(each) for k in ks]), strict=True):
            panel.plot(at, best, "-o", markersize=3, color=colour, label=one_line(each.tuning.label, LONGEST))
            panel.fill_between(at, low, high, color=colour, alpha=0.12, linewidth=0)
    panels[0].set_xlabel("trials")
    panels[0].set_ylabel("best of so many, expected: % of the gap closed on val")
    panels[0].set_ylim(bottom=max(panels[0].get_ylim()[0], -20))
    panels[1].set_xlabel("core-minutes of so many trials")
    _number(panels[1].xaxis)
    for panel in panels:
        panel.grid(alpha=0.3)
        seaborn.despine(ax=panel)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
    figure.suptitle(one_line(tuned.title, 200), fontsize=9, parse_math=False)
    return figure


def settings_figure(tuned: Tuned) -> Any:
    """A panel a prior and setting: FD of every trial against its value; the recipe, and what was chosen, stand out."""
    from matplotlib.lines import Line2D

    shown = [
        (each, name, of)
        for each in tuned.judged
        for name, of in each.tuning.identity["space"].items()
        if not of["sampling"]
    ]
    looks: dict[str, dict[str, Any]] = {
        "trials": {"color": "0.4", "marker": "o", "markersize": 4},
        "finalists": {"color": "tab:orange", "marker": "o", "markersize": 5},
        "chosen": {"color": "tab:blue", "marker": "D", "markersize": 6},
    }
    marks = [Line2D([], [], linestyle="", label=name, **look) for name, look in looks.items()]
    figure, panels = make_panels([f"{each.tuning.label}: {name}" for each, name, _ in shown], 2.3, 1.8, marks)
    for panel, (each, name, of) in zip(panels, shown, strict=True):
        _scatter(panel, each, name, of, looks)
    figure.supylabel(one_line(f"{tuned.judged[0].tuning.score}, val, seed {SEEDS[0]}", LONGEST), fontsize=8)
    return figure


def _scatter(panel: Any, judged: Judged, name: str, of: dict[str, Any], looks: dict[str, dict[str, Any]]) -> None:
    chosen = judged.chosen.settings if judged.chosen else None
    finalists = [trial.number for trial in judged.finalists]
    values = of.get("values")
    for trial in judged.trials[1:]:
        if trial.score is None or not math.isfinite(trial.score):
            continue
        value = trial.settings[name]
        kind = "finalists" if trial.number in finalists else "trials"
        kind = "chosen" if chosen and trial.settings.items() <= chosen.items() else kind
        panel.plot(value if values is None else values.index(value), trial.score, linestyle="", **looks[kind])
    recipe = judged.recipe.score
    if recipe is not None and math.isfinite(recipe):
        panel.axhline(recipe, color="0.7", linewidth=1, linestyle="--", zorder=0)  # the recipe's
    _number(panel.yaxis)
    if values is None:
        _number(panel.xaxis)
    else:
        panel.set_xticks(range(len(values)), map(format_value, values))
        panel.set_xlim(-0.5, len(values) - 0.5)


def _number(axis: Any) -> None:
    """A logarithmic axis, numbered at few places, as one would type the numbers; where nothing is shown, as it is."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    lowest, _ = axis.get_data_interval()
    if not 0 < lowest < math.inf:
        return
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(LogLocator(subs=(1, 3), numticks=5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
