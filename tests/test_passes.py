"""Flow matching, diffusion and mean flows against mixtures and Gaussians whose velocities have a closed form."""

import math

import pytest
import torch
from draws import CPU, normal, seeded, silent
from posteriors import narrowing
from torch import nn
from torch.distributions import MultivariateNormal

from benchmark.bundles.prior_file import state_of
from benchmark.check.targets import TARGETS
from benchmark.jobs.plan import resolve_config
from benchmark.registry import Registry
from benchmark.scores.mmd import mmd_between
from priors.api import AggregatePosterior, PosteriorSplit
from priors.diffusion import angles
from priors.flow_matching import antithetic_times, equal_steps, pair_optimally
from priors.meanflow import slope
from priors.parts.averages import MovingAverage
from priors.parts.probability_flow import heun, log_density, with_divergence
from priors.parts.regression import RegressionConfig, regress
from priors.parts.residual import ResidualMLP
from priors.parts.whitening import Whitening

pytestmark = pytest.mark.usefixtures("seeded_modules")
PASSES = ["flow_matching", "diffusion", "meanflow"]
MANY = ["flow_matching", "diffusion"]
FEW = {"steps": 30, "width": 32, "blocks": 1, "batch_size": 64}


def make(name, shape, **settings):
    """A prior of few steps and a small network, but for what is said."""
    cls = Registry().get("prior", name)
    config, _, _ = resolve_config(cls, {**FEW, **settings}, "synthetic", shape, "full")
    return cls(shape, config)


def fitted(name, target, **settings):
    prior = make(name, target.shape, **settings)
    prior.train().fit(target.posterior(CPU), seeded(), silent)
    return prior.eval()


class Mixture:
    """Equal Gaussians N(m_k, s^2 I), of which every conditional mean is known: E[z | a z + b e = x] and E[e | ...]."""

    def __init__(self, means, std):
        self.means, self.std = means, std

    def draw(self, n, generator):
        chosen = self.means[torch.randint(len(self.means), (n,), generator=generator)]
        return chosen + self.std * torch.randn(chosen.shape, generator=generator, dtype=chosen.dtype)

    def expected(self, x, a, b):
        """E[z | x] and E[e | x], (n, d) each, by Bayes over the components."""
        variance = (a * self.std) ** 2 + b**2
        off = x[:, None] - a * self.means
        weight = torch.softmax(-off.square().sum(2) / (2 * variance), 1)[:, :, None]
        z = (weight * (self.means + a * self.std**2 / variance * off)).sum(1)
        return z, (weight * b / variance * off).sum(1)

    def log_prob(self, z):
        variance = self.std**2
        each = -torch.cdist(z, self.means).square() / (2 * variance) - z.shape[1] / 2 * math.log(2 * math.pi * variance)
        return each.logsumexp(1) - math.log(len(self.means))

    def line_velocity(self, x, time):
        """Of flow matching: E[z - e | (1 - t) e + t z = x]."""
        z, noise = self.expected(x, time, 1 - time)
        return z - noise

    def angle_velocity(self, x, angle):
        """Of diffusion: E[cos e - sin z | cos z + sin e = x]."""
        cos, sin = math.cos(angle), math.sin(angle)
        z, noise = self.expected(x, cos, sin)
        return cos * noise - sin * z


def two_by_two(std=0.3):
    """Four modes, with mean 0 and standard deviation 1 in x and in y: whitening leaves it as it is."""
    spread = math.sqrt(1 - std**2)
    return Mixture(
        spread * torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64), std
    )


EQUATIONS = {
    "flow_matching": (lambda truth: truth.line_velocity, equal_steps),
    "diffusion": (lambda truth: truth.angle_velocity, angles),
}


class OfAMixture:
    """A split whose draws are those of a mixture."""

    device = CPU

    def __init__(self, truth):
        self.truth = truth

    def __len__(self):
        return 1_000_000

    def sample(self, n, generator):
        return self.truth.draw(n, generator).float()

    one_each = sample


