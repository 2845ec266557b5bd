"""The Riemannian sampler and its parts: the metric against a dense one, chains on known densities, medoids."""

import math

import numpy as np
import pytest
import torch
from draws import CPU, normal, seeded, silent
from posteriors import narrowing
from scipy import stats
from torch.distributions import MultivariateNormal

from benchmark.check.targets import TARGETS, FreshDraws
from priors.api import AggregatePosterior, Diverged, GaussianSplit, PosteriorSplit
from priors.parts.hmc import leap, run_chains
from priors.parts.medoids import find_medoids
from priors.riemannian import Riemannian, RiemannianConfig


def by_autograd(log_density):
    """What chains need of a density that torch has."""

    def both(z):
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            value = log_density(z)
            return value.detach(), torch.autograd.grad(value.sum(), z)[0]

    return both


def made(split, shape=(4,), **settings):
    prior = Riemannian(shape, RiemannianConfig(**{"medoids": 7, "starts": 60, "ridge": 0.3, "steps": 20} | settings))
    facts = prior.fit(AggregatePosterior(split, split), seeded(), silent)
    return prior, facts


def some_split(n=80, d=4):
    return PosteriorSplit(normal(n, d, 1), 0.2 + torch.rand(n, d, generator=seeded(2)))


# ---- chains -------------------------------------------------------------------------------------------------------


def test_chains_have_the_moments_of_a_correlated_gaussian():
    root = torch.tensor([[1.0, 0.0], [0.9, 0.3]], dtype=torch.float64)
    truth = MultivariateNormal(torch.tensor([3.0, -1.0], dtype=torch.float64), root @ root.T)
    z, accepted = run_chains(by_autograd(truth.log_prob), torch.zeros(20_000, 2).double(), 60, 6, 0.25, seeded())
    assert 0.5 < accepted < 0.99
    assert torch.allclose(z.mean(0), truth.loc, atol=0.03)
    assert torch.allclose(z.T.cov(), truth.covariance_matrix, atol=0.03)


def test_coarse_steps_leave_a_density_as_it_is_because_they_are_refused():
    """Steps of a size at which leapfrog alone is far off: a third is refused, and the distribution is exact."""
    z = normal(20_000, 1, 1).double()
    ends, accepted = run_chains(lambda z: (-0.5 * z.square().sum(1), -z), z, 20, 2, 1.7, seeded(2))
    assert 0.3 < accepted < 0.9
    assert stats.kstest(ends[:, 0].numpy(), "norm").pvalue > 0.01


def test_a_transition_is_in_detailed_balance():
    """Between any two cells of a density, as many starts go there as come back."""
    z = normal(400_000, 1, 1).double()
    ends, _ = run_chains(lambda z: (-0.5 * z.square().sum(1), -z), z, 1, 1, 1.5, seeded(2))
    edges = torch.tensor([-1.0, 0.0, 0.7]).double()
    cells = torch.bucketize(z[:, 0], edges) * 4 + torch.bucketize(ends[:, 0], edges)
    flows = torch.bincount(cells, minlength=16).view(4, 4).numpy()
    rows, columns = np.triu_indices(4, 1)
    there, back = flows[rows, columns], flows[columns, rows]
    assert (there + back > 100).all()
    assert stats.chi2.sf(((there - back) ** 2 / (there + back)).sum(), len(there)) > 0.01


def test_leapfrog_is_its_own_inverse_and_keeps_volume():
    density = by_autograd(lambda z: -(z.pow(4).sum(1) / 4) - z.prod(1))
    z, momentum = normal(1, 2, 1).double(), normal(1, 2, 2).double()
    ahead, turned, value, slope = leap(density, z, momentum, density(z)[1], 5, 0.1)
    assert torch.allclose(value, density(ahead)[0])
    back, turned, _, _ = leap(density, ahead, -turned, slope, 5, 0.1)
    assert torch.allclose(back, z, atol=1e-12)
    assert torch.allclose(-turned, momentum, atol=1e-12)

    def flow(both):
        z, momentum = both[None, :2], both[None, 2:]
        gradient = lambda z: (z[:, 0], -z.pow(3) - z.flip(1))  # noqa: E731
        return torch.cat(leap(gradient, z, momentum, gradient(z)[1], 5, 0.1)[:2], 1)[0]

    jacobian = torch.autograd.functional.jacobian(flow, torch.cat([z, momentum], 1)[0])
    assert jacobian.det().item() == pytest.approx(1, abs=1e-10)


