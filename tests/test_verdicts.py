"""The tests behind claims, on constructed numbers whose answer is known."""

import math

import numpy as np
import pytest
from scipy import stats

from benchmark.report.verdicts import Line, Point, Sample, alike, correlation, lower, not_behind, spearman, trend


def seeds(*values):
    return dict(enumerate(map(float, values)))


LOW, HIGH = seeds(1.0, 1.1, 0.9, 1.05, 0.95), seeds(3.0, 3.2, 2.9, 3.1, 2.8)
WIDE = seeds(0.5, 4.0, 1.0, 3.5, 2.0)


def test_lower_has_the_interval_of_the_paired_t_test():
    (comparison,) = lower([Sample("a", LOW, HIGH)]).comparisons
    differences = np.subtract(list(LOW.values()), list(HIGH.values()))
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert comparison.number == pytest.approx(differences.mean())
    assert (comparison.low, comparison.high) == pytest.approx(tuple(expected))
    assert comparison.seeds == 5


@pytest.mark.parametrize(
    "first, second, margin, word",
    [
        (LOW, HIGH, 0.0, "held"),
        (HIGH, LOW, 0.0, "did not hold"),
        (LOW, LOW, 0.0, "did not hold"),  # equal is not lower
        (LOW, seeds(1.01, 1.12, 0.9, 1.04, 0.96), 0.5, "did not hold"),  # nor is what differs by nothing worth naming
        (LOW, WIDE, 0.0, "undecided"),
        (seeds(1.0), seeds(3.0), 0.0, "undecided"),  # one seed
        ({}, {}, 0.0, "undecided"),
        (LOW, {}, 0.0, "undecided"),
        (LOW | {4: math.nan}, HIGH, 0.0, "undecided"),  # a fit failed
        (LOW | {4: math.inf}, HIGH, 0.0, "undecided"),
        ({0: 1.0, 1: 1.1, 2: 0.9}, HIGH, 0.0, "undecided"),  # other seeds
    ],
)
def test_lower(first, second, margin, word):
    assert lower([Sample("a", first, second, margin)]).word == word


@pytest.mark.parametrize(
    "first, second, why",
    [
        (seeds(1.0), seeds(3.0), "one seed"),
        (LOW | {4: math.nan}, HIGH, "no value with seed 4"),
        (seeds(1, 1, 1), HIGH, "no value with seeds 3, 4"),
        ({}, {}, "nothing is recorded"),
        (LOW, WIDE, "both sides"),
    ],
)
def test_what_is_undecided_says_why(first, second, why):
    assert why in lower([Sample("a", first, second)]).why


def test_one_seed_still_has_its_number():
    (comparison,) = lower([Sample("a", seeds(1), seeds(3))]).comparisons
    assert (comparison.number, comparison.seeds) == (-2, 1)
    assert math.isnan(comparison.low)


def test_all_comparisons_of_a_claim_are_to_hold_and_one_refutes_it():
    good, bad, open_ = Sample("good", LOW, HIGH), Sample("bad", HIGH, LOW), Sample("open", LOW, WIDE)
    assert lower([good, good]).word == "held"
    assert lower([good, open_]).word == "undecided"
    assert lower([good, open_, bad]).word == "did not hold"
    assert lower([good, open_, bad]).deciding.name == "bad"
    assert lower([]).word == "undecided"


def test_holm_asks_more_of_several_comparisons():
    near = seeds(*(1.0 + np.array([0.2, -0.9, -0.5, -0.4, -0.8])))
    flat = seeds(1, 1, 1, 1, 1)
    alone = lower([Sample("a", near, flat)]).comparisons[0]
    among = lower([Sample(str(i), WIDE, HIGH) for i in range(5)] + [Sample("a", near, flat)]).comparisons[-1]
    assert among.high - among.low > alone.high - alone.low


@pytest.mark.parametrize(
    "first, second, margin, word",
    [
        (LOW, HIGH, 0.1, "held"),  # far below is not behind
        (HIGH, LOW, 0.1, "did not hold"),
        (HIGH, LOW, 3.0, "held"),
        (LOW, LOW, 0.1, "held"),
        (WIDE, LOW, 0.1, "undecided"),
        (LOW, HIGH, 0.0, "undecided"),  # no gap
        (seeds(1.0), seeds(1.0), 1.0, "undecided"),
    ],
)
def test_not_behind(first, second, margin, word):
    assert not_behind([Sample("a", first, second, margin)]).word == word


