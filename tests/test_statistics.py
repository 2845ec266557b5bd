"""Intervals cover what they promise; ranks follow from hand-worked examples."""

import math
from dataclasses import astuple

import numpy as np
import pytest
from scipy import stats

from benchmark.report.statistics import (
    Difference,
    above_best,
    bootstrap_mean_ranks,
    friedman,
    gap_closed,
    holm,
    mean_interval,
    mean_intervals,
    mean_ranks,
    near_best,
    probability_of_improvement,
    ranked,
    share_seeds,
)


def test_mean_interval_by_hand():
    """1..5: mean 3, standard deviation sqrt(2.5), t(0.975, 4) = 2.776445."""
    half = 2.776445 * math.sqrt(2.5) / math.sqrt(5)
    assert mean_interval([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx((3.0, 3 - half, 3 + half), rel=1e-6)


def test_mean_of_one_seed_has_no_interval():
    mean, low, high = mean_interval([2.5])
    assert mean == 2.5
    assert math.isnan(low)
    assert math.isnan(high)


@pytest.mark.parametrize("seeds", [2, 5, 10])
def test_mean_interval_covers_the_true_mean(seeds):
    random = np.random.default_rng(seeds)
    intervals = np.array([mean_interval(list(7 + 3 * random.standard_normal(seeds))) for _ in range(4000)])
    covered = ((intervals[:, 1] <= 7) & (intervals[:, 2] >= 7)).mean()
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
    assert ratio == pytest.approx(0.75)
    assert math.isnan(low)
    assert math.isnan(high)


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


def marked(groups):
    """The rows that are not told apart from the best, and it."""
    return set(ranked(groups)) - {label for label, above in above_best(groups).items() if above.p <= 0.05}


SPREAD = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])


def seeded(*rows, first=0):
    """label -> seed -> value of values a label, labels a, b, ..., seeds from `first` on."""
    return {chr(97 + n): dict(enumerate(map(float, values), first)) for n, values in enumerate(rows)}


def paired_groups(**p_values: float) -> dict[str, dict[int, float]]:
    """A best row, and rows whose two-sided t-test paired by seed against it has the given p-values.

    Differences to the best have the variance of `SPREAD`, 0.625, so that t = shift / sqrt(0.625 / 5) with 4 degrees of
    freedom. Those between the other rows are constant: their pairs are told apart for certain, and Holm's steps
    pass them first.
    """
    best = np.array([3.0, -20.0, 50.0, 7.0, 11.0])  # what a seed does to all rows alike takes no part
    shifts = {label: stats.t.isf(p / 2, 4) * math.sqrt(0.125) for label, p in p_values.items()}
    rows = {label: dict(enumerate(best + SPREAD + shift)) for label, shift in shifts.items()}
    return {"best": dict(enumerate(best))} | rows


