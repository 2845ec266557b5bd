"""The second VAE: its bound against torch's distributions and an exact likelihood, its noise, what its fit keeps."""

import math

import pytest
import torch
from draws import normal, seeded, silent
from posteriors import narrowing
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from priors import two_stage
from priors.api import AggregatePosterior, Diverged, PosteriorSplit
from priors.two_stage import TwoStage, TwoStageConfig

pytestmark = pytest.mark.usefixtures("seeded_modules")
SMALL = TwoStageConfig(width=16, steps=300)


def with_scales(prior):
    """A prior that was never fitted, with a gamma and standardisation that are not 1."""
    d = len(prior.mean)
    with torch.no_grad():
        prior.log_gamma.fill_(-0.7)
        prior.mean.copy_(torch.linspace(-1, 2, d))
        prior.std.copy_(torch.linspace(0.5, 3, d))
    return prior


def linear(slopes, gamma):
    """The prior whose decoder is u -> slopes * u, and whose encoder is the exact posterior of that."""
    d = len(slopes)
    prior = with_scales(TwoStage((d,), SMALL))
    with torch.no_grad():
        prior.log_gamma.fill_(math.log(gamma))
        for network in (prior.encoder, prior.decoder):
            network.last.weight.zero_()
            network.last.bias.zero_()
        prior.decoder.last.weight[:, :d] = slopes.diag()
        total = slopes.square() + gamma**2
        prior.encoder.last.weight[:d, :d] = (slopes / total).diag()
        prior.encoder.last.bias[d:] = (gamma / total.sqrt()).log()
    return prior


@torch.no_grad()
def test_the_bound_is_that_of_torch():
    prior = with_scales(TwoStage((3,), SMALL))
    z, noise = normal(50, 3, 1), normal(50, 3, 2)
    mean, log_std = prior.encoder((z - prior.mean) / prior.std).chunk(2, 1)
    q = Independent(Normal(mean, log_std.exp()), 1)
    base = Independent(Normal(torch.zeros(50, 3), torch.ones(50, 3)), 1)
    decoded = prior.mean + prior.std * prior.decoder(mean + log_std.exp() * noise)
    likelihood = Independent(Normal(decoded, (prior.std * prior.log_gamma.exp()).expand(50, 3)), 1)
    expected = likelihood.log_prob(z) - kl_divergence(q, base)
    assert torch.allclose(prior.elbo(z, noise), expected, atol=1e-4)


@torch.no_grad()
def test_the_bound_is_the_likelihood_where_the_encoder_is_exact_and_below_it_elsewhere():
    """A linear decoder: p(z) = N(mean, diag(std^2 (slopes^2 + gamma^2)))."""
    slopes, gamma = torch.tensor([1.5, 0.8, 0.1]), 0.4
    prior = linear(slopes, gamma)
    exact = MultivariateNormal(prior.mean, torch.diag(prior.std.square() * (slopes.square() + gamma**2)))
    z = exact.sample((20,))
    repeated = z.repeat_interleave(5_000, 0)
    bound = prior.elbo(repeated, normal(len(repeated), 3, 3)).view(20, 5_000)
    error = bound.std(1) / math.sqrt(5_000)
    assert ((bound.mean(1) - exact.log_prob(z)).abs() < 5 * error + 1e-4).all()
    prior.encoder.last.bias += 0.3  # another posterior
    bound = prior.elbo(repeated, normal(len(repeated), 3, 3)).view(20, 5_000)
    assert (bound.mean(1) < exact.log_prob(z) - 0.05).all()


def test_samples_have_the_noise_of_the_model_once():
    slopes, gamma = torch.tensor([1.5, 0.8, 0.1]), 0.4
    prior = linear(slopes, gamma)
    z = prior.sample(100_000, seeded())
    assert torch.allclose(z.mean(0), prior.mean, atol=0.05)
    expected = prior.std.square() * (slopes.square() + gamma**2)
    assert torch.allclose(z.T.cov(), expected.diag(), atol=0.03 * expected.max())
    assert torch.allclose(z.var(0), expected, rtol=0.03)


