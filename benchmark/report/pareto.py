"""Quality against sampling time: a picture a table, with the front of priors that none beats in both.

matplotlib and seaborn are imported when a picture is drawn, and one whose points are those of the file that lies there
is not drawn again: a run that finds everything recorded pays for neither.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.report.columns import quartiles
from benchmark.report.pictures import draw_figure
from benchmark.report.tables import FD, Key, Table, TableRow
from benchmark.store.sealed import content_hash
from benchmark.text import one_line

#: where a label may stand beside its point, in typographic points
SIDES = [(8, 6, "left"), (8, -14, "left"), (-8, 6, "right"), (-8, -14, "right"), (8, 20, "left"), (8, -28, "left")]
LONGEST = 200  # characters of a label
VERSION = 2  # of the drawing: a picture of another is drawn again


@dataclass(frozen=True)
class Point:
    """`time` in ms for the protocol's largest batch, (middle, low, high): median and quartiles, means over seeds.

    `quality` is (mean, low, high) over seeds; the ends are None for one seed.
    """

    label: str
    reference: bool
    time: tuple[float, float, float]
    quality: tuple[float, float | None, float | None]


def pareto_file(table: Table) -> str:
    """Where the picture lies in a results folder."""
    return f"pareto/{table.page}.png"


def make_points(table: Table, score: Key = FD) -> list[Point]:
    """Priors and N(0, I) with both quality and time: gap closed in %, or the score where there is no gap to close.

    Empty where no prior has both.
    """
    closes = _closes(table, score)
    found = [point for row in table.rows.values() if (point := _point(table, row, score, closes))]
    return sorted(found, key=lambda point: point.time) if any(not point.reference for point in found) else []


def _closes(table: Table, score: Key) -> bool:
    return any(table.gap_closed(row, score)[0] for row in table.priors)


def _point(table: Table, row: TableRow, score: Key, closes: bool) -> Point | None:
    time = quartiles(row, ("sampling_time", f"prior_seconds_{table.protocol.timing_batches[-1]}"))
    quality = table.gap_closed(row, score)[0] if closes else row.intervals.get(score)
    if quality is None or time is None:
        return None
    middle, low, high = (100 * part if closes else part for part in quality)
    ends = (None, None) if math.isnan(low) else (low, high)
    return Point(row.label, row.is_reference, time, (middle, *ends))


def find_front(times: list[float], qualities: list[float]) -> list[int]:
    """Indices, by time, of points to which none is equal or better in both and better in one; quality is to be high."""
    kept: list[int] = []
    best = -math.inf
    for index in sorted(range(len(times)), key=lambda index: (times[index], -qualities[index])):
        equal = kept and (times[index], qualities[index]) == (times[kept[-1]], qualities[kept[-1]])
        if qualities[index] > best or equal:
            kept.append(index)
            best = qualities[index]
    return kept


def draw_pareto(table: Table, results: Path) -> None:
    """Draw the table's picture, if it has one and the file there is not it already."""
    shown, path = make_points(table), results / pareto_file(table)
    if not shown:
        return
    closes, facts, labels = _closes(table, FD), _facts(table), _axes(table, FD, table.protocol.score)
    drawn_from = content_hash([VERSION, facts, labels, [_rounded(point) for point in shown]])
    draw_figure(path, drawn_from, lambda: _figure(shown, closes, facts, labels))


def pareto_figure(table: Table, score: Key, name: str) -> Any:
    """The matplotlib figure of a table's points by a score of this name."""
    shown = make_points(table, score)
    return _figure(shown, _closes(table, score), _facts(table), _axes(table, score, name))


def _facts(table: Table) -> str:
    title = f"{table.dataset}, {table.backbone} seed {table.backbone_seed}, {table.device}"
    return f"{title}; {table.protocol.split} split, {table.protocol.preset} protocol"


def _axes(table: Table, score: Key, name: str) -> list[str]:
    time = f"ms / {table.protocol.timing_batches[-1]:,} latents"
    return [time, f"gap closed in {name}, %" if _closes(table, score) else name]


def _rounded(point: Point) -> list[Any]:
    """A point as far as it can be seen: the last bit of a sum is no reason to draw again."""
    return [
        point.label,
        point.reference,
        *(f"{part:.6g}" for part in (*point.time, *point.quality) if part is not None),
    ]


def _figure(shown: list[Point], closes: bool, title: str, labels: list[str]) -> Any:
    """A matplotlib figure."""
    import seaborn
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)  # pyplot, with its figures and its backend, stays as the user has it
    axes = figure.add_subplot(xscale="log")
    axes.set_title(_plain(title), parse_math=False)
    axes.set_xlabel(_plain(labels[0]), parse_math=False)
    axes.set_ylabel(_plain(labels[1]), parse_math=False)
    times, qualities = ([getattr(point, of)[0] for point in shown] for of in ("time", "quality"))
    best = find_front(times, [quality if closes else -quality for quality in qualities])
    axes.plot([times[i] for i in best], [qualities[i] for i in best], drawstyle="steps-post", color="0.7", zorder=1)
    for point, time, quality in zip(shown, times, qualities):
        wide, high = _reach(point.time), _reach(point.quality)
        axes.errorbar(time, quality, xerr=wide, yerr=high, fmt="none", color="0.5", linewidth=1, capsize=2, zorder=2)
    of = ["reference row" if p.reference else "on the front" if i in best else "beaten" for i, p in enumerate(shown)]
    colours = dict(zip(("on the front", "beaten", "reference row"), seaborn.color_palette("colorblind", 3)))
    kinds = [kind for kind in colours if kind in of]
    look = {"hue": of, "hue_order": kinds, "palette": colours, "style": of, "style_order": kinds, "s": 60, "zorder": 3}
    seaborn.scatterplot(x=times, y=qualities, **look, ax=axes)
    if not closes:
        axes.invert_yaxis()  # better is higher
    axes.margins(0.12)
    axes.grid(alpha=0.3)
    seaborn.despine(ax=axes)
    _name(figure, [point.label for point in shown], list(zip(times, qualities)))
    return figure


def _name(figure: Any, labels: list[str], places: list[tuple[float, float]]) -> None:
    """Each label beside its point: at the first of `SIDES` where it meets no other label or point and stays inside."""
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()
    (axes,) = figure.axes
    taken = [Bbox.from_extents(x - 5, y - 5, x + 5, y + 5) for x, y in axes.transData.transform(places)]
    from_above = sorted(range(len(places)), key=lambda i: -axes.transData.transform(places[i])[1])
    for label, place in ((labels[i], places[i]) for i in from_above):  # labels of near points stand as the points do
        for x, y, side in SIDES:
            text = axes.annotate(
                _plain(label), place, (x, y), textcoords="offset points", ha=side, fontsize=9, parse_math=False
            )
            box = text.get_window_extent()
            inside = axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
            if inside and not any(box.overlaps(other) for other in taken):
                break
            text.remove()
        else:  # crowded: better over another than not at all
            text = axes.annotate(_plain(label), place, (8, 6), textcoords="offset points", fontsize=9, parse_math=False)
            box = text.get_window_extent()
        taken.append(box)


def _plain(words: str) -> str:
    """Words of anybody in a picture."""
    return one_line(words, LONGEST)


def _reach(summary: tuple[float, float | None, float | None]) -> list[list[float]] | None:
    """How far a bar reaches below and above, as matplotlib has it; None where there is no interval."""
    middle, low, high = summary
    if low is None or high is None:
        return None
    return [[max(middle - low, 0)], [max(high - middle, 0)]]
