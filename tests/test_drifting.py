"""Drifting: its force against a double loop, where it vanishes and where it must push; what it learns."""

import math

import pytest
import torch
from draws import CPU, normal, seeded, silent
from pydantic import ValidationError

from benchmark.check.targets import TARGETS
from benchmark.scores.mmd import mmd_between
from priors.api import AggregatePosterior, Diverged, PosteriorSplit
from priors.drifting import Drifting, DriftingConfig, drift

TEMPERATURES = (0.02, 0.05, 0.2)


def looped(y, x, temperatures, masked=True):
    """The same force in double precision, pair by pair."""
    y, x = y.double(), x.double()
    n, points = len(y), [*y.double(), *x.double()]
    pairs = [(i, j) for i in range(n) for j in range(len(points)) if not masked or i != j]
    d = {(i, j): math.dist(y[i].tolist(), points[j].tolist()) for i, j in pairs}
    mean = sum(d.values()) / len(d)
    total = torch.zeros_like(y)
    for temperature in temperatures:
        kernel = {pair: math.exp(-each / mean / temperature) for pair, each in d.items()}
        row, column = [0.0] * n, [0.0] * len(points)
        for (i, j), value in kernel.items():
            row[i] += value
            column[j] += value
        a = {(i, j): value / math.sqrt(row[i] * column[j]) for (i, j), value in kernel.items()}
        force = torch.zeros_like(y)
        for i in range(n):
            mine = [j for j in range(len(points)) if (i, j) in a]
            repels = sum(a[i, j] for j in mine if j < n)
            attracts = sum(a[i, j] for j in mine if j >= n)
            for j in mine:
                force[i] += (repels if j >= n else -attracts) * a[i, j] * points[j]
        total += force / force.square().mean().sqrt()
    return total


@pytest.mark.parametrize("apart", [0.0, 3.0])
def test_the_force_is_that_of_a_double_loop(apart):
    y, x = 0.5 * normal(7, 3, 1), normal(9, 3, 2) + apart
    force, shift = drift(y, x, TEMPERATURES)
    assert torch.allclose(force.double(), looped(y, x, TEMPERATURES), atol=1e-4)
    assert shift.shape == (7, 3)


def outward(force, y):
    """Work of the force away from the middle of y, by its own length: a cosine."""
    out = y - y.mean(0)
    return ((force * out).sum() / (force.norm() * out.norm())).item()


@pytest.mark.parametrize("size", [1e-3, 0.1])
def test_a_cloud_shrunk_to_a_point_is_pushed_outward_and_one_too_wide_inward(size):
    """What all its members share moves the point; the rest opens it."""
    y, x = normal(60, 4, 1, size), normal(60, 4, 2)
    force, _ = drift(y, x, (0.2,))
    rest = force - force.mean(0)
    assert outward(rest, y) > 0.5
    wide = normal(60, 4, 3, 4.0)
    assert outward(drift(wide, x, (0.2,))[0], wide) < -0.5


def test_with_themselves_among_the_others_they_would_all_be_drawn_to_the_middle():
    """In 16 dimensions one is much nearer to oneself than to anyone, and what is here repels to nowhere."""
    y, x = normal(60, 16, 1), normal(60, 16, 2)
    assert abs(outward(drift(y, x, TEMPERATURES)[0], y)) < 0.2
    assert outward(looped(y, x, TEMPERATURES, masked=False), y) < -0.5


def test_the_force_vanishes_in_expectation_where_both_agree_and_not_elsewhere():
    """The mean force at one place, over many batches, against the force of a batch."""
    here = torch.tensor([[1.0, -0.5]])

    def mean_force(scale, temperature, batches=1_000):
        generator = seeded(4)
        forces = []
        for _ in range(batches):
            y, x = (torch.randn(16, 2, generator=generator) for _ in range(2))
            forces.append(drift(torch.cat([here, scale * y[1:]]), x, (temperature,))[0][0])
        stacked = torch.stack(forces)
        return stacked.mean(0), stacked.std(0) / math.sqrt(batches)

    for temperature in (0.2, 1.0):
        mean, error = mean_force(1.0, temperature)
        assert (mean.abs() < 4 * error).all()
        mean, error = mean_force(0.3, temperature)
        assert (mean.abs() > 6 * error).any()


def test_it_learns_the_modes_and_keeps_their_spread():
    target = TARGETS["mixture"]()
    torch.manual_seed(0)
    prior = Drifting(target.shape, DriftingConfig(steps=400, width=256))
    prior.fit(target.posterior(CPU), seeded(), silent)
    z, real = prior.sample(2_000, seeded(2)), target.draw(2_000, seeded(1))
    assert mmd_between(z, real) < 0.3 * mmd_between(normal(2_000, 16, 3), real)
    assert z.var(0).sum().item() == pytest.approx(real.var(0).sum().item(), rel=0.15)
    assert prior.log_prob(z) is None


def test_latents_that_are_not_finite_end_the_fit():
    bad = PosteriorSplit(torch.full((50, 2), math.nan), torch.ones(50, 2))
    with pytest.raises(Diverged, match="not finite"):
        Drifting((2,), DriftingConfig(steps=5, width=8, batch_size=16)).fit(
            AggregatePosterior(bad, bad), seeded(), silent
        )


@pytest.mark.parametrize("temperature", [0.0, -0.1])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValidationError, match="greater than 0"):
        DriftingConfig(temperatures=(0.05, temperature))
