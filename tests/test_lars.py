"""Learned accept/reject sampling, against quadrature, rejection written row by row, and a plain loop."""

import copy
import math

import pytest
import torch
from draws import CPU, normal, seeded, silent
from networks import plain_energy
from posteriors import gaussian_posterior
from torch.distributions import Normal

from benchmark.check.targets import TARGETS
from priors.lars import HELD_OUT, HELD_OUT_PROPOSALS, LARS, LARSConfig, log_ratio

DIMENSIONS = pytest.mark.parametrize("d", [1, 2])
TRUNCATIONS = pytest.mark.parametrize("truncation", [2, 5, 100])


def selective(d, **settings):
    """A prior that accepts a fifth, most of it where the first latent is above 1; Z is not yet estimated."""
    prior = LARS((d,), LARSConfig(**{"width": 16, "normaliser_draws": 200_000, **settings}))
    generator = seeded(3)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        for layer in prior.energy_network.hidden:
            layer.weight[0, 0] = 1.0
        prior.energy_network.last.weight[0, 0] = -3.0
        prior.energy_network.last.bias.fill_(3.0)
    return prior


def grid(d, points=801, reach=7.0):
    """Points (n, d), and the volume of a cell."""
    axis = torch.linspace(-reach, reach, points)
    return torch.cartesian_prod(*[axis] * d).view(-1, d), (2 * reach / (points - 1)) ** d


@torch.no_grad()
def integrals(prior, d):
    """Z, the density on a grid by the formula, written apart, and the volume of a cell."""
    z, volume = grid(d)
    base = Normal(0.0, 1.0).log_prob(z.double()).sum(1).exp()
    a = torch.sigmoid(-prior.energy_network(z).double())
    rate = (base * a).sum().item() * volume
    alpha = (1 - rate) ** (prior.config.truncation - 1)
    return rate, base * ((1 - alpha) * a / rate + alpha), volume


def rejection(prior, n, seed):
    """Truncated rejection of one latent after the other; the number of tries that were decided by the network."""
    generator, network, kept, tries = seeded(seed), plain_energy(prior.energy_network), [], 0
    for _ in range(n):
        for attempt in range(prior.config.truncation):
            z = torch.randn(1, prior.features, generator=generator)
            if attempt == prior.config.truncation - 1:
                break
            tries += 1
            if torch.rand(1, generator=generator) < torch.sigmoid(-network(z)):
                break
        kept.append(z)
    return torch.cat(kept), tries


@DIMENSIONS
@TRUNCATIONS
@torch.no_grad()
def test_density_is_that_of_quadrature_and_integrates_to_one(d, truncation):
    prior = selective(d, truncation=truncation)
    rate, density, volume = integrals(prior, d)
    assert 0.1 < rate < 0.4
    error = prior.estimate_acceptance_rate(seeded(1))
    assert 0 < error < 0.01
    assert prior.acceptance_rate.item() == pytest.approx(rate, rel=4 * error)
    prior.acceptance_rate.fill_(rate)
    ours = prior.log_prob(grid(d)[0]).double().exp()
    assert ours.sum().item() * volume == pytest.approx(1, abs=1e-3)
    assert torch.allclose(ours, density, rtol=1e-3, atol=1e-6)


@DIMENSIONS
@TRUNCATIONS
@torch.no_grad()
def test_samples_are_those_of_rejection_row_by_row_and_of_the_density(d, truncation):
    prior = selective(d, truncation=truncation)
    rate, density, volume = integrals(prior, d)
    prior.acceptance_rate.fill_(rate)
    z = grid(d)[0].double()
    mean, square = ((density[:, None] * of).sum(0) * volume for of in (z, z.square()))
    assert mean.abs().max() > 0.1, "a density that is not N(0, I)"
    plain, tries = rejection(prior, 1_000, seed=1)
    for drawn in (prior.sample(40_000, seeded(2)), plain):
        error = (square / len(drawn)).sqrt()
        assert ((drawn.mean(0) - mean).abs() < 4.5 * error).all()
        assert torch.allclose(drawn.double().square().mean(0), square, rtol=30 / math.sqrt(len(drawn)) * 0.2)
    expected = sum((1 - rate) ** t for t in range(truncation - 1))
    assert tries / 1_000 == pytest.approx(expected, rel=0.15)
    assert prior.network_evaluations == round(expected)


@torch.no_grad()
def test_rows_pay_for_their_own_tries_alone():
    prior, rows = selective(2), []
    prior.estimate_acceptance_rate(seeded())
    prior.energy_network.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    prior.sample(5_000, seeded(1))
    assert sum(rows) / 5_000 == pytest.approx(prior.network_evaluations, rel=0.1)
    assert len(rows) <= prior.config.truncation - 1
    assert rows == sorted(rows, reverse=True)


