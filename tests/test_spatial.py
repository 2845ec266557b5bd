"""Priors on a block of latents C x H x W: convolutional energies and image RealNVP against autograd, and their recipes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Normal

from benchmark.check.contract import learning
from benchmark.check.targets import TARGETS
from benchmark.jobs.plan import resolved
from benchmark.machine.peak_memory import peak_memory
from benchmark.registry import Registry
from benchmark.streams import stream
from priors.api import AggregatePosterior, PosteriorSplit
from priors.evalp import EVaLP, EVaLPConfig, energy_loss
from priors.parts.energies import ConvEnergy
from priors.parts.image_flows import ImageFlow, channel_halves, checkerboard

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("seeded_modules")
LEARNED = ["evalp", "latent_flow", "mcmc_ebm", "ncp"]
SHAPES = [(2, 4, 4), (3, 2, 6), (1, 8, 8)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain(energy: ConvEnergy) -> nn.Module:
    """The same network of torch's own parts, out of place, on blocks."""
    parts = [part for layer in energy.hidden for part in (layer, nn.LeakyReLU(0.01))]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), energy.last, nn.Flatten(0))


@every_shape
@pytest.mark.parametrize("constant", [False, True])
def test_conv_energy_and_its_gradient_are_autograds(shape, constant):
    energy = ConvEnergy(shape, (5, 7, 4), constant).double()
    z = torch.randn(6, *shape, generator=seeded()).double().requires_grad_()
    value, gradient = energy.value_and_input_gradient(z.flatten(1), of_last=4)
    expected = plain(energy)(z)
    (by_autograd,) = torch.autograd.grad(expected.sum(), z)
    assert torch.allclose(value, expected, atol=1e-12) and torch.allclose(energy(z.flatten(1)), expected, atol=1e-12)
    assert gradient.shape == (4, z[0].numel()) and torch.allclose(gradient, by_autograd[2:].flatten(1), atol=1e-12)


def test_the_penalty_of_a_conv_energy_trains_it_as_double_backward_does():
    energy = ConvEnergy((2, 4, 4), (5, 7)).double()
    z_q, z_g = (torch.randn(8, 32, generator=seeded(seed)).double() for seed in (0, 1))
    a = torch.rand(8, 1, generator=seeded(2)).double()
    parameters = list(energy.parameters())
    loss, penalty = energy_loss(energy, z_q, z_g, a, 10.0)
    ours = torch.autograd.grad(loss, parameters)
    network, between = plain(energy), (a * z_q + (1 - a) * z_g).unflatten(1, (2, 4, 4)).requires_grad_()
    (gradient,) = torch.autograd.grad(network(between).sum(), between, create_graph=True)
    expected_penalty = (gradient.flatten(1).norm(dim=1) - 1).square().mean()
    blocks = [z.unflatten(1, (2, 4, 4)) for z in (z_q, z_g)]
    expected = network(blocks[0]).mean() - network(blocks[1]).mean() + 10 * expected_penalty
    assert torch.allclose(loss, expected, atol=1e-12) and torch.allclose(penalty, expected_penalty, atol=1e-12)
    for mine, theirs in zip(ours, torch.autograd.grad(expected, parameters)):
        assert torch.allclose(mine, theirs, atol=1e-10)


def test_an_energy_keeps_two_layers_at_a_time_and_not_all_of_them():
    """SIR passes many thousand proposals: their hidden layers together would be the run's memory."""
    energy, z = ConvEnergy((2, 4, 4), (16,) * 6), torch.randn(1_000, 32, generator=seeded())
    layer = 1_000 * 16 * 16 * 4  # bytes
    with torch.no_grad():
        assert peak_memory(lambda: energy(z), CPU) < 2.5 * layer
        assert peak_memory(lambda: energy.value_and_input_gradient(z), CPU) > 6 * layer


def test_a_conv_energy_sees_neighbours_and_not_the_order_of_channels_alone():
    """The same numbers in other places have another energy; so have two blocks that are each other's mirror."""
    energy = ConvEnergy((1, 4, 4), (8, 8))
    z = torch.randn(1, 1, 4, 4, generator=seeded())
    mixed = z.flatten()[torch.randperm(16, generator=seeded(1))].view(1, 16)
    values = [energy(each.flatten(1)).item() for each in (z, z.flip(3), z.transpose(2, 3), mixed)]
    assert len({round(value, 6) for value in values}) == 4


