"""Numbers over seeds and over tables: means, intervals, which rows are as good as the best, and average ranks.

Of scipy the functions of Student's t are taken, and the rest where several tables are compared: `scipy.stats` takes
half a second to import.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

CONFIDENCE = 0.95
RANKED_FROM = 5  # seeds


def mean_intervals(groups: Sequence[Sequence[float] | np.ndarray]) -> list[tuple[float, float, float]]:
    """Mean and 95 % t-interval of each group of values, one a seed; a group of one has no interval (nan).

    Groups of one size are taken at once.
    """
    found: list[tuple[float, float, float]] = [(math.nan, math.nan, math.nan)] * len(groups)
    for size in {len(group) for group in groups}:
        places = [place for place, group in enumerate(groups) if len(group) == size]
        values = np.array([groups[place] for place in places], dtype=float)
        means = values.mean(1)
        half = math.nan if size == 1 else _half_width(values.std(1, ddof=1) / size**0.5, size - 1, CONFIDENCE)
        for place, ends in zip(places, np.stack([means, means - half, means + half], 1).tolist(), strict=True):
            found[place] = tuple(ends)
    return found


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """`mean_intervals` of one group."""
    return mean_intervals([values])[0]


def paired_difference(first: list[float], second: list[float]) -> tuple[float, float, float]:
    """Mean of first - second over paired seeds, with its 95 % t-interval."""
    return mean_interval([one - other for one, other in zip(first, second, strict=True)])


#: a mean or a share, and the ends of its interval
Interval = tuple[float, float, float]
Gap = Interval


def gaps_closed(triples: Sequence[tuple[Sequence[float], Sequence[float], Sequence[float]]]) -> list[Gap | None]:
    """Of (gaussian, prior, ceiling) over paired seeds: (gaussian - prior) / (gaussian - ceiling), a ratio of means.

    With a 95 % interval, that of the linearised ratio r: the residuals (g - p) - r (g - c) over the mean gap,
    t-distributed. None where the gap g - c is not above 0, or its own 95 % interval is not: then there is nothing to
    close.
    """
    gained = [np.subtract(gaussian, prior) for gaussian, prior, _ in triples]
    gaps = [np.subtract(gaussian, ceiling) for gaussian, _, ceiling in triples]
    ratios = [of.mean() / gap.mean() if gap.mean() > 0 else math.nan for of, gap in zip(gained, gaps, strict=True)]
    residuals = [of - ratio * gap for of, ratio, gap in zip(gained, ratios, gaps, strict=True)]
    found: list[Gap | None] = []
    of_gaps, of_residuals = mean_intervals(gaps), mean_intervals(residuals)
    for ratio, (mean, low, _), (_, left, right) in zip(ratios, of_gaps, of_residuals, strict=True):
        closes = mean > 0 and not low <= 0  # one seed has no interval
        half = (right - left) / 2 / mean if closes else math.nan
        found.append((float(ratio), float(ratio - half), float(ratio + half)) if closes else None)
    return found


def gap_closed(gaussian: list[float], prior: list[float], ceiling: list[float]) -> Gap | None:
    """`gaps_closed` of one row."""
    return gaps_closed([(gaussian, prior, ceiling)])[0]


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
    """The rows (label -> seed -> value) with `RANKED_FROM` seeds or more: fewer say too little of a row's spread."""
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
    pairs = list(itertools.combinations([*(label for label in groups if label != best), best], 2))
    values = {label: [value for _, value in sorted(by_seed.items())] for label, by_seed in groups.items()}
    test = _paired_test if share_seeds(groups) else _welch_test
    found = zip(pairs, _corrected([test(values[one], values[other]) for one, other in pairs]), strict=True)
    differences = {label: difference for (label, other), difference in found if other == best}
    return dict(sorted(differences.items(), key=lambda item: item[1].mean))


def paired_differences(samples: Sequence[tuple[Sequence[float], Sequence[float]]]) -> list[Difference]:
    """Mean of first - second of each pair of rows, tested over paired seeds (two or more), by Holm over all pairs."""
    return _corrected([_paired_test(*sample) for sample in samples])


def paired_interval(first: Sequence[float], second: Sequence[float], level: float) -> tuple[float, float]:
    """The t-interval of the mean of first - second over paired seeds (two or more), at a level such as 0.95."""
    return _paired_test(first, second).interval(level)


def _corrected(tests: list[_Test]) -> list[Difference]:
    """The tests, in their order, after Holm's correction over them all, as `Difference` has it."""
    adjusted = holm([test.p for test in tests])
    stop = sum(p <= 1 - CONFIDENCE for p in adjusted)
    found: dict[int, Difference] = {}
    for step, place in enumerate(sorted(range(len(tests)), key=lambda place: tests[place].p)):  # stable, as `holm` is
        low, high = tests[place].interval(1 - (1 - CONFIDENCE) / (len(tests) - min(step, stop)))
        found[place] = Difference(tests[place].mean, low, high, adjusted[place])
    return [found[place] for place in range(len(tests))]


def holm(p_values: list[float]) -> list[float]:
    """Adjusted p-values, in their order: the i-th smallest of m times m - i, never below a smaller one's. Holm 1979."""
    order, m = np.argsort(p_values, kind="stable"), len(p_values)
    scaled = np.maximum.accumulate(np.sort(p_values) * np.arange(m, 0, -1))
    adjusted = np.empty(m)
    adjusted[order] = np.minimum(scaled, 1)
    return adjusted.tolist()


