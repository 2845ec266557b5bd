"""EVaLP against a plain second implementation, autograd, quadrature and the table of its authors' settings."""

import copy
import math

import pytest
import torch
from draws import seeded, silent
from networks import plain_conv_energy, plain_energy, plain_flow
from posteriors import clusters, gaussian_posterior, narrowing
from scipy import stats
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

from benchmark.jobs.plan import resolve_config
from priors.api import AggregatePosterior, Diverged, PosteriorSplit
from priors.evalp import EVaLP, EVaLPConfig, energy_gradients, estimate_bounded
from priors.parts import sir
from priors.parts.energies import ConvEnergy
from priors.parts.flows import CouplingFlow
from priors.parts.image_flows import ImageFlow
from priors.parts.sir import effective_sample_size
from priors.parts.standard_normal import log_standard_normal

pytestmark = pytest.mark.usefixtures("seeded_modules")
SMALL = {"batch_size": 16, "energy_width": 12, "couplings": 2, "sampler_width": 10}


def built(latent_shape=(4,), seed: int = 0, perturbed: float = 0.0, **settings) -> EVaLP:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        prior = EVaLP(latent_shape, EVaLPConfig(**{**SMALL, **settings}))
        with torch.no_grad():
            for parameter in prior.parameters():
                parameter.add_(perturbed * torch.randn_like(parameter))
    return prior


# The fit, against a second implementation