def test_energies_beyond_an_exponential_and_ends_that_are_not_finite_are_handled():
    far = torch.full((50, 1), 100.0)  # exp(-H) is 0 in float32
    z, accepted = run_chains(lambda z: (-0.5 * z.square().sum(1), -z), far, 5, 5, 0.1, seeded())
    assert accepted > 0.9
    assert (z < far).all()
    wall = lambda z: (torch.where(z[:, 0] > 0, -z[:, 0], math.nan), -torch.ones_like(z))  # noqa: E731
    z, accepted = run_chains(wall, torch.full((2_000, 1), 0.5), 50, 3, 0.3, seeded())
    assert (z > 0).all()
    assert accepted < 0.95


# ---- medoids ------------------------------------------------------------------------------------------------------


def test_medoids_are_points_that_no_exchange_within_a_cluster_betters():
    x = normal(120, 3, 1)
    found = find_medoids(x, 6)
    assert len(set(found.tolist())) == 6
    distances = torch.cdist(x, x)
    cluster = distances[:, found].argmin(1)
    for k, medoid in enumerate(found):
        members = (cluster == k).nonzero()[:, 0]
        sums = distances[members][:, members].sum(1)
        assert members[sums.argmin()] == medoid
    total = distances[:, found].min(1).values.sum()
    assert total < distances[:, torch.arange(6)].min(1).values.sum()


def test_medoids_of_clusters_are_one_in_each():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    of = torch.arange(90) % 3
    found = find_medoids(centres[of] + 0.1 * normal(90, 2, 1), 3)
    assert sorted(of[found].tolist()) == [0, 1, 2]


def test_points_that_are_the_same_are_medoids_still():
    assert len(find_medoids(torch.zeros(10, 2), 4)) == 4


# ---- the prior ----------------------------------------------------------------------------------------------------


def dense(prior, z):
    """G(z) as a matrix for each z, from the definition."""
    inverses = torch.diag_embed(prior.precisions.double())
    apart = z[:, None] - prior.centres.double()
    weights = (-torch.einsum("nki,kij,nkj->nk", apart, inverses, apart) / prior.temperature.double() ** 2).exp()
    ridge = prior.config.ridge * torch.eye(z.shape[1], dtype=torch.float64)
    return torch.einsum("nk,kij->nij", weights, inverses) + ridge


@pytest.mark.parametrize("power", [1.0, 4.0])
def test_density_and_gradient_are_those_of_the_dense_metric(power):
    prior, _ = made(some_split(), power=power)
    z = normal(40, 4, 5, scale=1.5)
    value, gradient = by_autograd(lambda z: power / 2 * torch.logdet(dense(prior, z)))(z.double())
    found, slope = prior.log_density(z)
    assert torch.allclose(found.double(), value, atol=1e-4)
    assert torch.allclose(slope.double(), gradient, atol=1e-4)
    assert torch.equal(prior.energy(z), -found)
    assert prior.log_prob(z) is None


def test_the_metric_is_made_of_medoids_of_the_posteriors():
    split = some_split()
    prior, facts = made(split)
    for centre, precision in zip(prior.centres, prior.precisions):
        (image,) = (split._mean == centre).all(1).nonzero()[:, 0]
        assert torch.allclose(precision, split._std[image] ** -2)
    between = torch.cdist(prior.centres, prior.centres) + 1e9 * torch.eye(7)
    assert facts["temperature"] == pytest.approx(between.min(1).values.max().item(), rel=1e-4)
    assert ((prior.means[:, None] == split._mean).all(2).sum(1) == 1).all()
    assert len(prior.means.unique(dim=0)) == 60


def test_chains_leave_their_density_as_it_is():
    """Starts that have it, by a table of points, against their ends: in one dimension, far from the constant part."""
    prior, _ = made(PosteriorSplit(normal(80, 1, 1), torch.full((80, 1), 0.3)), (1,), ridge=1e-6, power=2.0)
    grid = torch.linspace(-8, 8, 20_001)[:, None]
    density = prior.log_density(grid)[0].double().exp()
    cumulated = (density.cumsum(0) / density.sum()).numpy()
    starts = np.interp(np.random.default_rng(0).random(20_000), cumulated, grid[:, 0].numpy())
    ends, accepted = run_chains(
        prior.log_density, torch.tensor(starts, dtype=torch.float32)[:, None], 10, 3, 0.4, seeded()
    )
    assert accepted > 0.3
    assert (ends[:, 0] - torch.tensor(starts)).abs().mean() > 0.3
    assert stats.kstest(ends[:, 0].numpy(), lambda x: np.interp(x, grid[:, 0].numpy(), cumulated)).pvalue > 0.01