# ---- the equation, given its exact velocity -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, steps, tolerance",
    [("flow_matching", 9, 3e-2), ("diffusion", 9, 3e-2), ("flow_matching", 40, 2e-3), ("diffusion", 40, 2e-3)],
)
def test_the_solver_given_the_exact_velocity_draws_the_mixture(name, steps, tolerance):
    """Moments and distances to the modes; a second set of truth says how far apart two sets are."""
    truth = two_by_two()
    velocity, times = EQUATIONS[name]
    z = heun(velocity(truth), normal(8_000, 2, 1).double(), times(steps))
    real = truth.draw(100_000, seeded(2))
    assert mmd_between(z[:1_000].float(), real[:1_000].float()) < 0.003
    near = torch.cdist(z, truth.means).min(1).values.square().mean() / 2
    expected = torch.cdist(real, truth.means).min(1).values.square().mean() / 2
    assert near.item() == pytest.approx(expected.item(), rel=6 * tolerance + 0.04)
    assert z.var(0).sum().item() == pytest.approx(2, abs=tolerance + 0.03)


def test_solved_over_sigma_few_steps_leave_too_much_noise_and_over_the_angle_none():
    """The exact score of N(0, 1), as EDM's sampler has it and as here."""
    sigmas = [(20 ** (1 / 7) + i / 8 * (0.02 ** (1 / 7) - 20 ** (1 / 7))) ** 7 for i in range(9)] + [1e-9]
    scaled = heun(lambda x, sigma: x * sigma / (1 + sigma**2), torch.tensor([[20.0]]), sigmas)
    assert scaled.item() ** 2 == pytest.approx(1.19, abs=0.01)
    standard = Mixture(torch.zeros(1, 1).double(), 1.0)
    assert heun(standard.angle_velocity, torch.ones(1, 1).double(), angles(9)).item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", MANY)
