"""Priors without a network, each against an independent oracle: scipy, scikit-learn, quadrature, torch."""

import math

import numpy as np
import pytest
import torch
from draws import CPU, normal, seeded, silent
from posteriors import gaussian_posterior, narrowing
from scipy import integrate, special, stats
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from benchmark.bundles.prior_file import state_of
from benchmark.check.targets import TARGETS
from benchmark.jobs.plan import resolve_config
from benchmark.registry import Registry
from benchmark.scores.mmd import mmd_between
from benchmark.settings import parse_named
from priors import gmm
from priors.api import AggregatePosterior, Diverged, PosteriorSplit
from priors.fitted_gaussian import FittedGaussian, FittedGaussianConfig
from priors.gmm import GMM, GMMConfig, expectation_maximisation, start
from priors.kde import BANDWIDTHS, HELD_OUT, KDE, KDEConfig
from priors.marginal import Marginal, MarginalConfig, fast_ica
from priors.mixture import MixtureConfig, PosteriorMixture
from priors.parts import kernels, mixtures
from priors.parts.draws import finite_draws
from priors.radial import Radial, RadialConfig
from priors.tilted import Tilted, TiltedConfig, log_constant, norms

CLOSED = ["fitted_gaussian", "gmm", "kde", "marginal", "mixture", "radial", "tilted"]
FEW = {"draws": 2_000, "kept": 500, "steps": 50, "iterations": 10, "components": 3}


def promised(member):
    """Targets that `check` requires of a prior with these settings."""
    ((name, (settings,)),) = parse_named(member, "--priors")
    return set(make(name, (2,), **settings).learns)


def make(name, shape, **settings):
    """A prior of few draws and steps, but for what is said."""
    cls = Registry().get("prior", name)
    few = {field: value for field, value in FEW.items() if field in cls.Config.model_fields}
    config, _, _ = resolve_config(cls, {**few, **settings}, "synthetic", shape, "full")
    return cls(shape, config)


def correlated(n=4_000, d=3):
    """Posteriors whose aggregate is a Gaussian with a full covariance; the covariance too."""
    root = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.5, 0.0], [-0.3, 0.2, 0.7]])[:d, :d]
    splits = [PosteriorSplit(0.5 + normal(n, d, seed) @ root.T, torch.full((n, d), 0.1)) for seed in (1, 2)]
    return AggregatePosterior(*splits), root @ root.T + 0.01 * torch.eye(d)


# ---- what they share ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLOSED)
def test_no_network_no_evaluations_and_a_density(name):
    prior = make(name, (2,))
    assert prior.network_evaluations == 0
    prior.fit(TARGETS["ring"]().posterior(CPU), seeded(), silent)
    z = prior.sample(40, seeded(1))
    assert prior.log_prob(z).shape == (40,)
    assert prior.log_prob(z).dtype == torch.float32
    assert torch.equal(prior.energy(z), -prior.log_prob(z))


@pytest.mark.parametrize("name", CLOSED)
def test_a_block_is_fitted_as_the_vector_that_it_is(name):
    """The same draws, in the shape of a block and flat: the same state and the same latents."""
    split = narrowing(2, 3, 4)
    flat = PosteriorSplit(split._mean.flatten(1), split._std.flatten(1))
    block, vector = make(name, (2, 3, 4)), make(name, (24,))
    assert block.config == vector.config
    block.fit(AggregatePosterior(split, split), seeded(), silent)
    vector.fit(AggregatePosterior(flat, flat), seeded(), silent)
    drawn = block.sample(5, seeded(1))
    assert drawn.shape == (5, 2, 3, 4)
    assert torch.equal(drawn.flatten(1), vector.sample(5, seeded(1)))
    assert torch.equal(block.log_prob(drawn), vector.log_prob(drawn.flatten(1)))
    copy = type(block)(block.latent_shape, block.config)
    copy.load_state_dict(state_of(block))
    assert torch.equal(copy.log_prob(drawn), block.log_prob(drawn))