def test_the_fit_finds_a_bound_that_is_near_the_likelihood_of_a_gaussian():
    root = torch.tensor([[1.0, 0.0], [0.9, 0.3]])
    exact = MultivariateNormal(torch.tensor([3.0, -1.0]), root @ root.T)
    splits = [PosteriorSplit(exact.loc + normal(20_000, 2, seed) @ root.T, torch.zeros(20_000, 2)) for seed in (1, 2)]
    prior = TwoStage((2,), TwoStageConfig(width=32, steps=1_500))
    facts = prior.fit(AggregatePosterior(*splits), seeded(), silent)
    likelihood = -exact.entropy().item()
    assert likelihood - 0.15 < facts["held_out_elbo"] < likelihood + 0.03
    z = prior.sample(20_000, seeded(1))
    assert torch.allclose(z.mean(0), exact.loc, atol=0.1)
    assert torch.allclose(z.T.cov(), root @ root.T, atol=0.1)


def test_the_best_state_is_kept_where_the_bound_of_other_images_falls(monkeypatch):
    monkeypatch.setattr(two_stage, "VALIDATE_EVERY", 20)
    train, other = narrowing(4, std=0.01), PosteriorSplit(normal(500, 4, 3), torch.ones(500, 4))
    prior = TwoStage((4,), TwoStageConfig(width=16, steps=600, patience=5, learning_rate=5e-3))
    scores, gammas = {}, {}

    def watch(step, total, **values):
        scores[step], gammas[step] = values["held_out_negative_elbo"], prior.log_gamma.item()

    facts = prior.fit(AggregatePosterior(train, other), seeded(), watch)
    best = min(scores, key=scores.get)
    assert best == facts["best_step"] < max(scores) == best + 5 * 20
    assert facts["held_out_elbo"] == -scores[best]
    assert prior.log_gamma.item() == gammas[best] != gammas[max(scores)]
    assert facts["gamma"] == pytest.approx(math.exp(gammas[best]))


def test_it_has_a_bound_and_no_density():
    prior = TwoStage((4,), SMALL)
    assert prior.log_prob(normal(5, 4, 1)) is None
    assert prior.energy(normal(5, 4, 1)) is None
    assert prior.network_evaluations == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_latents_that_are_not_finite_are_an_outcome(bad):
    split = PosteriorSplit(torch.full((100, 3), bad), torch.ones(100, 3))
    with pytest.raises(Diverged, match="not finite"):
        TwoStage((3,), SMALL).fit(AggregatePosterior(split, split), seeded(), silent)


def test_a_block_is_fitted_as_the_vector_that_it_is():
    split = narrowing(2, 3, 4)
    flat = PosteriorSplit(split._mean.flatten(1), split._std.flatten(1))
    drawn = []
    for shape, each in (((2, 3, 4), split), ((24,), flat)):
        torch.manual_seed(0)
        prior = TwoStage(shape, TwoStageConfig(width=16, steps=20))
        prior.fit(AggregatePosterior(each, each), seeded(), silent)
        drawn.append(prior.sample(5, seeded(1)))
    assert drawn[0].shape == (5, 2, 3, 4)
    assert torch.equal(drawn[0].flatten(1), drawn[1])


def test_a_latent_that_never_changes_is_drawn_as_it_is():
    mean, std = normal(200, 2, 1), torch.full((200, 2), 0.1)
    mean[:, 0], std[:, 0] = 3, 0
    split = PosteriorSplit(mean, std)
    prior = TwoStage((2,), TwoStageConfig(width=16, steps=20))
    prior.fit(AggregatePosterior(split, split), seeded(), silent)
    assert (prior.sample(50, seeded())[:, 0] - 3).abs().max() < 1e-4
