"""Superiority: the area under the curve, and the share of pairs."""

import numpy as np
import pytest
import torch
from draws import seeded
from scipy import stats
from sklearn.metrics import roc_auc_score

from benchmark.scores.ranks import superiority


@pytest.mark.parametrize("n, m", [(30, 50), (1, 4)])
def test_superiority_is_the_area_under_the_curve_and_the_share_of_pairs(n, m):
    x, y = (torch.randint(8, (size,), generator=seeded(size)).double() for size in (n, m))  # with ties
    by_hand = np.mean([(a > b) + (a == b) / 2 for a in x.tolist() for b in y.tolist()])
    assert superiority(x, y) == pytest.approx(by_hand, abs=1e-12)
    area = roc_auc_score([1] * n + [0] * m, torch.cat([x, y]))
    assert superiority(x, y) == pytest.approx(area, abs=1e-12)
    u = stats.mannwhitneyu(x.numpy(), y.numpy()).statistic
    assert superiority(x, y) == pytest.approx(u / (n * m), abs=1e-12)
