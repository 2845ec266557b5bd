"""Cross-entropy and rate against scipy and closed forms."""

import math

import pytest
import torch
from draws import CPU, normal
from evaluations import Scaled, evaluation
from posteriors import narrowing
from scipy import stats
from torch.distributions import Normal, kl_divergence

from benchmark.metrics.cross_entropy import CrossEntropy
from benchmark.streams import stream
from priors.api import PosteriorSplit, PriorConfig
from priors.gaussian import Gaussian


def test_cross_entropy_is_the_mean_over_held_out_draws_in_nats():
    held_out = narrowing(3)
    value = CrossEntropy().measure(evaluation(Gaussian((3,), PriorConfig()), held_out, seed=4))["cross_entropy"]
    z = held_out.one_each(40, stream(CPU, "cross-entropy held-out", 4)).double().numpy()
    assert value == pytest.approx(-stats.norm.logpdf(z).sum(1).mean(), rel=1e-6)


def test_cross_entropy_exceeds_the_entropy_by_the_divergence():
    """Held-out N(0, s^2 I) under N(0, I): d/2 log 2 pi + d s^2 / 2 nats."""
    held_out = PosteriorSplit(torch.zeros(4_000, 5), torch.full((4_000, 5), 0.5))
    value = CrossEntropy().measure(evaluation(Gaussian((5,), PriorConfig()), held_out, mmd_latents=4_000))
    assert value["cross_entropy"] == pytest.approx(2.5 * math.log(2 * math.pi) + 2.5 * 0.25, abs=0.02)


def test_the_rate_is_the_mean_divergence_of_posteriors_from_the_prior():
    """Under N(0, I) in closed form; and with a prior that is every image's posterior it is zero."""
    held_out = narrowing(3, n=4000)
    expected = kl_divergence(Normal(held_out._mean, held_out._std), Normal(0.0, 1.0)).sum(1).mean().item()
    value = CrossEntropy().measure(evaluation(Gaussian((3,), PriorConfig()), held_out, mmd_latents=4000))
    assert value["rate"] == pytest.approx(expected, abs=0.1)
    alike = PosteriorSplit(torch.zeros(4000, 3), torch.ones(4000, 3))
    value = CrossEntropy().measure(evaluation(Gaussian((3,), PriorConfig()), alike, mmd_latents=4000))
    assert value["rate"] == pytest.approx(0, abs=0.1)
    assert alike.mean_entropy() == pytest.approx(3 * Normal(0.0, 1.0).entropy().item())


def test_points_have_a_cross_entropy_and_no_rate():
    points = PosteriorSplit(normal(40, 3, 1), torch.zeros(40, 3))
    value = CrossEntropy().measure(evaluation(Gaussian((3,), PriorConfig()), points))
    assert value == {"cross_entropy": pytest.approx(-Normal(0.0, 1.0).log_prob(points._mean).sum(1).mean().item())}


def test_a_prior_without_a_density_has_no_cross_entropy():
    assert CrossEntropy().measure(evaluation(Scaled((3,), 1.0), narrowing(3))) == {}


@pytest.mark.parametrize("batch", [1, 7, 500])
def test_cross_entropy_does_not_depend_on_the_batch(batch, monkeypatch):
    monkeypatch.setattr("benchmark.metrics.cross_entropy.BATCH", batch)
    asked = []

    class Noting(Gaussian):
        def log_prob(self, z):
            asked.append(len(z))
            return super().log_prob(z)

    value = CrossEntropy().measure(evaluation(Noting((2, 3), PriorConfig()), narrowing(2, 3)))["cross_entropy"]
    assert sum(asked) == 40
    assert max(asked) == min(batch, 40)
    monkeypatch.setattr("benchmark.metrics.cross_entropy.BATCH", 40)
    whole = CrossEntropy().measure(evaluation(Gaussian((2, 3), PriorConfig()), narrowing(2, 3)))["cross_entropy"]
    assert value == pytest.approx(whole, rel=1e-6)


class Unnormalised(Gaussian):
    """A density that is none: a constant, or one that is more than it should be, or minus the log-density."""

    def __init__(self, densities):
        super().__init__((3,), PriorConfig())
        self.densities = densities

    def log_prob(self, z):
        return self.densities(z, super().log_prob(z))


@pytest.mark.parametrize(
    "densities",
    [lambda z, right: torch.zeros(len(z)), lambda z, right: right + 50, lambda z, right: -right],
    ids=["a constant", "a factor", "a sign"],
)
def test_a_rate_below_zero_is_a_failure_of_the_density(densities):
    held_out = narrowing(3, std=1.0)
    with pytest.raises(ValueError, match=r"rate of -.* nats"):
        CrossEntropy().measure(evaluation(Unnormalised(densities), held_out, mmd_latents=100))
    assert CrossEntropy().measure(evaluation(Gaussian((3,), PriorConfig()), held_out, mmd_latents=100))["rate"] > 0