def test_too_few_components_promise_less():
    assert promised("gmm[components=auto]") == promised("gmm[components=10]") == set(TARGETS)
    assert promised("gmm[components=4]") == {"narrow", "standard", "block", "stairs"}
    assert promised("mixture[components=100]") == set(TARGETS)
    assert promised("mixture[components=5]") == promised("gmm[components=1]") == {"narrow", "standard"}


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_latents_that_are_not_finite_are_an_outcome_of_the_fit(name, bad):
    mean = torch.zeros(100, 3)
    mean[::2, 1] = bad
    split = PosteriorSplit(mean, torch.ones(100, 3))
    with pytest.raises(Diverged, match="not finite"):
        make(name, (3,)).fit(AggregatePosterior(split, split), seeded(), silent)


@pytest.mark.parametrize("name", CLOSED)
def test_one_dimension_is_enough(name):
    prior = make(name, (1,))
    prior.fit(gaussian_posterior(torch.tensor([1.0]), 0.5), seeded(), silent)
    grid = torch.linspace(-12, 12, 40_001)[:, None]  # whose points are not 0, where the norm's logarithm ends
    mass = prior.log_prob(grid + 1e-5).double().exp().sum() * 24 / 40_000
    assert mass.item() == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("name", CLOSED)
def test_the_density_integrates_to_one_in_two_dimensions(name):
    """By adaptive quadrature in polar coordinates, which is not the grid of `check`."""
    prior = make(name, (2,))
    prior.fit(correlated(d=2)[0], seeded(), silent)

    def at_radius(r):
        angles = torch.arange(256, dtype=torch.float64) * (2 * math.pi / 256)  # a periodic function: spectral accuracy
        points = r * torch.stack([angles.cos(), angles.sin()], 1)
        return prior.log_prob(points).exp().mean().item() * 2 * math.pi * r

    with torch.no_grad():
        mass, _ = integrate.quad(at_radius, 0, 12, limit=200, epsabs=1e-4)
    assert mass == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("name", CLOSED)
def test_samples_have_the_density_that_is_stated(name):
    """E[f(z)] over samples against the integral of f p: the norm, and an indicator of each quadrant."""
    prior = make(name, (2,))
    prior.fit(TARGETS["banana"]().posterior(CPU), seeded(), silent)
    axis = torch.linspace(-9, 9, 500, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        mass = prior.log_prob(grid).exp() * (18 / 499) ** 2
    z = prior.sample(20_000, seeded(3))
    for f in (
        lambda z: z.norm(dim=1),
        lambda z: (z[:, 0] > 0).double(),
        lambda z: (z[:, 1] > 0).double(),
        lambda z: (z.prod(1) > 0).double(),
        lambda z: torch.cos(2 * z[:, 0] + z[:, 1]),
    ):
        values = f(z)
        error = values.std().item() / math.sqrt(len(z))
        assert values.mean().item() == pytest.approx((mass * f(grid)).sum().item(), abs=5 * error + 1e-2 * (18 / 499))


# ---- parts --------------------------------------------------------------------------------------------------------


def test_draws_are_doubles_flat_and_finite():
    assert finite_draws(narrowing(2, 3, 4), 7, seeded()).shape == (7, 24)
    assert finite_draws(narrowing(3), 7, seeded()).dtype == torch.float64


def some_mixture(full, d=3, k=4):
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4])[:k]
    roots = (
        0.3 + torch.rand(k, d, d, generator=seeded(1)).tril() if full else 0.3 + torch.rand(k, d, generator=seeded(1))
    )
    return weights, 2 * torch.randn(k, d, generator=seeded(2)), roots.tril() if full else roots


def distribution(weights, means, roots):
    """The mixture as torch has it, in doubles."""
    weights, means, roots = (each.double() for each in (weights, means, roots))
    if roots.dim() == 3:
        return MixtureSameFamily(Categorical(weights), MultivariateNormal(means, scale_tril=roots))
    return MixtureSameFamily(Categorical(weights), Independent(Normal(means, roots), 1))


@pytest.mark.parametrize("full", [True, False])
def test_the_density_of_a_mixture_is_that_of_torch_whatever_the_chunk(full, monkeypatch):
    mixture, z = some_mixture(full), normal(101, 3, 4, scale=3)
    expected = distribution(*mixture).log_prob(z.double())
    monkeypatch.setattr(mixtures, "FEWEST_ROWS", 1)
    for chunk in (2**20, 100, 1):
        monkeypatch.setitem(mixtures.CHUNK, "cpu", chunk)
        assert torch.allclose(mixtures.log_density(z.double(), *mixture), expected, atol=1e-9)
    assert mixtures.log_density(z, *mixture).dtype == torch.float32