def test_heun_is_of_second_order(name):
    truth, noise = two_by_two(0.6), normal(200, 2, 1).double()
    velocity, times = EQUATIONS[name]
    exact = heun(velocity(truth), noise, times(800))
    errors = [(heun(velocity(truth), noise, times(n)) - exact).norm(dim=1).mean().item() for n in (40, 80)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize("name", MANY)
def test_the_density_of_the_equation_is_that_of_the_mixture(name):
    truth = two_by_two()
    velocity, times = EQUATIONS[name]
    z = truth.draw(60, seeded(3))
    found = log_density(velocity(truth), z, times(150))
    assert (found - truth.log_prob(z)).abs().max().item() < 2e-2


def test_the_divergence_is_the_trace_of_autograds_jacobian():
    network = perturbed(ResidualMLP(3, 16, 2))
    x = normal(5, 3, 1).double()
    value, divergence = with_divergence(lambda x, time: network(x, x.new_full((1, 1), time)), x, 0.3)
    for row, v, stated in zip(x, value, divergence, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda x: network(x[None], x.new_full((1, 1), 0.3))[0], row)
        assert stated.item() == pytest.approx(jacobian.trace().item(), abs=1e-12)
        assert torch.allclose(v, network(row[None], row.new_full((1, 1), 0.3))[0])


# ---- the fit ------------------------------------------------------------------------------------------------------


def perturbed(network, by=0.2):
    """Away from its start, where it is zero; in doubles."""
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter.add_(by * torch.randn(parameter.shape, generator=seeded(number)))
    return network.double()


@pytest.mark.parametrize("name", MANY)
def test_the_fitted_velocity_is_near_that_of_the_mixture(name):
    """Where draws are, at each of several times; a twentieth of the velocity's own mean square, and a little."""
    truth = two_by_two()
    split = OfAMixture(truth)
    prior = make(name, (2,), steps=400, width=64, blocks=2, batch_size=256)
    prior.fit(AggregatePosterior(split, split), seeded(), silent)
    z, noise = truth.draw(2_000, seeded(5)), normal(2_000, 2, 6).double()
    for share in (0.2, 0.4, 0.6, 0.8):
        if name == "flow_matching":
            time, x = share, (1 - share) * noise + share * z
            exact = truth.line_velocity(x, time)
        else:
            time = share * math.pi / 2
            x = math.cos(time) * z + math.sin(time) * noise
            exact = truth.angle_velocity(x, time)
        with torch.no_grad():
            found = prior.velocity(x.float(), time)
        error = (found - exact).square().mean()
        assert error.item() < 0.02 + 0.05 * exact.square().mean().item(), share


@pytest.mark.parametrize("pairing", ["independent", "optimal"])
def test_flow_matching_draws_the_mixture_that_it_was_fitted_to(pairing):
    target = TARGETS["ring"]()
    prior = fitted("flow_matching", target, steps=400, width=64, blocks=2, batch_size=256, pairing=pairing)
    z = prior.sample(2_000, seeded(1))
    assert mmd_between(z[:1_000], target.draw(1_000, seeded(2))) < 0.02
    assert target.coverage(z) == 1


@pytest.mark.parametrize("name", MANY)
def test_the_density_integrates_to_one_and_is_that_of_draws_of_many_steps(name):
    """By quadrature on a grid; and E[f] over draws of many steps against the integral of f p."""
    target = TARGETS["banana"]()
    prior = fitted(name, target, steps=200, heun_steps=60)
    axis = torch.linspace(-6, 9, 90)
    grid = torch.cartesian_prod(axis - 1.5, axis)
    mass = prior.ode_log_prob(grid, 60).double().exp() * (15 / 89) ** 2
    assert mass.sum().item() == pytest.approx(1, abs=0.01)
    z = prior.sample(20_000, seeded(3))
    for f in (lambda z: z.norm(dim=1), lambda z: (z[:, 0] > 0.3).double(), lambda z: torch.cos(2 * z[:, 0] + z[:, 1])):
        values = f(z).double()
        error = values.std().item() / math.sqrt(len(z))
        assert values.mean().item() == pytest.approx((mass * f(grid)).sum().item(), abs=5 * error + 0.02)
    assert prior.log_prob(z) is None, "what sample draws is the solver's, not the equation's"


# ---- mean flows ---------------------------------------------------------------------------------------------------


def average_velocity(x, time, span, covariance):
    """Of N(0, C): along each eigenvector the flow scales by sqrt(V(r) / V(t)), V(t) = cos(t)^2 c + sin(t)^2."""
    values, vectors = torch.linalg.eigh(covariance)

    def spread(t):
        return (t.cos().square() * values + t.sin().square()).sqrt()

    along = x @ vectors
    return along * (1 - spread(time - span) / spread(time)) / span @ vectors.T


COVARIANCE = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)


def test_the_closed_form_is_the_average_of_the_velocity_along_the_path():
    """So that the oracle has one of its own: small steps of the flow from t to r."""
    truth = MultivariateNormal(torch.zeros(2).double(), COVARIANCE)
    x, start, end = normal(50, 2, 1).double(), 0.9, 0.2

    def velocity(x, t):
        cos, sin = math.cos(t), math.sin(t)
        covariance = cos**2 * COVARIANCE + sin**2 * torch.eye(2)
        return cos * sin * x @ torch.linalg.inv(covariance) @ (torch.eye(2) - COVARIANCE)

    assert truth.event_shape == (2,)
    moved = heun(velocity, x, [start + (end - start) * i / 1000 for i in range(1001)])
    time, span = torch.full((50, 1), start).double(), torch.full((50, 1), start - end).double()
    assert torch.allclose((x - moved) / span, average_velocity(x, time, span, COVARIANCE), atol=1e-5)


