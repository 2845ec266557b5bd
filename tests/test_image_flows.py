"""RealNVP of blocks C x H x W: a bijection with the density it states, that learns what couples neighbours."""

import pytest
import torch
from draws import seeded
from torch.distributions import Normal

from priors.parts.energies import ConvEnergy
from priors.parts.image_flows import ImageFlow, channel_halves, checkerboard

pytestmark = pytest.mark.usefixtures("seeded_modules")
SHAPES = [(2, 4, 4), (3, 2, 6), (1, 8, 8)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


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
    assert (board[:, 0, 0] == 1).all()
    assert (board[:, 0, 1] == 0).all()
    assert (board[:, 1, 1] == 1).all()


@every_shape
def test_initialised_image_flow_whitens_every_channel_where_it_is_the_identity(shape):
    """At first couplings do nothing, so that ActNorm alone must give each channel mean 0 and variance 1."""
    flow = ImageFlow(shape, 2, 4)
    z = 3 + 0.2 * torch.randn(500, *shape, generator=seeded())
    flow.initialise(z.flatten(1))
    with torch.no_grad():
        noise, _ = flow.to_noise(z)
    assert noise.mean().abs() < 1e-3
    assert noise.std() == pytest.approx(1, abs=1e-2)


def test_image_flow_trains_every_parameter_and_learns_what_couples_neighbours():
    """A 1 x 4 x 4 block whose columns come in pairs of the same numbers, plus noise: exact entropy beside the fit."""
    flow, generator = ImageFlow((1, 4, 4), 3, 16), seeded()
    before = {name: value.clone() for name, value in flow.named_parameters()}

    def draw(n):
        even = torch.randn(n, 1, 4, 2, generator=generator)
        odd = even + 0.1 * torch.randn(even.shape, generator=generator)
        return torch.stack([even, odd], 4).flatten(1)

    flow.initialise(draw(1000))
    optimiser = torch.optim.Adam(flow.parameters(), 3e-3)
    for _ in range(200):
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
