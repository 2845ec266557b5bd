"""EVaLP against a plain second implementation, autograd, quadrature and the table of its authors' settings."""

import copy
import math
import sys

import pytest
import torch
from scipy import stats
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

from priors.api import AggregatePosterior, Diverged, PosteriorSplit
from priors.evalp import EVaLP, EVaLPConfig
from priors.parts import sir
from priors.parts.energies import MLPEnergy
from priors.parts.sir import effective_sample_size, resample

SMALL = {"batch_size": 16, "energy_width": 12, "couplings": 2, "sampler_width": 10}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def silent(*_, **__) -> None: ...


def built(latent_shape=(4,), seed: int = 0, perturbed: float = 0.0, **settings) -> EVaLP:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        prior = EVaLP(latent_shape, EVaLPConfig(**{**SMALL, **settings}))
        with torch.no_grad():
            for parameter in prior.parameters():
                parameter.add_(perturbed * torch.randn_like(parameter))
    return prior


def aggregate(n: int = 50, d: int = 4) -> AggregatePosterior:
    """Two clusters, away from N(0, I)."""
    generator = seeded(11)
    mean = torch.where(torch.arange(n)[:, None] % 2 == 0, 1.5, -1.0) + 0.2 * torch.randn(n, d, generator=generator)
    split = PosteriorSplit(mean, 0.1 + 0.1 * torch.rand(n, d, generator=generator))
    return AggregatePosterior(split, split)


def plain_energy(network: MLPEnergy) -> nn.Sequential:
    """The same network, written again out of torch's own layers."""
    linears = [copy.deepcopy(module) for module in network.modules() if isinstance(module, nn.Linear)]
    assert len(linears) == 3
    return nn.Sequential(linears[0], nn.LeakyReLU(0.01), linears[1], nn.LeakyReLU(0.01), linears[2])


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
    return prior, f, flow, facts, told, moved


@PARITY
def test_fit_equals_a_plain_implementation(optimiser, kl_weight, energy_steps, learning_rate):
    """50 energy steps from equal generators, in float64, where nothing but an error could differ."""
    torch.set_default_dtype(torch.float64)
    try:
        split = aggregate().train
        posterior = AggregatePosterior(*[PosteriorSplit(split._mean.double(), split._std.double())] * 2)
        prior, f, flow, facts, told, moved = both_fits(optimiser, kl_weight, energy_steps, learning_rate, posterior)
    finally:
        torch.set_default_dtype(torch.float32)
    assert furthest(prior.energy_network.parameters(), f.parameters()) < 1e-9
    assert furthest(prior.sampler.parameters(), flow.parameters()) < 1e-9 and min(moved) > 1e-4
    assert told[-1][:2] == (50, 50) and told[-1][2] == pytest.approx(facts, abs=1e-9)


@PARITY
def test_fit_equals_a_plain_implementation_in_single_precision(optimiser, kl_weight, energy_steps, learning_rate):
    """As it is run. The sampler to 1e-5; the energy by its slopes, and its differences of values, to 1e-3.

    The bias of a unit whose slope is the same for all latents has a gradient of zero, of which an adaptive
    optimiser makes steps in the direction of rounding; it adds a constant to f.
    """
    prior, f, flow, facts, told, moved = both_fits(optimiser, kl_weight, energy_steps, learning_rate, aggregate())
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
        prior.fit(aggregate(), seeded(seed), silent)
        return torch.cat([parameter.detach().flatten() for parameter in prior.parameters()])

    assert torch.equal(fitted(0, 0), fitted(0, 1))
    assert not torch.equal(fitted(0, 0), fitted(1, 0))


def energy_distance(x: torch.Tensor, y: torch.Tensor) -> float:
    return (2 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean() - torch.cdist(y, y).mean()).item()


def test_a_fit_moves_samples_to_the_aggregate_posterior():
    prior = built(steps=1500, learning_rate=2e-3, batch_size=32, energy_width=32, sampler_width=32)
    posterior = aggregate()
    wanted = posterior.train.sample(1500, seeded(1))
    before = energy_distance(prior.sample(1500, seeded(2)), wanted)
    prior.fit(posterior, seeded(0), silent)
    assert energy_distance(prior.sample(1500, seeded(2)), wanted) < 0.2 * before


