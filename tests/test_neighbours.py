"""Precision, recall, density and coverage against torch-fidelity, a double loop and planted failures."""

import math

import numpy as np
import pytest
import torch
from draws import KINDS, clustered, normal
from sklearn.neighbors import NearestNeighbors
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from benchmark.metrics.neighbours import neighbourhood_scores

SCORES = ("precision", "recall", "density", "coverage")


@KINDS
@pytest.mark.parametrize("part", [False, True])
def test_precision_and_recall_equal_torch_fidelity(kind, part):
    generated, real = kind(300, 8, 0) * 1.2, kind(260, 8, 10)
    settings = dict(prc_neighborhood=5, prc_batch_size=70, save_cpu_ram=part, verbose=False)
    theirs = prc_features_to_metric(generated.double(), real.double(), **settings)
    ours = neighbourhood_scores(generated, real)
    assert 0.05 < ours["precision"] < 1
    assert 0.05 < ours["recall"] < 1
    assert ours["precision"] == pytest.approx(theirs[KEY_METRIC_PRECISION], abs=1e-6)
    assert ours["recall"] == pytest.approx(theirs[KEY_METRIC_RECALL], abs=1e-6)


def naive_scores(generated: torch.Tensor, real: torch.Tensor, k: int) -> dict[str, float]:
    """As the definitions read, item by item; radii by scikit-learn."""
    generated, real = generated.double().numpy(), real.double().numpy()

    def radii(x):
        return NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(x).kneighbors(x)[0][:, k]

    of_real, of_generated = radii(real), radii(generated)
    distance = [[math.dist(g, r) for r in real] for g in generated]
    n, m = len(generated), len(real)
    inside = [[distance[i][j] <= of_real[j] for j in range(m)] for i in range(n)]
    return {
        "precision": sum(any(row) for row in inside) / n,
        "recall": sum(any(distance[i][j] <= of_generated[i] for i in range(n)) for j in range(m)) / m,
        "density": sum(map(sum, inside)) / (k * n),
        "coverage": sum(any(inside[i][j] for i in range(n)) for j in range(m)) / m,
    }


@KINDS
@pytest.mark.parametrize("k, n, m", [(1, 40, 40), (5, 60, 60), (5, 30, 50)])
def test_the_four_scores_equal_a_double_loop(kind, k, n, m):
    generated, real = kind(n, 3, 0) * 1.3 + 0.2, kind(m, 3, 10)
    assert neighbourhood_scores(generated, real, k) == pytest.approx(naive_scores(generated, real, k), abs=1e-12)


def test_scores_of_one_distribution_are_what_they_are_expected_to_be():
    """Density 1; coverage 1 - (n-1)...(n-k) / (2n-1)...(2n-k), which nears 1 - 2^-k (Naeem et al. 2020)."""
    n, k, runs = 200, 5, 20
    made = [neighbourhood_scores(clustered(n, 5, 40 * i), clustered(n, 5, 40 * i + 20)) for i in range(runs)]
    mean = {name: np.mean([scores[name] for scores in made]) for name in SCORES}
    error = {name: np.std([scores[name] for scores in made], ddof=1) / math.sqrt(runs) for name in SCORES}
    expected = 1 - math.prod((n - i) / (2 * n - i) for i in range(1, k + 1))
    assert expected == pytest.approx(1 - 2**-k, abs=3e-3)
    assert mean["coverage"] == pytest.approx(expected, abs=4 * error["coverage"])
    assert error["coverage"] < 0.01
    assert mean["density"] == pytest.approx(1, abs=4 * error["density"])
    assert error["density"] < 0.05


def test_one_mode_out_of_ten_shows_in_coverage_and_recall_and_not_in_precision():
    real, all_modes = clustered(500, 16, 0), clustered(500, 16, 30)
    one = clustered(4_000, 16, 60)
    one = one[torch.cdist(one, one[:1])[:, 0].argsort()[:300]]
    scores, whole = neighbourhood_scores(one, real), neighbourhood_scores(all_modes, real)
    assert scores["coverage"] < 0.2
    assert scores["recall"] < 0.2
    assert scores["precision"] > 0.9
    assert whole["coverage"] > 0.9
    assert whole["recall"] > 0.6


def test_a_replayed_sample_has_all_and_a_far_one_nothing():
    real = clustered(100, 6, 0)
    assert neighbourhood_scores(real, real) == pytest.approx(
        {"precision": 1, "recall": 1, "density": (5 + 1) / 5, "coverage": 1}, abs=0.05
    )
    assert set(neighbourhood_scores(real + 1e4, real).values()) == {0.0}


def test_scores_do_not_move_with_the_origin():
    generated, real = normal(80, 4, 0) * 1.2, normal(80, 4, 1)
    moved = neighbourhood_scores(generated.double() + 1e7, real.double() + 1e7)
    assert moved == pytest.approx(neighbourhood_scores(generated, real), abs=1e-9)


@pytest.mark.parametrize("n", [2, 3, 5, 6])
def test_with_no_more_items_than_neighbours_a_ball_reaches_the_farthest(n):
    generated, real = normal(n, 3, 0), normal(n, 3, 1)
    expected = naive_scores(generated, real, min(5, n - 1))
    assert neighbourhood_scores(generated, real) == pytest.approx(expected, abs=1e-12)


def test_features_that_never_change_are_each_other_s_neighbours():
    constant = torch.full((12, 4), 0.3)
    scores = neighbourhood_scores(constant, constant)
    assert (scores["precision"], scores["recall"], scores["coverage"]) == (1, 1, 1)
    assert all(math.isfinite(value) for value in neighbourhood_scores(constant, normal(12, 4, 0)).values())
