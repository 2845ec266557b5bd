"""The importance-weighted bound: it grows with its draws, and is exact where the posterior is."""

import numpy as np
import pytest
import torch
from draws import seeded
from torch.distributions import Normal
from vaes import SMALL, binary, hierarchy

from backbones.conv_vae import ConvVAE, ConvVAEConfig
from backbones.nvae import (
    NVAE,
)
from benchmark.bundles.bound import importance_weighted_bound

pytestmark = pytest.mark.usefixtures("seeded_modules")


@pytest.mark.parametrize(
    "model",
    [
        lambda: hierarchy(),
        lambda: ConvVAE((1, 16, 16), ConvVAEConfig(width=2, nz=3, likelihood="bernoulli", kl_weight=1.0)).eval(),
    ],
    ids=["nvae", "conv_vae"],
)
def test_the_importance_weighted_bound_grows_with_its_draws_from_the_elbo(model):
    model, images = model(), (255 * binary(30)).to(torch.uint8)
    results = {k: importance_weighted_bound(model, images, k, seeded(k), lambda *_: None) for k in (1, 10, 100)}
    means = {k: tightest.mean().item() for k, (tightest, _) in results.items()}
    assert means[1] < means[10] < means[100]
    assert torch.equal(*results[1])
    assert torch.allclose(results[100][1].mean(), results[10][1].mean(), rtol=0.05)
    with torch.no_grad():
        losses = [model.loss(images / 255, seeded(seed))[0].item() for seed in range(40)]
    assert results[100][1].mean().item() == pytest.approx(-np.mean(losses), rel=0.02)


def test_a_linear_models_bound_is_its_exact_log_likelihood():
    """x = 1-d z plus noise in a stand-in with the true posterior: every weight is p(x)."""

    class Linear:
        name = "linear"

        def log_weight(self, x, generator):
            x = x.flatten(1).sum(1)
            posterior = Normal(x / 2, 0.5**0.5)
            z = posterior.mean + posterior.stddev * torch.randn(x.shape, generator=generator)
            return Normal(0.0, 1.0).log_prob(z) + Normal(z, 1.0).log_prob(x) - posterior.log_prob(z)

    images = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None]
    tightest, elbo = importance_weighted_bound(Linear(), images, 7, seeded(), lambda *_: None)
    expected = Normal(0.0, 2**0.5).log_prob(torch.tensor([0.0, 1.0]))
    assert torch.allclose(tightest, expected, atol=1e-5)
    assert torch.allclose(elbo, expected, atol=1e-5)


@pytest.mark.parametrize("cls", [NVAE, ConvVAE])
def test_a_bernoulli_bound_of_grey_images_is_refused(cls):
    settings = {"likelihood": "bernoulli", "width": 2} if cls is ConvVAE else SMALL
    model = cls((1, 16, 16), cls.Config(**settings)).eval()
    with pytest.raises(ValueError, match="0 and 1"):
        model.log_weight(torch.full((2, 1, 16, 16), 0.5), seeded())
