"""The tests that decide a claim: pure functions of numbers, each with the interval that its verdict rests on.

    lower         one row lies below another
    not_behind    one row lies above another by no more than a margin
    alike         two rows differ by no more than a margin, either way
    trend         a value falls, or rises, along a setting
    correlation   two values rise, or fall, together

A claim is often several comparisons: it holds where all of them do, did not hold where one is shown to be wrong, and is
undecided else. Values are paired by seed. A value that is missing, because a fit failed, say, leaves its comparison
undecided: those that are left were chosen by the failure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from benchmark.report.statistics import (
    CONFIDENCE,
    RESAMPLES,
    mean_interval,
    paired_differences,
    paired_interval,
    spearman,
)

Word = Literal["held", "did not hold", "undecided"]
Direction = Literal["rises", "falls"]

LEAST_VALUES = 3  # of a setting: two make no trend
LEAST_POINTS = 6  # of a correlation
LEAST_CLUSTERS = 3  # bundles, or priors, that can be resampled

#: seed -> value; nan where there is none
BySeed = Mapping[int, float]


@dataclass(frozen=True)
class Comparison:
    """One of the comparisons behind a claim: a number with the interval that decided it, and over how many seeds.

    The ends are nan where there is no interval; `seeds` counts points where points are correlated. `why`: what keeps
    it undecided; `note`: what else is to be known; `ratio`: number and ends are logarithms of ratios.
    """

    name: str
    number: float
    low: float
    high: float
    seeds: int
    word: Word
    why: str = ""
    note: str = ""
    ratio: bool = False


@dataclass(frozen=True)
class Verdict:
    """What became of a claim, with all that it rests on; `why`: what remains open, empty where nothing does."""

    word: Word
    comparisons: tuple[Comparison, ...]
    why: str = ""

    @property
    def deciding(self) -> Comparison | None:
        """The comparison that the verdict hangs on: one that refutes, else an undecided one, else the least sure."""
        of_word = [each for each in self.comparisons if each.word == self.word]
        return max(of_word, key=_doubt, default=None)


def _doubt(comparison: Comparison) -> float:
    """How near an interval comes to the other side of 0, in units of its width."""
    width = comparison.high - comparison.low
    return -abs(comparison.number) / width if width > 0 else -math.inf


@dataclass(frozen=True)
class Sample:
    """Two rows in one metric on one bundle. `margin`, in its unit: how much is no difference worth the name."""

    name: str
    first: BySeed
    second: BySeed
    margin: float = 0.0


@dataclass(frozen=True)
class Line:
    """One row along a setting: its value -> seed -> the metric's. `margin`: as of a sample, for the whole way."""

    name: str
    points: Mapping[float, BySeed]
    margin: float = 0.0


@dataclass(frozen=True)
class Point:
    """Two values of one prior on one bundle, which are the clusters that are resampled."""

    x: float
    y: float
    bundle: str
    prior: str


def lower(samples: Sequence[Sample]) -> Verdict:
    """Whether first < second: the paired difference with its t-interval, after Holm's correction over all samples.

    Held where all of an interval is below 0. It did not hold where all of it is above, or within the margin of 0.
    """

    def decide(low: float, high: float, margin: float) -> Word:
        if high < 0:
            return "held"
        return "did not hold" if low > 0 or -margin <= low <= high <= margin else "undecided"

    return _decide_corrected(samples, decide)


def not_behind(samples: Sequence[Sample]) -> Verdict:
    """Whether first - second <= margin: a non-inferiority test, at 95 % for each sample, since all of them are to pass.

    It did not hold where one is shown to be above the margin, at the level that so many samples ask for (Bonferroni).
    """
    return _decide_within(samples, lambda low, high, margin: high <= margin, lambda low, high, margin: low > margin)


def alike(samples: Sequence[Sample]) -> Verdict:
    """Whether |first - second| <= margin: two one-sided tests (Schuirmann 1987), at the levels of `not_behind`."""
    return _decide_within(
        samples,
        lambda low, high, margin: -margin <= low and high <= margin,
        lambda low, high, margin: low > margin or high < -margin,
    )


