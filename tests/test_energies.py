"""Energy networks, of vectors and of blocks: values and slopes are autograd's."""

import pytest
import torch
from draws import CPU, seeded
from networks import plain_conv_energy, plain_energy

from benchmark.machine.peak_memory import peak_memory
from priors.parts.energies import ConvEnergy, MLPEnergy

pytestmark = pytest.mark.usefixtures("seeded_modules")
SHAPES = [(2, 4, 4), (3, 2, 6), (1, 8, 8)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def test_energy_and_its_input_gradient_equal_autograd():
    """Values for all rows, slopes for the last ones, and a penalty's gradient in the parameters (second order)."""
    energy = MLPEnergy(5, 13).double()
    plain = plain_energy(energy)
    z = torch.randn(12, 5, generator=seeded(), dtype=torch.float64)
    value, gradient = energy.value_and_input_gradient(z, of_last=4)
    assert value.shape == (12,)
    assert gradient.shape == (4, 5)
    assert torch.allclose(value, plain(z).squeeze(1))
    assert torch.allclose(energy(z), value)
    free = z[-4:].clone().requires_grad_()
    (expected,) = torch.autograd.grad(plain(free).sum(), free, create_graph=True)
    assert torch.allclose(gradient, expected)
    for slopes, values in ((gradient, value[-4:]), (expected, plain(free).squeeze(1))):
        ((slopes.norm(dim=1) - 1).square().mean() + values.mean()).backward()
    for ours, theirs in zip(energy.parameters(), plain.parameters()):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-12)
    assert all(parameter.grad.abs().sum() > 0 for parameter in energy.parameters())


@every_shape
@pytest.mark.parametrize("constant", [False, True])
def test_conv_energy_and_its_gradient_are_autograds(shape, constant):
    energy = ConvEnergy(shape, (5, 7, 4), constant).double()
    z = torch.randn(6, *shape, generator=seeded()).double().requires_grad_()
    value, gradient = energy.value_and_input_gradient(z.flatten(1), of_last=4)
    expected = plain_conv_energy(energy)(z)
    (by_autograd,) = torch.autograd.grad(expected.sum(), z)
    assert torch.allclose(value, expected, atol=1e-12)
    assert torch.allclose(energy(z.flatten(1)), expected, atol=1e-12)
    assert gradient.shape == (4, z[0].numel())
    assert torch.allclose(gradient, by_autograd[2:].flatten(1), atol=1e-12)


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


@pytest.mark.parametrize(
    "energy", [MLPEnergy(16, 64), MLPEnergy(3, 5, depth=3, constant=True), ConvEnergy((2, 4, 4), (5, 7))]
)
def test_a_loss_is_pulled_back_to_the_parameters_as_autograd_does_it_to_the_last_bit(energy):
    """A loss of values and slopes, given by its gradient in both; with rows that count for nothing, as in EVaLP."""
    features = 32 if isinstance(energy, ConvEnergy) else energy.hidden[0].in_features
    z, of_slope = (torch.randn(rows, features, generator=seeded(rows)) for rows in (12, 4))
    of_value = torch.randn(12, generator=seeded(1))
    of_value[-4:] = 0
    value, expected_slope = energy.value_and_input_gradient(z, of_last=4)
    loss = (of_value * value).sum() + (of_slope * expected_slope).sum()
    expected = torch.autograd.grad(loss, list(energy.parameters()))
    slope, pull_back = energy.slope_and_pull_back(z, of_last=4)
    assert not slope.requires_grad
    assert torch.equal(slope, expected_slope)
    for ours, theirs in zip(pull_back(of_value, of_slope), expected, strict=True):
        assert torch.equal(ours, theirs)
        assert theirs.abs().sum() > 0


@pytest.mark.parametrize("features, width, depth", [(16, 512, 3), (128, 200, 2), (7, 33, 2)])
@pytest.mark.parametrize("rows", [0, 1, 1_023, 1_024, 1_025, 2_047, 2_049, 5_000, 8_150, 8_193])
def test_blocks_of_rows_have_the_values_of_all_rows_at_once_to_the_last_bit(features, width, depth, rows):
    energy = MLPEnergy(features, width, depth, constant=True)
    z = torch.randn(rows, features, generator=seeded())
    with torch.no_grad():
        values = energy(z)
    assert values.shape == (rows,)
    assert torch.equal(values, energy(z))