def reference_fit(prior: EVaLP, posterior: AggregatePosterior, generator: torch.Generator, **settings):
    """What the paper and the documented order of draws say, one step after another; returns networks and last facts.

    settings: steps, energy_steps, batch_size, optimiser, learning_rate, gp_weight, kl_weight.
    """
    f, flow = plain_energy(prior.energy_network), copy.deepcopy(prior.sampler)
    d, batch, k = flow.features, settings["batch_size"], settings["energy_steps"]
    base = Independent(Normal(torch.zeros(d), torch.ones(d)), 1)
    mean, std = posterior.train._mean, posterior.train._std

    def optimiser(network):
        if settings["optimiser"] == "adam":
            return torch.optim.Adam(network.parameters(), lr=settings["learning_rate"], betas=(0.5, 0.999), fused=False)
        return torch.optim.RMSprop(network.parameters(), lr=settings["learning_rate"])

    energy_optimiser, sampler_optimiser = optimiser(f), optimiser(flow)
    assert settings["steps"] % k == 0
    for _ in range(settings["steps"] // k):
        index = torch.randint(len(mean), (k * batch,), generator=generator)
        z_q = mean[index] + std[index] * torch.randn(k * batch, d, generator=generator)
        noise = torch.randn(k * batch, d, generator=generator)
        a = torch.rand(k * batch, 1, generator=generator)
        for step in range(k):
            rows = slice(step * batch, (step + 1) * batch)
            z_g = flow.push(noise[rows])[0].detach()
            between = (a[rows] * z_q[rows] + (1 - a[rows]) * z_g).requires_grad_()
            (slope,) = torch.autograd.grad(f(between).sum(), between, create_graph=True)
            penalty = ((slope.norm(2, dim=1) - 1) ** 2).mean()
            loss = f(z_q[rows]).mean() - f(z_g).mean() + settings["gp_weight"] * penalty
            energy_optimiser.zero_grad()
            loss.backward()
            energy_optimiser.step()
        old = flow.push(noise)[0].detach()
        eps = torch.randn(batch, d, generator=generator)
        z, log_det = flow.push(eps)
        kl = (base.log_prob(eps) - log_det - base.log_prob(z)).mean()
        loss = f(z).mean() + settings["kl_weight"] * kl
        sampler_optimiser.zero_grad()
        loss.backward()
        sampler_optimiser.step()
    upper = (f(old).mean() - f(z_q).mean() + kl).item()
    facts = {"upper": upper, "lower": upper - settings["gp_weight"] * penalty.item()}
    return f, flow, facts | {"kl": kl.item(), "penalty": penalty.item()}


def furthest(ours, theirs) -> float:
    """The largest difference between two networks' parameters, given in the same order."""
    pairs = list(zip(ours, theirs, strict=True))
    assert all(one.shape == other.shape for one, other in pairs)
    return max((one - other).abs().max().item() for one, other in pairs)


PARITY = pytest.mark.parametrize(
    "optimiser, kl_weight, energy_steps, learning_rate",
    [
        ("adam", 1e-8, 5, 5e-4),
        ("adam", 1.0, 5, 5e-4),
        ("rmsprop", 1e-8, 5, 5e-4),
        ("rmsprop", 1.0, 5, 5e-4),
        ("rmsprop", 1e-3, 1, 5e-5),
    ],
)


def both_fits(optimiser, kl_weight, energy_steps, learning_rate, posterior):
    settings = {
        "steps": 50,
        "energy_steps": energy_steps,
        "batch_size": 16,
        "optimiser": optimiser,
        "learning_rate": learning_rate,
        "gp_weight": 10.0,
        "kl_weight": kl_weight,
    }
    prior, told = built(**settings), []
    before = copy.deepcopy(prior)
    f, flow, facts = reference_fit(prior, posterior, seeded(3), **settings)
    prior.fit(posterior, seeded(3), lambda step, total, **values: told.append((step, total, values)))
    moved = [
        furthest(prior.energy_network.parameters(), before.energy_network.parameters()),
        furthest(prior.sampler.parameters(), before.sampler.parameters()),
    ]
    told[-1][2].pop("estimate")  # which decides nothing, and has tests of its own
    return prior, f, flow, facts, told, moved


@PARITY
def test_fit_equals_a_plain_implementation(optimiser, kl_weight, energy_steps, learning_rate):
    """50 energy steps from equal generators, in float64, where nothing but an error could differ."""
    torch.set_default_dtype(torch.float64)
    try:
        split = clusters().train
        posterior = AggregatePosterior(*[PosteriorSplit(split._mean.double(), split._std.double())] * 2)
        prior, f, flow, facts, told, moved = both_fits(optimiser, kl_weight, energy_steps, learning_rate, posterior)
    finally:
        torch.set_default_dtype(torch.float32)
    assert furthest(prior.energy_network.parameters(), f.parameters()) < 1e-9
    assert furthest(prior.sampler.parameters(), flow.parameters()) < 1e-9
    assert min(moved) > 1e-4
    assert told[-1][:2] == (50, 50)
    assert told[-1][2] == pytest.approx(facts, abs=1e-9)


@PARITY
def test_fit_equals_a_plain_implementation_in_single_precision(optimiser, kl_weight, energy_steps, learning_rate):
    """As it is run. The sampler to 1e-5; the energy by its slopes, and its differences of values, to 1e-3.

    The bias of a unit whose slope is the same for all latents has a gradient of zero, of which an adaptive
    optimiser makes steps in the direction of rounding; it adds a constant to f.
    """
    prior, f, flow, facts, told, moved = both_fits(optimiser, kl_weight, energy_steps, learning_rate, clusters())
    assert furthest(prior.sampler.parameters(), flow.parameters()) < 1e-5 < 0.1 * min(moved)
    z = torch.randn(200, 4, generator=seeded(8))
    with torch.no_grad():
        ours, theirs = prior.energy_network(z), f(z).squeeze(1)
    assert torch.allclose(ours - ours.mean(), theirs - theirs.mean(), atol=1e-3)
    assert told[-1][2] == pytest.approx(facts, abs=1e-3)


def test_a_fit_is_decided_by_its_generator():
    """Whatever the global generator does meanwhile."""

    def fitted(seed: int, global_seed: int) -> torch.Tensor:
        prior = built(steps=20)
        torch.manual_seed(global_seed)
        prior.fit(clusters(), seeded(seed), silent)
        return torch.cat([parameter.detach().flatten() for parameter in prior.parameters()])

    assert torch.equal(fitted(0, 0), fitted(0, 1))
    assert not torch.equal(fitted(0, 0), fitted(1, 0))


@pytest.mark.parametrize("settings", [{}, {"kl_weight": 1.0, "optimiser": "rmsprop"}, {"sampler": "glow"}])
def test_the_estimate_decides_nothing_of_a_fit(settings, monkeypatch):
    """To the last bit: neither a weight nor the next draw of the fit's generator."""

    def fitted() -> tuple[torch.Tensor, torch.Tensor, list]:
        prior, told, generator = built(steps=30, **settings), [], seeded(2)
        prior.fit(clusters(), generator, lambda step, total, **values: told.append(values))
        weights = torch.cat([value.flatten() for value in prior.state_dict().values()])
        return weights, torch.rand(5, generator=generator), told

    weights, after, told = fitted()
    monkeypatch.setattr("priors.evalp.estimate_bounded", lambda *_: math.nan)
    without, after_without, told_without = fitted()
    assert torch.equal(weights, without)
    assert torch.equal(after, after_without)
    assert [list(values) for values in told_without] == [[n for n in values if n != "estimate"] for values in told]
    assert all(math.isfinite(values["estimate"]) for values in told)


def test_the_estimate_is_the_expectation_by_quadrature():
    """In two dimensions the integral Z is a sum over a grid."""
    prior, z_q = built((2,), perturbed=0.1), 0.5 * torch.randn(500, 2, generator=seeded(1))
    axis = torch.linspace(-9, 9, 601)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        log_terms = log_standard_normal(grid) - prior.energy_network(grid)
        log_normaliser = log_terms.logsumexp(0) + 2 * math.log(axis[1] - axis[0])
        expected = (-prior.energy_network(z_q).mean() - log_normaliser).item()
    estimates = [estimate_bounded(prior.energy_network, prior.sampler, z_q, seeded(seed)) for seed in range(40)]
    assert sum(estimates) / 40 == pytest.approx(expected, abs=0.05)


def energy_distance(x: torch.Tensor, y: torch.Tensor) -> float:
    return (2 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean() - torch.cdist(y, y).mean()).item()


def test_a_fit_moves_samples_to_the_aggregate_posterior():
    prior = built(steps=1500, learning_rate=2e-3, batch_size=32, energy_width=32, sampler_width=32)
    posterior = clusters()
    wanted = posterior.train.sample(1500, seeded(1))
    before = energy_distance(prior.sample(1500, seeded(2)), wanted)
    prior.fit(posterior, seeded(0), silent)
    assert energy_distance(prior.sample(1500, seeded(2)), wanted) < 0.2 * before


def test_latents_that_are_not_finite_end_as_diverged():
    bad = clusters()
    bad.train._mean[:] = math.nan
    with pytest.raises(Diverged, match=r"upper.*not finite after 5 energy steps"):
        built(steps=20).fit(bad, seeded(), silent)


def test_a_fit_that_fails_on_its_way_ends_as_diverged():
    """Latents turn bad after the first facts were logged: told by the last step."""

    class Spoiling(PosteriorSplit):
        def sample(self, n, generator):
            z = super().sample(n, generator)
            if told:
                self._mean[:] = math.inf
            return z

    told, split = [], clusters().train
    with pytest.raises(Diverged, match="not finite after 50 energy steps"):
        built(steps=50).fit(
            AggregatePosterior(Spoiling(split._mean, split._std), split), seeded(), lambda *step, **_: told.append(step)
        )
    assert told == [(5, 50)]


def test_the_penalty_of_a_conv_energy_trains_it_as_double_backward_does():
    energy = ConvEnergy((2, 4, 4), (5, 7)).double()
    z_q, z_g = (torch.randn(8, 32, generator=seeded(seed)).double() for seed in (0, 1))
    a = torch.rand(8, 1, generator=seeded(2)).double()
    ours, excess = energy_gradients(energy, torch.stack([z_q, z_g, a * z_q + (1 - a) * z_g]), 10.0)
    network, between = plain_conv_energy(energy), (a * z_q + (1 - a) * z_g).unflatten(1, (2, 4, 4)).requires_grad_()
    (gradient,) = torch.autograd.grad(network(between).sum(), between, create_graph=True)
    expected_excess = gradient.flatten(1).norm(dim=1, keepdim=True) - 1
    blocks = [z.unflatten(1, (2, 4, 4)) for z in (z_q, z_g)]
    expected = network(blocks[0]).mean() - network(blocks[1]).mean() + 10 * expected_excess.square().mean()
    assert torch.allclose(excess, expected_excess, atol=1e-12)
    for mine, theirs in zip(ours, torch.autograd.grad(expected, list(energy.parameters())), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-10)


def test_a_penalty_where_the_slope_is_zero_moves_nothing():
    """The norm has no derivative there: as in autograd it counts as zero, and not as 0 / 0."""
    energy = built().energy_network
    with torch.no_grad():
        energy.last.weight.zero_()
    gradients, excess = energy_gradients(energy, torch.randn(3, 8, 4, generator=seeded()), 10.0)
    assert torch.equal(excess, torch.full((8, 1), -1.0))
    assert all(gradient.isfinite().all() for gradient in gradients)


def fit_by_autograd(prior: EVaLP, posterior: AggregatePosterior, generator: torch.Generator) -> None:
    """`fit` as one would write it: losses, their graphs by autograd, torch's optimisers, nflows' transforms."""
    config, f, n = prior.config, prior.energy_network, prior.config.batch_size
    flow = prior.sampler
    pushed = plain_flow(flow).inverse if isinstance(flow, CouplingFlow) else flow.push

    def optimiser(network, rate):
        if config.optimiser == "adam":
            return torch.optim.Adam(network.parameters(), rate, (0.5, 0.999), fused=True)
        return torch.optim.RMSprop(network.parameters(), rate)

    energy_optimiser = optimiser(f, config.learning_rate)
    sampler_optimiser = optimiser(flow, config.sampler_learning_rate or config.learning_rate)
    for _ in range(math.ceil(config.steps / config.energy_steps)):
        z_q = posterior.train.sample(config.energy_steps * n, generator).flatten(1)
        noise = torch.randn(z_q.shape, generator=generator)
        mixing = torch.rand(len(z_q), 1, generator=generator)
        with torch.no_grad():
            z_g, _ = pushed(noise)
        for real, made, a in zip(z_q.split(n), z_g.split(n), mixing.split(n)):
            value, slope = f.value_and_input_gradient(torch.cat([real, made, a * real + (1 - a) * made]), of_last=n)
            penalty = (slope.norm(dim=1) - 1).square().mean()
            loss = value[:n].mean() - value[n : 2 * n].mean() + config.gp_weight * penalty
            energy_optimiser.zero_grad()
            loss.backward()
            energy_optimiser.step()
        noise = torch.randn(n, z_q.shape[1], generator=generator)
        z, log_det = pushed(noise)
        objective = f(z).mean()
        if log_det is not None:
            kl = (log_standard_normal(noise) - log_det - log_standard_normal(z)).mean()
            objective = objective + config.kl_weight * kl
        sampler_optimiser.zero_grad()
        objective.backward()
        sampler_optimiser.step()


@pytest.mark.parametrize(
    "latent_shape, settings",
    [
        ((16,), EVaLP.recipes["mnist"][1]),
        ((16,), {"kl_weight": 1.0}),
        ((16,), {"sampler": "spline"}),
        ((16,), {"sampler": "glow"}),
        ((16,), {"sampler": "autoregressive"}),
        ((16,), {"sampler": "mlp", "kl_weight": 0.0}),
        ((16,), {"optimiser": "rmsprop", "sampler_learning_rate": 1e-3}),
        ((5,), {"gp_weight": 0.1, "batch_size": 7, "energy_width": 13, "sampler_width": 9, "couplings": 3}),
        ((64,), EVaLP.recipes["celeba64-preview"][1]),
        ((128,), EVaLP.recipes["cifar10"][1]),
        ((2, 4, 4), EVaLP.block_recipes["mnist"][1]),
    ],
    ids=str,
)
def test_a_fit_is_to_the_last_bit_what_autograd_and_torchs_optimisers_make_of_it(latent_shape, settings):
    """Written-out gradients and lean steps are for speed alone: what was recorded with the others stays as it was."""
    config = EVaLPConfig(**{**settings, "steps": 60 if latent_shape == (16,) else 20})
    one, other = EVaLP(latent_shape, config), EVaLP(latent_shape, config)
    other.load_state_dict(one.state_dict())
    before, split = copy.deepcopy(one), narrowing(*latent_shape)
    one.fit(AggregatePosterior(split, split), seeded(3), silent)
    fit_by_autograd(other, AggregatePosterior(split, split), seeded(3))
    assert furthest(one.parameters(), other.parameters()) == 0
    assert furthest(one.energy_network.parameters(), before.energy_network.parameters()) > 1e-4
    assert furthest(one.sampler.parameters(), before.sampler.parameters()) > 1e-4


@pytest.mark.slow
def test_evalp_with_a_rich_sampler_meets_its_own_model_at_full_kl_weight():
    """At w = 1 the sampler minimises KL(p_g || p): exact weights are nearly equal, and log Z by quadrature agrees."""
    angles = torch.arange(8) * (math.pi / 4)
    means = 2 * torch.stack([angles.cos(), angles.sin()], 1)
    ring = PosteriorSplit(means.repeat(500, 1), torch.full((4000, 2), 0.25))
    settings = {"steps": 6000, "kl_weight": 1.0, "couplings": 6, "sampler_width": 48, "learning_rate": 1e-3}
    torch.manual_seed(0)
    prior = EVaLP((2,), EVaLPConfig(**settings, energy_width=64, proposals=50))
    prior.fit(AggregatePosterior(ring, ring), seeded(), silent)
    with torch.no_grad():
        _, log_weights = prior._weighted(400, seeded(1))
        axis = torch.linspace(-9, 9, 600)
        log_mass = -prior.energy(torch.cartesian_prod(axis, axis)) + 2 * math.log(18 / 599)
        kl = log_mass.logsumexp(0) - log_weights.mean()
    assert effective_sample_size(log_weights).mean() > 0.9 * 50
    assert -0.01 < kl < 0.05


# Energy, density and samples


def test_energy_is_f_less_the_log_density_of_the_base():
    prior, z = built((2, 3), perturbed=0.2), torch.randn(7, 2, 3, generator=seeded())
    flat = z.flatten(1)
    base = MultivariateNormal(torch.zeros(6), torch.eye(6)).log_prob(flat)
    with torch.no_grad():
        assert torch.allclose(prior.energy(z), plain_energy(prior.energy_network)(flat).squeeze(1) - base, atol=1e-5)


@pytest.mark.parametrize("weights", ["exact", "release"])
def test_weights_are_what_their_formula_says(weights):
    """exact: -f(z) + log N(z; 0, I) - log p_g(z); release: -f(z)."""
    prior = built((2, 2), perturbed=0.2, proposals=5, weights=weights)
    density = built((2, 2), perturbed=0.2, proposals=1)
    with torch.no_grad():
        z, log_weights = prior._weighted(6, seeded(4))
        assert z.shape == (6, 5, 4)
        assert log_weights.shape == (6, 5)
        flat = z.reshape(30, 4)
        expected = -plain_energy(prior.energy_network)(flat).squeeze(1)
        if weights == "exact":
            expected = expected + MultivariateNormal(torch.zeros(4), torch.eye(4)).log_prob(flat)
            expected = expected - density.log_prob(flat.view(30, 2, 2))
        assert torch.allclose(log_weights.flatten(), expected, atol=1e-4)
        pushed, _ = prior.sampler.push(torch.randn(30, 4, generator=seeded(4)))
    assert torch.equal(flat, pushed)


def grid(low: float, high: float, points: int) -> tuple[torch.Tensor, float]:
    """Midpoints (points^2, 2) of a square, and the area that each stands for."""
    width = (high - low) / points
    axis = low + width * (torch.arange(points) + 0.5)
    return torch.cartesian_prod(axis, axis), width**2


def tilted(**settings) -> EVaLP:
    """Two latents, a sampler that is not N(0, I) and an energy that is not flat."""
    prior = built((2,), seed=1, perturbed=0.1, **settings)
    with torch.no_grad():
        prior.energy_network.last.weight.mul_(6)
    return prior


def test_exact_resampling_draws_from_the_model():
    """Moments of exp(-energy) by quadrature; the release's weights lead elsewhere."""
    points, area = grid(-8, 8, 500)
    with torch.no_grad():
        density = (-tilted().energy(points)).exp().double()
    density /= density.sum() * area
    mean = (density[:, None] * points).sum(0) * area
    second = torch.einsum("n,ni,nj->ij", density, points.double(), points.double()) * area
    n = 20_000
    drawn = tilted(proposals=200).sample(n, seeded(3)).double()
    error = drawn.std(0) / math.sqrt(n)
    assert ((drawn.mean(0) - mean).abs() < 4 * error + 0.005).all()
    assert torch.allclose(drawn.T @ drawn / n, second, atol=0.06)
    released = tilted(proposals=200, weights="release").sample(n // 10, seeded(3)).double()
    assert ((released.mean(0) - mean).abs() > 20 * error).any()


def test_log_prob_describes_what_sample_draws():
    """Counts of 40,000 draws in 144 cells against the density's integral over each."""
    prior, n = tilted(), 40_000
    draws = prior.sample(n, seeded(5))
    inner, cells, fine = 2.5, 12, 20
    points, area = grid(-inner, inner, cells * fine)
    with torch.no_grad():
        mass = prior.log_prob(points).exp().double() * area
    expected = n * mass.view(cells, fine, cells, fine).sum((1, 3)).flatten()
    inside = (draws.abs() < inner).all(1)
    index = ((draws[inside] + inner) / (2 * inner / cells)).long()
    counts = torch.bincount(index[:, 0] * cells + index[:, 1], minlength=cells**2).double()
    counts, expected = torch.cat([counts, n - counts.sum()[None]]), torch.cat([expected, n - expected.sum()[None]])
    enough = expected > 5
    assert enough.sum() > 60
    statistic = ((counts - expected).square() / expected)[enough].sum().item()
    assert stats.chi2(int(enough.sum())).sf(statistic) > 0.01


def test_resampled_latents_have_no_log_prob():
    z = torch.randn(3, 4, generator=seeded())
    assert built(proposals=1).log_prob(z).shape == (3,)
    assert built(proposals=2).log_prob(z) is None
    assert built(proposals=2).energy(z).shape == (3,)


@pytest.mark.parametrize("proposals", [1, 7])
def test_samples_have_the_latent_shape_and_are_decided_by_the_generator(proposals):
    prior = built((2, 3, 1), perturbed=0.2, proposals=proposals)
    z = prior.sample(50, seeded(1))
    assert z.shape == (50, 2, 3, 1)
    assert z.isfinite().all()
    assert not z.requires_grad
    torch.manual_seed(0)
    assert torch.equal(prior.sample(50, seeded(1)), z)
    assert not torch.equal(prior.sample(50, seeded(2)), z)


def test_many_proposals_are_drawn_in_parts(monkeypatch):
    """Sets that do not fit into memory together: all n latents come, and mean the same."""
    monkeypatch.setitem(sir.CHUNK, "cpu", 100)
    prior = tilted(proposals=30)
    parts = prior.sample(2000, seeded(1))
    monkeypatch.undo()
    whole = prior.sample(2000, seeded(2))
    assert parts.shape == (2000, 2)
    assert len(parts.unique(dim=0)) == 2000
    assert all(stats.ks_2samp(parts[:, i], whole[:, i]).pvalue > 0.01 for i in range(2))
    assert built(proposals=sir.CHUNK["cpu"] + 1).sample(2, seeded()).shape == (2, 4)


def test_diagnostics_tell_the_effective_sample_size_of_resampling():
    assert built(proposals=1).diagnostics(seeded()) == {}
    flat = built(proposals=20, weights="release")
    with torch.no_grad():
        flat.energy_network.last.weight.zero_()
    assert flat.diagnostics(seeded())["effective_sample_size"] == pytest.approx(20, rel=1e-3)
    assert 1 < tilted(proposals=20).diagnostics(seeded())["effective_sample_size"] < 19
    assert built(proposals=1).network_evaluations == 1
    assert built(proposals=20).network_evaluations == 40


# Settings


@pytest.mark.parametrize("changed", [{"proposals": 500}, {"weights": "release"}])
def test_sampling_settings_do_not_ask_for_a_new_fit(changed):
    base, other = EVaLPConfig(), EVaLPConfig(**changed)
    assert other.fit_settings() == base.fit_settings()
    assert other.sampling_settings() != base.sampling_settings()
    one, two = built(steps=10), built(steps=10, **changed)
    for prior in (one, two):
        prior.fit(clusters(), seeded(), silent)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values()))


