"""Spline and masked autoregressive flows, against zuko's own distributions, autograd, quadrature and a plain loop."""

import copy
import math

import pytest
import torch
from draws import normal, seeded, silent
from posteriors import gaussian_posterior
from torch.autograd.functional import jacobian
from torch.distributions import AffineTransform, MultivariateNormal, TransformedDistribution
from zuko import flows

from priors.api import AggregatePosterior, PosteriorSplit
from priors.maf import MAF, MAFConfig
from priors.nsf import NSF, NSFConfig
from priors.parts.autoregressive import HELD_OUT, WHITEN_FROM, random_orders

MADE = {
    "nsf": lambda d, **settings: NSF((d,), NSFConfig(**{"width": 16, **settings})),
    "maf": lambda d, **settings: MAF((d,), MAFConfig(**{"width": 16, **settings})),
    "maf in groups": lambda d, **settings: MAF((d,), MAFConfig(**{"width": 16, "passes": 3, **settings})),
}
ORACLES = {
    "nsf": lambda d: flows.NSF(d, transforms=4, passes=2, hidden_features=(16, 16)),
    "maf": lambda d: flows.MAF(d, transforms=5, hidden_features=(16, 16)),
    "maf in groups": lambda d: flows.MAF(d, transforms=5, passes=3, hidden_features=(16, 16)),
}
every_flow = pytest.mark.parametrize("name", list(MADE))


def perturbed(name, d, seed=0, by=0.3, **settings):
    """A prior away from its initialisation, whitening included."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        prior = MADE[name](d, **settings)
        for parameter in prior.parameters():
            parameter += by * torch.randn_like(parameter) / parameter.shape[-1] ** 0.5
        prior.flow.mean.normal_()
        prior.flow.std.uniform_(0.5, 2)
    return prior


def oracle(prior, name):
    """zuko's distribution with the same weights, masks and orders, through torch's affine transform."""
    made = ORACLES[name](prior.flow.features)
    state = prior.flow.to_noise.state_dict()
    made.load_state_dict({f"transform.{key}": value for key, value in state.items()}, strict=False)
    assert len(state) == len([key for key in made.state_dict() if key.startswith("transform.")])
    return TransformedDistribution(made(), [AffineTransform(prior.flow.mean, prior.flow.std, event_dim=1)])


@every_flow
def test_density_and_samples_are_those_of_zuko(name):
    prior = perturbed(name, 6)
    known = oracle(prior, name)
    z = prior.flow.mean + 2 * prior.flow.std * normal(300, 6, 1)
    with torch.no_grad():
        assert torch.allclose(prior.log_prob(z), known.log_prob(z), atol=1e-4)
        torch.manual_seed(1)
        ours, theirs = prior.sample(40_000, seeded(2)), known.sample((40_000,))
    scale = theirs.std(0)
    assert torch.allclose(ours.mean(0) / scale, theirs.mean(0) / scale, atol=0.05)
    assert torch.allclose((ours / scale).T.cov(), (theirs / scale).T.cov(), atol=0.08)
    assert not torch.allclose(ours.std(0), prior.flow.std, rtol=0.05), "a map that does something"


@every_flow
def test_density_is_the_change_of_variables_by_autograd_and_the_map_has_an_inverse(name):
    prior = perturbed(name, 7).double()
    noise = normal(8, 7, 1).double()
    z = prior.flow.push(noise)
    back, _ = prior.flow.to_noise().call_and_ladj((z - prior.flow.mean) / prior.flow.std)
    assert torch.allclose(back, noise, atol=1e-9)
    base = MultivariateNormal(torch.zeros(7).double(), torch.eye(7).double()).log_prob(noise)
    for row, stated, of_noise in zip(noise, prior.log_prob(z), base, strict=True):
        log_det = torch.linalg.slogdet(jacobian(lambda x: prior.flow.push(x[None])[0], row)).logabsdet
        assert stated.item() == pytest.approx((of_noise - log_det).item(), abs=1e-7)


@every_flow
@torch.no_grad()
def test_density_integrates_to_one(name):
    prior = perturbed(name, 2)
    drawn = prior.sample(200_000, seeded())
    low, high = drawn.min(0).values - 1, drawn.max(0).values + 1
    axes = [torch.linspace(low[i].item(), high[i].item(), 400) for i in range(2)]
    density = prior.log_prob(torch.cartesian_prod(*axes)).double().exp().view(400, 400)
    assert torch.trapezoid(torch.trapezoid(density, axes[1]), axes[0]).item() == pytest.approx(1, abs=3e-3)


@every_flow
def test_likelihood_of_a_correlated_gaussian_is_reached(name, seeded_modules):
    root = torch.tensor([[1.0, 0, 0, 0], [0.6, 0.5, 0, 0], [0.0, -0.4, 0.3, 0], [0.2, 0.0, 0.1, 0.8]])
    mean = torch.tensor([1.0, -20.0, 0.0, 5.0])
    draws = mean + normal(40_000, 4, 0) @ root.T
    tiny = torch.full((20_000, 4), 1e-4)
    posterior = AggregatePosterior(PosteriorSplit(draws[:20_000], tiny), PosteriorSplit(draws[20_000:], tiny))
    prior = MADE[name](4, steps=300)
    facts = prior.fit(posterior, seeded(1), silent)
    entropy = MultivariateNormal(mean, scale_tril=root).entropy().item()
    assert facts["held_out_nll"] == pytest.approx(entropy, abs=0.06)
    drawn = prior.sample(20_000, seeded(2))
    assert torch.allclose(drawn.T.cov(), root @ root.T, atol=0.08)


@every_flow
def test_other_units_cost_their_jacobian_and_nothing_else(name):
    """The same latents times 100 and moved: whitening takes it out, and log-density falls by d log 100."""
    posterior = gaussian_posterior(torch.tensor([0.5, 1.0, -1.0]), 0.5, n=500)
    moved = AggregatePosterior(
        *(PosteriorSplit(7 + 100 * each._mean, 100 * each._std) for each in (posterior.train, posterior.val))
    )
    told = []
    for each in (posterior, moved):
        torch.manual_seed(0)
        prior = MADE[name](3, steps=20)
        told.append(prior.fit(each, seeded(), silent)["held_out_nll"])
    assert told[1] - told[0] == pytest.approx(3 * math.log(100), abs=1e-3)


@every_flow
def test_the_fit_equals_a_plain_loop(name, seeded_modules):
    posterior = gaussian_posterior(torch.ones(4), 0.5)
    prior = MADE[name](4, steps=30, batch_size=32)
    plain = copy.deepcopy(prior)
    prior.fit(posterior, seeded(), silent)
    generator = seeded()
    z = posterior.train.sample(WHITEN_FROM, generator)
    plain.flow.mean, plain.flow.std = z.mean(0), z.std(0)
    posterior.val.sample(HELD_OUT, generator)
    optimiser = torch.optim.Adam(plain.parameters(), 1e-3, weight_decay=2e-5)
    for step in range(30):
        optimiser.param_groups[0]["lr"] = 1e-3 * (1 + math.cos(math.pi * step / 30)) / 2
        loss = -oracle_density(plain, posterior.train.sample(32, generator))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for mine, its in zip(prior.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(mine, its, atol=2e-5)


def oracle_density(prior, z):
    """Mean log-density by torch's own change of variables; the same parameters, for their gradients."""
    base = MultivariateNormal(torch.zeros(z.shape[1]), torch.eye(z.shape[1]))
    scale = AffineTransform(prior.flow.mean, prior.flow.std, event_dim=1)
    return TransformedDistribution(base, [prior.flow.to_noise().inv, scale]).log_prob(z).mean()


