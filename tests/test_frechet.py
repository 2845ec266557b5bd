"""The Fréchet distance against torch-fidelity and closed forms."""

import math

import pytest
import torch
from draws import seeded
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

from benchmark.metrics.api import Statistics
from benchmark.scores.frechet import feature_statistics, frechet_distance


def correlated(n: int, d: int, seed: int) -> torch.Tensor:
    """Features with a mean away from zero and a full, ill-conditioned covariance."""
    generator = seeded(seed)
    mixing = torch.randn(d, d, generator=generator, dtype=torch.float64) * torch.logspace(0, -2, d, dtype=torch.float64)
    mean = torch.randn(d, generator=generator, dtype=torch.float64)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) @ mixing + mean


def of_torch_fidelity(generated: torch.Tensor, reference: torch.Tensor) -> float:
    pair = [fid_features_to_statistics(features) for features in (generated, reference)]
    return fid_statistics_to_metric(*pair, verbose=False)[KEY_METRIC_FID]


def ours(generated: torch.Tensor, reference: torch.Tensor) -> float:
    return frechet_distance(feature_statistics(generated), feature_statistics(reference))


@pytest.mark.parametrize("d", [2, 5, 64, 200])
def test_frechet_equals_torch_fidelity(d):
    generated, reference = correlated(3 * d + 100, d, seed=d), correlated(4 * d + 50, d, seed=d + 1)
    theirs = of_torch_fidelity(generated, reference)
    assert ours(generated, reference) == pytest.approx(theirs, rel=1e-4)
    assert ours(generated.float(), reference.float()) == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("n", [10, 40])
def test_frechet_of_rank_deficient_covariances_equals_torch_fidelity(n):
    """With fewer images than features, what can differ is the roots of eigenvalues that are zero but for rounding."""
    generated, reference = correlated(n, 64, seed=1), correlated(n + 5, 64, seed=2)
    assert ours(generated, reference) == pytest.approx(of_torch_fidelity(generated, reference), rel=1e-4)


def test_frechet_of_equal_statistics_is_zero():
    statistics = feature_statistics(correlated(500, 32, seed=0))
    scale = statistics.covariance.trace().item()
    assert abs(frechet_distance(statistics, statistics)) < 1e-6 * scale


def test_frechet_of_equal_distributions_vanishes_with_n():
    """It is biased upwards by a term of order d^2 / n, and by no more."""
    small = ours(*torch.randn(2, 500, 8, generator=seeded(0)))
    large = ours(*torch.randn(2, 50_000, 8, generator=seeded(1)))
    assert 0 < large < 2e-3 < small < 0.2


def test_frechet_has_the_closed_form_of_commuting_gaussians():
    """With shared axes: |m1 - m2|^2 + sum (s1 - s2)^2."""
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=seeded(0), dtype=torch.float64))[0]
    s1, s2 = torch.tensor([[1.0, 2.0, 0.5, 3.0], [2.0, 2.0, 1.5, 0.1]], dtype=torch.float64)
    m1, m2 = torch.tensor([[0.0, 1.0, 2.0, 3.0], [1.0, 1.0, 0.0, 5.0]], dtype=torch.float64)
    first, second = (Statistics(m, rotation @ (s**2).diag() @ rotation.T) for m, s in ((m1, s1), (m2, s2)))
    by_hand = (1 + 0 + 4 + 4) + (1 + 0 + 1 + 2.9**2)
    assert frechet_distance(first, second) == pytest.approx(by_hand, rel=1e-10)
    assert frechet_distance(second, first) == pytest.approx(by_hand, rel=1e-10)


def test_frechet_has_the_closed_form_of_two_dimensions():
    """For 2 x 2 matrices that do not commute, tr sqrt(S1 S2) = sqrt(tr S1 S2 + 2 sqrt(det S1 det S2))."""
    s1 = torch.tensor([[2.0, 0.9], [0.9, 1.0]], dtype=torch.float64)
    s2 = torch.tensor([[0.5, -0.3], [-0.3, 3.0]], dtype=torch.float64)
    trace_of_root = math.sqrt((s1 @ s2).trace() + 2 * math.sqrt(s1.det() * s2.det()))
    zero = torch.zeros(2, dtype=torch.float64)
    distance = frechet_distance(Statistics(zero, s1), Statistics(zero, s2))
    assert distance == pytest.approx(6.5 - 2 * trace_of_root, rel=1e-10)