@torch.no_grad()
def test_what_is_forced_is_the_share_that_was_rejected_to_the_end():
    """All is rejected where a = e^-30: what is drawn is N(0, I), and so says the density."""
    prior = selective(3, truncation=10)
    for parameter in prior.parameters():
        parameter.zero_()
    prior.energy_network.last.bias.fill_(30.0)
    prior.estimate_acceptance_rate(seeded())
    assert prior.forced_share().item() == pytest.approx(1)
    z = normal(100, 3, 1)
    assert torch.allclose(prior.log_prob(z), Normal(0.0, 1.0).log_prob(z).sum(1), atol=1e-4)
    prior.energy_network.last.bias.fill_(math.log(3))  # a = 1/4 wherever z is
    prior.estimate_acceptance_rate(seeded())
    assert prior.forced_share().item() == pytest.approx(0.75**9, rel=1e-4)
    assert torch.allclose(prior.log_prob(z), Normal(0.0, 1.0).log_prob(z).sum(1), atol=1e-4)


def test_log_ratio_and_its_gradients_are_those_of_the_formula():
    log_a = (-normal(50, 1, 0)[:, 0].abs() - 0.1).double().requires_grad_()
    rate = torch.tensor(0.03).double().requires_grad_()
    alpha = (1 - rate) ** 99
    plain = ((1 - alpha) * log_a.exp() / rate + alpha).log()
    ours = log_ratio(log_a, rate, 100)
    assert torch.allclose(ours, plain, atol=1e-12)
    for mine, its in zip(*(torch.autograd.grad(each.sum(), [log_a, rate]) for each in (ours, plain)), strict=True):
        assert torch.allclose(mine, its, atol=1e-9)


def test_the_fit_equals_a_plain_loop(seeded_modules):
    """Z has the value of the moving average and the gradient of the mean of the step."""
    posterior = gaussian_posterior(torch.full((4,), 0.7), 0.5)
    config = LARSConfig(steps=30, width=16, batch_size=32, proposals=64, normaliser_draws=5_000)
    prior = LARS((4,), config)
    network = copy.deepcopy(plain_energy(prior.energy_network))
    facts = prior.fit(posterior, seeded(), silent)
    generator = seeded()
    posterior.val.sample(HELD_OUT, generator)
    torch.randn(HELD_OUT_PROPOSALS, 4, generator=generator)
    optimiser, average = torch.optim.Adam(network.parameters(), 1e-3), 0.5
    for step in range(30):
        optimiser.param_groups[0]["lr"] = 1e-3 * (1 + math.cos(math.pi * step / 30)) / 2
        z = posterior.train.sample(32, generator)
        now = torch.sigmoid(-network(torch.randn(64, 4, generator=generator))).mean()
        average = 0.99 * average + 0.01 * now.item()
        rate = torch.tensor(average, requires_grad=True)
        alpha = (1 - rate) ** 99
        loss = -((1 - alpha) * torch.sigmoid(-network(z))[:, 0] / rate + alpha).log().mean()
        optimiser.zero_grad()
        loss.backward()
        now.backward(rate.grad)
        optimiser.step()
    for mine, plain in zip(prior.energy_network.parameters(), network.parameters(), strict=True):
        assert torch.allclose(mine, plain, atol=2e-5)
    with torch.no_grad():
        again = torch.sigmoid(-network(torch.randn(5_000, 4, generator=generator))).mean().item()
    assert facts["acceptance_rate"] == prior.acceptance_rate.item() == pytest.approx(again, abs=1e-4)


def test_a_density_of_bounded_ratio_is_learned(seeded_modules):
    """The aggregate N(0.5, 0.8^2): its ratio to N(0, 1) is at most 1.8, which rejection reaches."""
    posterior = gaussian_posterior(torch.tensor([0.5]), 0.8)
    prior = LARS((1,), LARSConfig(steps=300, width=32, depth=2, normaliser_draws=100_000))
    facts = prior.fit(posterior, seeded(), silent)
    truth = Normal(0.5, 0.8)
    z = truth.sample((20_000,))[:, None]
    with torch.no_grad():
        assert (truth.log_prob(z)[:, 0] - prior.log_prob(z)).mean().item() == pytest.approx(0, abs=0.02)
    drawn = prior.sample(20_000, seeded(1))
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.05)
    assert drawn.std().item() == pytest.approx(0.8, abs=0.05)
    assert facts["forced_share"] < 1e-3
    assert facts["held_out_nll"] == pytest.approx(truth.entropy().item(), abs=0.04)


def test_the_rate_is_part_of_the_state():
    prior = selective(2)
    with torch.no_grad():
        prior.estimate_acceptance_rate(seeded())
    other = LARS((2,), prior.config)
    other.load_state_dict(prior.state_dict())
    z = TARGETS["ring"]().posterior(CPU).train.sample(50, seeded())
    assert torch.equal(other.log_prob(z), prior.log_prob(z))
    assert other.network_evaluations == prior.network_evaluations


def test_one_proposal_is_no_rejection_and_refused():
    with pytest.raises(ValueError, match="truncation"):
        LARSConfig(truncation=1)
