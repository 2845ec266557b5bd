"""conv_vae: its losses against torch.distributions, and the release's recipes."""

import pytest
import torch
from draws import seeded
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence
from vaes import DATASETS, binary, pictures, tiny

from backbones.conv_vae import ConvVAE, ConvVAEConfig
from benchmark.bundles.bound import importance_weighted_bound

pytestmark = pytest.mark.usefixtures("seeded_modules")


def test_conv_vae_loss_is_what_its_docstring_says():
    """Squared error summed over pixels and averaged over channels; KL as torch.distributions has it."""
    backbone, x = tiny(ConvVAE, "cifar10"), pictures(DATASETS["cifar10"], 6)
    with torch.no_grad():
        loss, terms = backbone.loss(x, seeded(3))
        mean, std = backbone.encode(x)
        z = mean + std * torch.randn(mean.shape, generator=seeded(3))
        squares = (backbone.decode(z) - x).square()
    error = sum(squares[i, c].sum().item() for i in range(6) for c in range(3)) / (6 * 3)
    kl = kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).sum(1).mean().item()
    assert terms["kl"].item() == pytest.approx(kl, rel=1e-5)
    assert terms["squared_error"].item() == pytest.approx(error, rel=1e-5)
    assert loss.item() == pytest.approx(error + 0.006 * kl, rel=1e-5)


@pytest.mark.parametrize(
    "dataset, nz, kl_weight, kernel",
    [("mnist", 16, 0.312, 4), ("cifar10", 128, 0.006, 4), ("celeba64", 64, 0.05024, 5)],
)
def test_conv_vae_recipes_are_those_of_the_release(dataset, nz, kl_weight, kernel):
    backbone = tiny(ConvVAE, dataset)
    assert backbone.latent_shape == (nz,)
    assert backbone.config.kl_weight == kl_weight
    kernels = [layer.kernel_size[0] for layer in backbone.encoder if isinstance(layer, nn.Conv2d)]
    assert kernels == [kernel] * 4


@pytest.mark.parametrize("kernel", [3, 4, 5])
@pytest.mark.parametrize("side", [16, 32, 64])
def test_conv_vae_takes_every_kernel_at_every_size(kernel, side):
    backbone = ConvVAE((1, side, side), ConvVAEConfig(width=1, nz=3, kernel=kernel)).eval()
    mean, _ = backbone.encode(torch.rand(2, 1, side, side))
    assert backbone.decode(mean).shape == (2, 1, side, side)


def test_conv_vae_bernoulli_loss_and_weight_are_torchs():
    model = ConvVAE((1, 16, 16), ConvVAEConfig(width=2, nz=3, likelihood="bernoulli", kl_weight=1.0)).eval()
    x = binary(5)
    with torch.no_grad():
        loss, terms = model.loss(x, seeded(1))
        mean, std = model.encode(x)
        z = mean + std * torch.randn(mean.shape, generator=seeded(1))
        log_likelihood = Bernoulli(model.decode(z)).log_prob(x).flatten(1).sum(1)
        kl = kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).sum(1)
        weight = log_likelihood + (Normal(0.0, 1.0).log_prob(z) - Normal(mean, std).log_prob(z)).sum(1)
        assert torch.allclose(model.log_weight(x, seeded(1)), weight, rtol=1e-4)
    assert loss.item() == pytest.approx((kl - log_likelihood).mean().item(), rel=1e-4)
    assert set(terms) == {"bernoulli", "kl"}
    assert ConvVAE((1, 16, 16), ConvVAEConfig(width=2)).log_weight(x, seeded()) is None
    plain = ConvVAE((1, 16, 16), ConvVAEConfig(width=2)).eval()
    with pytest.raises(ValueError, match="no likelihood"):
        importance_weighted_bound(plain, (255 * x).to(torch.uint8), 2, seeded(), lambda *_: None)