def perturbed(shape, couplings=2, width=6) -> ImageFlow:
    """An image flow away from its initialisation, which is the identity."""
    flow = ImageFlow(shape, couplings, width)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return flow.double()


@pytest.mark.parametrize("shape", [(2, 4, 4), (3, 2, 6)], ids=str)
def test_image_flow_inverts_and_states_the_log_det_of_its_jacobian(shape):
    flow = perturbed(shape)
    noise = torch.randn(3, flow.features, generator=seeded(1)).double()
    z, log_det = flow.push(noise)
    assert not torch.allclose(z, noise, atol=0.1), "a map that does something"
    back, _ = flow.to_noise(z.unflatten(1, shape))
    assert torch.allclose(back.flatten(1), noise, atol=1e-10)
    for row, stated in zip(noise, log_det):
        jacobian = torch.autograd.functional.jacobian(lambda e: flow.push(e[None])[0][0], row)
        assert torch.linalg.slogdet(jacobian).logabsdet.item() == pytest.approx(stated.item(), abs=1e-9)
    assert torch.allclose(flow.log_prob(z), Normal(0.0, 1.0).log_prob(noise).sum(1) - log_det, atol=1e-9)


@every_shape
def test_masks_alternate_and_cover(shape):
    for mask in (checkerboard, channel_halves):
        first, second = mask(shape, 0), mask(shape, 1)
        assert torch.equal(first + second, torch.ones(shape))
    board = checkerboard(shape, 0)
    assert (board[:, 0, 0] == 1).all() and (board[:, 0, 1] == 0).all() and (board[:, 1, 1] == 1).all()


@every_shape
def test_initialised_image_flow_whitens_every_channel_where_it_is_the_identity(shape):
    """At first couplings do nothing, so that ActNorm alone must give each channel mean 0 and variance 1."""
    flow = ImageFlow(shape, 2, 4)
    z = 3 + 0.2 * torch.randn(500, *shape, generator=seeded())
    flow.initialise(z.flatten(1))
    with torch.no_grad():
        noise, _ = flow.to_noise(z)
    assert noise.mean().abs() < 1e-3 and noise.std() == pytest.approx(1, abs=1e-2)