def test_latents_that_are_not_finite_end_as_diverged():
    bad = aggregate()
    bad.train._mean[:] = math.nan
    with pytest.raises(Diverged, match="upper.*not finite after 5 energy steps"):
        built(steps=20).fit(bad, seeded(), silent)


def test_a_fit_that_fails_on_its_way_ends_as_diverged():
    """Latents turn bad after the first facts were logged: told by the last step."""

    class Spoiling(PosteriorSplit):
        def sample(self, n, generator):
            z = super().sample(n, generator)
            if told:
                self._mean[:] = math.inf
            return z

    told, split = [], aggregate().train
    with pytest.raises(Diverged, match="not finite after 50 energy steps"):
        built(steps=50).fit(
            AggregatePosterior(Spoiling(split._mean, split._std), split), seeded(), lambda *step, **_: told.append(step)
        )
    assert told == [(5, 50)]


# The energy


def test_energy_and_its_input_gradient_equal_autograd():
    """Values for all rows, slopes for the last ones, and a penalty's gradient in the parameters (second order)."""
    torch.manual_seed(0)
    energy = MLPEnergy(5, 13).double()
    plain = plain_energy(energy)
    z = torch.randn(12, 5, generator=seeded(), dtype=torch.float64)
    value, gradient = energy.value_and_input_gradient(z, of_last=4)
    assert value.shape == (12,) and gradient.shape == (4, 5)
    assert torch.allclose(value, plain(z).squeeze(1)) and torch.allclose(energy(z), value)
    free = z[-4:].clone().requires_grad_()
    (expected,) = torch.autograd.grad(plain(free).sum(), free, create_graph=True)
    assert torch.allclose(gradient, expected)
    for slopes, values, network in ((gradient, value[-4:], energy), (expected, plain(free).squeeze(1), plain)):
        ((slopes.norm(dim=1) - 1).square().mean() + values.mean()).backward()
    for ours, theirs in zip(energy.parameters(), plain.parameters()):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-12)
    assert all(parameter.grad.abs().sum() > 0 for parameter in energy.parameters())


def test_energy_is_f_less_the_log_density_of_the_base():
    prior, z = built((2, 3), perturbed=0.2), torch.randn(7, 2, 3, generator=seeded())
    flat = z.flatten(1)
    base = MultivariateNormal(torch.zeros(6), torch.eye(6)).log_prob(flat)
    with torch.no_grad():
        assert torch.allclose(prior.energy(z), plain_energy(prior.energy_network)(flat).squeeze(1) - base, atol=1e-5)


# Sampling-importance-resampling


def test_resampling_gives_the_target_from_proposals_of_another_density():
    """N(0, 1.5^2) proposals, weighted to N(1, 0.7^2): mean, variance and distribution function."""
    n, m = 20_000, 300
    proposal, target = Normal(0.0, 1.5), Normal(1.0, 0.7)
    z = 1.5 * torch.randn(n, m, generator=seeded(1))
    drawn = resample(z[:, :, None], target.log_prob(z) - proposal.log_prob(z), seeded(2)).squeeze(1)
    assert drawn.mean().item() == pytest.approx(1.0, abs=4 * 0.7 / math.sqrt(n))
    assert drawn.var().item() == pytest.approx(0.49, abs=4 * 0.49 * math.sqrt(2 / n))
    assert stats.kstest(drawn.numpy(), stats.norm(1, 0.7).cdf).pvalue > 0.01


def test_resampling_chooses_in_proportion_to_the_weights():
    weights = torch.tensor([0.05, 0.6, 0.0, 0.35])
    proposals = torch.arange(4.0)[None, :, None].expand(40_000, 4, 1)
    for offset in (0.0, 50.0, -50.0):
        drawn = resample(proposals, (weights.log() + offset).expand(40_000, 4), seeded()).flatten().long()
        counts = torch.bincount(drawn, minlength=4)
        assert counts[2] == 0
        kept = [0, 1, 3]
        assert stats.chisquare(counts[kept], (weights[kept] * 40_000).double()).pvalue > 0.01


def test_resampling_of_one_proposal_returns_it():
    z = torch.randn(6, 1, 3, generator=seeded())
    for log_weight in (0.0, 1e4, -1e4):
        assert torch.equal(resample(z, torch.full((6, 1), log_weight), seeded()), z[:, 0])


