"""The classifier two-sample test against scikit-learn's area and the best classifier there is."""

import math

import numpy as np
import pytest
import torch
from draws import normal, seeded
from sklearn.metrics import roc_auc_score

from benchmark.metrics.c2st import classifier_auc
from benchmark.scores import classifier
from benchmark.scores.ranks import superiority


def test_its_area_is_scikit_learn_s(monkeypatch):
    """With the network replaced by a fixed score, every item is scored once, in the fold that did not train on it."""
    trained, scored = [], []

    def logits(layers, x, dropout=None):
        scored.append(x[:, 0].clone())
        return x[:, 0].round()  # with ties

    monkeypatch.setattr(classifier, "_trained", lambda *given: trained.append(given[:2]))
    monkeypatch.setattr(classifier, "_logits", logits)
    monkeypatch.setattr(classifier, "CUT", math.inf)
    real, generated = normal(52, 2, 0), normal(48, 2, 1) + 0.5
    value = classifier_auc(real, generated, seeded(0))
    areas = [
        roc_auc_score([1] * len(a) + [0] * len(b), torch.cat([a, b]).round()) for a, b in zip(scored[::2], scored[1::2])
    ]
    assert value == pytest.approx(np.mean(areas), abs=1e-12)
    assert [len(part) for part in scored[::2]] == [11, 11, 10, 10, 10]
    assert [len(a) for a, _ in trained] == [41, 41, 42, 42, 42]
    for (train, _), test in zip(trained, scored[::2]):
        assert not set(train[:, 0].tolist()) & set(test.tolist())
        assert torch.allclose(train[:, :2].mean(0), torch.zeros(2), atol=1e-5), "standardised by the training folds"


def test_the_area_is_a_half_over_seeds_where_there_is_no_difference():
    """In 40 dimensions a network learns 80 items by heart: scored on those it would tell all of them apart."""
    values = [classifier_auc(normal(50, 40, 2 * s), normal(50, 40, 2 * s + 1), seeded(s)) for s in range(30)]
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    assert np.mean(values) == pytest.approx(0.5, abs=3 * error)
    assert error < 0.02
    assert min(values) < 0.5 < max(values)


def ring(n: int, seed: int) -> torch.Tensor:
    """On a circle of radius sqrt(2): mean 0, covariance I."""
    angle = 2 * math.pi * torch.rand(n, generator=seeded(seed))
    return math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * normal(n, 2, seed + 1)


PLANTED = {
    "shift": (lambda: normal(1_000, 4, 0) + 0.3, lambda: normal(1_000, 4, 1), lambda z: z.sum(1)),
    "width": (lambda: normal(1_000, 4, 0, 0.7), lambda: normal(1_000, 4, 1), lambda z: -z.square().sum(1)),
    "equal moments": (lambda: ring(1_000, 0), lambda: normal(1_000, 2, 5), lambda z: -(z.norm(dim=1) - 2**0.5).abs()),
}


@pytest.mark.parametrize("name", PLANTED)
def test_the_area_is_near_that_of_the_best_classifier(name):
    """By the Neyman-Pearson lemma no score does better than the ratio of the densities (a monotone function of it)."""
    make_real, make_generated, ratio = PLANTED[name]
    real, generated = make_real(), make_generated()
    best, value = superiority(ratio(real), ratio(generated)), classifier_auc(real, generated, seeded(0))
    assert best > 0.65
    assert best - 0.05 < value < best + 0.03


def test_what_lies_apart_is_told_apart_whatever_its_scale():
    real = normal(100, 3, 0)
    for generated in (real + 100, normal(100, 3, 1, 1e20), torch.zeros(100, 3) + 5, normal(100, 3, 1) * 1e-3):
        assert 0.9 < classifier_auc(real, generated, seeded(0)) <= 1
    assert classifier_auc(torch.ones(20, 3), torch.ones(20, 3), seeded(0)) == 0.5


def test_one_latent_that_is_far_off_does_not_decide_the_area():
    generated = normal(200, 3, 1)
    generated[0] = 1e30  # its square is no float32
    assert classifier_auc(normal(200, 3, 0), generated, seeded(0)) == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize("n, m", [(2, 2), (3, 7), (12, 12)])
def test_few_latents_of_one_dimension_have_an_area(n, m):
    assert 0 <= classifier_auc(normal(n, 1, 0), normal(m, 1, 1), seeded(0)) <= 1


def test_the_generator_alone_decides_the_area():
    real, generated = normal(60, 3, 0), normal(60, 3, 1) + 0.2
    first = classifier_auc(real, generated, seeded(0))
    torch.manual_seed(5)
    assert classifier_auc(real, generated, seeded(0)) == first != classifier_auc(real, generated, seeded(1))
    with torch.no_grad():
        assert classifier_auc(real, generated, seeded(0)) == first