def trend(lines: Sequence[Line], direction: Direction) -> Verdict:
    """Whether a value falls (or rises) along a setting: its slope over the setting's places in order, one a seed.

    The number is the change from one value of the setting to the next, by least squares, with a t-interval over seeds
    after Holm's correction over all lines. It did not hold where the slope goes the other way, or the whole way stays
    within the margin.
    """
    steps = {line.name: len(line.points) - 1 for line in lines}
    sign = 1 if direction == "falls" else -1

    def decide(low: float, high: float, margin: float) -> Word:
        low, high = sorted((sign * low, sign * high))
        if high < 0:
            return "held"
        return "did not hold" if low > 0 or -margin <= low <= high <= margin else "undecided"

    short = [line.name for line in lines if len(line.points) < LEAST_VALUES]
    if short:
        return Verdict("undecided", (), f"fewer than {LEAST_VALUES} values of the setting: {', '.join(short)}")
    notes, samples = {}, []
    for line in lines:
        slopes, ranks = _slopes(line)
        known = [rank for rank in ranks.values() if math.isfinite(rank)]
        notes[line.name] = f"rank correlation {np.mean(known):.2f}" if known else ""
        margin = line.margin / steps[line.name]
        samples.append(Sample(line.name, slopes, dict.fromkeys(slopes, 0.0), margin))
    return _decide_corrected(samples, decide, notes)


def _slopes(line: Line) -> tuple[dict[int, float], dict[int, float]]:
    """Seed -> slope over the places of the setting's values, and its rank correlation; nan where a value is missing."""
    order = sorted(line.points)
    seeds = sorted({seed for by_seed in line.points.values() for seed in by_seed})
    slopes, ranks = {}, {}
    for seed in seeds:
        y = np.array([line.points[x].get(seed, math.nan) for x in order], dtype=float)
        places = np.arange(len(order), dtype=float)
        centred = places - places.mean()
        whole = bool(np.isfinite(y).all())
        slopes[seed] = float((centred * y).sum() / (centred**2).sum()) if whole else math.nan
        ranks[seed] = spearman(places, y) if whole else math.nan
    return slopes, ranks


def correlation(points: Sequence[Point], direction: Direction = "rises") -> Verdict:
    """Whether x and y go together over bundles and priors: Spearman's rank correlation with a 95 % bootstrap interval.

    Points of one bundle, and of one prior, hang together, so bundles and priors are what is resampled, each with
    replacement and independently (the pigeonhole bootstrap, Owen 2007). What there is but one of stays. Points whose
    values are missing leave it undecided.
    """
    good = [point for point in points if math.isfinite(point.x) and math.isfinite(point.y)]
    missing = sorted({f"{point.prior} on {point.bundle}" for point in points if point not in good})
    bundles, priors = (sorted({getattr(p, of) for p in good}) for of in ("bundle", "prior"))
    number = spearman([p.x for p in good], [p.y for p in good]) if len(good) > 1 else math.nan
    why = f"no value of {', '.join(missing)}" if missing else ""
    low = high = math.nan
    if len(good) < LEAST_POINTS or max(len(bundles), len(priors)) < LEAST_CLUSTERS:
        why = why or f"too few points: {len(good)}, of {len(bundles)} bundles and {len(priors)} priors"
    elif 1 < len(bundles) < LEAST_CLUSTERS or 1 < len(priors) < LEAST_CLUSTERS:
        why = why or f"two bundles, or two priors, cannot be resampled ({len(bundles)} and {len(priors)})"
    elif not math.isfinite(number):
        why = why or "all values are equal"
    else:
        low, high = _bootstrap(good, bundles, priors)
    sign = 1 if direction == "rises" else -1
    word: Word = "undecided"
    if not why and math.isfinite(low):
        above, below = sorted((sign * low, sign * high))
        word = "held" if above > 0 else "did not hold" if below < 0 else "undecided"
    if word == "undecided" and not why:
        why = "the interval holds 0" if math.isfinite(low) else "resampled points are mostly equal"
    name = f"{len(bundles)} bundles, {len(priors)} priors"
    return Verdict(word, (Comparison(name, number, low, high, len(good), word, why),), why)