def test_every_other_setting_asks_for_a_new_fit():
    changed = {
        "steps": 1,
        "batch_size": 2,
        "energy_steps": 2,
        "network": "conv",
        "energy_width": 3,
        "conv_widths": (4, 4),
        "sampler": "spline",
        "couplings": 3,
        "sampler_width": 3,
        "optimiser": "rmsprop",
        "learning_rate": 1.0,
        "sampler_learning_rate": 1.0,
        "gp_weight": 1.0,
        "kl_weight": 1.0,
    }
    assert set(changed) | {"proposals", "weights"} == set(EVaLPConfig.model_fields)
    for name, value in changed.items():
        assert EVaLPConfig(**{name: value}).fit_settings() != EVaLPConfig().fit_settings()
        assert EVaLPConfig(**{name: value}).sampling_settings() == EVaLPConfig().sampling_settings()


#: what the authors' code runs; steps follow from epochs x training images / batch
TABLE = {
    "mnist": dict(nz=16, width=128, couplings=2, hidden=128, adam=True, rate=5e-4, ratio=5, w=1e-8, batch=64),
    "cifar10": dict(nz=128, width=200, couplings=4, hidden=512, adam=True, rate=5e-4, ratio=5, w=1e-8, batch=100),
    "celeba64": dict(nz=64, width=200, couplings=4, hidden=256, adam=False, rate=5e-5, ratio=1, w=1e-3, batch=100),
}
IMAGES_SEEN = {"mnist": 100 * 60_000, "cifar10": 100 * 50_000, "celeba64": 70 * 162_770}


