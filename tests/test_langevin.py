"""Short-run Langevin against the moments of its linear chain."""

import pytest
import torch
from draws import seeded

from priors.parts.langevin import short_run


@pytest.mark.parametrize("step_size", [0.1, 0.4])
def test_langevin_has_the_moments_of_its_discretised_chain(step_size):
    """On f = a |z - c|^2 / 2 the chain is linear, so mean and variance of its stationary law are known exactly."""
    a, centre, steps = 3.0, 1.0, 60 if step_size == 0.4 else 600
    start = torch.randn(20_000, 2, generator=seeded())
    z = short_run(lambda z: a * (z - centre), start, steps, step_size, seeded(1))
    contraction = 1 - step_size**2 * (1 + a) / 2
    variance = step_size**2 / (1 - contraction**2)
    assert z.mean().item() == pytest.approx(a * centre / (1 + a), abs=0.01)
    assert z.var().item() == pytest.approx(variance, rel=0.03)
    if step_size == 0.1:
        assert variance == pytest.approx(1 / (1 + a), rel=0.02)


def test_a_long_step_cannot_hold_a_narrow_density():
    """N(0, 0.1^2) has 1 + a = 100: at s = 0.4 the linear chain is unstable, whatever the energy's quality."""
    z = short_run(lambda z: 99 * z, torch.randn(100, 2, generator=seeded()), 10, 0.4, seeded(1))
    assert z.abs().mean() > 1e3
