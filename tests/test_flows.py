"""RealNVP: a bijection with the density it states, whose couplings are free of the scale cap in nflows 0.14."""

import math

import pytest
import torch
import torch.nn.functional as F
from networks import plain_flow
from nflows.transforms import ActNorm
from nflows.transforms.coupling import AffineCouplingTransform
from torch import nn
from torch.distributions import Normal

from priors.parts.flows import LOG_SCALE_BOUND, AffineCoupling, CouplingFlow, ScaleAndShift

SHAPES = [(2, 1, 8), (2, 4, 16), (3, 2, 16), (5, 3, 8), (8, 4, 32), (64, 4, 64)]
every_shape = pytest.mark.parametrize("features, couplings, hidden", SHAPES)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def perturbed(features: int, couplings: int, hidden: int, seed: int = 0, by: float = 0.2) -> CouplingFlow:
    """A flow away from its initialisation, ActNorm included."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flow = CouplingFlow(features, couplings, hidden)
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.add_(by * torch.randn_like(parameter) / max(1, parameter.shape[-1] / 16) ** 0.5)
    return flow


def log_normal(z: torch.Tensor) -> torch.Tensor:
    return Normal(0.0, 1.0).log_prob(z).sum(1)


@every_shape
def test_pushing_and_pulling_back_are_inverse(features, couplings, hidden):
    flow, noise = perturbed(features, couplings, hidden), torch.randn(200, features, generator=seeded(1))
    with torch.no_grad():
        z, log_det = flow.push(noise)
        back, log_det_back = flow.to_noise(z)
        there, _ = flow.push(flow.to_noise(noise)[0])
    assert not torch.allclose(z, noise, atol=0.1), "a map that does something"
    assert torch.allclose(back, noise, atol=1e-4)
    assert torch.allclose(there, noise, atol=1e-4)
    assert torch.allclose(log_det, -log_det_back, atol=1e-3)


@pytest.mark.parametrize("features, couplings, hidden", SHAPES[:5])
def test_log_det_is_that_of_the_jacobian(features, couplings, hidden):
    flow = perturbed(features, couplings, hidden).double()
    noise = torch.randn(6, features, generator=seeded(1)).double()
    for transform in (flow.push, flow.to_noise):
        _, log_det = transform(noise)
        for row, stated in zip(noise, log_det):
            jacobian = torch.autograd.functional.jacobian(lambda x: transform(x[None])[0][0], row)
            assert torch.linalg.slogdet(jacobian).logabsdet.item() == pytest.approx(stated.item(), abs=1e-9)


@every_shape
def test_log_prob_is_the_change_of_variables(features, couplings, hidden):
    flow = perturbed(features, couplings, hidden).double()
    noise = torch.randn(50, features, generator=seeded(1)).double()
    z, log_det = flow.push(noise)
    assert torch.allclose(flow.log_prob(z), log_normal(noise) - log_det, atol=1e-8)


@every_shape
def test_values_and_gradients_are_those_of_nflows_to_the_last_bit(features, couplings, hidden):
    """Ours takes halves apart and joins them in fewer operations: recorded numbers stay as they were."""
    flow = perturbed(features, couplings, hidden)
    plain = plain_flow(flow)
    x, of_output = (torch.randn(64, features, generator=seeded(seed)) for seed in (1, 2))
    for ours, theirs in ((flow.push, plain.inverse), (flow.to_noise, plain)):
        told = []
        for transform in (ours, theirs):
            start = x.clone().requires_grad_()
            y, log_det = transform(start)
            loss = (y * of_output).sum() + log_det.square().mean()
            told.append([y, log_det, *torch.autograd.grad(loss, [start, *flow.parameters()])])
        assert all(torch.equal(one, other) for one, other in zip(*told, strict=True))


@pytest.mark.parametrize("couplings, seed", [(1, 0), (2, 1), (4, 2)])
def test_log_prob_integrates_to_one(couplings, seed):
    """By quadrature over the plane as far as 300,000 draws reach."""
    flow = perturbed(2, couplings, 16, seed)
    with torch.no_grad():
        draws, _ = flow.push(torch.randn(300_000, 2, generator=seeded(seed)))
        low, high = draws.min(0).values, draws.max(0).values
        axes = [torch.linspace(low[i].item(), high[i].item(), 500) for i in range(2)]
        grid = torch.cartesian_prod(*axes)
        density = torch.cat([flow.log_prob(part).exp() for part in grid.split(100_000)]).view(500, 500)
        integral = torch.trapezoid(torch.trapezoid(density, axes[1]), axes[0]).item()
    assert integral == pytest.approx(1, abs=2e-3)


@every_shape
def test_gradient_reaches_every_parameter_both_ways(features, couplings, hidden):
    flow = perturbed(features, couplings, hidden)
    z, log_det = flow.push(torch.randn(32, features, generator=seeded(1)))
    for loss in (-flow.log_prob(torch.randn(32, features, generator=seeded(2))).mean(), (z**2).mean() - log_det.mean()):
        flow.zero_grad()
        loss.backward()
        missing = [name for name, p in flow.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert not missing


@pytest.mark.parametrize("couplings", [1, 2, 3])
def test_every_feature_is_transformed(couplings):
    """From two couplings on also by a function of the others; a single one leaves half to its ActNorm."""
    noise = torch.randn(1, 6, generator=seeded())
    flow = perturbed(6, couplings, 16)
    jacobian = torch.autograd.functional.jacobian(lambda x: flow.push(x[None])[0][0], noise[0])
    mixed = (jacobian - jacobian.diag().diag()).abs().sum(1) > 0
    assert mixed.sum() == (3 if couplings == 1 else 6)
    assert (jacobian.diag() != 0).all()


def test_needs_two_latents():
    with pytest.raises(ValueError, match="2 latents"):
        CouplingFlow(1, 2, 8)


def test_coupling_networks_are_those_of_the_release():
    """Two hidden layers each: ReLU for the shift, tanh for the log-scale."""
    network = ScaleAndShift(3, 8, 5)
    x = torch.randn(10, 3, generator=seeded())

    def by_hand(layers, activation):
        first, second, last = (layer for layer in layers if isinstance(layer, nn.Linear))
        hidden = activation(F.linear(x, first.weight, first.bias))
        return F.linear(activation(F.linear(hidden, second.weight, second.bias)), last.weight, last.bias)

    expected = torch.cat([by_hand(network.shift, torch.relu), by_hand(network.scale, torch.tanh)], 1)
    assert expected.shape == (10, 8)
    assert torch.allclose(network(x), expected, atol=1e-6)


# The scale of a coupling


class Constant(nn.Module):
    """A coupling network that answers `value` whatever it is asked: as shift and as raw scale."""

    def __init__(self, outputs: int, value: float) -> None:
        super().__init__()
        self.answer = torch.full((outputs,), value)

    def forward(self, x, context=None):
        return self.answer.expand(len(x), -1)


def scale_of(coupling: type[AffineCouplingTransform], value: float) -> float:
    """By how much the transformed feature of a coupling grows where its input grows by one."""
    transform = coupling([0, 1], lambda inputs, outputs: Constant(outputs, value))
    low, high = transform(torch.tensor([[0.0, 0.0], [0.0, 1.0]]))[0][:, 1]
    return (high - low).item()


RAW = [-50.0, -10.0, -3.0, -1.0, 0.0, 0.5, 1.0, 3.0, 10.0, 50.0]


def test_nflows_coupling_cannot_stretch():
    """The trap: in nflows 0.14 no raw scale whatever gives more than 1.001."""
    scales = [scale_of(AffineCouplingTransform, value) for value in RAW]
    assert max(scales) <= 1.001 + 1e-5
    assert min(scales) < 0.01


def test_our_coupling_stretches_as_it_shrinks():
    scales = {value: scale_of(AffineCoupling, value) for value in RAW}
    assert scales[0.0] == pytest.approx(1.0)
    assert max(scales.values()) == pytest.approx(math.exp(LOG_SCALE_BOUND), rel=1e-4)
    assert math.exp(LOG_SCALE_BOUND) > 2
    assert min(scales.values()) == pytest.approx(math.exp(-LOG_SCALE_BOUND), rel=1e-3)
    for value in (0.5, 1.0, 3.0, 10.0):
        transform = [AffineCoupling([0, 1], lambda i, o: Constant(o, sign * value)) for sign in (1, -1)]
        _, up = transform[0](torch.zeros(1, 2))
        _, down = transform[1](torch.zeros(1, 2))
        assert up.item() == pytest.approx(-down.item(), rel=1e-5)


def fit_to(flow: CouplingFlow, std: float, steps: int = 250) -> tuple[float, float]:
    """Maximum likelihood on N(0, std^2 I); fitted and true mean log-likelihood of fresh draws, in nats."""
    parameters = [parameter for parameter in flow.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(parameters, 5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator = seeded(1)
    for _ in range(steps):
        loss = -flow.log_prob(std * torch.randn(128, flow.features, generator=generator)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    fresh = std * torch.randn(5000, flow.features, generator=seeded(2))
    with torch.no_grad():
        return flow.log_prob(fresh).mean().item(), Normal(0.0, std).log_prob(fresh).sum(1).mean().item()


@pytest.mark.parametrize("initialised", [False, True])
def test_maximum_likelihood_reaches_a_narrow_target(initialised):
    """N(0, 0.1^2 I) in 8 dimensions, 7.07 nats: nflows's own couplings end at -7.4. To 0.2 nat."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        flow = CouplingFlow(8, 4, 32)
    if initialised:
        flow.initialise(0.1 * torch.randn(1000, 8, generator=seeded()))
    fitted, true = fit_to(flow, 0.1)
    assert true == pytest.approx(8 * 0.5 * -math.log(2 * math.pi * math.e * 0.01), abs=0.1)
    assert fitted == pytest.approx(true, abs=0.2)
    assert fitted <= true + 0.02