@pytest.mark.parametrize(
    "p_values, expected",
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
def test_holm_correction_by_hand(p_values, expected):
    assert marked(paired_groups(**p_values)) == expected


def test_pairs_without_the_best_take_part_in_the_correction():
    """`a` and `b` are alike, so three pairs are in play and not two: 0.03 is above 0.05/2, and 0.02 above 0.05/3."""
    groups = paired_groups(a=0.02)
    alike = np.array(list(groups["a"].values())) + 1e-3 * SPREAD[[2, 0, 4, 1, 3]]
    assert marked(groups) == {"best"}
    assert marked(groups | {"b": dict(enumerate(alike))}) == {"best", "a", "b"}


@pytest.mark.parametrize("rows", [3, 6])
def test_equal_rows_are_called_worse_than_whichever_is_best_in_one_of_twenty_tables_at_most(rows):
    random = np.random.default_rng(rows)
    tables = 600
    wrong = 0
    for values in random.normal(size=(tables, rows, 5)):
        groups = {str(row): dict(enumerate(map(float, of_row))) for row, of_row in enumerate(values)}
        wrong += len(marked(groups)) < rows
    assert wrong <= stats.binom.isf(1e-3, tables, 0.05)


@pytest.mark.parametrize("p, expected", [(0.06, {"calm", "noisy"}), (0.04, {"calm"})])
def test_spreads_need_not_be_equal(p, expected):
    """Five scattered seeds against twenty calm ones: nearly all the error is of the five, with 4 degrees of freedom.

    A test that pools variances would leave out both.
    """
    calm = 1e-4 * np.tile(SPREAD, 4)
    noisy = 2 * SPREAD + stats.t.isf(p / 2, 4) * math.sqrt(4 * 0.625 / 5)
    assert stats.ttest_ind(noisy, calm).pvalue < 0.01
    assert marked({"noisy": dict(enumerate(noisy)), "calm": dict(enumerate(calm))}) == expected


def test_rows_with_fewer_than_five_seeds_are_not_ranked_and_leave_the_others_as_they_are():
    few = seeded([1.0, 1.1, 1.2, 0.9], [9.0, 9.1, 9.2, 8.9])
    assert marked(few) == set()
    assert above_best(few) == {}
    enough = random_rows(4, 5, 7)
    assert above_best(enough | {"few": {0: -99.0, 1: -99.0}}) == above_best(enough)
    assert marked(enough | {"few": {0: -99.0, 1: -99.0}}) == marked(enough)
    assert marked({}) == set()
    assert above_best({}) == {}


def test_equal_rows_are_all_marked_and_a_clearly_worse_one_is_not():
    values = 10 + SPREAD
    assert marked(seeded(values, values, 10 + values)) == {"a", "b"}
    assert marked(seeded(values)) == {"a"}
    assert above_best(seeded(values)) == {}


@pytest.mark.parametrize("first", [0, 5])
def test_rows_without_any_spread_are_told_apart_by_their_means(first):
    groups = seeded([1.0] * 5, [1.0] * 5) | {"c": dict.fromkeys(range(first, first + 5), 1.5)}
    assert marked(groups) == {"a", "b"}
    assert above_best(groups)["c"] == Difference(0.5, 0.5, 0.5, 0.0)


def random_rows(rows, seeds, seed, unequal=False):
    random = np.random.default_rng(seed)
    means = random.uniform(0, 1.5, rows)
    made = {f"r{n}": random.normal(means[n], 1, seeds) for n in range(rows)}
    return {label: dict(enumerate(values, 3 * unequal * n)) for n, (label, values) in enumerate(made.items())}


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("unequal", [False, True], ids=["paired", "welch"])
def test_differences_are_those_of_scipy_at_the_level_of_their_holm_step(unequal, seed):
    groups = random_rows(6, 7, seed, unequal)
    assert share_seeds(groups) is not unequal
    best = min(groups, key=lambda label: np.mean(list(groups[label].values())))
    compare = (lambda a, b: stats.ttest_ind(a, b, equal_var=False)) if unequal else stats.ttest_rel
    values = {label: list(by_seed.values()) for label, by_seed in groups.items()}
    pairs = [(one, other) for one in groups for other in groups if one < other]
    tests = {pair: compare(*(values[label] for label in pair)) for pair in pairs}
    order = sorted(tests, key=lambda pair: tests[pair].pvalue)
    found = above_best(groups)
    assert list(found) == sorted(found, key=lambda label: found[label].mean)
    assert set(found) == set(groups) - {best}
    running, stopped = 0.0, False
    for step, pair in enumerate(order):  # Holm, written out step by step
        running = max(running, min((len(order) - step) * tests[pair].pvalue, 1))
        if not stopped:  # later than the step that stops, its level stays
            in_play = len(order) - step
        stopped = stopped or running > 0.05
        if best in pair:
            (label,) = set(pair) - {best}
            ends = sorted(
                end if pair[1] == best else -end for end in tests[pair].confidence_interval(1 - 0.05 / in_play)
            )
            assert found[label].p == pytest.approx(running, rel=1e-9)
            assert (found[label].low, found[label].high) == pytest.approx(tuple(ends), rel=1e-9, abs=1e-12)


def test_an_interval_excludes_zero_exactly_where_the_row_is_not_marked():
    """One test, whichever of the two a reader looks at; over many draws both outcomes and both tests occur."""
    outcomes = set()
    for seed in range(300):
        groups = random_rows(5, 5 + seed % 3, seed, unequal=seed % 2 == 1)
        near = marked(groups)
        for label, found in above_best(groups).items():
            assert (found.low > 0) == (found.p < 0.05) == (label not in near)
            outcomes.add((label in near, share_seeds(groups)))
    assert len(outcomes) == 4


def test_a_single_difference_has_the_plain_95_percent_interval():
    groups = random_rows(2, 5, 3)
    values = {label: list(by_seed.values()) for label, by_seed in groups.items()}
    best, other = sorted(groups, key=lambda label: np.mean(values[label]))
    test = stats.ttest_rel(values[other], values[best])
    found = above_best(groups)[other]
    assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval(0.95)), rel=1e-9)
    assert found.p == pytest.approx(test.pvalue)