def test_the_identity_of_mean_flows_holds_of_the_closed_form_with_the_slope_used_here():
    """u = v - (t - r) du/dt at the exact u, where v is the exact velocity."""

    def exact(x, time, span):
        return average_velocity(x, time, span, COVARIANCE)

    x = normal(100, 2, 1).double()
    time = 0.3 + 0.6 * torch.rand(100, 1, generator=seeded(2)).double()
    span = time * (0.1 + 0.8 * torch.rand(100, 1, generator=seeded(3)).double())
    velocity = exact(x, time, torch.full_like(span, 1e-7))
    right = velocity - span * slope(exact, x, time, span, velocity)
    assert torch.allclose(exact(x, time, span), right, atol=1e-5)


def test_the_fitted_average_velocity_is_near_that_of_a_gaussian():
    root = torch.linalg.cholesky(COVARIANCE)

    class Correlated:
        device = CPU

        def sample(self, n, generator):
            return (torch.randn(n, 2, generator=generator, dtype=torch.float64) @ root.T).float()

    prior = make("meanflow", (2,), steps=800, width=64, blocks=2, batch_size=256, learning_rate=3e-3)
    prior.fit(AggregatePosterior(Correlated(), Correlated()), seeded(), silent)
    noise, z = normal(2_000, 2, 6), Correlated().sample(2_000, seeded(5))
    for t, r in ((math.pi / 2, 0.0), (1.0, 0.0), (math.pi / 2, 0.6), (1.0, 0.5)):
        x, time, span = math.cos(t) * z + math.sin(t) * noise, torch.full((1, 1), t), torch.full((1, 1), t - r)
        exact = average_velocity(x.double(), time.double(), span.double(), COVARIANCE)
        with torch.no_grad():
            error = (prior.network(x, time, span) - exact).square().mean() / exact.square().mean()
        assert error.item() < 0.15, (t, r)
    drawn = prior.sample(20_000, seeded(7))
    assert torch.allclose(drawn.T.cov().double(), COVARIANCE, atol=0.15)


# ---- what they share ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, settings",
    [
        ("flow_matching", {}),
        ("flow_matching", {"heun_steps": 3}),
        ("diffusion", {}),
        ("diffusion", {"heun_steps": 4}),
        ("meanflow", {}),
    ],
)
def test_the_passes_that_are_stated_are_those_that_are_made(name, settings):
    prior = make(name, (3,), **settings)
    passes = []
    prior.network.register_forward_hook(lambda *_: passes.append(1))
    prior.sample(5, seeded())
    assert len(passes) == prior.network_evaluations
    assert not prior.config.sampling_names() & set(prior.config.fit_settings())


@pytest.mark.parametrize("name", PASSES)
def test_a_block_is_fitted_as_the_vector_that_it_is(name):
    split = narrowing(2, 3, 4)
    flat = PosteriorSplit(split._mean.flatten(1), split._std.flatten(1))
    block, vector = make(name, (2, 3, 4)), make(name, (24,))
    vector.load_state_dict(block.state_dict())
    block.fit(AggregatePosterior(split, split), seeded(), silent)
    vector.fit(AggregatePosterior(flat, flat), seeded(), silent)
    drawn = block.sample(5, seeded(1))
    assert drawn.shape == (5, 2, 3, 4)
    assert torch.equal(drawn.flatten(1), vector.sample(5, seeded(1)))
    copy = type(block)(block.latent_shape, block.config)
    copy.load_state_dict(state_of(block))
    assert torch.equal(copy.sample(5, seeded(1)), drawn)


@pytest.mark.parametrize("name", PASSES)
def test_mean_and_spread_of_latents_far_from_the_origin_are_met(name):
    """Whitening: a network that starts at zero draws N(mean, std^2) of each coordinate, whatever they are."""
    split = PosteriorSplit(50 + normal(4_000, 3, 0) * torch.tensor([1e-3, 1.0, 30.0]), torch.full((4_000, 3), 1e-4))
    prior = make(name, (3,), steps=60)
    prior.fit(AggregatePosterior(split, split), seeded(), silent)
    z, real = prior.sample(4_000, seeded(1)), split.sample(4_000, seeded(2))
    assert torch.allclose(z.mean(0), real.mean(0), atol=0.15 * 30, rtol=1e-2)
    assert torch.allclose(z.std(0) / real.std(0), torch.ones(3), atol=0.25)


