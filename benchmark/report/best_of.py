"""What a number of trials can be expected to bring: the lowest of k scores, from n that were measured."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

RESAMPLES = 2_000


def expected_best(scores: Sequence[float], k: int) -> float:
    """The mean of the lowest of k scores over all choices of k among these n (Tang et al. 2020, arXiv 2004.13705).

        E_k = sum_i C(n - i, k - 1) / C(n, k) v_(i),   v_(1) <= ... <= v_(n)

    the U-statistic of the minimum: without bias, as the plug-in estimate of Dodge et al. 2019 is not. nan for k > n.
    """
    values = np.sort(np.asarray(scores, dtype=float))
    n = len(values)
    if not 1 <= k <= n:
        return math.nan
    return float(values @ _weights(n, k))


def expected_best_band(scores: Sequence[float], k: int) -> tuple[float, float]:
    """95 % of what `expected_best` is of as many trials, drawn from these with replacement (Efron 1979)."""
    generator = np.random.default_rng(0)
    values = np.asarray(scores, dtype=float)
    drawn = np.sort(values[generator.integers(len(values), size=(RESAMPLES, len(values)))], axis=1)
    low, high = np.percentile(drawn @ _weights(len(values), k), [2.5, 97.5])
    return float(low), float(high)


def _weights(n: int, k: int) -> np.ndarray:
    """Of n scores in ascending order, the chance of each to be the lowest of k."""
    return np.array([math.comb(n - place, k - 1) / math.comb(n, k) for place in range(1, n + 1)])
