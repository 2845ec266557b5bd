"""Who beats whom: the probability of improvement (Agarwal et al. 2021) as a table, of one bundle or of several."""

from __future__ import annotations

from collections.abc import Callable

from benchmark.report.markdown_table import Grid, as_grid
from benchmark.report.standing import is_recipe
from benchmark.report.statistics import probability_of_improvement
from benchmark.report.tables import Table
from benchmark.text import in_markdown

NOISE = "0.5: a toss; five seeds know it to 0.2 or so"


def improvement_grid(caption: str, labels: list[str], improvement: Callable[[str, str], float]) -> Grid:
    """A row and a column for each label; `improvement(one, other)`: how probably one beats the other."""
    chances = [
        [in_markdown(one), *("" if one == other else f"{improvement(one, other):.2f}" for other in labels)]
        for one in labels
    ]
    return Grid(caption, as_grid(["prior", *map(in_markdown, labels)], chances))


def improvement_of(table: Table) -> Grid | None:
    """That of one bundle: its ranked priors, each as its recipe has it; None of fewer than two."""
    labels = [label for label in table.ranked if is_recipe(label)]
    if len(labels) < 2:
        return None

    scores = {label: [-value for value in table.ranked[label].values()] for label in labels}  # lower is better
    score = in_markdown(table.protocol.score)
    caption = f"The probability that a seed of the row has a lower {score} than a seed of the column ({NOISE})"
    return improvement_grid(caption, labels, lambda one, other: probability_of_improvement(scores[one], scores[other]))