def test_whitened_and_back():
    whitening = Whitening(3)
    z = 5 + normal(1_000, 3, 0) * torch.tensor([0.1, 1.0, 7.0])
    whitening.measure(z)
    white = whitening(z)
    assert torch.allclose(white.mean(0), torch.zeros(3), atol=1e-5)
    assert torch.allclose(white.std(0), torch.ones(3), atol=1e-5)
    assert torch.allclose(whitening.inverse(white), z, atol=1e-4)
    jacobian = torch.autograd.functional.jacobian(lambda z: whitening(z[None])[0], z[0])
    assert whitening.log_det().item() == pytest.approx(jacobian.logdet().item(), abs=1e-5)


def test_a_coordinate_that_never_changes_stays_where_it_is():
    whitening = Whitening(2)
    whitening.measure(torch.tensor([[1.0, 2.0], [2.0, 2.0]]))
    assert torch.equal(whitening(torch.tensor([[1.0, 2.0]]))[:, 1], torch.zeros(1))


def test_an_average_is_that_of_its_formula():
    average, live = nn.Linear(2, 1), nn.Linear(2, 1)
    expected, updates = average.weight.detach().clone(), MovingAverage(average, live, 4)
    for _ in range(3):
        with torch.no_grad():
            live.weight.add_(1)
        expected = 0.75 * expected + 0.25 * live.weight.detach()
        updates.update()
    assert torch.allclose(average.weight, expected)


def test_regression_keeps_the_average_that_was_best_on_held_out_draws():
    """Least squares with a minimum that moves on: the held-out loss says where to stay."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    seen = []

    def held_out(network):
        seen.append(network.weight.item())
        return (network.weight - 0.5).abs().mean()

    config = RegressionConfig(steps=1_500, learning_rate=1e-2, patience=2)
    facts = regress(network, lambda live: (live.weight - 3).square().mean(), held_out, config, silent, replay=None)
    best = min(seen, key=lambda weight: abs(weight - 0.5))
    assert network.weight.item() == best
    assert facts["best_step"] == 250 * (1 + seen.index(best))
    assert len(seen) == seen.index(best) + 3 < 6


def test_antithetic_times_are_uniform_with_a_mean_of_a_half():
    for n in (7, 256):
        times = antithetic_times(n, seeded())
        assert times.shape == (n, 1)
        assert times.min() >= 0
        assert times.max() <= 1
    assert times.mean().item() == pytest.approx(0.5, abs=1e-6)
    assert times[:128].std().item() == pytest.approx(math.sqrt(1 / 12), abs=0.03)


def test_an_optimal_pairing_is_the_best_of_all_permutations_and_loses_no_latent():
    from itertools import permutations

    noise, z = normal(5, 3, 0), normal(5, 3, 1)
    same, paired = pair_optimally(noise, z)
    assert torch.equal(same, noise)
    least = min((noise - z[list(order)]).square().sum().item() for order in permutations(range(5)))
    assert (noise - paired).square().sum().item() == pytest.approx(least, rel=1e-5)
    assert torch.equal(paired.sort(0).values, z.sort(0).values)


def test_the_time_is_heard_by_every_block():
    network = perturbed(ResidualMLP(2, 16, 2, times=2))
    x, half, none = normal(4, 2, 0).double(), torch.full((1, 1), 0.5).double(), torch.zeros(1, 1).double()
    assert not torch.allclose(network(x, half, none), network(x, none, none), atol=1e-3)
    assert not torch.allclose(network(x, half, none), network(x, half, half), atol=1e-3)
    assert torch.allclose(network(x, half, none), network(x, half.expand(4, 1), none.expand(4, 1)))
    assert torch.equal(ResidualMLP(2, 16, 2)(x.float(), half.float()), torch.zeros(4, 2)), "nothing before training"