def test_seeds_are_paired_by_their_number_and_not_by_their_order():
    groups = random_rows(3, 6, 1)
    turned = {label: dict(reversed(by_seed.items())) if label == "r1" else by_seed for label, by_seed in groups.items()}
    for label, found in above_best(groups).items():
        assert astuple(above_best(turned)[label]) == pytest.approx(astuple(found))


def test_holm_by_hand():
    """4 x 0.01, 3 x 0.02, then 2 x 0.02 = 0.04 below the 0.06 before it, then 0.9."""
    assert holm([0.02, 0.9, 0.01, 0.02]) == pytest.approx([0.06, 0.9, 0.04, 0.06])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert holm([0.03]) == pytest.approx([0.03])
    assert holm([]) == []


@pytest.mark.parametrize("seed", range(20))
def test_holm_is_monotone_and_lies_between_none_and_bonferroni(seed):
    raw = np.random.default_rng(seed).uniform(0, 0.3, 8)
    adjusted = np.array(holm(list(raw)))
    assert (np.diff(adjusted[np.argsort(raw)]) >= 0).all()
    assert (adjusted >= raw).all()
    assert (adjusted <= np.minimum(8 * raw, 1) + 1e-15).all()
    assert (adjusted <= 1).all()
    for label in range(8):  # rejected at level p and not below it, by the closed test of Bonferroni
        others = [[raw[i] for i in range(8) if bits >> i & 1] for bits in range(256) if bits >> label & 1]
        assert adjusted[label] == pytest.approx(min(max(len(of) * min(of) for of in others), 1))


@pytest.mark.parametrize("seed", range(50))
def test_holm_rejects_what_the_step_down_procedure_rejects(seed):
    """Holm 1979: the smallest p against level / m, the next against level / (m - 1), ... until one is above."""
    raw = np.random.default_rng(seed).uniform(0, 0.1, 7).round(3).tolist()  # rounded, so that some are equal
    for level in (0.01, 0.05, 0.2):
        rejected = set()
        for step, place in enumerate(sorted(range(7), key=lambda place: raw[place])):
            if raw[place] > level / (7 - step):
                break
            rejected.add(place)
        adjusted = holm(raw)
        assert {place for place in range(7) if adjusted[place] <= level} == rejected


def test_intervals_of_many_groups_are_those_of_each_by_scipy():
    random = np.random.default_rng(0)
    groups = [random.normal(3, 2, size).tolist() for size in (5, 2, 5, 3, 2)]
    expected = [tuple(stats.ttest_1samp(group, 0).confidence_interval(0.95)) for group in groups]
    assert [found[1:] for found in mean_intervals(groups)] == [pytest.approx(ends, rel=1e-12) for ends in expected]
    assert mean_intervals([]) == []


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("first", [0, 5], ids=["paired", "welch"])
@pytest.mark.parametrize("shift, p", [(0.0, 1.0), (0.1, 0.0)])
def test_rows_without_spread_are_tested_without_a_warning(first, shift, p):
    values = [0.7] * 5
    groups = {"a": dict(enumerate(values)), "b": {first + seed: value + shift for seed, value in enumerate(values)}}
    (found,) = above_best(groups).values()
    assert (found.p, found.high - found.low) == (p, 0.0)


@pytest.mark.filterwarnings("error")
def test_rows_whose_differences_are_constant_but_for_rounding_are_told_apart_without_a_warning():
    values = 10 + SPREAD / 3
    (found,) = above_best(seeded(values, values + 0.1)).values()
    assert found.p < 1e-12


def test_mean_ranks_by_hand_with_ties():
    assert mean_ranks([[1.0, 2.0, 3.0], [5.0, 5.0, 9.0], [7.0, 3.0, 3.0]]) == pytest.approx([5.5 / 3, 5 / 3, 7.5 / 3])


