"""Langevin, NCP-VAE, Latent Flow and MCMC-EBM against closed forms and against plain, separately written loops."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, Normal

from priors.api import AggregatePosterior, Diverged, PosteriorSplit
from priors.evalp import EVaLP, EVaLPConfig
from priors.latent_flow import LatentFlow, LatentFlowConfig
from priors.mcmc_ebm import MCMCEBM, MCMCEBMConfig
from priors.ncp import HELD_OUT, NCP, NCPConfig
from priors.parts.langevin import short_run
from priors.parts.sir import effective_sample_size

FEATURES = 4


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def silent(*_: object, **__: object) -> None:
    pass


def gaussian_posterior(mean: torch.Tensor, std: float, n: int = 20_000) -> AggregatePosterior:
    """An aggregate posterior that is N(mean, std^2 I) up to the finite number of images."""
    inner = std / math.sqrt(2)
    splits = [
        PosteriorSplit(
            mean + inner * torch.randn(n, len(mean), generator=seeded(seed)), torch.full((n, len(mean)), inner)
        )
        for seed in (1, 2)
    ]
    return AggregatePosterior(*splits)


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


def test_ncp_logit_is_the_log_density_ratio():
    mean = torch.tensor([1.0, -0.5])
    prior = NCP((2,), NCPConfig(steps=1500, width=64, depth=2, proposals=500))
    torch.manual_seed(0)
    facts = prior.fit(gaussian_posterior(mean, 0.7), seeded(), silent)
    z = mean + 0.7 * torch.randn(2000, 2, generator=seeded(5))
    exact = Normal(mean, 0.7).log_prob(z).sum(1) - Normal(0.0, 1.0).log_prob(z).sum(1)
    with torch.no_grad():
        logit = -prior.energy_network(z)
    assert (logit - exact).square().mean().sqrt() < 0.15
    assert 0 < facts["best_step"] <= 1500
    sampled = prior.sample(4000, seeded(3))
    assert torch.allclose(sampled.mean(0), mean, atol=0.06)
    assert torch.allclose(sampled.std(0), torch.full((2,), 0.7), atol=0.05)
    assert 1 < prior.diagnostics(seeded(4))["effective_sample_size"] < 500


def test_ncp_by_langevin_draws_from_the_same_density():
    mean = torch.tensor([1.0, -0.5])
    prior = NCP((2,), NCPConfig(steps=800, width=64, depth=2, sampler="langevin", langevin_steps=300, step_size=0.1))
    prior.fit(gaussian_posterior(mean, 0.7), seeded(), silent)
    sampled = prior.sample(4000, seeded(3))
    assert torch.allclose(sampled.mean(0), mean, atol=0.1)
    assert torch.allclose(sampled.std(0), torch.full((2,), 0.7), atol=0.1)
    assert prior.diagnostics(seeded()) == {}


def test_latent_flow_reaches_the_likelihood_of_a_correlated_gaussian():
    root = torch.tensor([[1.0, 0, 0, 0], [0.6, 0.5, 0, 0], [0.0, -0.4, 0.3, 0], [0.2, 0.0, 0.1, 0.8]])
    mean = torch.tensor([1.0, -2.0, 0.0, 0.5])
    draws = mean + torch.randn(40_000, 4, generator=seeded()) @ root.T
    tiny = torch.full((20_000, 4), 1e-4)
    posterior = AggregatePosterior(PosteriorSplit(draws[:20_000], tiny), PosteriorSplit(draws[20_000:], tiny))
    torch.manual_seed(0)
    prior = LatentFlow((4,), LatentFlowConfig(steps=1500, couplings=4, width=32))
    facts = prior.fit(posterior, seeded(1), silent)
    entropy = MultivariateNormal(mean, scale_tril=root).entropy().item()
    assert facts["held_out_nll"] == pytest.approx(entropy, abs=0.05)
    fresh = mean + torch.randn(5000, 4, generator=seeded(9)) @ root.T
    with torch.no_grad():
        assert -prior.log_prob(fresh).mean().item() == pytest.approx(entropy, abs=0.08)


def test_evalp_with_a_rich_sampler_meets_its_own_model_at_full_kl_weight():
    """At w = 1 the sampler minimises KL(p_g || p): exact weights are nearly equal, and log Z by quadrature agrees."""
    angles = torch.arange(8) * (math.pi / 4)
    means = 2 * torch.stack([angles.cos(), angles.sin()], 1)
    ring = PosteriorSplit(means.repeat(500, 1), torch.full((4000, 2), 0.25))
    settings = {"steps": 6000, "kl_weight": 1.0, "couplings": 6, "sampler_width": 48, "learning_rate": 1e-3}
    torch.manual_seed(0)
    prior = EVaLP((2,), EVaLPConfig(**settings, energy_width=64, proposals=50))
    prior.fit(AggregatePosterior(ring, ring), seeded(), silent)
    with torch.no_grad():
        _, log_weights = prior._weighted(400, seeded(1))
        axis = torch.linspace(-9, 9, 600)
        log_mass = -prior.energy(torch.cartesian_prod(axis, axis)) + 2 * math.log(18 / 599)
        kl = log_mass.logsumexp(0) - log_weights.mean()
    assert effective_sample_size(log_weights).mean() > 0.9 * 50
    assert -0.01 < kl < 0.05


def test_ncp_equals_a_plain_loop():
    posterior, config = (
        gaussian_posterior(torch.ones(FEATURES), 0.5),
        NCPConfig(steps=40, width=16, depth=3, batch_size=32),
    )
    prior = NCP((FEATURES,), config)
    layers = [layer for linear in prior.energy_network.hidden for layer in (copy.deepcopy(linear), nn.LeakyReLU(0.01))]
    energy = nn.Sequential(*layers, copy.deepcopy(prior.energy_network.last))
    prior.fit(posterior, seeded(), silent)
    generator = seeded()
    posterior.val.sample(HELD_OUT, generator)
    torch.randn(HELD_OUT, FEATURES, generator=generator)
    optimiser = torch.optim.Adam(energy.parameters(), 1e-3)
    for step in range(40):
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * (1 + math.cos(math.pi * step / 40)) / 2
        z_q = posterior.train.sample(32, generator)
        z_0 = torch.randn(32, FEATURES, generator=generator)
        logits = -energy(torch.cat([z_q, z_0])).squeeze(1)
        labels = torch.cat([torch.ones(32), torch.zeros(32)])
        optimiser.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(logits, labels).backward()
        optimiser.step()
    ours = [*prior.energy_network.hidden.parameters(), *prior.energy_network.last.parameters()]
    for mine, plain in zip(ours, energy.parameters(), strict=True):
        assert torch.allclose(mine, plain, atol=1e-5)


def test_latent_flow_equals_a_plain_loop():
    posterior = gaussian_posterior(torch.ones(FEATURES), 0.5)
    prior = LatentFlow((FEATURES,), LatentFlowConfig(steps=30, width=16, batch_size=32))
    flow = copy.deepcopy(prior.flow)
    prior.fit(posterior, seeded(), silent)
    generator = seeded()
    flow.initialise(posterior.train.sample(2000, generator))
    posterior.val.sample(10_000, generator)
    optimiser = torch.optim.Adam(flow.parameters(), 1e-3, weight_decay=2e-5)
    for _ in range(30):
        noise, log_det = flow.to_noise(posterior.train.sample(32, generator))
        log_prob = MultivariateNormal(torch.zeros(FEATURES), torch.eye(FEATURES)).log_prob(noise) + log_det
        optimiser.zero_grad()
        (-log_prob.mean()).backward()
        optimiser.step()
    for mine, plain in zip(prior.flow.parameters(), flow.parameters(), strict=True):
        assert torch.allclose(mine, plain, atol=1e-5)


def test_mcmc_ebm_equals_a_plain_loop():
    posterior = gaussian_posterior(torch.ones(FEATURES), 0.5)
    prior = MCMCEBM(
        (FEATURES,), MCMCEBMConfig(steps=20, width=16, batch_size=32, langevin_steps=10, learning_rate=1e-3)
    )
    layers = [layer for linear in prior.energy_network.hidden for layer in (copy.deepcopy(linear), nn.LeakyReLU(0.01))]
    energy = nn.Sequential(*layers, copy.deepcopy(prior.energy_network.last))
    prior.fit(posterior, seeded(), silent)
    generator = seeded()
    optimiser = torch.optim.Adam(energy.parameters(), 1e-3, betas=(0.5, 0.999))
    for _ in range(20):
        z_q = posterior.train.sample(32, generator)
        z = torch.randn(32, FEATURES, generator=generator)
        for _ in range(10):
            z.requires_grad_()
            potential = energy(z).sum() + z.square().sum() / 2
            (gradient,) = torch.autograd.grad(potential, z)
            z = z.detach() - 0.08 * gradient + 0.4 * torch.randn(z.shape, generator=generator)
        optimiser.zero_grad()
        (energy(z_q).mean() - energy(z).mean()).backward()
        optimiser.step()
    ours = [*prior.energy_network.hidden.parameters(), *prior.energy_network.last.parameters()]
    for mine, plain in zip(ours, energy.parameters(), strict=True):
        assert torch.allclose(mine, plain, atol=1e-4)


def test_mcmc_ebm_says_that_it_diverged():
    """Latents far narrower than the step: data and chain cannot meet, and the energy runs away."""
    posterior = gaussian_posterior(torch.zeros(8), 0.05)
    prior = MCMCEBM((8,), MCMCEBMConfig(steps=3000, width=64, learning_rate=3e-3))
    with pytest.raises(Diverged, match="parted after"):
        prior.fit(posterior, seeded(), silent)


def test_a_sampler_without_density_asks_for_what_it_needs():
    with pytest.raises(ValueError, match="kl_weight=0"):
        EVaLPConfig(sampler="mlp", kl_weight=1.0)
    with pytest.raises(ValueError, match="weights=release"):
        EVaLPConfig(sampler="mlp", kl_weight=0, proposals=10)
    prior = EVaLP((FEATURES,), EVaLPConfig(sampler="mlp", kl_weight=0, proposals=10, weights="release", steps=5))
    prior.fit(gaussian_posterior(torch.ones(FEATURES), 0.5), seeded(), silent)
    assert prior.sample(7, seeded()).shape == (7, FEATURES)
    assert prior.log_prob(torch.zeros(1, FEATURES)) is None
