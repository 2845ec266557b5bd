"""The latent WGAN-GP against EVaLP with a plain sampler, which has a plain loop for its oracle."""

import pytest
import torch
from draws import normal, seeded, silent
from posteriors import clusters, narrowing

from benchmark.scores.mmd import mmd_between
from priors.api import AggregatePosterior, Diverged
from priors.evalp import EVaLP, EVaLPConfig
from priors.latent_wgan import LatentWGAN, LatentWGANConfig

SHARED = {"steps": 60, "batch_size": 16, "learning_rate": 5e-4}
OURS = {**SHARED, "critic_width": 24, "generator_width": 20, "generator_learning_rate": 2e-4}


def build(**settings):
    torch.manual_seed(0)
    return LatentWGAN((4,), LatentWGANConfig(**{**OURS, **settings}))


def test_with_equal_settings_it_has_the_bits_of_evalp_with_a_plain_sampler():
    torch.manual_seed(0)
    evalp = EVaLP(
        (4,),
        EVaLPConfig(
            **SHARED, energy_width=24, sampler="mlp", sampler_width=20, sampler_learning_rate=2e-4, kl_weight=0
        ),
    )
    prior = build(betas=(0.5, 0.999))
    for each in (prior, evalp):
        each.fit(clusters(), seeded(1), silent)
    pairs = list(zip(prior.parameters(), evalp.parameters(), strict=True))
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    assert torch.equal(prior.sample(30, seeded(2)), evalp.sample(30, seeded(2)))
    other = build()
    other.fit(clusters(), seeded(1), silent)
    assert not torch.equal(other.sample(30, seeded(2)), prior.sample(30, seeded(2))), "the usual betas are others"


def test_it_moves_towards_the_posterior_and_has_no_density():
    prior = build(steps=3_000, learning_rate=1e-3, generator_learning_rate=1e-3)
    prior.fit(clusters(), seeded(1), silent)
    z, real = prior.sample(2_000, seeded(2)), clusters().train.sample(2_000, seeded(3))
    assert mmd_between(z, real) < 0.7 * mmd_between(normal(2_000, 4, 5), real)
    assert prior.log_prob(z) is None
    assert prior.energy(z) is None


def test_what_is_no_longer_finite_is_told():
    with pytest.raises(Diverged, match="critic steps"):
        build(steps=500, learning_rate=1e30).fit(clusters(), seeded(), silent)


def test_its_settings_of_blocks_are_convolutions():
    prior = LatentWGAN((2, 4, 4), LatentWGANConfig(steps=10, network="conv", conv_widths=(4, 4)))
    prior.fit(AggregatePosterior(narrowing(2, 4, 4), narrowing(2, 4, 4)), seeded(), silent)
    assert prior.sample(3, seeded()).shape == (3, 2, 4, 4)