def test_a_narrow_component_far_from_the_origin_keeps_its_digits():
    weights, means, roots = torch.ones(1), torch.full((1, 8), 30.0), torch.full((1, 8), 1e-3)
    z = means + roots * normal(50, 8, 1)
    exact = distribution(weights, means, roots).log_prob(z.double())
    assert torch.allclose(mixtures.log_density(z.double(), weights, means, roots), exact, atol=1e-4)


def test_components_without_weight_count_for_nothing_and_are_never_drawn():
    weights, means, roots = some_mixture(full=True)
    padded = torch.cat([weights, torch.zeros(2)])
    more = torch.cat([means, 1e3 * torch.ones(2, 3)]), torch.cat([roots, torch.eye(3).expand(2, 3, 3)])
    z = normal(50, 3, 4)
    expected = mixtures.log_density(z, weights, means, roots)
    assert torch.allclose(mixtures.log_density(z, padded, *more), expected, atol=1e-6)
    assert mixtures.choose(padded, 50_000, seeded()).max() == 3


@pytest.mark.parametrize("full", [True, False])
def test_draws_of_a_mixture_come_by_weight_and_have_its_moments(full, monkeypatch):
    monkeypatch.setitem(mixtures.CHUNK, "cpu", 1_000)
    weights, means, roots = some_mixture(full)
    counts = torch.bincount(mixtures.choose(weights, 40_000, seeded()))
    assert stats.chisquare(counts, 40_000 * weights.double() / weights.double().sum()).pvalue > 0.01
    covariances = roots @ roots.transpose(1, 2) if full else torch.diag_embed(roots.square())
    mean = weights @ means
    apart = means - mean
    expected = (weights[:, None, None] * (covariances + apart[:, :, None] * apart[:, None])).sum(0)
    z = mixtures.draw(40_000, weights, means, roots, seeded(5))
    assert torch.allclose(z.mean(0), mean, atol=0.06)
    assert torch.allclose(z.T.cov(), expected, atol=0.12)


def test_kernels_are_near_a_density_of_two_scales_and_chosen_for_each_variable():
    """A normal variable beside one whose modes are narrow: held-out likelihood near the true one for both."""

    def two(seed):
        spikes = torch.where(torch.rand(20_000, generator=seeded(seed)) < 0.5, -1.0, 1.0)
        return torch.stack([normal(20_000, 1, seed + 1)[:, 0], spikes + 0.05 * normal(20_000, 1, seed + 2)[:, 0]], 1)

    centres, widths = kernels.fit_kernels(two(1).double(), two(11).double())
    assert centres.shape == widths.shape == (2, kernels.KERNELS)
    x = two(21).double()
    found = kernels.log_density(x, centres, widths).mean(0)
    normal_truth = Normal(0.0, 1.0).log_prob(x[:, 0]).mean()
    spikes = MixtureSameFamily(
        Categorical(torch.ones(2).double()), Normal(torch.tensor([-1.0, 1.0]).double(), torch.tensor(0.05).double())
    )
    assert (normal_truth - found[0]).item() < 0.01
    assert (spikes.log_prob(x[:, 1]).mean() - found[1]).item() < 0.06
    assert widths[0].median() > 2 * widths[1].median()


