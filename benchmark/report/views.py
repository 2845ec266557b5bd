"""q_agg against each prior in two dimensions: on its principal axes, and where a classifier tells the two apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmark.report.draws import Draws
from benchmark.report.panels import make_panels
from benchmark.scores.classifier import find_plane, train_classifier
from benchmark.scores.ranks import superiority
from benchmark.streams import stream

SHOWN = 300  # points of each side
BEYOND = 0.15  # of what q_agg spans, how far a panel reaches beyond it


@dataclass(frozen=True)
class View:
    """Points (n, 2) of held-out q_agg and of a row's draws on one plane, and what stands above them."""

    title: str
    held_out: Tensor
    drawn: Tensor


@dataclass(frozen=True)
class Views:
    """Every row on a plane of one kind: its name in a file's, what it is, and what its axes are."""

    name: str
    said: str
    axes: tuple[str, str]
    panels: list[View]


def find_views(draws: Draws) -> list[Views]:
    """Both kinds; none where latents have one dimension."""
    if draws.held_out[0].numel() < 2:
        return []
    real, of_rows = draws.held_out.flatten(1), {label: drawn.flatten(1) for label, drawn in draws.of_rows.items()}
    telling = (
        "Where the classifier of C2ST tells the two apart best: a plane of each row's own, in standard deviations of "
        "q_agg, with latents that it was not trained on; its AUC is 0.5 where it sees nothing"
    )
    return [
        Views("principal", "On q_agg's principal axes", ("first axis", "second"), _principal(real, of_rows)),
        Views(
            "classifier",
            telling,
            ("direction that tells most", "the next"),
            [_told_apart(label, real, drawn) for label, drawn in of_rows.items()],
        ),
    ]


def _principal(real: Tensor, of_rows: dict[str, Tensor]) -> list[View]:
    centre = real.mean(0)
    axes = torch.linalg.svd(real - centre, full_matrices=False).Vh[:2].T
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()  # a sign is chance otherwise
    held_out, *drawn = (((x - centre) @ axes)[:SHOWN] for x in (real, *of_rows.values()))
    return [View(label, held_out, points) for label, points in zip(of_rows, drawn, strict=True)]


def _told_apart(label: str, real: Tensor, drawn: Tensor) -> View:
    """On the plane in which a classifier's logit changes most. What it was trained on, one half, is not shown.

    So no difference is seen that it learned by heart, and the area is of what is seen.
    """
    n = min(len(real), len(drawn)) // 2
    classifier = train_classifier(real[:n], drawn[:n], stream(real.device, "report classifier"))
    plane = find_plane(classifier, torch.cat([real[:n], drawn[:n]]))
    held_out, of_row = ((x[n : 2 * n] - classifier.mean) / classifier.scale for x in (real, drawn))
    with torch.no_grad():
        area = superiority(*(classifier.logits(x[n : 2 * n]) for x in (real, drawn)))
    return View(f"{label}, AUC {area:.2f}", (held_out @ plane)[:SHOWN], (of_row @ plane)[:SHOWN])


def views_figure(views: Views) -> Any:
    """The matplotlib figure, a panel a row."""
    import numpy as np
    import seaborn
    from matplotlib.lines import Line2D

    colours = dict(zip(("held-out q_agg", "draws of the prior"), seaborn.color_palette("colorblind", 2)))
    look: Any = {"marker": "o", "linestyle": "", "markersize": 4}
    marks = [Line2D([], [], color=colour, label=name, **look) for name, colour in colours.items()]
    figure, panels = make_panels([view.title for view in views.panels], 2.1, 1.9, marks)
    for panel, view in zip(panels, views.panels, strict=True):
        points = torch.cat([view.held_out, view.drawn]).numpy()
        colour = np.repeat(list(colours.values()), [len(view.held_out), len(view.drawn)], axis=0)
        order = np.random.default_rng(0).permutation(len(points))  # neither side hides the other
        # pixels, which are a quarter of so many circles
        panel.scatter(*points[order].T, s=4, c=colour[order], linewidths=0, alpha=0.8, rasterized=True)
        (left, bottom), (right, top) = view.held_out.min(0).values.tolist(), view.held_out.max(0).values.tolist()
        panel.set_xlim(left - BEYOND * (right - left), right + BEYOND * (right - left))
        panel.set_ylim(bottom - BEYOND * (top - bottom), top + BEYOND * (top - bottom))
        panel.locator_params(nbins=4)
    figure.supxlabel(views.axes[0], fontsize=8)
    figure.supylabel(views.axes[1], fontsize=8)
    return figure
