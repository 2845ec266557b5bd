"""Targets of known density: they draw from what they state."""

import pytest
import torch
import torch.nn.functional as F
from draws import CPU
from torch.distributions import Normal

from benchmark.check.contract import learning
from benchmark.check.targets import TARGETS
from benchmark.streams import stream


@pytest.mark.parametrize("name", ["ring", "banana"])
def test_targets_draw_from_the_density_that_they_state(name):
    target = TARGETS[name]()
    axis = torch.linspace(-6, 6, 800)
    points = torch.cartesian_prod(axis, axis)
    density = target.log_prob(points).double()
    area = (12 / 799) ** 2
    assert density.exp().sum().item() * area == pytest.approx(1, abs=1e-3)
    entropy = -(density.exp() * density.clamp_min(-1e3)).sum().item() * area
    drawn = target.log_prob(target.draw(20_000, torch.Generator().manual_seed(0)))
    assert -drawn.mean().item() == pytest.approx(entropy, abs=0.03)


def test_block_draws_from_the_density_that_it_states():
    """Cross-entropy of draws under the stated density against the entropy of well separated modes."""
    target = TARGETS["block"]()
    z = target.draw(20_000, stream(CPU, "test"))
    modes = target.modes.view(-1, *target.shape)
    assert z.shape[1:] == target.shape
    assert len(modes) == 4
    entropy = torch.log(torch.tensor(4.0)) + z[0].numel() * Normal(0.0, 0.8).entropy()
    assert -target.log_prob(z).mean().item() == pytest.approx(entropy.item(), abs=0.1)
    assert target.coverage(z) == 1
    assert target.coverage(modes[:2].repeat(10, 1, 1, 1)) == 0.5
    assert F.mse_loss(z.mean(0), modes.mean(0)).item() < 1e-3


def test_learning_of_a_block_shows_its_density(monkeypatch):
    target = TARGETS["block"]()

    class Exact:
        latent_shape, learns = target.shape, {"block": 0.1}
        parameters = buffers = staticmethod(lambda: iter(()))
        sample = staticmethod(lambda n, generator: target.draw(n, generator))
        log_prob = staticmethod(target.log_prob)

    finding = learning(Exact(), target, CPU)
    assert finding.held
    assert "KL -0.0" in finding.detail.replace("KL 0.0", "KL -0.0")