@pytest.mark.parametrize(
    "first, second, margin, word",
    [
        (LOW, LOW, 0.1, "held"),
        (LOW, HIGH, 3.0, "held"),
        (LOW, HIGH, 0.5, "did not hold"),
        (HIGH, LOW, 0.5, "did not hold"),
        (LOW, HIGH, 2.0, "undecided"),
        (LOW, WIDE, 0.5, "undecided"),
        (seeds(1, math.nan), seeds(1, 1), 0.5, "undecided"),
    ],
)
def test_alike(first, second, margin, word):
    assert alike([Sample("a", first, second, margin)]).word == word


FALLING = {1: seeds(5, 5.1, 4.9), 5: seeds(4, 4.2, 3.9), 50: seeds(3, 3.1, 2.8)}


@pytest.mark.parametrize(
    "points, direction, margin, word",
    [
        (FALLING, "falls", 0.0, "held"),
        (FALLING, "rises", 0.0, "did not hold"),
        (FALLING, "falls", 10.0, "held"),  # shown to fall, if by little
        (FALLING, "rises", 10.0, "did not hold"),
        ({1: seeds(5, 5, 5), 5: seeds(5, 5, 5), 50: seeds(5, 5, 5)}, "falls", 0.0, "did not hold"),
        ({1: seeds(1, 3, 2), 5: seeds(2, 2, 2), 50: seeds(3, 1, 2)}, "falls", 0.0, "undecided"),
        ({1: seeds(1, 3, 2), 5: seeds(2, 2, 2), 50: seeds(3, 1, 2)}, "falls", 100.0, "did not hold"),
        ({1: seeds(5, 5), 5: seeds(4, 4)}, "falls", 0.0, "undecided"),  # two values
        ({x: seeds(by_seed[0]) for x, by_seed in FALLING.items()}, "falls", 0.0, "undecided"),  # one seed
        ({**FALLING, 500: seeds(1, math.nan, 1)}, "falls", 0.0, "undecided"),
    ],
)
def test_trend(points, direction, margin, word):
    assert trend([Line("a", points, margin)], direction).word == word


def test_a_slope_is_a_step_of_the_setting():
    exact = {x: seeds(10 - 2 * place, 11 - 2 * place) for place, x in enumerate((1, 10, 1000))}
    (comparison,) = trend([Line("a", exact)], "falls").comparisons
    assert comparison.number == pytest.approx(-2)
    assert comparison.note == "rank correlation -1.00"


def points(noise, bundles=5, priors=4, sign=1):
    generator = np.random.default_rng(0)
    grid = [(b, p) for b in range(bundles) for p in range(priors)]
    return [Point(b + p, sign * (b + p) + noise * generator.normal(), f"b{b}", f"p{p}") for b, p in grid]


@pytest.mark.parametrize(
    "given, direction, word",
    [
        (points(0.1), "rises", "held"),
        (points(0.1), "falls", "did not hold"),
        (points(0.1, sign=-1), "rises", "did not hold"),
        (points(0.1, sign=-1), "falls", "held"),
        (points(100), "rises", "undecided"),
        (points(0.1, bundles=1), "rises", "undecided"),  # four points
        (points(0.1, bundles=1, priors=8), "rises", "held"),
        (points(0.1, bundles=2), "rises", "undecided"),  # two bundles are no sample
        ([Point(1, 1, f"b{b}", f"p{p}") for b in range(4) for p in range(4)], "rises", "undecided"),
        ([*points(0.1), Point(math.nan, 1, "b0", "p9")], "rises", "undecided"),
        ([], "rises", "undecided"),
    ],
)
def test_correlation(given, direction, word):
    verdict = correlation(given, direction)
    assert verdict.word == word
    assert (verdict.why == "") == (word != "undecided")


def test_points_of_one_cluster_count_as_one():
    """Twenty copies of three clusters say no more than three: the interval does not shrink with copies."""
    of = {"b0": (0, 1), "b1": (1, 0), "b2": (2, 2), "b3": (3, 3)}
    once = correlation([Point(*xy, name, "p") for name, xy in of.items() for _ in range(2)])
    often = correlation([Point(*xy, name, "p") for name, xy in of.items() for _ in range(20)])
    assert once.comparisons[0].low == pytest.approx(often.comparisons[0].low, abs=0.1)


@pytest.mark.parametrize("x, y", [([1, 2, 3, 4], [1, 3, 2, 4]), ([1, 1, 2, 3], [2, 1, 2, 5]), ([3, 1, 2], [1, 2, 3])])
def test_spearman_is_scipys(x, y):
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert math.isnan(spearman(x, [1] * len(x)))
