"""The kernel inception distance against torch-fidelity and a double loop."""

import math

import numpy as np
import pytest
import torch
from draws import KINDS, clustered, normal
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

from benchmark.metrics.kid import kernel_distance


@KINDS
@pytest.mark.parametrize("d", [3, 64, 300])
def test_kid_equals_torch_fidelity_at_one_subset_of_the_full_size(kind, d):
    generated, real = kind(150, d, 0) * 1.1 + 0.05, kind(150, d, 10)
    settings = dict(kid_subsets=1, kid_subset_size=150, verbose=False)
    theirs = kid_features_to_metric(generated.double(), real.double(), **settings)[KEY_METRIC_KID_MEAN]
    assert kernel_distance(generated, real) == pytest.approx(theirs, rel=1e-9)


def test_kid_equals_a_double_loop_also_for_samples_of_two_sizes():
    generated, real = clustered(7, 4, 0), clustered(11, 4, 5)

    def kernel(x, y):
        return (sum(float(a) * float(b) for a, b in zip(x, y)) / 4 + 1) ** 3

    def among(x):
        pairs = [kernel(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j]
        return sum(pairs) / len(pairs)

    across = sum(kernel(x, y) for x in generated for y in real) / 77
    assert kernel_distance(generated, real) == pytest.approx(among(generated) + among(real) - 2 * across, rel=1e-9)


def test_kid_is_unbiased_and_goes_below_zero():
    """Over 200 pairs of equal distributions; with the diagonal kept in, the mean would be ten times its error."""
    values = [kernel_distance(normal(40, 6, 2 * draw), normal(40, 6, 2 * draw + 1)) for draw in range(200)]
    error = np.std(values, ddof=1) / math.sqrt(200)
    diagonal = [(((x.square().sum(1) / 6 + 1) ** 3).mean() - 1) / 40 for x in (normal(4_000, 6, 7),)]
    assert abs(np.mean(values)) < 3 * error < diagonal[0] / 3
    assert 0.2 < np.mean(np.array(values) < 0) < 0.8


def test_kid_of_features_that_never_change_is_zero():
    assert kernel_distance(torch.full((9, 4), 2.0), torch.full((9, 4), 2.0)) == pytest.approx(0, abs=1e-9)
