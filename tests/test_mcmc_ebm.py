"""MCMC-EBM against a plain, separately written loop, and where it cannot go well."""

import pytest
import torch
from draws import seeded, silent
from networks import plain_energy
from posteriors import gaussian_posterior

from priors.api import Diverged
from priors.mcmc_ebm import MCMCEBM, MCMCEBMConfig

FEATURES = 4


def test_mcmc_ebm_equals_a_plain_loop():
    posterior = gaussian_posterior(torch.ones(FEATURES), 0.5)
    prior = MCMCEBM(
        (FEATURES,), MCMCEBMConfig(steps=20, width=16, batch_size=32, langevin_steps=10, learning_rate=1e-3)
    )
    energy = plain_energy(prior.energy_network)
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
    for mine, plain in zip(prior.energy_network.parameters(), energy.parameters(), strict=True):
        assert torch.allclose(mine, plain, atol=1e-4)


def test_mcmc_ebm_says_that_it_diverged():
    """Latents far narrower than the step: data and chain cannot meet, and the energy runs away."""
    posterior = gaussian_posterior(torch.zeros(8), 0.05)
    prior = MCMCEBM((8,), MCMCEBMConfig(steps=3000, width=64, learning_rate=3e-3))
    with pytest.raises(Diverged, match="parted after"):
        prior.fit(posterior, seeded(), silent)
