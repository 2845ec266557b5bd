"""Numbers over seeds: means, intervals, and which rows are as good as the best."""

from __future__ import annotations

import math

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


def not_worse_than_best(groups: dict[str, list[float]]) -> set[str]:
    """Rows whose mean is not significantly above the lowest: Welch's t-test, Holm's correction, 5 %.

    Empty where any row has fewer than `RANKED_FROM` seeds: then nothing is ranked.
    """
    if not groups or any(len(values) < RANKED_FROM for values in groups.values()):
        return set()
    best = min(groups, key=lambda label: np.mean(groups[label]))
    others = [label for label in groups if label != best]
    p_values = {label: _welch(groups[label], groups[best]) for label in others}
    worse = set()
    for rank, label in enumerate(sorted(others, key=p_values.get)):
        if p_values[label] > (1 - CONFIDENCE) / (len(others) - rank):
            break
        worse.add(label)
    return set(groups) - worse


def _welch(values: list[float], best: list[float]) -> float:
    """One-sided p-value of `values` having the same mean as `best` against a higher one."""
    if np.std(values) == 0 and np.std(best) == 0:
        return 1.0 if np.mean(values) == np.mean(best) else 0.0
    return float(stats.ttest_ind(values, best, equal_var=False, alternative="greater").pvalue)


def _t(n: int) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1))
