"""Intervals cover what they promise; ranks follow from hand-worked examples."""

import math

import numpy as np
import pytest
from scipy import stats

from benchmark.statistics import gap_closed, mean_interval, not_worse_than_best


def test_mean_interval_by_hand():
    """1..5: mean 3, standard deviation sqrt(2.5), t(0.975, 4) = 2.776445."""
    half = 2.776445 * math.sqrt(2.5) / math.sqrt(5)
    assert mean_interval([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx((3.0, 3 - half, 3 + half), rel=1e-6)


def test_mean_of_one_seed_has_no_interval():
    mean, low, high = mean_interval([2.5])
    assert mean == 2.5 and math.isnan(low) and math.isnan(high)


@pytest.mark.parametrize("seeds", [2, 5, 10])
def test_mean_interval_covers_the_true_mean(seeds):
    random = np.random.default_rng(seeds)
    intervals = np.array([mean_interval(list(7 + 3 * random.standard_normal(seeds))) for _ in range(4000)])
    covered = ((intervals[:, 1] <= 7) & (7 <= intervals[:, 2])).mean()
    assert covered == pytest.approx(0.95, abs=0.012), "0.012 is 3.5 standard errors of 4000 trials"


def test_gap_closed_by_hand():
    """gained 4, 5, 5 of gaps 8, 9, 9: r = 14/26, residuals -0.3077, 0.1538, 0.1538, t(0.975, 2) = 4.302653."""
    ratio, low, high = gap_closed([10.0, 11.0, 12.0], [6.0, 6.0, 7.0], [2.0, 2.0, 3.0])
    assert ratio == pytest.approx(7 / 13)
    half = 4.302653 * 0.266469 / math.sqrt(3) / (26 / 3)
    assert (low, high) == pytest.approx((7 / 13 - half, 7 / 13 + half), rel=1e-5)


def test_gap_closed_at_and_beyond_its_ends():
    gaussian, ceiling = [20.0, 21.0, 19.0], [10.0, 10.5, 9.0]
    assert gap_closed(gaussian, gaussian, ceiling) == pytest.approx((0.0, 0.0, 0.0))
    assert gap_closed(gaussian, ceiling, ceiling) == pytest.approx((1.0, 1.0, 1.0))
    assert gap_closed(gaussian, [5.0, 5.5, 4.5], ceiling)[0] > 1
    assert gap_closed(gaussian, [25.0, 25.5, 24.5], ceiling)[0] < 0


def test_gap_closed_is_blank_where_the_gap_may_be_zero():
    assert gap_closed([10.0, 11.0, 9.0], [5.0, 5.0, 5.0], [9.0, 11.5, 9.0]) is None
    assert gap_closed([10.0, 11.0], [5.0, 5.0], [10.0, 11.0]) is None
    assert gap_closed([10.0], [5.0], [10.0]) is None


def test_gap_closed_of_one_seed_has_no_interval():
    ratio, low, high = gap_closed([10.0], [4.0], [2.0])
    assert ratio == pytest.approx(0.75) and math.isnan(low) and math.isnan(high)


def test_gap_closed_pairs_seeds():
    """What a seed does to all three rows alike takes no part in the ratio or its interval."""
    random = np.random.default_rng(0)
    rows = [base + random.standard_normal(5) for base in (30.0, 20.0, 10.0)]
    shared = 100 * random.standard_normal(5)
    assert gap_closed(*(list(row + shared) for row in rows)) == pytest.approx(gap_closed(*map(list, rows)), rel=1e-9)


@pytest.mark.parametrize("seeds, true", [(5, 0.6), (5, 1.1), (10, -0.3)])
def test_gap_closed_covers_the_true_ratio(seeds, true):
    random = np.random.default_rng(seeds)
    trials, covered = 4000, 0
    for _ in range(trials):
        gaussian, ceiling = 60 + 2 * random.standard_normal(seeds), 20 + random.standard_normal(seeds)
        prior = 60 - true * 40 + 3 * random.standard_normal(seeds)
        _, low, high = gap_closed(list(gaussian), list(prior), list(ceiling))
        covered += low <= true <= high
    assert covered / trials == pytest.approx(0.95, abs=0.012)


SPREAD = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])


def groups_with(**p_values: float) -> dict[str, list[float]]:
    """A best row, and rows whose one-sided Welch test against it has the given p-values.

    All have the spread of `SPREAD` (variance 0.625) and 5 seeds, so that t = shift / sqrt(2 * 0.625 / 5) with 8
    degrees of freedom.
    """
    shifts = {label: stats.t.isf(p, 8) * math.sqrt(0.25) for label, p in p_values.items()}
    return {"best": list(SPREAD)} | {label: list(SPREAD + shift) for label, shift in shifts.items()}


@pytest.mark.parametrize(
    "p_values, marked",
    [
        # thresholds 0.05/3, 0.05/2, 0.05: each is met
        ({"a": 0.015, "b": 0.024, "c": 0.045}, {"best"}),
        # the second misses 0.025, so the third, below 0.05 by itself, is not reached
        ({"a": 0.010, "b": 0.030, "c": 0.040}, {"best", "b", "c"}),
        # the first misses 0.05/3: uncorrected tests would leave out all three
        ({"a": 0.020, "b": 0.030, "c": 0.040}, {"best", "a", "b", "c"}),
        # Bonferroni would ask 0.05/2 of both
        ({"a": 0.020, "b": 0.030}, {"best"}),
        # the order in which rows come does not matter
        ({"b": 0.030, "a": 0.010}, {"best"}),
        ({"a": 0.049}, {"best"}),
        ({"a": 0.051}, {"best", "a"}),
    ],
)
def test_holm_correction_by_hand(p_values, marked):
    assert not_worse_than_best(groups_with(**p_values)) == marked


@pytest.mark.parametrize("p, marked", [(0.06, {"calm", "noisy"}), (0.04, {"calm"})])
def test_spreads_need_not_be_equal(p, marked):
    """Five scattered seeds against twenty calm ones: nearly all the error is of the five, with 4 degrees of freedom.

    A test that pools variances would leave out both.
    """
    calm = list(1e-4 * np.tile(SPREAD, 4))
    noisy = list(2 * SPREAD + stats.t.isf(p, 4) * math.sqrt(4 * 0.625 / 5))
    assert stats.ttest_ind(noisy, calm, alternative="greater").pvalue < 0.01
    assert not_worse_than_best({"noisy": noisy, "calm": calm}) == marked


def test_nothing_is_ranked_with_fewer_than_five_seeds():
    few = {"a": [1.0, 1.1, 1.2, 0.9], "b": [9.0, 9.1, 9.2, 8.9]}
    assert not_worse_than_best(few) == set()
    assert not_worse_than_best({"a": [1.0, 1.1, 1.2, 0.9, 1.0], "b": few["b"]}) == set()
    assert not_worse_than_best({}) == set()


def test_equal_rows_are_all_marked_and_a_clearly_worse_one_is_not():
    values = list(10 + SPREAD)
    assert not_worse_than_best({"a": values, "b": list(values), "c": list(20 + SPREAD)}) == {"a", "b"}
    assert not_worse_than_best({"alone": values}) == {"alone"}


def test_rows_without_any_spread_are_told_apart_by_their_means():
    assert not_worse_than_best({"a": [1.0] * 5, "b": [1.0] * 5, "c": [1.5] * 5}) == {"a", "b"}
