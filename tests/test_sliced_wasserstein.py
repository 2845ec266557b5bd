"""The sliced Wasserstein distance against exact transport and closed forms."""

import math

import numpy as np
import pytest
import torch
from draws import normal, seeded
from scipy.optimize import linear_sum_assignment

from benchmark.metrics.sliced_wasserstein import directions, sliced_wasserstein


def along(d: int, seed: int = 0) -> torch.Tensor:
    return directions(d, seeded(seed))


@pytest.mark.parametrize("d", [1, 3, 40])
def test_directions_are_unit_vectors_of_no_preference(d):
    made = along(d)
    assert made.shape == (d, 500)
    assert torch.allclose(made.norm(dim=0), torch.ones(500).double())
    assert (made @ made.T / 500 - torch.eye(d) / d).abs().max() < 5 / math.sqrt(500 * d)


@pytest.mark.parametrize("d", [1, 3, 20])
def test_sliced_wasserstein_equals_exact_transport_along_every_direction(d):
    """The optimal assignment of all to all, which knows nothing of sorting."""
    x, y = normal(25, d, 0).double(), normal(25, d, 1, scale=1.7).double() + 0.3
    lines = along(d)[:, :40]
    costs = []
    for line in lines.T:
        cost = ((x @ line)[:, None] - (y @ line)[None]).square().numpy()
        costs.append(cost[linear_sum_assignment(cost)].mean())
    assert sliced_wasserstein(x, y, lines) == pytest.approx(math.sqrt(np.mean(costs)), rel=1e-9)


def test_a_shift_has_its_closed_form():
    """SW_2^2 = mean (t . shift)^2 over the directions, |shift|^2 / d over all there are."""
    x, shift, lines = normal(200, 8, 0).double(), torch.linspace(-1, 2, 8).double(), along(8)
    value = sliced_wasserstein(x[torch.randperm(200, generator=seeded(1))] + shift, x, lines)
    assert value == pytest.approx((shift @ lines).square().mean().sqrt().item(), rel=1e-9)
    assert value == pytest.approx(shift.norm().item() / math.sqrt(8), rel=0.05)


@pytest.mark.parametrize("scale, shift", [(1.5, 0.0), (0.5, 1.0)])
def test_gaussians_have_their_closed_form(scale, shift):
    """Along any direction N(0, 1) and N(t . shift, scale^2): (t . shift)^2 + (scale - 1)^2."""
    x, y = normal(20_000, 4, 0), normal(20_000, 4, 1, scale) + shift
    assert sliced_wasserstein(x, y, along(4)) == pytest.approx(math.hypot(scale - 1, shift), rel=0.05)


def test_sliced_wasserstein_of_equal_distributions_falls_with_n_and_of_copies_is_zero():
    small, large = (sliced_wasserstein(normal(n, 4, 0), normal(n, 4, 1), along(4)) for n in (50, 5_000))
    assert 0 < large < 0.05 < small < 0.5
    x = normal(50, 4, 0)
    assert sliced_wasserstein(x, x.flip(0), along(4)) < 1e-12
