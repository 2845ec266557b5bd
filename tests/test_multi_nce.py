"""Multi-stage NCE: the telescoped ratio of two Gaussians, resampling through known stages, and where it ends."""

import math

import pytest
import torch
from draws import normal, seeded, silent
from posteriors import gaussian_posterior
from torch import nn
from torch.distributions import Normal

from priors.multi_nce import LEAST_GAIN, MultiNCE, MultiNCEConfig
from priors.parts.energies import Energy

SMALL = {"steps": 600, "width": 64, "depth": 2, "pool": 4_000, "held_out": 4_000, "later_proposals": 8}
MEAN = torch.tensor([1.2, -0.8])


class Tilt(Energy):
    """f(z) = -a.z, so that its stage moves N(m, I) to N(m + a, I)."""

    def __init__(self, a):
        super().__init__()
        self.a = nn.Parameter(a)

    def forward(self, z):
        return -z @ self.a


def test_ratios_of_the_stages_add_up_to_that_of_two_gaussians():
    torch.manual_seed(0)
    prior = MultiNCE((2,), MultiNCEConfig(**SMALL, stages=2))
    # few and poor steps at first: the second stage has something left to tell
    prior._fit_stage, whole = (lambda stage, *rest: first(stage, *rest)), prior._fit_stage

    def first(stage, *rest):
        best = whole(stage, *rest)
        if stage == 0:
            with torch.no_grad():
                prior.energies[0].last.weight.mul_(0.5)
                prior.energies[0].last.bias.mul_(0.5)
        return best

    facts = prior.fit(gaussian_posterior(MEAN, 0.7), seeded(), silent)
    assert facts["stages"] == 2
    assert facts["held_out_bce_1"] < facts["held_out_bce_2"] < math.log(2) - LEAST_GAIN
    z = MEAN + 0.7 * normal(2_000, 2, 5)
    exact = Normal(MEAN, 0.7).log_prob(z).sum(1) - Normal(0.0, 1.0).log_prob(z).sum(1)
    with torch.no_grad():
        ratio = -prior.energy(z) - Normal(0.0, 1.0).log_prob(z).sum(1)
        alone = -prior.energies[0](z)
    assert (ratio - exact).std() < 0.25, "the same up to a constant, which halving the first took away"
    assert (alone - exact).std() > 0.5
    drawn = prior.sample(4_000, seeded(3))
    assert torch.allclose(drawn.mean(0), MEAN, atol=0.08)
    assert torch.allclose(drawn.std(0), torch.full((2,), 0.7), atol=0.06)
    assert 1 < prior.diagnostics(seeded(4))["effective_sample_size"] < 100


def test_resampling_goes_through_all_stages():
    """Two stages of known ratio, exp(a.z) each: N(0, I) becomes N(a + b, I), by many proposals."""
    prior = MultiNCE((3,), MultiNCEConfig(stages=2, proposals=60, later_proposals=60))
    a, b = torch.tensor([0.8, 0.0, -0.4]), torch.tensor([0.0, 0.7, -0.4])
    prior.energies = nn.ModuleList([Tilt(a), Tilt(b)])
    for used, mean in enumerate((torch.zeros(3), a, a + b)):
        prior.used.fill_(used)
        z = prior.sample(3_000, seeded(1))
        assert torch.allclose(z.mean(0), mean, atol=0.1)
        assert torch.allclose(z.T.cov(), torch.eye(3), atol=0.12)
    z = normal(20, 3, 2)
    expected = -(z @ (a + b)) - Normal(0.0, 1.0).log_prob(z).sum(1)
    assert torch.allclose(prior.energy(z), expected, atol=1e-5)


def test_a_chain_ends_where_nothing_is_left_to_tell():
    torch.manual_seed(0)
    prior = MultiNCE((2,), MultiNCEConfig(**{**SMALL, "steps": 200}))
    facts = prior.fit(gaussian_posterior(torch.zeros(2), 1.0), seeded(), silent)
    assert facts["stages"] == 0
    assert facts["held_out_bce_1"] == pytest.approx(math.log(2), abs=LEAST_GAIN)
    assert "held_out_bce_2" not in facts
    assert torch.equal(prior.sample(30, seeded(1)), normal(30, 2, 1)), "N(0, I), to the bit"
    assert prior.diagnostics(seeded()) == {}
    z = normal(20, 2, 2)
    assert torch.allclose(prior.energy(z), -Normal(0.0, 1.0).log_prob(z).sum(1), atol=1e-6)


def test_what_a_latent_costs():
    prior = MultiNCE((2,), MultiNCEConfig(stages=3, proposals=10, later_proposals=3))
    passed = []
    prior.energies = nn.ModuleList([Tilt(torch.zeros(2)) for _ in range(3)])
    for energy in prior.energies:
        energy.register_forward_hook(lambda module, z, value: passed.append(len(value)))
    prior.used.fill_(3)
    prior.sample(7, seeded())
    assert sum(passed) == 7 * prior.network_evaluations