def test_kernels_are_wide_where_draws_are_rare():
    x = normal(20_000, 1, 3).double()
    centres, widths = kernels.fit_kernels(x, normal(2_000, 1, 4).double())
    assert widths[0, 0] > 3 * widths[0, kernels.KERNELS // 2]
    tail = kernels.log_density(torch.tensor([[4.5]]).double(), centres, widths).item()
    assert tail == pytest.approx(Normal(0.0, 1.0).log_prob(torch.tensor(4.5)).item(), abs=3)


def test_draws_that_kernels_make_have_their_distribution_function():
    centres, widths = kernels.fit_kernels(normal(5_000, 2, 3).double(), normal(2_000, 2, 4).double())
    drawn = kernels.draw(5_000, centres, widths, seeded()).numpy()
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.05
    for variable in range(2):

        def below(x):
            each = (np.asarray(x)[:, None] - centres[variable].numpy()) / widths[variable].numpy()
            return stats.norm.cdf(each).mean(1)

        assert stats.kstest(drawn[:, variable], below).pvalue > 0.01


# ---- fitted_gaussian ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_fitted_gaussian_is_the_maximum_of_the_likelihood_by_scipy(covariance):
    posterior, _ = correlated()
    prior = FittedGaussian((3,), FittedGaussianConfig(covariance=covariance, draws=3_000))
    facts = prior.fit(posterior, seeded(), silent)
    z = posterior.train.sample(3_000, seeded()).double().numpy()
    mean, cov = z.mean(0), np.cov(z.T, bias=True)
    cov = cov if covariance == "full" else np.diag(np.diag(cov))
    points = normal(200, 3, 9, scale=2)
    oracle = stats.multivariate_normal(mean, cov)
    assert np.allclose(prior.log_prob(points).numpy(), oracle.logpdf(points.double().numpy()), atol=1e-4)
    assert facts["log_determinant"] == pytest.approx(np.linalg.slogdet(cov)[1], abs=1e-5)
    assert np.allclose(np.cov(prior.sample(40_000, seeded(2)).T.numpy()), cov, atol=0.04)


def test_a_singular_covariance_is_said_to_be_singular():
    mean = normal(50, 1, 0).expand(50, 3)
    split = PosteriorSplit(mean, torch.zeros(50, 3))
    with pytest.raises(Diverged, match="singular"):
        make("fitted_gaussian", (3,)).fit(AggregatePosterior(split, split), seeded(), silent)
    for rotation in ("pca", "ica"):
        with pytest.raises(Diverged, match="singular"):
            make("marginal", (3,), rotation=rotation).fit(AggregatePosterior(split, split), seeded(), silent)


# ---- gmm ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_em_is_that_of_scikit_learn_from_the_same_start(covariance):
    z = TARGETS["mixture"]().draw(3_000, seeded(7))[:, :4].double()
    begun = start(z, 5, covariance == "full", 1e-4, seeded(1))
    made, iterations = expectation_maximisation(z, begun, 1e-4, 200, 1e-4)
    variances = begun.roots @ begun.roots.transpose(1, 2) if covariance == "full" else begun.roots.square()
    precisions = torch.linalg.inv(variances) if covariance == "full" else 1 / variances
    oracle = GaussianMixture(
        5,
        covariance_type={"full": "full", "diagonal": "diag"}[covariance],
        tol=1e-4,
        reg_covar=1e-4,
        max_iter=200,
        weights_init=begun.weights.numpy(),
        means_init=begun.means.numpy(),
        precisions_init=precisions.numpy(),
    ).fit(z.numpy())
    assert iterations == oracle.n_iter_ > 5
    found = mixtures.log_density(z, *made)
    assert np.allclose(found.numpy(), oracle.score_samples(z.numpy()), atol=1e-6)
    assert torch.allclose(made.weights, torch.tensor(oracle.weights_), atol=1e-8)
    assert torch.allclose(made.means, torch.tensor(oracle.means_), atol=1e-7)


@pytest.mark.parametrize("full", [True, False])
def test_each_iteration_of_em_raises_the_likelihood(full):
    z = TARGETS["ring"]().draw(2_000, seeded()).double()
    mixture, last = start(z, 6, full, 1e-6, seeded(2)), -math.inf
    for _ in range(15):
        mixture, _ = expectation_maximisation(z, mixture, 1e-6, 1, 1e-3)
        now = mixtures.log_density(z, *mixture).mean().item()
        assert now >= last - 1e-6
        last = now


def test_k_means_plus_plus_puts_a_centre_into_each_far_cluster():
    means = 50 * torch.eye(8).double()
    z = means.repeat(100, 1) + normal(800, 8, 1).double()
    for seed in range(5):
        centres = start(z, 8, True, 1e-6, seeded(seed)).means
        assert sorted(torch.cdist(centres, means).argmin(1).tolist()) == list(range(8))


def test_components_are_chosen_on_held_out_draws(monkeypatch):
    """Few training images, learned by heart by many components, and held-out images of the same two clusters."""
    means = [torch.where(torch.arange(60)[:, None] % 2 == 0, 3.0, -3.0) + normal(60, 4, seed) for seed in (1, 2)]
    posterior = AggregatePosterior(*(PosteriorSplit(mean, torch.full((60, 4), 0.05)) for mean in means))
    told = []
    prior = GMM((4,), GMMConfig(draws=3_000))
    facts = prior.fit(posterior, seeded(), lambda step, total, **values: told.append(values))
    assert facts["components"] == 2
    assert [each["components"] for each in told] == [1, 2, 5]
    assert facts["held_out_nll"] == min(each["held_out_nll"] for each in told) < told[0]["held_out_nll"] - 1
    assert len(prior.weights) == max(gmm.LADDER)
    assert (prior.weights > 0).sum() == 2
    alone = GMM((4,), GMMConfig(draws=3_000, components=5))
    assert alone.fit(posterior, seeded(), silent)["components"] == 5


def test_more_components_than_draws_are_refused():
    with pytest.raises(Diverged, match="more than 20 draws"):
        make("gmm", (2,), components=30, draws=20).fit(TARGETS["ring"]().posterior(CPU), seeded(), silent)
    assert make("gmm", (2,), components="auto", draws=20).fit(TARGETS["ring"]().posterior(CPU), seeded(), silent)


@pytest.mark.parametrize("full", [True, False])
def test_em_leaves_the_saddle_where_components_are_alike(full):
    """Two long clusters that cross in many dimensions: the true likelihood is reached from k-means."""
    d, n = 24, 6_000
    scale = torch.where(torch.arange(d) < d // 2, 2.0, 0.5)
    z = torch.cat([scale * normal(n // 2, d, 1), scale.flip(0) * normal(n // 2, d, 2)]).double()
    truth = MixtureSameFamily(
        Categorical(torch.ones(2).double()),
        Independent(Normal(torch.zeros(2, d).double(), torch.stack([scale, scale.flip(0)]).double()), 1),
    )
    made, _ = expectation_maximisation(z, start(z, 2, full, 1e-6, seeded(3)), 1e-6, 200, 1e-4)
    assert mixtures.log_density(z, *made).mean() > truth.log_prob(z).mean() - 0.05


def test_a_component_alone_is_the_fitted_gaussian():
    posterior, _ = correlated()
    one = GMM((3,), GMMConfig(components=1, draws=3_000, floor=1e-9))
    two = FittedGaussian((3,), FittedGaussianConfig(draws=3_000))
    for prior in (one, two):
        prior.fit(posterior, seeded(), silent)
    points = normal(100, 3, 1)
    assert torch.allclose(one.log_prob(points), two.log_prob(points), atol=1e-4)


def test_the_floor_keeps_a_component_on_a_point_from_collapsing():
    mean = torch.cat([torch.zeros(50, 2), 9 * torch.ones(50, 2)])
    split = PosteriorSplit(mean, torch.zeros(100, 2))
    prior = GMM((2,), GMMConfig(components=2, draws=500, floor=1e-4))
    prior.fit(AggregatePosterior(split, split), seeded(), silent)
    assert torch.allclose(prior.roots.diagonal(dim1=1, dim2=2), torch.tensor(1e-2), atol=1e-4)
    assert set(prior.sample(50, seeded()).round().flatten().tolist()) == {0.0, 9.0}


@pytest.mark.parametrize("setting", [{"components": 0}, {"components": "all"}, {"floor": 0}, {"covariance": "tied"}])
def test_settings_of_a_mixture_that_make_no_sense_are_refused(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        GMMConfig(**setting)


# ---- mixture ------------------------------------------------------------------------------------------------------


def test_a_mixture_of_posteriors_has_the_density_of_torch_and_its_gradient():
    prior = PosteriorMixture((3,), MixtureConfig(components=7))
    prior.initialise(correlated()[0], seeded())
    with torch.no_grad():
        prior.logits.copy_(normal(1, 7, 1)[0])
    z = normal(60, 3, 2)
    expected = distribution(*prior.mixture()).log_prob(z.double())
    assert torch.allclose(prior.log_prob(z).double(), expected, atol=1e-5)
    for parameter in prior.parameters():
        (mine,) = torch.autograd.grad(prior.log_prob(z).sum(), parameter)
        (its,) = torch.autograd.grad(distribution(*prior.mixture()).log_prob(z.double()).sum(), parameter)
        assert torch.allclose(mine, its, rtol=1e-4, atol=1e-4)


def test_a_step_along_the_gradient_raises_the_likelihood_and_so_does_the_fit():
    target = TARGETS["ring"]()
    posterior = target.posterior(CPU)
    prior = PosteriorMixture((2,), MixtureConfig(components=30, steps=500))
    prior.initialise(posterior, seeded())
    z = target.draw(2_000, seeded(5))
    before = prior.log_prob(z).mean()
    before.backward()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter += 1e-3 * parameter.grad
        assert prior.log_prob(z).mean() > before
    facts = prior.fit(posterior, seeded(), silent)
    found, truth = prior.log_prob(z).mean().item(), target.log_prob(z).mean().item()
    assert before.item() + 0.2 < found
    assert truth - found < 0.03
    assert facts["best_step"] in (250, 500)


def test_a_mixture_of_all_posteriors_is_a_member_of_the_family():
    """With K = N, the posteriors' own parameters and equal weights it is q_agg, whose density torch has."""
    split = narrowing(3, n=20, std=0.2)
    prior = PosteriorMixture((3,), MixtureConfig(components=20))
    with torch.no_grad():
        prior.means.copy_(split._mean)
        prior.log_scales.copy_((split._std - prior.config.floor).log())
    z = split.sample(100, seeded())
    q = distribution(torch.full((20,), 1 / 20), split._mean, split._std)
    assert torch.allclose(prior.log_prob(z).double(), q.log_prob(z.double()), atol=1e-4)


# ---- kde ----------------------------------------------------------------------------------------------------------


def test_kde_is_that_of_scikit_learn_and_its_bandwidth_the_best_of_all():
    posterior, _ = correlated()
    prior = KDE((3,), KDEConfig(kept=400))
    facts = prior.fit(posterior, seeded(), silent)
    points = posterior.train.sample(400, generator := seeded()).double()
    held_out = posterior.val.sample(HELD_OUT, generator).double()
    std = points.std(0)

    def oracle(bandwidth, z):
        made = KernelDensity(bandwidth=bandwidth).fit((points / std).numpy())
        return made.score_samples((z.double() / std).numpy()) - std.log().sum().item()

    z = normal(100, 3, 4)
    assert np.allclose(prior.log_prob(z).numpy(), oracle(facts["bandwidth"], z), atol=1e-4)
    likelihoods = [oracle(bandwidth, held_out).mean() for bandwidth in BANDWIDTHS]
    assert facts["bandwidth"] == BANDWIDTHS[int(np.argmax(likelihoods))]
    assert facts["held_out_nll"] == pytest.approx(-max(likelihoods), abs=1e-4)
    assert 0 < int(np.argmax(likelihoods)) < len(BANDWIDTHS) - 1
    assert torch.equal(prior.points, points.float())
    near = torch.cdist((prior.sample(2_000, seeded(6)) / std).float(), (points / std).float()).min(1).values
    assert near.median() < 3 * facts["bandwidth"]


# ---- norms alone --------------------------------------------------------------------------------------------------


def shell(radius, width, d, seed, n=20_000):
    """Directions uniform, but lengths about a radius."""
    z = normal(n, d, seed)
    lengths = radius + width * normal(n, 1, seed + 1)
    return PosteriorSplit(z / z.norm(dim=1, keepdim=True) * lengths, torch.full((n, d), 1e-3))


def test_radial_is_the_density_of_a_thin_shell():
    """In 6 dimensions, lengths N(3, 0.1^2): log p = log N(|z|; 3, 0.1^2) - log area - 5 log |z|."""
    d = 6
    posterior = AggregatePosterior(shell(3.0, 0.1, d, 1), shell(3.0, 0.1, d, 3))
    prior = Radial((d,), RadialConfig(draws=20_000))
    prior.fit(posterior, seeded(), silent)
    z = shell(3.0, 0.1, d, 5).sample(2_000, seeded(1)).double()
    area = math.log(2) + d / 2 * math.log(math.pi) - special.gammaln(d / 2)
    exact = Normal(3.0, 0.1).log_prob(z.norm(dim=1)) - area - (d - 1) * z.norm(dim=1).log()
    assert (exact - prior.log_prob(z)).mean().item() == pytest.approx(0, abs=0.02)
    drawn = prior.sample(4_000, seeded(2))
    assert stats.ks_2samp(drawn.norm(dim=1).numpy(), z.norm(dim=1).numpy()).pvalue > 0.01
    assert torch.allclose((drawn / drawn.norm(dim=1, keepdim=True)).T.cov(), torch.eye(d) / d, atol=0.02)


def test_radial_repairs_norms_and_leaves_directions():
    target = TARGETS["ring"]()
    prior = Radial((2,), RadialConfig(draws=20_000))
    prior.fit(target.posterior(CPU), seeded(), silent)
    z, real = prior.sample(2_000, seeded(1)), target.draw(2_000, seeded(2))
    assert stats.ks_2samp(z.norm(dim=1).numpy(), real.norm(dim=1).numpy()).pvalue > 0.01
    sector = (torch.atan2(z[:, 1], z[:, 0]) / (2 * math.pi) * 16).floor() % 16
    assert stats.chisquare(torch.bincount(sector.long(), minlength=16)).pvalue > 0.01
    sector = (torch.atan2(real[:, 1], real[:, 0]) / (2 * math.pi) * 16 + 0.5).floor() % 16
    assert stats.chisquare(torch.bincount(sector.long(), minlength=16)).pvalue < 1e-6
    assert prior.log_prob(torch.zeros(1, 2)).item() < -1e3, "a number at the origin too"


@pytest.mark.parametrize("d", [1, 2, 16, 128, 1280])
@pytest.mark.parametrize("tau", [-6.0, -1.0, 0.0, 0.5, 3.0, 20.0])
def test_the_constant_of_the_tilt_is_that_of_numerical_integration(d, tau):
    def log_integrand(r):
        return special.xlogy(d - 1, r) - r * r / 2 + tau * r + (1 - d / 2) * math.log(2) - special.gammaln(d / 2)

    mode = (tau + math.sqrt(tau * tau + 4 * (d - 1))) / 2
    peak = log_integrand(max(mode, 0))
    value, _ = integrate.quad(
        lambda r: math.exp(log_integrand(r) - peak), max(mode - 14, 0), mode + 14, points=[max(mode, 1e-3)], limit=200
    )
    found = log_constant(torch.tensor(tau), d).item()
    assert found == pytest.approx(peak + math.log(value), abs=1e-6)


@pytest.mark.parametrize("d, tau", [(2, 1.0), (16, 6.0), (64, 3.0)])
def test_the_constant_of_the_tilt_is_that_of_kummers_functions(d, tau):
    ratio = math.exp(special.gammaln((d + 1) / 2) - special.gammaln(d / 2))
    closed = special.hyp1f1(d / 2, 0.5, tau**2 / 2)
    closed += tau * math.sqrt(2) * ratio * special.hyp1f1((d + 1) / 2, 1.5, tau**2 / 2)
    assert log_constant(torch.tensor(tau), d).item() == pytest.approx(math.log(closed), abs=1e-8)


@pytest.mark.parametrize("tau", [-2.0, 0.0, 4.0])
def test_the_tilt_is_found_again_from_its_own_draws(tau):
    truth = Tilted((8,), TiltedConfig())
    truth.tau.fill_(tau)
    splits = [PosteriorSplit(truth.sample(20_000, seeded(seed)), torch.zeros(20_000, 8)) for seed in (1, 2)]
    prior = Tilted((8,), TiltedConfig())
    facts = prior.fit(AggregatePosterior(*splits), seeded(), silent)
    assert facts["tau"] == pytest.approx(tau, abs=0.1)
    z = splits[1].sample(20_000, seeded(3))
    likelihoods = []
    for near in (-0.3, 0.0, 0.3):
        truth.tau.fill_(facts["tau"] + near)
        likelihoods.append(truth.log_prob(z).mean().item())
    assert likelihoods[1] == max(likelihoods)


def test_norms_of_tilted_draws_have_their_distribution_function():
    prior = Tilted((5,), TiltedConfig())
    prior.tau.fill_(1.5)
    r, log_mass = norms(prior.tau, 5)
    below = log_mass.softmax(0).cumsum(0).numpy()
    drawn = prior.sample(10_000, seeded())
    assert stats.kstest(drawn.norm(dim=1).double().numpy(), lambda x: np.interp(x, r.numpy(), below)).pvalue > 0.01
    assert torch.allclose((drawn / drawn.norm(dim=1, keepdim=True)).T.cov(), torch.eye(5) / 5, atol=0.02)


def test_without_a_tilt_it_is_the_standard_normal():
    prior, z = Tilted((4,), TiltedConfig()), normal(50, 4, 0)
    assert torch.allclose(prior.log_prob(z), Normal(0.0, 1.0).log_prob(z).sum(1), atol=1e-5)


# ---- marginal -----------------------------------------------------------------------------------------------------


def mixed_sources(n, seed):
    """Independent variables far from Gaussian, mixed: (n, 3), and the matrix."""
    uniform = torch.rand(n, 3, generator=seeded(seed))
    sources = torch.stack(
        [uniform[:, 0].sub(0.5) * 12**0.5, (uniform[:, 1] - 0.5).sign(), -(uniform[:, 2].log()) - 1], 1
    )
    sources[:, 1] += 0.2 * normal(n, 1, seed + 1)[:, 0]
    mix = torch.tensor([[1.0, 0.5, -0.3], [0.2, 1.0, 0.6], [-0.4, 0.3, 1.0]])
    return sources @ mix.T, mix


def test_ica_finds_the_sources_and_pca_the_axes():
    z, mix = mixed_sources(20_000, 1)
    posterior = AggregatePosterior(
        *(PosteriorSplit(each, torch.full(each.shape, 1e-3)) for each in (z, mixed_sources(20_000, 5)[0]))
    )
    ica = Marginal((3,), MarginalConfig(rotation="ica", draws=20_000))
    facts = ica.fit(posterior, seeded(), silent)
    gain = (ica.rotate @ mix).abs()
    gain = gain / gain.max(1, keepdim=True).values
    assert sorted(gain.argmax(1).tolist()) == [0, 1, 2]
    assert (gain.sum(1) - 1).max() < 0.1, "each output is one source"
    assert 0 < facts["ica_iterations"] < 200
    pca = Marginal((3,), MarginalConfig(rotation="pca", draws=20_000))
    pca.fit(posterior, seeded(), silent)
    assert torch.allclose(pca.rotate @ pca.rotate.T, torch.eye(3), atol=1e-5)
    covariance = (pca.rotate @ z.T).cov()
    assert torch.allclose(covariance, covariance.diagonal().diag(), atol=0.02)
    held_out = mixed_sources(5_000, 9)[0]
    assert ica.log_prob(held_out).mean() > pca.log_prob(held_out).mean() + 0.1
    for prior in (ica, pca):
        assert torch.allclose(prior.back @ prior.rotate, torch.eye(3), atol=1e-5)
        assert mmd_between(prior.sample(1_000, seeded(4)), held_out[:1_000]) < 0.05


def test_fast_ica_returns_a_rotation():
    white = normal(2_000, 5, 1).double()
    turn, _ = fast_ica(white, seeded())
    assert torch.allclose(turn @ turn.T, torch.eye(5).double(), atol=1e-9)


def test_marginal_on_a_product_density_is_that_density():
    """Axes of different scales and nothing to rotate: the sum of the marginal log-densities, within kernels."""
    scale = torch.tensor([2.0, 1.0, 0.3])
    posterior = AggregatePosterior(
        *(PosteriorSplit(scale * normal(20_000, 3, seed), torch.full((20_000, 3), 1e-3)) for seed in (1, 2))
    )
    prior = Marginal((3,), MarginalConfig(rotation="pca", draws=20_000))
    prior.fit(posterior, seeded(), silent)
    z = scale * normal(5_000, 3, 7)
    exact = Normal(0.0, scale).log_prob(z).sum(1).mean()
    assert (exact - prior.log_prob(z).mean()).item() == pytest.approx(0, abs=0.03)
