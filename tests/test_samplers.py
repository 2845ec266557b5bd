"""Glow-like and inverse autoregressive samplers: bijections with the density that they state, sampled in one pass."""

import math

import pytest
import torch
from draws import seeded

from priors.parts.samplers import Autoregressive, AutoregressiveSampler, GlowFlow, InvertibleLinear

FLOWS = {"glow": GlowFlow, "autoregressive": AutoregressiveSampler}
every_flow = pytest.mark.parametrize("name", FLOWS)
shapes = pytest.mark.parametrize("features, layers", [(2, 1), (5, 3), (16, 2)])


def perturbed(name, features, layers, by=0.2):
    """A flow away from its initialisation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        flow = FLOWS[name](features, layers, 12)
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.add_(by * torch.randn_like(parameter))
    return flow.double()


@every_flow
@shapes
def test_pushing_and_pulling_back_are_inverse(name, features, layers):
    flow, noise = perturbed(name, features, layers), torch.randn(50, features, generator=seeded(1)).double()
    with torch.no_grad():
        z, log_det = flow.push(noise)
        back, log_det_back = flow.to_noise(z)
    assert not torch.allclose(z, noise, atol=0.1)
    assert torch.allclose(back, noise, atol=1e-8)
    assert torch.allclose(log_det.expand(50), -log_det_back, atol=1e-8)


@every_flow
@shapes
def test_log_det_is_that_of_the_jacobian(name, features, layers):
    flow = perturbed(name, features, layers)
    for row in torch.randn(4, features, generator=seeded(1)).double():
        jacobian = torch.autograd.functional.jacobian(lambda x: flow.push(x[None])[0][0], row)
        stated = flow.push(row[None])[1].sum().item()
        assert torch.linalg.slogdet(jacobian).logabsdet.item() == pytest.approx(stated, abs=1e-9)


@every_flow
def test_the_density_integrates_to_one(name):
    flow = perturbed(name, 2, 2)
    axis = torch.linspace(-15, 15, 601).double()
    with torch.no_grad():
        total = flow.log_prob(torch.cartesian_prod(axis, axis)).logsumexp(0) + 2 * math.log(axis[1] - axis[0])
    assert total.exp().item() == pytest.approx(1, abs=0.01)


@every_flow
def test_every_parameter_gets_a_gradient(name):
    flow = perturbed(name, 4, 2)
    z, log_det = flow.push(torch.randn(30, 4, generator=seeded(1)).double())
    gradients = torch.autograd.grad((z**2).sum() + log_det.sum(), list(flow.parameters()))
    assert all(gradient.isfinite().all() and gradient.abs().sum() > 0 for gradient in gradients)


@every_flow
def test_one_latent_is_refused(name):
    with pytest.raises(ValueError, match="2 latents"):
        FLOWS[name](1, 2, 8)


def test_a_linear_map_begins_as_a_permutation():
    linear = InvertibleLinear(6)
    out, log_det = linear.inverse(torch.eye(6))
    assert torch.equal(out.sort(1).values, torch.eye(6).sort(1).values)
    assert log_det.item() == 0


@pytest.mark.parametrize("reverse", [False, True])
def test_a_latent_hangs_on_noise_before_it_alone(reverse):
    layer = Autoregressive(5, 20, reverse)
    jacobian = torch.autograd.functional.jacobian(lambda x: layer.inverse(x[None])[0][0], torch.randn(5))
    beyond = jacobian.tril(-1) if reverse else jacobian.triu(1)
    assert torch.equal(beyond, torch.zeros(5, 5))
    assert (jacobian.diagonal() != 0).all()
