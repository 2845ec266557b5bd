"""Numbers over seeds and over tables: means, intervals, which rows are as good as the best, and average ranks."""

from __future__ import annotations

import itertools
import math
import statistics
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RANKED_FROM = 5  # seeds


def mean_interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and 95 % t-interval over seeds; one value has no interval (nan)."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, math.nan, math.nan
    half = _t(len(values)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def paired_difference(first: list[float], second: list[float]) -> tuple[float, float, float]:
    """Mean of first - second over paired seeds, with its 95 % t-interval."""
    return mean_interval([one - other for one, other in zip(first, second, strict=True)])


def gap_closed(gaussian: list[float], prior: list[float], ceiling: list[float]) -> tuple[float, float, float] | None:
    """(gaussian - prior) / (gaussian - ceiling), a ratio of means over paired seeds, with a 95 % interval.

    The interval is of the linearised ratio r: the residuals (g - p) - r (g - c) over the mean gap, t-distributed.
    None where the gap g - c is not above 0, or its own 95 % interval is not: then there is nothing to close.
    """
    gained = np.subtract(gaussian, prior)
    gap = np.subtract(gaussian, ceiling)
    mean, low, _ = mean_interval(list(gap))
    if mean <= 0 or low <= 0:
        return None
    ratio = float(gained.mean() / mean)
    if len(gap) < 2:
        return ratio, math.nan, math.nan
    half = _t(len(gap)) * float(np.std(gained - ratio * gap, ddof=1)) / math.sqrt(len(gap)) / abs(mean)
    return ratio, ratio - half, ratio + half


@dataclass(frozen=True)
class Difference:
    """How far a row's mean lies above the best row's, both tested and estimated once.

    `p` is two-sided and adjusted by Holm's correction over all pairs of the table's rows. `low` and `high` are the
    t-interval at the level that the correction asks of this pair, at least 95 %, so that it excludes 0 exactly where
    p < 0.05.
    """

    mean: float
    low: float
    high: float
    p: float


def share_seeds(groups: dict[str, dict[int, float]]) -> bool:
    """Whether rows (label -> seed -> value) can be paired: all have the same seeds."""
    return len({frozenset(by_seed) for by_seed in groups.values()}) == 1


def ranked(groups: dict[str, dict[int, float]]) -> dict[str, dict[int, float]]:
    """The rows (label -> seed -> value) that have `RANKED_FROM` seeds or more: fewer say too little of a row's spread."""
    return {label: by_seed for label, by_seed in groups.items() if len(by_seed) >= RANKED_FROM}


def above_best(groups: dict[str, dict[int, float]]) -> dict[str, Difference]:
    """Rows that are `ranked` against the one of lowest mean: label -> difference, for all but that one.

    Rows with the same seeds were drawn, decoded and scored on the same streams, so their errors may be correlated:
    Welch's test would not be valid, and the t-test of differences within seeds is, whatever the correlation. Where
    seeds differ, Welch's.

    Which row is best is read off the same values. The correction is over all pairs, so that the chance of calling any
    of equal rows worse stays below 5 % whichever comes out best; over the rows alone it would be 9 % of six.

    The interval of Holm's step i of m is at level 1 - 0.05 / (m - i); where the steps stop, the pairs left share
    the level of that step.
    """
    groups = ranked(groups)
    if not groups:
        return {}
    best = min(groups, key=lambda label: statistics.fmean(groups[label].values()))
    compare = _paired if share_seeds(groups) else _welch
    pairs = itertools.combinations([*(label for label in groups if label != best), best], 2)
    found = {pair: compare(*(groups[label] for label in pair)) for pair in pairs}
    raw = {pair: _two_sided(*each) for pair, each in found.items()}
    adjusted = dict(zip(raw, holm(list(raw.values()))))
    stop = sum(p <= 1 - CONFIDENCE for p in adjusted.values())
    differences: dict[str, Difference] = {}
    for step, pair in enumerate(sorted(raw, key=raw.get)):  # stable, as `holm` is
        if pair[1] != best:
            continue
        mean, error, freedom = found[pair]
        level = (1 - CONFIDENCE) / (len(raw) - min(step, stop))
        half = float(stats.t.isf(level / 2, freedom)) * error if error else 0.0
        differences[pair[0]] = Difference(mean, mean - half, mean + half, adjusted[pair])
    return dict(sorted(differences.items(), key=lambda item: item[1].mean))


def not_worse_than_best(groups: dict[str, dict[int, float]]) -> set[str]:
    """The `ranked` rows that `above_best` does not find significantly above the best, which is one of them."""
    return set(ranked(groups)) - {label for label, found in above_best(groups).items() if found.p <= 1 - CONFIDENCE}


def holm(p_values: list[float]) -> list[float]:
    """Adjusted p-values, in their order: the i-th smallest of m times m - i, never below a smaller one's. Holm 1979."""
    order, m = np.argsort(p_values, kind="stable"), len(p_values)
    scaled = np.maximum.accumulate(np.sort(p_values) * np.arange(m, 0, -1))
    adjusted = np.empty(m)
    adjusted[order] = np.minimum(scaled, 1)
    return adjusted.tolist()


def _paired(row: dict[int, float], other: dict[int, float]) -> tuple[float, float, float]:
    """Mean difference, its standard error, degrees of freedom."""
    differences = [row[seed] - other[seed] for seed in other]
    n = len(differences)
    return statistics.fmean(differences), float(np.std(differences, ddof=1)) / math.sqrt(n), n - 1


def _welch(row: dict[int, float], other: dict[int, float]) -> tuple[float, float, float]:
    """Mean difference, its standard error, degrees of freedom after Welch and Satterthwaite."""
    both = [list(by_seed.values()) for by_seed in (row, other)]
    variances = [float(np.var(values, ddof=1)) / len(values) for values in both]
    mean = statistics.fmean(both[0]) - statistics.fmean(both[1])
    parts = sum(variance**2 / (len(values) - 1) for variance, values in zip(variances, both))
    return mean, math.sqrt(sum(variances)), sum(variances) ** 2 / parts if parts else 1.0


def _two_sided(mean: float, error: float, freedom: float) -> float:
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stats.t.sf(abs(mean) / error, freedom))


def mean_ranks(scores: list[list[float]]) -> list[float]:
    """Mean rank of each of k rows over N tables, from scores (N, k), lower is better; equal scores share ranks."""
    return stats.rankdata(scores, axis=1).mean(0).tolist()


def friedman(scores: list[list[float]]) -> float | None:
    """p-value of k rows ranking alike over N tables (N, k); None below three of either, where the test says nothing."""
    if len(scores) < 3 or len(scores[0]) < 3:
        return None
    return float(stats.friedmanchisquare(*zip(*scores)).pvalue)


def critical_difference(rows: int, tables: int) -> float:
    """Nemenyi's: mean ranks of k rows over N tables differ, at 5 %, when farther apart than q sqrt(k (k + 1) / 6 N).

    q is the studentized range's quantile, of k and infinitely many degrees of freedom, over sqrt(2). Demsar 2006.
    """
    q = float(stats.studentized_range.ppf(CONFIDENCE, rows, math.inf)) / math.sqrt(2)
    return q * math.sqrt(rows * (rows + 1) / (6 * tables))


def _t(n: int) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1))