def test_image_flow_trains_every_parameter_and_learns_what_couples_neighbours():
    """A 1 x 4 x 4 block whose columns come in pairs of the same numbers, plus noise: exact entropy beside the fitted."""
    flow, generator = ImageFlow((1, 4, 4), 3, 16), seeded()
    before = {name: value.clone() for name, value in flow.named_parameters()}

    def draw(n):
        even = torch.randn(n, 1, 4, 2, generator=generator)
        odd = even + 0.1 * torch.randn(even.shape, generator=generator)
        return torch.stack([even, odd], 4).flatten(1)

    flow.initialise(draw(1000))
    optimiser = torch.optim.Adam(flow.parameters(), 3e-3)
    for _ in range(400):
        loss = -flow.log_prob(draw(128)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert all(not torch.equal(value, before[name]) for name, value in flow.named_parameters())
    entropy = 8 * (Normal(0.0, 1.0).entropy() + Normal(0.0, 0.1).entropy())
    independent = 8 * 2 * Normal(0.0, 1.0).entropy()
    with torch.no_grad():
        fitted = -flow.log_prob(draw(4000)).mean()
    assert fitted < entropy + 0.1 * (independent - entropy)


@pytest.mark.parametrize("shape, part", [((2, 3, 4), "even"), ((8,), "C x H x W")], ids=str)
def test_an_image_flow_of_another_shape_is_refused(shape, part):
    with pytest.raises(ValueError, match=part):
        ImageFlow(shape, 2, 4)
    if len(shape) == 1:
        with pytest.raises(ValueError, match=part):
            ConvEnergy(shape, (4,))


@pytest.mark.parametrize("dataset", ["mnist", "celeba64", "cifar10"])
@pytest.mark.parametrize("name", LEARNED)
def test_a_block_gets_convolutions_and_a_vector_does_not(name, dataset):
    cls = Registry().get("prior", name)
    for shape, form in (((8, 4, 4), "conv"), ((128,), "mlp")):
        config, _, _ = resolved(cls, {}, dataset, shape, "full")
        prior = cls(shape, config)
        assert config.network == form
        assert any(isinstance(module, nn.Conv2d) for module in prior.modules()) == (form == "conv")
    config, _, _ = resolved(cls, {"network": "mlp"}, dataset, (8, 4, 4), "quick")
    prior = cls((8, 4, 4), config)
    assert not any(isinstance(module, nn.Conv2d) for module in prior.modules())
    assert prior.sample(3, seeded()).shape == (3, 8, 4, 4)


@pytest.mark.parametrize("name", LEARNED)
def test_quick_budget_on_a_block_is_no_dearer_than_the_recipe(name):
    cls = Registry().get("prior", name)
    full, quick = (resolved(cls, {}, "mnist", (8, 4, 4), budget)[0] for budget in ("full", "quick"))
    assert quick.steps < full.steps and quick.network == full.network == "conv"
    assert all(getattr(quick, field) <= cap for field, cap in cls.quick_caps((8, 4, 4)).items())


def test_evalp_on_a_top_group_is_the_release():
    config, _, note = resolved(EVaLP, {}, "cifar10", (20, 16, 16), "full")
    assert note is None
    assert config.conv_widths == (64, 128, 256, 128) and config.optimiser == "adam" and config.energy_steps == 10
    assert (config.learning_rate, config.sampler_learning_rate, config.kl_weight) == (3e-4, 5e-5, 0)
    prior = EVaLP((2, 4, 4), config)
    assert isinstance(prior.sampler, ImageFlow) and isinstance(prior.energy_network, ConvEnergy)


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
    assert longest["energy"] == pytest.approx(3e-4, rel=0.01) and longest["sampler"] == pytest.approx(
        expected, rel=0.01
    )


@pytest.mark.parametrize("name", LEARNED)
def test_what_was_added_for_blocks_leaves_the_identity_of_vectors_alone(name):
    """Records of vector latents were made before these settings existed, and stay valid."""
    cls = Registry().get("prior", name)
    config, _, _ = resolved(cls, {}, "mnist", (16,), "full")
    assert not {"network", "conv_widths", "sampler_learning_rate"} & set(config.fit_settings())
    block, _, _ = resolved(cls, {}, "mnist", (8, 4, 4), "full")
    assert block.fit_settings()["network"] == "conv"
    other = block.model_copy(update={"network": "mlp"})
    assert other.fit_settings() != block.fit_settings()


@pytest.mark.parametrize("name", ["latent_flow", "ncp"])
def test_a_block_is_learnt_at_the_quick_budget_by_those_that_promise_it(name):
    cls, target = Registry().get("prior", name), TARGETS["block"]()
    config, _, _ = resolved(cls, {}, "synthetic", target.shape, "quick")
    prior = cls(target.shape, config)
    prior.train().fit(target.posterior(CPU), seeded(), lambda *_, **__: None)
    assert learning(prior.eval(), target, CPU).held is True


def test_block_draws_from_the_density_that_it_states():
    """Cross-entropy of draws under the stated density against the entropy of well separated modes."""
    target = TARGETS["block"]()
    z = target.draw(20_000, stream(CPU, "test"))
    modes = target.modes.view(-1, *target.shape)
    assert z.shape[1:] == target.shape and len(modes) == 4
    entropy = torch.log(torch.tensor(4.0)) + z[0].numel() * Normal(0.0, 0.8).entropy()
    assert -target.log_prob(z).mean().item() == pytest.approx(entropy.item(), abs=0.1)
    assert target.coverage(z) == 1 and target.coverage(modes[:2].repeat(10, 1, 1, 1)) == 0.5
    assert F.mse_loss(z.mean(0), modes.mean(0)).item() < 1e-3


def test_learning_of_a_block_shows_its_density(monkeypatch):
    target = TARGETS["block"]()

    class Exact:
        latent_shape, learns = target.shape, {"block": 0.1}
        parameters = buffers = staticmethod(lambda: iter(()))
        sample = staticmethod(lambda n, generator: target.draw(n, generator))
        log_prob = staticmethod(target.log_prob)

    finding = learning(Exact(), target, CPU)
    assert finding.held and "KL -0.0" in finding.detail.replace("KL 0.0", "KL -0.0")
