"""Latent Flow against the entropy of a Gaussian and a plain, separately written loop."""

import copy

import pytest
import torch
from draws import seeded, silent
from posteriors import gaussian_posterior
from torch.distributions import MultivariateNormal

from priors.api import AggregatePosterior, PosteriorSplit
from priors.latent_flow import LatentFlow, LatentFlowConfig

FEATURES = 4


def test_latent_flow_reaches_the_likelihood_of_a_correlated_gaussian():
    root = torch.tensor([[1.0, 0, 0, 0], [0.6, 0.5, 0, 0], [0.0, -0.4, 0.3, 0], [0.2, 0.0, 0.1, 0.8]])
    mean = torch.tensor([1.0, -2.0, 0.0, 0.5])
    draws = mean + torch.randn(40_000, 4, generator=seeded()) @ root.T
    tiny = torch.full((20_000, 4), 1e-4)
    posterior = AggregatePosterior(PosteriorSplit(draws[:20_000], tiny), PosteriorSplit(draws[20_000:], tiny))
    torch.manual_seed(0)
    prior = LatentFlow((4,), LatentFlowConfig(steps=800, couplings=4, width=32))
    facts = prior.fit(posterior, seeded(1), silent)
    entropy = MultivariateNormal(mean, scale_tril=root).entropy().item()
    assert facts["held_out_nll"] == pytest.approx(entropy, abs=0.05)
    fresh = mean + torch.randn(5000, 4, generator=seeded(9)) @ root.T
    with torch.no_grad():
        assert -prior.log_prob(fresh).mean().item() == pytest.approx(entropy, abs=0.08)


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