@pytest.mark.parametrize("dataset", TABLE)
def test_recipes_are_what_the_authors_ran(dataset):
    row = TABLE[dataset]
    settings, note = EVaLP.recipe(dataset, (row["nz"],))
    config = EVaLPConfig(**settings)
    assert note is None
    assert EVaLP.recipes[dataset][0] == row["nz"]
    assert (config.energy_width, config.sampler_width) == (row["width"], row["hidden"])
    assert config.couplings == row["couplings"]
    assert (config.optimiser, config.learning_rate) == ("adam" if row["adam"] else "rmsprop", row["rate"])
    assert (config.energy_steps, config.batch_size) == (row["ratio"], row["batch"])
    assert (config.gp_weight, config.kl_weight, config.proposals) == (10, row["w"], 1)
    assert config.steps == pytest.approx(IMAGES_SEEN[dataset] / row["batch"], rel=1e-3)
    prior = EVaLP((row["nz"],), config)
    energy = [layer.weight.shape for layer in prior.energy_network.modules() if isinstance(layer, nn.Linear)]
    width = row["width"]
    assert energy == [(width, row["nz"]), (width, width), (1, width)]


def test_the_objective_as_written_is_shown_beside_the_recipe():
    assert {"kl_weight": 1.0} in EVaLP.companions