def test_resampling_keeps_rows_apart_and_proposals_whole():
    """Row i only ever gets one of its own proposals, with all its coordinates."""
    z = torch.arange(5 * 7 * 3.0).view(5, 7, 3)
    drawn = resample(z, torch.randn(5, 7, generator=seeded()), seeded())
    assert drawn.shape == (5, 3)
    assert all((z[row] == drawn[row]).all(1).any() for row in range(5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_log_weights_are_safe(dtype):
    z = torch.arange(4.0, dtype=dtype)[None, :, None].expand(1000, 4, 1)
    rows = {(-1e4, 1e4, -1e4, 0.0): {1}, (-1e4, -1e4, -2e4, -2e4): {0, 1}, (1e4, 1e4, 1e4, 1e4): {0, 1, 2, 3}}
    for row, chosen in rows.items():
        log_weights = torch.tensor(row, dtype=dtype).expand(1000, 4)
        assert set(resample(z, log_weights, seeded()).flatten().long().tolist()) == chosen
        sizes = effective_sample_size(log_weights)
        assert torch.allclose(sizes, torch.full_like(sizes, len(chosen)), rtol=5e-3)


def test_effective_sample_size_by_hand():
    rows = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 1e-30, 1e-30, 1e-30], [2.0, 1.0, 1.0, 0.0]])
    expected = torch.tensor([4.0, 1.0, 16 / 6])
    assert torch.allclose(effective_sample_size(rows.log()), expected, rtol=1e-5)
    assert torch.allclose(effective_sample_size(rows.log() - 20), expected, rtol=1e-4)


@pytest.mark.parametrize("weights", ["exact", "release"])
def test_weights_are_what_their_formula_says(weights):
    """exact: -f(z) + log N(z; 0, I) - log p_g(z); release: -f(z)."""
    prior = built((2, 2), perturbed=0.2, proposals=5, weights=weights)
    density = built((2, 2), perturbed=0.2, proposals=1)
    with torch.no_grad():
        z, log_weights = prior._weighted(6, seeded(4))
        assert z.shape == (6, 5, 4) and log_weights.shape == (6, 5)
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
    released = tilted(proposals=200, weights="release").sample(n, seeded(3)).double()
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
    assert z.shape == (50, 2, 3, 1) and z.isfinite().all() and not z.requires_grad
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
    assert parts.shape == (2000, 2) and len(parts.unique(dim=0)) == 2000
    assert all(stats.ks_2samp(parts[:, i], whole[:, i]).pvalue > 0.01 for i in range(2))
    assert built(proposals=sir.CHUNK["cpu"] + 1).sample(2, seeded()).shape == (2, 4)


def test_many_draws_take_no_more_memory_than_few():
    """Small results kept between the large blocks that come and go pinned a new block each: gigabytes."""
    resource = pytest.importorskip("resource")

    def weighted(n, generator):
        proposals = torch.randn(n, 5_000, 4, generator=generator)
        hidden = proposals.repeat(1, 1, 128)  # the 10 MB of an energy network's layer
        return proposals, hidden.sum(2) * 0

    def peak(draws):
        sir.sample(weighted, draws, 5_000, seeded())
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    before = peak(20)
    assert peak(400) - before < 200e6


def test_diagnostics_tell_the_effective_sample_size_of_resampling():
    assert built(proposals=1).diagnostics(seeded()) == {}
    flat = built(proposals=20, weights="release")
    with torch.no_grad():
        flat.energy_network.last.weight.zero_()
    assert flat.diagnostics(seeded())["effective_sample_size"] == pytest.approx(20, rel=1e-3)
    assert 1 < tilted(proposals=20).diagnostics(seeded())["effective_sample_size"] < 19
    assert built(proposals=1).network_evaluations == 1 and built(proposals=20).network_evaluations == 40


# Settings


@pytest.mark.parametrize("changed", [{"proposals": 500}, {"weights": "release"}])
def test_sampling_settings_do_not_ask_for_a_new_fit(changed):
    base, other = EVaLPConfig(), EVaLPConfig(**changed)
    assert other.fit_settings() == base.fit_settings() and other.sampling_settings() != base.sampling_settings()
    one, two = built(steps=10), built(steps=10, **changed)
    for prior in (one, two):
        prior.fit(aggregate(), seeded(), silent)
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
    assert note is None and EVaLP.recipes[dataset][0] == row["nz"]
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
    assert "evalp" in note and "holiday_photos" in note and nearest in note