@pytest.mark.parametrize("std", [0.1, 5.0])
def test_one_pair_of_couplings_alone_scales_far_up_and_down(std):
    """ActNorm held at the identity, so that each feature is scaled once: by 10, or by 1/5, on its way to noise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        flow = CouplingFlow(8, 2, 32)
    for layer in flow.to_noise._transforms:
        if isinstance(layer, ActNorm):
            layer.requires_grad_(False)
    fitted, true = fit_to(flow, std)
    assert fitted == pytest.approx(true, abs=0.2)
    z = std * torch.randn(200, 8, generator=seeded(3))
    jacobians = [torch.autograd.functional.jacobian(lambda x: flow.to_noise(x[None])[0][0], row) for row in z[:20]]
    scales = torch.stack([jacobian.diag() for jacobian in jacobians])
    assert (scales > 2).all() if std < 1 else (scales < 0.5).all()


# Initialisation from data


def test_initialise_makes_pulled_back_data_standard():
    """Zero mean and unit variance after every ActNorm, hence of the noise."""
    flow = perturbed(6, 3, 16)
    mixing = torch.randn(6, 6, generator=seeded(5))
    z = 4 + torch.randn(500, 6, generator=seeded(6)) @ mixing * torch.logspace(-2, 1, 6)
    flow.initialise(z)
    seen = 0
    with torch.no_grad():
        for layer in flow.to_noise._transforms:
            z, _ = layer(z)
            if isinstance(layer, ActNorm):
                seen += 1
                assert torch.allclose(z.mean(0), torch.zeros(6), atol=1e-3)
                assert torch.allclose(z.std(0), torch.ones(6), atol=1e-3)
    assert seen == 3


def test_initialise_survives_a_latent_that_never_moves():
    flow = CouplingFlow(3, 2, 8)
    z = torch.randn(50, 3, generator=seeded())
    z[:, 0] = 2.0  # which the first coupling leaves as it is
    flow.initialise(z)
    noise, log_det = flow.to_noise(z)
    assert noise.isfinite().all()
    assert log_det.isfinite().all()


def test_training_mode_does_not_initialise_from_a_batch():
    """nflows's ActNorm would set itself from the first batch that it sees in training mode."""
    flow = perturbed(4, 2, 8).train()
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    flow.log_prob(10 + torch.randn(20, 4, generator=seeded()))
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())


def test_state_dict_round_trip():
    flow, other = perturbed(5, 3, 8, seed=0), perturbed(5, 3, 8, seed=1)
    noise = torch.randn(10, 5, generator=seeded())
    assert not torch.equal(flow.push(noise)[0], other.push(noise)[0])
    other.load_state_dict(flow.state_dict())
    assert torch.equal(flow.push(noise)[0], other.push(noise)[0])
