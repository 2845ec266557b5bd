"""The pictures of one table inside the page: figures as SVG, strips of images compressed."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from benchmark.metrics.samples import from_png
from benchmark.registry import Registry
from benchmark.report.curves import curves_figure, describe_curves, find_curves
from benchmark.report.draws import Draws
from benchmark.report.html.figures import STYLE, as_svg, save_figure
from benchmark.report.markdown import title_of
from benchmark.report.pareto import make_points, pareto_figure
from benchmark.report.paths import decode_paths
from benchmark.report.sample_grids import SAMPLES
from benchmark.report.signatures import AUC, IMQ
from benchmark.report.tables import CEILING, FD, RECONSTRUCTION, ZERO_LINE, Key, Table
from benchmark.report.views import find_views, views_figure

#: the scores by which quality can be held against time, after the table's own
FURTHER: dict[str, Key] = {"KID": ("kid", "kid"), "MMD²": IMQ, "C2ST": AUC}
QUALITY = 80  # of compressed pictures, of 100


def draw_paretos(table: Table, figures: Path | None) -> dict[str, str]:
    """Score -> quality against sampling time by it, for the scores that some row has together with a time."""
    import matplotlib as mpl

    drawn = {}
    for name, score in {table.protocol.score: FD, **FURTHER}.items():
        shown = make_points(table, score)
        if not shown:
            continue
        with mpl.rc_context(STYLE):
            figure = pareto_figure(table, score, name)
            said = {}
            for index, point in enumerate(shown):
                id = f"{table.page}-{score[1]}-{index}"
                figure.axes[0].plot(point.time[0], point.quality[0], "o", markersize=14, alpha=0, gid=id)
                said[id] = f"{point.label}: {point.quality[0]:.3g}, {point.time[0]:.3g} ms"
            described = "; ".join(said.values())
            drawn[name] = as_svg(figure, f"{name} against sampling time, {title_of(table)}", described, said)
        if figures is not None:
            save_figure(pareto_figure(table, score, name), figures, f"pareto-{table.page}-{score[1]}")
    return drawn


def draw_strips(table: Table) -> list[tuple[str, str]]:
    """What each row draws from the same noise: label, and the picture inside the page."""
    order = [RECONSTRUCTION, CEILING, ZERO_LINE, *(row.label for row in table.priors)]
    found = {label: table.rows[label].over_seeds(SAMPLES)[:1] for label in order if label in table.rows}
    return [(label, embed(from_png(strip[0]))) for label, strip in found.items() if strip]


def embed(picture: Image.Image) -> str:
    """A picture as the source of an image, compressed."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "WEBP", quality=QUALITY, method=6)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def draw_curves(table: Table, figures: Path | None) -> str:
    """What the fits of its rows logged; empty where none logged anything."""
    curves = find_curves(table)
    if not curves:
        return ""
    title = f"Learning curves, {title_of(table)}"
    return _svg(partial(curves_figure, curves), title, describe_curves(curves), figures, f"curves-{table.page}")


def draw_views(table: Table, draws: Draws, figures: Path | None) -> dict[str, str]:
    """What a plane is -> each row's draws against q_agg on it."""
    drawn = {}
    for views in find_views(draws):
        described = f"Draws over q_agg: {', '.join(view.title for view in views.panels)}"
        title, file = f"Latents, {title_of(table)}", f"latents-{views.name}-{table.page}"
        drawn[views.said] = _svg(partial(views_figure, views), title, described, figures, file)
    return drawn


def _svg(make: Callable[[], Any], title: str, description: str, figures: Path | None, name: str) -> str:
    """A figure for the page, and one for papers where `figures` names a folder."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        drawn = as_svg(make(), title, description, {})
    if figures is not None:
        save_figure(make(), figures, name)
    return drawn


def draw_interpolations(draws: Draws) -> list[tuple[str, str]]:
    """What lies between two draws of each row: label, and the picture inside the page."""
    return [(label, embed(path)) for label, path in decode_paths(draws, Registry()).items()]
