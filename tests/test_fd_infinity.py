"""The Fréchet distance at infinity: an intercept that takes the bias of n away."""

import math

import numpy as np
import pytest
import torch
from draws import clustered, normal, seeded
from sklearn.linear_model import LinearRegression

from benchmark.metrics import fd_infinity
from benchmark.metrics.api import Statistics
from benchmark.metrics.fd_infinity import frechet_at_infinity, nested_statistics
from benchmark.scores.frechet import feature_statistics, frechet_distance


def test_nested_statistics_are_those_of_the_first_rows(monkeypatch):
    features, sizes = clustered(100, 6, 0) + 1_000, [25, 26, 70, 100]
    for block in (2_000, 7):
        monkeypatch.setattr(fd_infinity, "BLOCK", block)
        for size, made in zip(sizes, nested_statistics(features, sizes), strict=True):
            expected = feature_statistics(features[:size])
            assert torch.allclose(made.mean, expected.mean, rtol=1e-12)
            assert torch.allclose(made.covariance, expected.covariance, rtol=1e-9, atol=1e-9)


def test_it_is_the_intercept_of_a_least_squares_line_in_1_over_n():
    features, reference = clustered(400, 5, 0), feature_statistics(clustered(900, 5, 50))
    shuffled = features[torch.randperm(400, generator=seeded(3))]
    sizes = [100, 142, 185, 228, 271, 314, 357, 400]
    distances = [frechet_distance(feature_statistics(shuffled[:n]), reference) for n in sizes]
    line = LinearRegression().fit(1 / np.array(sizes)[:, None], distances)
    assert frechet_at_infinity(features, reference, seeded(3)) == pytest.approx(line.intercept_, rel=1e-6)


def test_it_takes_the_bias_of_n_away():
    """Against the true statistics, where the distance of infinitely many is 0, and of a wider Gaussian d (s - 1)^2."""
    d, n = 16, 400
    truth = Statistics(torch.zeros(d).double(), torch.eye(d).double())
    for scale, limit in ((1.0, 0.0), (1.5, d * 0.25)):
        drawn = [scale * normal(n, d, seed) for seed in range(40)]
        biased = np.array([frechet_distance(feature_statistics(x), truth) for x in drawn]) - limit
        at_infinity = np.array([frechet_at_infinity(x, truth, seeded(seed)) for seed, x in enumerate(drawn)]) - limit
        error = at_infinity.std(ddof=1) / math.sqrt(len(drawn))
        assert abs(at_infinity.mean()) < 0.15 * biased.mean() + 3 * error
        assert biased.mean() > 0.1
        assert 6 * error < biased.mean()


def test_it_does_not_ask_in_which_order_items_come():
    """The first quarter of a sorted sample is another distribution; a random one is not."""
    features = clustered(2_000, 8, 0)
    reference = feature_statistics(clustered(4_000, 8, 50))
    in_order = frechet_at_infinity(features[features[:, 0].argsort()], reference, seeded(0))
    assert in_order == pytest.approx(frechet_at_infinity(features, reference, seeded(0)), abs=0.3)


@pytest.mark.parametrize("n, blank", [(12, True), (259, True), (260, False)])
def test_it_is_blank_where_a_subset_would_have_no_more_items_than_features(n, blank):
    value = frechet_at_infinity(normal(n, 64, 0), feature_statistics(normal(500, 64, 1)), seeded(0))
    assert (value is None) is blank