@pytest.mark.parametrize(
    "latent_shape, nearest",
    [((2,), "mnist"), ((20,), "mnist"), ((50,), "celeba64"), ((4, 4, 4), "mnist"), ((20, 8, 8), "celeba64")],
)
def test_unknown_data_takes_the_recipe_of_the_nearest_latent_size_and_says_so(latent_shape, nearest):
    settings, note = EVaLP.recipe("holiday_photos", latent_shape)
    assert settings == EVaLP.recipe(nearest, latent_shape)[0]
    assert "evalp" in note
    assert "holiday_photos" in note
    assert nearest in note


def test_evalp_on_a_top_group_is_the_release():
    config, _, note = resolve_config(EVaLP, {}, "cifar10", (20, 16, 16), "full")
    assert note is None
    assert config.conv_widths == (64, 128, 256, 128)
    assert config.optimiser == "adam"
    assert config.energy_steps == 10
    assert (config.learning_rate, config.sampler_learning_rate, config.kl_weight) == (3e-4, 5e-5, 0)
    prior = EVaLP((2, 4, 4), config)
    assert isinstance(prior.sampler, ImageFlow)
    assert isinstance(prior.energy_network, ConvEnergy)


@pytest.mark.parametrize("rate, expected", [(None, 3e-4), (5e-5, 5e-5)])
def test_the_sampler_has_a_learning_rate_of_its_own_where_it_is_given_one(rate, expected):
    """Adam's first step is as long as its learning rate."""
    config = EVaLPConfig(steps=1, energy_steps=1, learning_rate=3e-4, sampler_learning_rate=rate)
    prior = EVaLP((4,), config)
    before = {name: value.clone() for name, value in prior.named_parameters()}
    split = PosteriorSplit(torch.randn(50, 4, generator=seeded()), torch.full((50, 4), 0.3))
    prior.fit(AggregatePosterior(split, split), seeded(), lambda *_, **__: None)
    longest = {"energy": 0.0, "sampler": 0.0}
    for name, value in prior.named_parameters():
        part = name.split("_")[0].split(".")[0]
        longest[part] = max(longest[part], (value - before[name]).abs().max().item())
    assert longest["energy"] == pytest.approx(3e-4, rel=0.01)
    assert longest["sampler"] == pytest.approx(expected, rel=0.01)


def test_a_sampler_without_density_asks_for_what_it_needs():
    with pytest.raises(ValueError, match="kl_weight=0"):
        EVaLPConfig(sampler="mlp", kl_weight=1.0)
    with pytest.raises(ValueError, match="weights=release"):
        EVaLPConfig(sampler="mlp", kl_weight=0, proposals=10)
    prior = EVaLP((4,), EVaLPConfig(sampler="mlp", kl_weight=0, proposals=10, weights="release", steps=5))
    prior.fit(gaussian_posterior(torch.ones(4), 0.5), seeded(), silent)
    assert prior.sample(7, seeded()).shape == (7, 4)
    assert prior.log_prob(torch.zeros(1, 4)) is None