@every_flow
def test_a_copy_made_under_another_seed_has_the_orders_of_the_saved_state(name):
    prior = perturbed(name, 9)
    torch.manual_seed(77)
    other = MADE[name](9)
    order = "to_noise.transforms.0.hyper.0.mask"
    assert not torch.equal(other.flow.state_dict()[order], prior.flow.state_dict()[order])
    other.load_state_dict(prior.state_dict())
    z = normal(50, 9, 0)
    with torch.no_grad():
        assert torch.equal(other.log_prob(z), prior.log_prob(z))
        assert torch.equal(other.sample(50, seeded()), prior.sample(50, seeded()))


def test_orders_are_permutations_and_every_second_one_is_reversed():
    orders = random_orders(9, 5)
    assert len(orders) == 5
    for order in orders:
        assert order.sort().values.tolist() == list(range(9))
    for one, next_one in ((0, 1), (2, 3)):
        assert (orders[one] + orders[next_one]).unique().tolist() == [8]
    assert not torch.equal(orders[0], orders[2])


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", ["nsf", "maf"])
def test_two_transforms_let_each_of_two_latents_depend_on_the_other(name, seed):
    torch.manual_seed(seed)
    prior = MADE[name](2, transforms=2)
    slopes = jacobian(lambda x: prior.flow.push(x[None])[0], normal(1, 2, 0)[0])
    assert (slopes != 0).all()


def test_passes_are_groups_at_most_one_a_latent():
    assert MADE["nsf"](16).network_evaluations == 2
    assert MADE["maf"](16).network_evaluations == 16
    assert MADE["maf in groups"](16).network_evaluations == 3
    assert MAF((4, 8, 8), MAFConfig()).network_evaluations == 128


@every_flow
def test_many_rows_are_transformed_as_few_are(name):
    prior = perturbed(name, 5)
    z = normal(2_300, 5, 3)
    with torch.no_grad():
        apart = torch.cat([prior.log_prob(part) for part in z.split(230)])
        assert torch.allclose(prior.log_prob(z), apart, atol=1e-4)


@pytest.mark.parametrize("cls, config", [(NSF, NSFConfig()), (MAF, MAFConfig())])
def test_one_latent_is_refused(cls, config):
    with pytest.raises(ValueError, match="2 latents"):
        cls((1,), config)
