"""Energy Matching: its slopes against autograd, its pairs against all permutations, its field against a known one."""

import itertools
import math

import pytest
import torch
from draws import normal, seeded, silent
from posteriors import gaussian_posterior
from torch import nn

from priors.api import AggregatePosterior, Diverged, PosteriorSplit
from priors.energy_matching import EnergyMatching, EnergyMatchingConfig, matching_loss
from priors.parts.assignment import assign
from priors.parts.smooth_energies import SmoothEnergy

pytestmark = pytest.mark.usefixtures("seeded_modules")


def plain(field):
    """The same field of torch's own layers, with its very weights."""
    return nn.Sequential(*[part for layer in field.hidden for part in (layer, nn.SiLU())], field.last, nn.Flatten(0))


@pytest.mark.parametrize("depth", [1, 3])
def test_slopes_and_what_a_loss_of_them_says_of_the_parameters_are_autograds(depth):
    """The second by double backward."""
    field = SmoothEnergy(4, 7, depth).double()
    z = normal(9, 4, 1).double().requires_grad_()
    value = plain(field)(z)
    assert torch.allclose(field(z), value, atol=1e-12)
    (expected,) = torch.autograd.grad(value.sum(), z, create_graph=True)
    slope = field.slope(z.detach())
    assert torch.allclose(slope, expected, atol=1e-12)
    parameters = list(field.parameters())
    ours, theirs = (torch.autograd.grad((each - 1).square().sum(), parameters) for each in (slope, expected))
    for one, other in zip(ours, theirs):
        assert torch.allclose(one, other, atol=1e-10)
        assert one.abs().sum() > 0, "biases too: a field that bends smoothly"


def test_pairs_have_the_least_sum_of_squared_distances():
    z_0, z_1 = normal(6, 3, 1), normal(6, 3, 2)
    chosen = assign(z_0, z_1)
    assert sorted(chosen.tolist()) == list(range(6))
    cost = lambda order: (z_0 - z_1[list(order)]).square().sum().item()  # noqa: E731
    assert cost(chosen.tolist()) == pytest.approx(min(map(cost, itertools.permutations(range(6)))))


def test_the_loss_is_that_of_a_plain_line():
    field, z_0, z_1 = SmoothEnergy(3, 8, 2), normal(5, 3, 1), normal(5, 3, 2)
    t = torch.rand(5, 1, generator=seeded(3))
    z = (z_0 + t * (z_1 - z_0)).requires_grad_()
    (slope,) = torch.autograd.grad(plain(field)(z).sum(), z)
    expected = ((z_1 - z_0) + slope).square().mean()
    assert torch.allclose(matching_loss(field, z_0, z_1, seeded(3)), expected, atol=1e-6)


def test_between_gaussians_that_are_shifted_the_field_is_the_shift():
    mean = torch.tensor([1.5, -1.0])
    prior = EnergyMatching(
        (2,), EnergyMatchingConfig(steps=500, contrast_steps=0, width=32, depth=2, noise_scale=1.0, learning_rate=3e-3)
    )
    prior.fit(gaussian_posterior(mean, 1.0), seeded(), silent)
    between = mean / 2 + 0.7 * normal(500, 2, 1)
    with torch.no_grad():
        field = -prior.field.slope(between)
        arrived = prior._flow(prior._noise(4_000, seeded(2)))
    assert (field - mean).square().mean().sqrt() < 0.35
    assert torch.allclose(arrived.mean(0), mean, atol=0.15)
    assert torch.allclose(arrived.std(0), torch.ones(2), atol=0.2)


def test_chains_draw_from_the_energy_at_its_temperature():
    """V = T |z - m|^2 / 2 holds N(m, I): one unit of time from there, and one stays; from m it has 1 - exp(-2T)."""
    prior = EnergyMatching((2,), EnergyMatchingConfig(temperature=0.8, chain=100))
    mean = torch.tensor([1.0, 2.0])
    prior.field.slope = lambda z: 0.8 * (z - mean)
    for start, variance in ((mean + normal(20_000, 2, 1), 1.0), (mean.expand(20_000, 2), 1 - math.exp(-1.6))):
        z = prior._langevin(start, seeded(2))
        assert torch.allclose(z.mean(0), mean, atol=0.03)
        assert torch.allclose(z.var(0), torch.full((2,), variance), rtol=0.05)
    assert torch.allclose(prior._flow(mean + 1) - mean, torch.full((2,), math.exp(-0.8)), atol=0.01)


def test_the_contrast_makes_of_the_flow_an_energy():
    """N(0, 0.25 I) from wide noise: with the second phase energies of latents rise as minus their log-density does."""
    posterior = gaussian_posterior(torch.zeros(2), 0.5)
    settings = {"steps": 300, "width": 32, "depth": 2, "chain": 20, "learning_rate": 3e-3}
    spread = []
    for contrast_steps in (0, 150):
        torch.manual_seed(0)
        prior = EnergyMatching(
            (2,),
            EnergyMatchingConfig(
                **settings, contrast_steps=contrast_steps, contrast_learning_rate=3e-3, contrast_weight=10
            ),
        )
        prior.fit(posterior, seeded(1), silent)
        spread.append(prior.sample(4_000, seeded(2)).std(0).mean().item())
    assert abs(spread[1] - 0.5) < abs(spread[0] - 0.5)
    assert spread[1] == pytest.approx(0.5, abs=0.15)
    assert prior.energy(torch.zeros(1, 2)) < prior.energy(torch.ones(1, 2))


def test_latents_that_are_not_finite_end_the_fit():
    bad = PosteriorSplit(torch.full((50, 2), math.nan), torch.ones(50, 2))
    with pytest.raises(Diverged, match="not finite"):
        EnergyMatching((2,), EnergyMatchingConfig(width=8)).fit(AggregatePosterior(bad, bad), seeded(), silent)