@dataclass(frozen=True)
class _Test:
    """A two-sided t-test of one row against another: mean difference, its standard error, degrees of freedom."""

    mean: float
    error: float
    df: float

    @property
    def p(self) -> float:
        if not self.error:  # where nothing is spread there is nothing to test by: what differs does so for certain
            return 0.0 if self.mean else 1.0
        return 2 * float(special.stdtr(self.df, -abs(self.mean / self.error)))

    def interval(self, level: float) -> tuple[float, float]:
        half = float(_half_width(self.error, self.df, level)) if self.error else 0.0
        return self.mean - half, self.mean + half


def _half_width(error: Any, df: float, level: float) -> Any:
    """Half of the t-interval at a level: the standard error times the quantile of Student's t."""
    return error * -special.stdtrit(df, (1 - level) / 2)


def _paired_test(one: Sequence[float], other: Sequence[float]) -> _Test:
    """Of values paired by seed: the t-test of their differences (Student 1908)."""
    differences = np.subtract(one, other)
    n = len(differences)
    return _Test(float(differences.mean()), (_variance(differences) / n) ** 0.5, n - 1)


def _welch_test(one: list[float], other: list[float]) -> _Test:
    """Of two samples whose variances may differ (Welch 1947)."""
    sizes, samples = (len(one), len(other)), (np.array(one), np.array(other))
    parts = [_variance(sample) / n for sample, n in zip(samples, sizes, strict=True)]
    error = sum(parts) ** 0.5
    if not error:  # means of equal numbers may be rounded, and differ where the numbers do not
        return _Test(one[0] - other[0], 0.0, math.nan)
    shares = [part / sum(parts) for part in parts]
    df = 1 / sum(share**2 / (n - 1) for share, n in zip(shares, sizes, strict=True))
    return _Test(float(samples[0].mean() - samples[1].mean()), error, df)


def _variance(values: np.ndarray) -> float:
    """Of a sample; exactly 0 where all are equal, which rounding of their mean might hide."""
    return float(values.var(ddof=1)) if np.ptp(values) else 0.0


def mean_ranks(scores: list[list[float]]) -> list[float]:
    """Mean rank of each of k rows over N tables, from scores (N, k), lower is better; equal scores share ranks."""
    return _ranks(-np.asarray(scores, dtype=float)).mean(0).tolist()


def friedman(scores: list[list[float]]) -> float | None:
    """p-value of k rows ranking alike over N tables (N, k); None below three of either, where the test says nothing."""
    if len(scores) < 3 or len(scores[0]) < 3:
        return None
    from scipy import stats

    return float(stats.friedmanchisquare(*zip(*scores)).pvalue)


RESAMPLES = 2_000


def bootstrap_mean_ranks(scores: Sequence[Sequence[Sequence[float]]]) -> list[Interval]:
    """Mean rank over N tables of each of k rows, with a 95 % percentile interval over resampled seeds (Efron 1979).

    `scores[table][row]`: a number a seed, higher is better. Rows of a table with equally many seeds share the seeds
    that are drawn, as their scores share the streams; tables are drawn apart. Nothing is said of other tables: these
    are fixed.
    """
    generator = np.random.default_rng(0)
    ranks = []
    for rows in scores:
        sizes = {len(row) for row in rows}
        drawn = {size: generator.integers(size, size=(RESAMPLES, size)) for size in sorted(sizes)}
        resampled = np.stack([np.asarray(row, dtype=float)[drawn[len(row)]].mean(1) for row in rows], 1)
        means = np.array([[statistics.fmean(row) for row in rows]])
        ranks.append(_ranks(np.concatenate([means, resampled])))
    first, *others = np.mean(ranks, 0)
    low, high = np.percentile(others, [2.5, 97.5], axis=0)
    return list(zip(first.tolist(), low.tolist(), high.tolist(), strict=True))


def _ranks(values: np.ndarray) -> np.ndarray:
    """(n, k) -> rank of each among its k, 1 the highest; equal values share ranks."""
    one, other = values[:, :, None], values[:, None, :]
    return (1 + (other > one).sum(2) + ((other == one).sum(2) - 1) / 2).astype(float)


def spearman(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> float:
    """Rank correlation of two lists of one length, equal values sharing ranks; nan where either is constant."""
    ranks = [_ranks_in_order(np.asarray(values, dtype=float)) for values in (x, y)]
    centred = [of - of.mean() for of in ranks] if len(ranks[0]) else ranks
    scale = math.sqrt(float((centred[0] ** 2).sum() * (centred[1] ** 2).sum()))
    return float((centred[0] * centred[1]).sum() / scale) if scale > 0 else math.nan


def _ranks_in_order(values: np.ndarray) -> np.ndarray:
    """(n,) -> rank of each, 1 the lowest; the mean of theirs for equal values. By sorting: n may be large."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]


def probability_of_improvement(one: Sequence[float], other: Sequence[float]) -> float:
    """P(X > Y) + P(X = Y) / 2 of a value of each, higher is better (Mann and Whitney 1947; Agarwal et al. 2021)."""
    first, second = np.asarray(one, dtype=float)[:, None], np.asarray(other, dtype=float)[None]
    return float(((first > second) + (first == second) / 2).mean())


#: of the gap from N(0, I) to the aggregate posterior: a row no farther from the best than this is as good for any use
MARGIN = 0.05


def near_best(groups: dict[str, dict[int, float]], found: dict[str, Difference], gap: float | None) -> set[str]:
    """The best of the `ranked` rows, and those that `above_best` shows to lie within `MARGIN` of the gap above it.

    A non-inferiority test: all of the interval, at the level of Holm's correction over all pairs, is below the margin.
    A row that scatters is not shown to be near, whatever its mean. Without a gap the best stands alone.
    """
    best = set(ranked(groups)) - set(found)
    return best | {label for label, above in found.items() if gap is not None and above.high <= MARGIN * gap}
