"""NCP-VAE against a closed form and a plain, separately written loop."""

import math

import torch
from draws import seeded, silent
from networks import plain_energy
from posteriors import gaussian_posterior
from torch import nn
from torch.distributions import Normal

from priors.ncp import HELD_OUT, NCP, NCPConfig

FEATURES = 4


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


def test_ncp_equals_a_plain_loop():
    posterior, config = (
        gaussian_posterior(torch.ones(FEATURES), 0.5),
        NCPConfig(steps=40, width=16, depth=3, batch_size=32),
    )
    prior = NCP((FEATURES,), config)
    energy = plain_energy(prior.energy_network)
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
    for mine, plain in zip(prior.energy_network.parameters(), energy.parameters(), strict=True):
        assert torch.allclose(mine, plain, atol=1e-5)