def test_diagnostics_say_how_far_chains_go():
    near, far = (made(some_split(), steps=steps, step_size=0.02)[0].diagnostics(seeded()) for steps in (1, 40))
    assert 0.9 < near["acceptance"] <= 1
    assert near["displacement"] < 0.6 * far["displacement"]
    assert near["displacement_over_spread"] == pytest.approx(
        far["displacement_over_spread"] * near["displacement"] / far["displacement"], rel=1e-4
    )


def test_it_refuses_draws_alone_and_posteriors_of_no_width():
    class Hidden:
        def __init__(self, split):
            self.sample, self.one_each, self.device = split.sample, split.one_each, split.device

        def __len__(self):
            return 1_000

    hidden = Hidden(some_split())
    assert not isinstance(hidden, GaussianSplit)
    with pytest.raises(TypeError, match="draws alone"):
        made(hidden)
    with pytest.raises(ValueError, match="no width: their encoder is deterministic"):
        made(PosteriorSplit(normal(80, 4, 1), torch.zeros(80, 4)))
    with pytest.raises(Diverged, match="not finite"):
        made(PosteriorSplit(normal(80, 4, 1), torch.full((80, 4), math.nan)))
    with pytest.raises(ValueError, match="among its starts"):
        Riemannian((4,), RiemannianConfig(medoids=30, starts=20))


@pytest.mark.parametrize("images", [7, 25])
def test_fewer_images_than_starts_are_started_from_more_than_once(images):
    """The same model as with as many starts as images: same medoids, each start an image's mean, none left out."""
    split = some_split(images)
    (prior, facts), (fewer, same) = made(split, starts=60), made(split, starts=images)
    assert torch.equal(prior.centres, fewer.centres)
    assert facts == same
    found, counts = prior.means.unique(dim=0, return_counts=True)
    assert torch.equal(found, fewer.means.unique(dim=0))
    assert counts.max() - counts.min() <= 1


def test_fewer_images_than_medoids_are_told():
    with pytest.raises(ValueError, match="7 medoids among images, and there are 6"):
        made(some_split(6))


def test_a_block_is_sampled_as_the_vector_that_it_is():
    split = narrowing(2, 3, 4)
    flat = PosteriorSplit(split._mean.flatten(1), split._std.flatten(1))
    block, vector = made(split, (2, 3, 4))[0], made(flat, (24,))[0]
    drawn = block.sample(5, seeded(1))
    assert drawn.shape == (5, 2, 3, 4)
    assert torch.equal(drawn.flatten(1), vector.sample(5, seeded(1)))
    assert torch.equal(block.energy(drawn), vector.energy(drawn.flatten(1)))


@pytest.mark.parametrize("name", ["ring", "mixture", "narrow", "standard", "block"])
def test_posteriors_of_a_target_make_its_density(name):
    """Draws by way of an image have the target's moments, and its log-density on average."""
    target = TARGETS[name]()
    mean, std = FreshDraws(target, CPU).posteriors(40_000, seeded(1))
    z = mean + std * torch.randn(mean.shape, generator=seeded(2))
    direct = target.draw(40_000, seeded(3))
    assert torch.allclose(z.mean(0), direct.mean(0), atol=0.05)
    assert torch.allclose(z.std(0), direct.std(0), rtol=0.03)
    assert target.log_prob(z).mean().item() == pytest.approx(target.log_prob(direct).mean().item(), abs=0.08)


def test_distinct_posteriors_are_those_of_the_images():
    split = some_split(n=20)
    mean, std = split.posteriors(20, seeded())
    order = torch.cdist(mean, split._mean).argmin(1)
    assert sorted(order.tolist()) == list(range(20))
    assert torch.equal(std, split._std[order])
    with pytest.raises(ValueError, match="21 distinct images"):
        split.posteriors(21, seeded())
