"""Priors over several data sets: mean ranks with bootstrap intervals, and the probability that one beats another."""

from __future__ import annotations

import functools
import statistics
from dataclasses import dataclass

from benchmark.report.improvement import NOISE, improvement_grid
from benchmark.report.markdown_table import Grid, as_grid
from benchmark.report.standing import Column, is_recipe
from benchmark.report.statistics import (
    RESAMPLES,
    Interval,
    bootstrap_mean_ranks,
    friedman,
    mean_ranks,
    probability_of_improvement,
)
from benchmark.text import in_markdown


@dataclass(frozen=True)
class Across:
    """Columns, one a data set, and the priors that all of them rank, each as its recipe has it."""

    columns: list[Column]

    @functools.cached_property
    def labels(self) -> list[str]:
        """The best mean rank first; none where there are fewer than two data sets or priors to rank."""
        ranking = [
            {label for label in column.labels if is_recipe(label) and column.ranks(label)} for column in self.columns
        ]
        labels = sorted(set.intersection(*ranking)) if len(ranking) > 1 else []
        if len(labels) < 2:
            return []
        return [label for _, label in sorted(zip(mean_ranks(self._scores(labels)), labels, strict=True))]

    @functools.cached_property
    def ranks(self) -> dict[str, Interval]:
        """Label -> mean rank of the share of the gap that it closes, 1 is best, with a 95 % interval over seeds."""
        if not self.labels:
            return {}
        shares = [[column.shares(label) for label in self.labels] for column in self.columns]
        return dict(zip(self.labels, bootstrap_mean_ranks(shares), strict=True))

    @property
    def p(self) -> float | None:
        """Friedman's test that all rank alike."""
        return friedman(self._scores(self.labels))

    def _scores(self, labels: list[str]) -> list[list[float]]:
        """What is left of the gap: a list a data set, a number a label."""
        return [[-statistics.fmean(column.shares(label)) for label in labels] for column in self.columns]

    def improvement(self, one: str, other: str) -> float:
        """Mean over data sets of the probability that a seed of one closes more than a seed of the other."""
        return statistics.fmean(
            probability_of_improvement(column.shares(one), column.shares(other)) for column in self.columns
        )


def find_across(columns: list[Column]) -> Across:
    """Of the columns those that rank; of several of one data set, whose scores hang together, that with most rows."""
    by_dataset: dict[str, Column] = {}
    for column in sorted(columns, key=lambda column: (-len(column.first.ranked), column.head)):
        if column.first.ranked:
            by_dataset.setdefault(column.first.dataset, column)
    return Across([column for column in columns if column in by_dataset.values()])


def across_markdown(across: Across) -> str:
    """The page `boards/across.md`; empty where nothing can be compared."""
    lines = [line for grid in across_grids(across) for line in (f"{grid.caption}:", "", grid.text, "")]
    return "\n".join(["# Across data sets", "", *lines]) if lines else ""


def across_grids(across: Across) -> list[Grid]:
    """Mean ranks, and who beats whom; none where nothing can be compared."""
    if not across.labels:
        return []
    heads, p = ", ".join(in_markdown(column.head) for column in across.columns), across.p
    tested = (
        "too few data sets or priors for a test" if p is None else f"Friedman's test of all ranking alike: p = {p:.3g}"
    )
    ranked = (
        f"On these {len(across.columns)} data sets ({heads}), not beyond them: a prior's rank by the share of the gap "
        f"in FD that it closes, averaged over data sets, with a 95 % interval of {RESAMPLES:,} bootstraps over the "
        f"seeds of the fits. Priors that all of them rank; {tested}"
    )
    ranks = [
        [in_markdown(label), f"{mean:.2f}", f"[{low:.2f}, {high:.2f}]"]
        for label, (mean, low, high) in across.ranks.items()
    ]
    beaten = (
        "The probability that a seed of the row closes more of the gap than a seed of the column, averaged over data "
        f"sets ({NOISE}); the page of each has its own"
    )
    return [
        Grid(ranked, as_grid(["prior", "mean rank ↓", "95 % interval"], ranks)),
        improvement_grid(beaten, across.labels, across.improvement),
    ]
