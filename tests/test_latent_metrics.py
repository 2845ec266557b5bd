"""What is measured of latents beside the MMD: against exact transport, closed forms and optimal classifiers."""

import math

import numpy as np
import pytest
import torch
from evaluations import CPU, Scaled, evaluation, seeded
from scipy import stats
from scipy.optimize import linear_sum_assignment
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from torch.distributions import Normal, kl_divergence

from benchmark.metrics import c2st
from benchmark.metrics.api import Facts
from benchmark.metrics.c2st import ClassifierTest, classifier_auc
from benchmark.metrics.cross_entropy import CrossEntropy
from benchmark.metrics.memorisation import LatentMemorisation
from benchmark.metrics.mmd import MMD, ProjectedMMD
from benchmark.metrics.neighbours import LatentNeighbours, neighbourhood_scores
from benchmark.metrics.sliced_wasserstein import SlicedWasserstein, directions, sliced_wasserstein
from benchmark.scores.mmd import KERNELS, median_squared_distance
from benchmark.scores.ranks import superiority
from benchmark.streams import stream
from priors.api import PosteriorSplit, PriorConfig
from priors.gaussian import Gaussian

SUFFIX = "_pca64"


def normal(n: int, d: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(n, d, generator=seeded(seed))


def split(*shape: int, n: int = 120, std: float = 0.1) -> PosteriorSplit:
    """Posteriors whose means vary less and less from one dimension to the next, about a point away from zero."""
    size = math.prod(shape)
    mean = 1 + torch.randn(n, size, generator=seeded(0)) * torch.linspace(2, 0.2, size)
    return PosteriorSplit(mean.unflatten(1, shape), torch.full((n, *shape), std))


# Sliced Wasserstein distance


def along(d: int, seed: int = 0) -> torch.Tensor:
    return directions(d, seeded(seed))


@pytest.mark.parametrize("d", [1, 3, 40])
def test_directions_are_unit_vectors_of_no_preference(d):
    made = along(d)
    assert made.shape == (d, 500) and torch.allclose(made.norm(dim=0), torch.ones(500).double())
    assert (made @ made.T / 500 - torch.eye(d) / d).abs().max() < 5 / math.sqrt(500 * d)


@pytest.mark.parametrize("d", [1, 3, 20])
def test_sliced_wasserstein_equals_exact_transport_along_every_direction(d):
    """The optimal assignment of all to all, which knows nothing of sorting."""
    x, y = normal(25, d, 0).double(), normal(25, d, 1, scale=1.7).double() + 0.3
    lines = along(d)[:, :40]
    costs = []
    for line in lines.T:
        cost = ((x @ line)[:, None] - (y @ line)[None]).square().numpy()
        costs.append(cost[linear_sum_assignment(cost)].mean())
    assert sliced_wasserstein(x, y, lines) == pytest.approx(math.sqrt(np.mean(costs)), rel=1e-9)


def test_a_shift_has_its_closed_form():
    """SW_2^2 = mean (t . shift)^2 over the directions, |shift|^2 / d over all there are."""
    x, shift, lines = normal(200, 8, 0).double(), torch.linspace(-1, 2, 8).double(), along(8)
    value = sliced_wasserstein(x[torch.randperm(200, generator=seeded(1))] + shift, x, lines)
    assert value == pytest.approx((shift @ lines).square().mean().sqrt().item(), rel=1e-9)
    assert value == pytest.approx(shift.norm().item() / math.sqrt(8), rel=0.05)


@pytest.mark.parametrize("scale, shift", [(1.5, 0.0), (0.5, 1.0)])
def test_gaussians_have_their_closed_form(scale, shift):
    """Along any direction N(0, 1) and N(t . shift, scale^2): (t . shift)^2 + (scale - 1)^2."""
    x, y = normal(20_000, 4, 0), normal(20_000, 4, 1, scale) + shift
    assert sliced_wasserstein(x, y, along(4)) == pytest.approx(math.hypot(scale - 1, shift), rel=0.05)


def test_sliced_wasserstein_of_equal_distributions_falls_with_n_and_of_copies_is_zero():
    small, large = (sliced_wasserstein(normal(n, 4, 0), normal(n, 4, 1), along(4)) for n in (50, 5_000))
    assert 0 < large < 0.05 < small < 0.5
    x = normal(50, 4, 0)
    assert sliced_wasserstein(x, x.flip(0), along(4)) < 1e-12


# Classifier two-sample test


def test_its_area_is_scikit_learn_s(monkeypatch):
    """With the network replaced by a fixed score, every item is scored once, in the fold that did not train on it."""
    trained, scored = [], []

    def logits(layers, x, dropout=None):
        scored.append(x[:, 0].clone())
        return x[:, 0].round()  # with ties

    monkeypatch.setattr(c2st, "_trained", lambda *given: trained.append(given[:2]))
    monkeypatch.setattr(c2st, "_logits", logits)
    monkeypatch.setattr(c2st, "CUT", math.inf)
    real, generated = normal(52, 2, 0), normal(48, 2, 1) + 0.5
    value = classifier_auc(real, generated, seeded(0))
    areas = [
        roc_auc_score([1] * len(a) + [0] * len(b), torch.cat([a, b]).round()) for a, b in zip(scored[::2], scored[1::2])
    ]
    assert value == pytest.approx(np.mean(areas), abs=1e-12)
    assert [len(part) for part in scored[::2]] == [11, 11, 10, 10, 10]
    assert [len(a) for a, _ in trained] == [41, 41, 42, 42, 42]
    for (train, _), test in zip(trained, scored[::2]):
        assert not set(train[:, 0].tolist()) & set(test.tolist())
        assert torch.allclose(train[:, :2].mean(0), torch.zeros(2), atol=1e-5), "standardised by the training folds"


def test_the_area_is_a_half_over_seeds_where_there_is_no_difference():
    """In 40 dimensions a network learns 80 items by heart: scored on those it would tell all of them apart."""
    values = [classifier_auc(normal(50, 40, 2 * s), normal(50, 40, 2 * s + 1), seeded(s)) for s in range(30)]
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    assert np.mean(values) == pytest.approx(0.5, abs=3 * error) and error < 0.02
    assert min(values) < 0.5 < max(values)


def ring(n: int, seed: int) -> torch.Tensor:
    """On a circle of radius sqrt(2): mean 0, covariance I."""
    angle = 2 * math.pi * torch.rand(n, generator=seeded(seed))
    return math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * normal(n, 2, seed + 1)


PLANTED = {
    "shift": (lambda: normal(1_000, 4, 0) + 0.3, lambda: normal(1_000, 4, 1), lambda z: z.sum(1)),
    "width": (lambda: normal(1_000, 4, 0, 0.7), lambda: normal(1_000, 4, 1), lambda z: -z.square().sum(1)),
    "equal moments": (lambda: ring(1_000, 0), lambda: normal(1_000, 2, 5), lambda z: -(z.norm(dim=1) - 2**0.5).abs()),
}


@pytest.mark.parametrize("name", PLANTED)
def test_the_area_is_near_that_of_the_best_classifier(name):
    """By the Neyman-Pearson lemma no score does better than the ratio of the densities (a monotone function of it)."""
    make_real, make_generated, ratio = PLANTED[name]
    real, generated = make_real(), make_generated()
    best, value = superiority(ratio(real), ratio(generated)), classifier_auc(real, generated, seeded(0))
    assert best > 0.65 and best - 0.05 < value < best + 0.03


def test_what_lies_apart_is_told_apart_whatever_its_scale():
    real = normal(100, 3, 0)
    for generated in (real + 100, normal(100, 3, 1, 1e20), torch.zeros(100, 3) + 5, normal(100, 3, 1) * 1e-3):
        assert 0.9 < classifier_auc(real, generated, seeded(0)) <= 1
    assert classifier_auc(torch.ones(20, 3), torch.ones(20, 3), seeded(0)) == 0.5


def test_one_latent_that_is_far_off_does_not_decide_the_area():
    generated = normal(200, 3, 1)
    generated[0] = 1e30  # its square is no float32
    assert classifier_auc(normal(200, 3, 0), generated, seeded(0)) == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize("n, m", [(2, 2), (3, 7), (12, 12)])
def test_few_latents_of_one_dimension_have_an_area(n, m):
    assert 0 <= classifier_auc(normal(n, 1, 0), normal(m, 1, 1), seeded(0)) <= 1


def test_the_generator_alone_decides_the_area():
    real, generated = normal(60, 3, 0), normal(60, 3, 1) + 0.2
    first = classifier_auc(real, generated, seeded(0))
    torch.manual_seed(5)
    assert classifier_auc(real, generated, seeded(0)) == first != classifier_auc(real, generated, seeded(1))
    with torch.no_grad():
        assert classifier_auc(real, generated, seeded(0)) == first


# Cross-entropy


def test_cross_entropy_is_the_mean_over_held_out_draws_in_nats():
    held_out = split(3)
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
    held_out = split(3, n=4000)
    expected = kl_divergence(Normal(held_out._mean, held_out._std), Normal(0.0, 1.0)).sum(1).mean().item()
    value = CrossEntropy().measure(evaluation(Gaussian((3,), PriorConfig()), held_out, mmd_latents=4000))
    assert value["rate"] == pytest.approx(expected, abs=0.1)
    alike = PosteriorSplit(torch.zeros(4000, 3), torch.ones(4000, 3))
    value = CrossEntropy().measure(evaluation(Gaussian((3,), PriorConfig()), alike, mmd_latents=4000))
    assert value["rate"] == pytest.approx(0, abs=0.1)
    assert alike.mean_entropy() == pytest.approx(3 * Normal(0.0, 1.0).entropy().item())


def test_a_prior_without_a_density_has_no_cross_entropy():
    assert CrossEntropy().measure(evaluation(Scaled((3,), 1.0), split(3))) == {}


@pytest.mark.parametrize("batch", [1, 7, 500])
def test_cross_entropy_does_not_depend_on_the_batch(batch, monkeypatch):
    monkeypatch.setattr("benchmark.metrics.cross_entropy.BATCH", batch)
    asked = []

    class Noting(Gaussian):
        def log_prob(self, z):
            asked.append(len(z))
            return super().log_prob(z)

    value = CrossEntropy().measure(evaluation(Noting((2, 3), PriorConfig()), split(2, 3)))["cross_entropy"]
    assert sum(asked) == 40 and max(asked) == min(batch, 40)
    monkeypatch.setattr("benchmark.metrics.cross_entropy.BATCH", 40)
    whole = CrossEntropy().measure(evaluation(Gaussian((2, 3), PriorConfig()), split(2, 3)))["cross_entropy"]
    assert value == pytest.approx(whole, rel=1e-6)


# What they compare


def spatial_evaluation(source=None, shape=(4, 5, 6), seed=0, **settings):
    return evaluation(source or Scaled(shape, 1.3), split(*shape), seed, **{"mmd_latents": 100, **settings})


@pytest.mark.parametrize("shape", [(4,), (2, 3)])
def test_latents_that_are_not_spatial_are_compared_as_they_are_alone(shape):
    asked = evaluation(Scaled(shape, 1.0), split(*shape), seed=2)
    ((suffix, drawn, real),) = asked.latent_pairs("some purpose")
    assert suffix == ""
    assert torch.equal(drawn, Scaled(shape, 1.0).sample(40, stream(CPU, "mmd sample", 2)).flatten(1))
    assert torch.equal(real, split(*shape).one_each(40, stream(CPU, "some purpose held-out", 2)).flatten(1))


@pytest.mark.parametrize("shape, n", [((4, 5, 6), 100), ((3, 5, 5), 100), ((1, 2, 2), 100), ((4, 5, 6), 30)])
def test_principal_axes_are_those_of_scikit_learn(shape, n):
    """With more dimensions than latents and with fewer; with fewer than 64 of either."""
    asked = spatial_evaluation(shape=shape, mmd_latents=n)
    fixed = split(*shape).one_each(n, stream(CPU, "principal axes")).flatten(1).double().numpy()
    count = min(64, math.prod(shape), n - 1)
    theirs = torch.from_numpy(PCA(count, svd_solver="full").fit(fixed).components_)
    axes = asked.principal_axes.double()
    assert axes.shape == (math.prod(shape), count)
    assert torch.allclose(axes.T @ axes, torch.eye(count).double(), atol=1e-5)
    aligned = (theirs @ axes.flip(1)).abs().diagonal()  # the sign of an axis is nobody's
    assert aligned.min() > 1 - 1e-4


def test_principal_axes_are_shared_by_all_rows_and_seeds():
    axes = [
        spatial_evaluation(Scaled((4, 5, 6), scale), seed=seed).principal_axes for scale, seed in ((1, 0), (9.0, 3))
    ]
    assert torch.equal(*axes)


def test_spatial_latents_are_compared_on_principal_axes_too():
    asked = spatial_evaluation()
    (_, drawn, real), (suffix, projected, projected_real) = asked.latent_pairs("purpose")
    assert suffix == SUFFIX and drawn.shape == (100, 120) and projected.shape == (100, 64)
    assert torch.equal(projected, drawn @ asked.principal_axes)
    assert torch.equal(projected_real, real @ asked.principal_axes)


BY_HAND = {
    SlicedWasserstein: (
        "sliced wasserstein",
        lambda drawn, real, suffix: {
            f"sliced_wasserstein{suffix}": sliced_wasserstein(
                drawn, real, directions(drawn.shape[1], stream(CPU, "sliced wasserstein directions"))
            )
        },
    ),
    LatentNeighbours: (
        "neighbours",
        lambda drawn, real, suffix: {
            f"latent_{name}{suffix}": value for name, value in neighbourhood_scores(drawn, real).items()
        },
    ),
    ClassifierTest: (
        "c2st",
        lambda drawn, real, suffix: {f"c2st_auc{suffix}": classifier_auc(real, drawn, stream(CPU, f"c2st{suffix}", 1))},
    ),
}


@pytest.mark.parametrize("metric", BY_HAND, ids=lambda metric: metric.name)
def test_each_metric_measures_these_pairs(metric):
    purpose, by_hand = BY_HAND[metric]
    asked, expected = spatial_evaluation(seed=1), {}
    for suffix, drawn, real in spatial_evaluation(seed=1).latent_pairs(purpose):
        expected |= by_hand(drawn, real, suffix)
    values = metric().measure(asked)
    assert values == pytest.approx(expected) and {name.endswith(SUFFIX) for name in values} == {True, False}
    assert metric().measure(evaluation(Scaled((4,), 1.3), split(4))).keys() == {
        name for name in values if not name.endswith(SUFFIX)
    }


def test_the_mmd_on_principal_axes_is_that_of_the_projected_latents():
    """As if the latents were vectors of 64 numbers; the bandwidths too are theirs."""
    asked = spatial_evaluation(seed=2)
    values, plain = ProjectedMMD().measure(asked), MMD().measure(asked)
    assert set(values) == {f"mmd_{kernel}{SUFFIX}{p}" for kernel in KERNELS for p in ("", "_p")}
    assert set(plain) == {name.replace(SUFFIX, "") for name in values}
    fixed = split(4, 5, 6).one_each(100, stream(CPU, "mmd bandwidth")).flatten(1) @ asked.principal_axes
    median = median_squared_distance(fixed)
    _, (_, drawn, real) = asked.latent_pairs("mmd")

    def mean(x, y, diagonal):
        squared = torch.cdist(x.double(), y.double()) ** 2
        kernel = sum(c * median / (c * median + squared) for c in asked.protocol.mmd_bandwidths)
        return (kernel.sum() - (kernel.trace() if diagonal else 0)) / (len(x) * (len(y) - diagonal))

    by_hand = mean(drawn, drawn, True) + mean(real, real, True) - 2 * mean(drawn, real, False)
    assert values[f"mmd_imq{SUFFIX}"] == pytest.approx(by_hand.item(), abs=1e-6)
    assert values[f"mmd_imq{SUFFIX}"] != pytest.approx(plain["mmd_imq"], rel=0.01)


def test_the_mmd_on_principal_axes_is_of_spatial_bundles_alone():
    for shape, applies in (((16,), False), ((2, 3), False), ((20, 8, 8), True)):
        assert ProjectedMMD().applies(Facts("evalp", False, 0, shape, None, False)) is applies


def test_latents_drawn_for_one_metric_serve_all():
    class Once(Scaled):
        drawn = 0

        def sample(self, n, generator):
            self.drawn += 1
            return super().sample(n, generator)

    source = Once((3,), 1.0)
    asked = evaluation(source, split(3))
    asked.train_posterior = lambda: (split(3)._mean, split(3)._std)
    for metric in (MMD, SlicedWasserstein, LatentNeighbours, ClassifierTest, LatentMemorisation, CrossEntropy):
        metric().measure(asked)
    assert source.drawn == 1


# Memorisation and collapse in latent space


def memorised(source, train, held_out, **settings) -> float:
    asked = evaluation(source, held_out, mmd_latents=100, **settings)
    asked.train_posterior = lambda: (train._mean, train._std)
    return LatentMemorisation().measure(asked)["latent_memorisation"]


class Bank:
    """Draws from fixed latents, as a prior that learnt them by heart does."""

    def __init__(self, z):
        self.z = z

    def sample(self, n, generator):
        return self.z[torch.randint(len(self.z), (n,), generator=generator)]


@pytest.mark.parametrize("shape", [(6,), (2, 2, 3)])
def test_replayed_training_latents_are_flagged_and_new_ones_are_not(shape):
    d = math.prod(shape)
    halves = [PosteriorSplit(normal(400, d, s).unflatten(1, shape), torch.full((400, *shape), 0.05)) for s in range(3)]
    train, held_out, new = halves
    assert memorised(Bank(train.one_each(300, seeded(0))), train, held_out) > 0.99
    assert memorised(Bank(train._mean), train, held_out) == 1
    assert memorised(Bank(new.one_each(300, seeded(0))), train, held_out) == pytest.approx(0.5, abs=0.12)
    assert memorised(Scaled(shape, 1.0, shift=20.0), train, held_out) == 0


def test_posteriors_as_wide_as_the_prior_hide_a_replay():
    """Where every training posterior is q_agg itself, there is nothing to memorise, and nothing is flagged."""
    wide = PosteriorSplit(torch.zeros(400, 3), torch.ones(400, 3))
    assert memorised(Bank(wide.one_each(300, seeded(0))), wide, wide) == pytest.approx(0.5, abs=0.12)


def test_no_more_training_posteriors_are_asked_than_the_cap(monkeypatch):
    asked = []
    monkeypatch.setattr("benchmark.metrics.memorisation.TRAINING", 50)
    monkeypatch.setattr(
        "benchmark.metrics.memorisation.best_log_posterior", lambda z, mean, std: asked.append((mean, std)) or z[:, 0]
    )
    train = PosteriorSplit(normal(120, 3, 0), 0.1 + torch.rand(120, 3, generator=seeded(1)))
    memorised(Scaled((3,), 1.0), train, split(3), seed=0)
    memorised(Scaled((3,), 1.0), train, split(3), seed=1)
    mean, std = asked[0]
    assert len(mean) == len(std) == 50 and all(torch.equal(other, mean) for other, _ in asked)
    place = [(train._mean == row).all(1).nonzero().item() for row in mean]
    assert len(set(place)) == 50 and torch.equal(train._std[place], std) and max(place) > 60