def _bootstrap(points: Sequence[Point], bundles: list[str], priors: list[str]) -> tuple[float, float]:
    """The 95 % percentile interval of the rank correlation; nan where most of what is drawn has none."""
    generator = np.random.default_rng(0)
    x, y = np.array([p.x for p in points]), np.array([p.y for p in points])
    of = [(bundles.index(p.bundle), priors.index(p.prior)) for p in points]
    drawn = []
    for _ in range(RESAMPLES):
        counts = [
            np.bincount(generator.integers(n, size=n), minlength=n) if n > 1 else np.ones(1, dtype=int)
            for n in (len(bundles), len(priors))
        ]
        chosen = np.repeat(np.arange(len(points)), [counts[0][i] * counts[1][j] for i, j in of])
        drawn.append(spearman(x[chosen], y[chosen]))
    known = [value for value in drawn if math.isfinite(value)]
    if len(known) < RESAMPLES / 2:
        return math.nan, math.nan
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


#: low, high and margin of a comparison -> its verdict, or whether a side is proved
_Decide = Callable[[float, float, float], Word]
_Proves = Callable[[float, float, float], bool]


def _decide_corrected(samples: Sequence[Sample], decide: _Decide, notes: Mapping[str, str] | None = None) -> Verdict:
    """The verdict where each sample is tested for a difference, after Holm's correction over those that have seeds."""
    pairs = [_paired(sample) for sample in samples]
    tested = [place for place, (first, *_) in enumerate(pairs) if len(first) > 1]
    found = dict(zip(tested, paired_differences([pairs[place][:2] for place in tested]) if tested else [], strict=True))
    comparisons = []
    for place, sample in enumerate(samples):
        first, second, why = pairs[place]
        if (difference := found.get(place)) is None:
            comparison = _without_interval(sample.name, first, second, why)
        else:
            low, high = difference.low, difference.high
            word: Word = "undecided" if why else decide(low, high, sample.margin)
            why = why or ("" if word != "undecided" else "the interval reaches both sides")
            comparison = Comparison(sample.name, difference.mean, low, high, len(first), word, why)
        comparisons.append(replace(comparison, note=(notes or {}).get(sample.name, "")))
    return _overall(comparisons)


def _decide_within(samples: Sequence[Sample], inside: _Proves, outside: _Proves) -> Verdict:
    """The verdict where each sample is tested for lying within its margin."""
    comparisons = []
    for sample in samples:
        first, second, why = _paired(sample)
        if len(first) < 2:
            comparisons.append(_without_interval(sample.name, first, second, why))
            continue
        number, low, high = mean_interval(np.subtract(first, second).tolist())
        wide = paired_interval(first, second, 1 - (1 - CONFIDENCE) / len(samples))
        word: Word = "undecided"
        if not why and sample.margin <= 0:
            why = "there is no gap of which the margin could be a share"
        elif not why:
            if inside(low, high, sample.margin):
                word = "held"
            elif outside(*wide, sample.margin):
                word = "did not hold"
            else:
                why = "the interval reaches over the margin"
        note = f"margin {sample.margin:.3g}"
        comparisons.append(Comparison(sample.name, number, low, high, len(first), word, why, note))
    return _overall(comparisons)


def _paired(sample: Sample) -> tuple[list[float], list[float], str]:
    """The values of the seeds with which both rows have one, and what is said of the others."""
    seeds = sorted({*sample.first, *sample.second})
    both = [(sample.first.get(seed, math.nan), sample.second.get(seed, math.nan)) for seed in seeds]
    good = [pair for pair in both if all(map(math.isfinite, pair))]
    bad = [str(seed) for seed, pair in zip(seeds, both, strict=True) if pair not in good]
    if not seeds:
        return [], [], "nothing is recorded"
    why = f"no value with seed{'s' if len(bad) > 1 else ''} {', '.join(bad)}" if bad else ""
    return [one for one, _ in good], [other for _, other in good], why


def _without_interval(name: str, first: list[float], second: list[float], why: str) -> Comparison:
    number = first[0] - second[0] if first else math.nan
    why = why or "one seed has no interval"
    return Comparison(name, number, math.nan, math.nan, len(first), "undecided", why)


def _overall(comparisons: Sequence[Comparison]) -> Verdict:
    """All are to hold, and one that is wrong is enough."""
    words = [comparison.word for comparison in comparisons]
    if not words:
        return Verdict("undecided", (), "there is nothing to compare")
    word: Word = "did not hold" if "did not hold" in words else "undecided" if "undecided" in words else "held"
    reasons: dict[str, list[str]] = {}
    for comparison in comparisons:
        if comparison.word == "undecided":
            reasons.setdefault(comparison.why, []).append(comparison.name)
    why = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())
    return Verdict(word, tuple(comparisons), why)