def test_friedman_is_that_of_the_formula():
    """12 N / (k (k + 1)) (sum R^2 - k (k + 1)^2 / 4), chi-squared with k - 1 degrees of freedom."""
    scores = np.random.default_rng(0).uniform(size=(5, 4)) + np.array([0, 0.1, 0.4, 0.5])
    n, k = scores.shape
    ranks = 1 + (scores[:, :, None] > scores[:, None, :]).sum(2)
    statistic = 12 * n / (k * (k + 1)) * ((ranks.mean(0) ** 2).sum() - k * (k + 1) ** 2 / 4)
    assert friedman(scores.tolist()) == pytest.approx(stats.chi2.sf(statistic, k - 1))
    assert friedman(scores[:2].tolist()) is None
    assert friedman(scores[:, :2].tolist()) is None


@pytest.mark.parametrize("value", [0.1, 0.7, 1e-8 / 3])
def test_rows_of_one_number_are_equal_however_its_mean_is_rounded(value):
    groups = {f"{n} seeds": dict.fromkeys(range(n), value) for n in range(5, 12)}
    assert len({float(np.mean(list(group.values()))) for group in groups.values()}) > 1, "means are rounded"
    found = above_best(groups)
    assert len(found) == len(groups) - 1
    assert {astuple(each) for each in found.values()} == {(0.0, 0.0, 0.0, 1.0)}


# ---- near the best --------------------------------------------------------------------------------------------------


def near(groups, gap):
    return near_best(groups, above_best(groups), gap)


def test_a_row_is_near_the_best_where_its_whole_interval_lies_within_five_hundredths_of_the_gap():
    groups = paired_groups(a=0.01)
    above = above_best(groups)["a"]
    assert above.high > above.mean > 0
    assert near(groups, above.high / 0.05 + 1e-9) == {"best", "a"}
    assert near(groups, above.high / 0.05 - 1e-9) == {"best"}
    assert near(groups, None) == {"best"}


def test_a_row_that_scatters_is_not_near_the_best_whatever_its_mean():
    calm, noisy = 1 + 0.001 * SPREAD, 1.002 + 0.3 * SPREAD[::-1]
    groups = seeded(calm, calm[[1, 0, 4, 2, 3]] + 1e-4, noisy)
    assert marked(groups) >= {"a", "c"}, "its mean is not told apart"
    assert near(groups, 1.0) == {"a", "b"}


def test_rows_beyond_the_margin_are_called_near_in_one_of_twenty_tables_at_most():
    random = np.random.default_rng(5)
    tables, wrong = 1_000, 0
    for values in random.normal(size=(tables, 2, 5)):
        groups = {"best": dict(enumerate(values[0] - 40)), "far": dict(enumerate(values[1] - 40 + 5.0))}
        wrong += "far" in near(groups, 100.0) and "best" in near(groups, 100.0)
    assert wrong <= stats.binom.isf(1e-3, tables, 0.05)


# ---- over several tables --------------------------------------------------------------------------------------------


def test_mean_ranks_have_the_highest_first_and_no_interval_where_nothing_scatters():
    scores = [[[3.0] * 5, [2.0] * 5, [1.0] * 5], [[3.0] * 5, [1.0] * 5, [2.0] * 5]]
    assert bootstrap_mean_ranks(scores) == [(1.0, 1.0, 1.0), (2.5, 2.5, 2.5), (2.5, 2.5, 2.5)]
    assert bootstrap_mean_ranks([[[1.0] * 5, [1.0] * 5]]) == [(1.5, 1.5, 1.5)] * 2


def test_the_interval_of_a_mean_rank_is_that_of_resampled_seeds():
    """Two rows that win half of their seeds each: drawn five times with replacement, either may be ahead."""
    first = [0.0, 0.0, 1.0, 1.0, 1.01]
    second = [1.0, 1.0, 0.0, 0.0, 1.0]
    (one, *ends), (other, *_) = bootstrap_mean_ranks([[first, second]])
    assert (one, other) == (1.0, 2.0)
    assert ends == [1.0, 2.0]
    # seeds are drawn alike for rows of one table: a row that is ahead with every seed is ahead in every resample
    wide = [0.0, 10.0, 20.0, 30.0, 40.0]
    (ahead, low, high), _ = bootstrap_mean_ranks([[[value + 1 for value in wide], wide]])
    assert (ahead, low, high) == (1.0, 1.0, 1.0)


def test_the_probability_of_improvement_is_that_of_mann_and_whitney():
    one, other = [1.0, 2.0, 3.0], [2.0, 2.5]
    u = stats.mannwhitneyu(one, other).statistic
    assert probability_of_improvement(one, other) == pytest.approx(u / 6)
    assert probability_of_improvement(one, one) == 0.5
