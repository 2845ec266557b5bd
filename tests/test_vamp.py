"""VampPrior behind a frozen encoder: its density, its gradient through the encoder, who is given the backbone."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from draws import CPU, normal, seeded, silent
from posteriors import gaussian_posterior, narrowing
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from benchmark.bundles.bundle import open_bundle
from benchmark.bundles.find import SHIPPED
from benchmark.bundles.prior_file import state_of
from benchmark.check.targets import TARGETS, SquashingVAE
from benchmark.jobs.workspace import Workspace
from benchmark.registry import Registry
from priors.api import AggregatePosterior, Diverged, PosteriorSplit
from priors.vamp import Vamp, VampConfig

SMALL = VampConfig(components=20, steps=60, batch_size=500)


class Curved(torch.nn.Module):
    """A VAE of images 1 x 2 x 2 and three latents, whose posteriors are as wide as the image says."""

    image_shape = (1, 2, 2)

    def __init__(self):
        super().__init__()
        weight = normal(4, 6, 1)
        self.weight = torch.nn.Parameter(weight, requires_grad=False)
        self.seen = []

    def encode(self, x):
        self.seen.append(x.detach())
        mean, log_std = ((x.flatten(1) - 0.5) @ self.weight).chunk(2, 1)
        return 3 * mean, (log_std / 3 - 1).exp()

    def decode(self, z, generator=None):
        return (z @ torch.linalg.pinv(self.weight[:, :3]) / 3 + 0.5).clamp(0, 1).unflatten(1, self.image_shape)


def curved_posterior(n=2_000):
    backbone = Curved()
    splits = [PosteriorSplit(*backbone.encode(torch.rand(n, 1, 2, 2, generator=seeded(seed)))) for seed in (1, 2)]
    return AggregatePosterior(*splits, backbone)


def fitted(posterior, shape=(3,), config=SMALL):
    prior = Vamp(shape, config)
    return prior, prior.fit(posterior, seeded(), silent)


def test_the_density_is_that_of_torch_for_the_encoder_s_posteriors():
    posterior = curved_posterior()
    prior, facts = fitted(posterior)
    mixture = MixtureSameFamily(Categorical(torch.ones(20)), Independent(Normal(prior.means, prior.scales), 1))
    z = posterior.val.sample(200, seeded(4))
    assert torch.allclose(prior.log_prob(z), mixture.log_prob(z), atol=1e-4)
    assert torch.equal(prior.energy(z), -prior.log_prob(z))
    drawn = prior.sample(40_000, seeded(5))
    assert torch.allclose(drawn.mean(0), mixture.mean, atol=0.03)
    assert torch.allclose(drawn.var(0), mixture.variance, rtol=0.03)
    assert drawn.sub(prior.means[:, None]).norm(dim=2).argmin(0).bincount(minlength=20).min() > 0, "all are drawn"
    held_out = posterior.val.sample(20_000, seeded(6))
    assert facts["held_out_nll"] == pytest.approx(-mixture.log_prob(held_out).mean().item(), abs=0.15)


def test_what_is_kept_are_posteriors_of_images():
    """Each kept pair is what the encoder makes of one image that it was shown, whose pixels are in [0, 1]."""
    posterior = curved_posterior()
    posterior.backbone.seen.clear()
    prior, _ = fitted(posterior)
    seen = torch.stack(posterior.backbone.seen)
    assert seen.min() >= 0
    assert seen.max() <= 1
    means, stds = posterior.backbone.encode(seen.flatten(0, 1))
    means, stds = means.view(-1, 20, 3), stds.view(-1, 20, 3)
    assert ((means == prior.means) & (stds == prior.scales)).all(2).all(1).any()
    assert not list(prior.parameters())
    assert {*prior.state_dict()} == {"means", "scales"}


def test_the_likelihood_moves_every_pseudo_image_and_no_weight():
    posterior = curved_posterior()
    before = posterior.backbone.weight.clone()
    posterior.backbone.seen.clear()
    fitted(posterior, config=SMALL.model_copy(update={"steps": 2}))
    first, second = posterior.backbone.seen[:2]
    assert ((first - second).abs().flatten(1).amax(1) > 0).all()
    assert torch.equal(before, posterior.backbone.weight)


def test_the_fit_betters_its_start_and_is_near_the_entropy():
    posterior = gaussian_posterior(torch.tensor([1.0, -2.0]), 0.8)
    posterior = replace(posterior, backbone=SquashingVAE((2,), 0.4))
    config = VampConfig(components=60, steps=200, batch_size=1_000)
    start = Vamp((2,), config.model_copy(update={"steps": 1, "learning_rate": 1e-9}))
    first = start.fit(posterior, seeded(), silent)["held_out_nll"]
    _, facts = fitted(posterior, (2,), config)
    entropy = 2 * Normal(0.0, 0.8).entropy().item()
    assert entropy - 0.03 < facts["held_out_nll"] < entropy + 0.03 < first


def test_widths_are_those_that_the_encoder_can_give():
    """No image has another width: q_agg narrower than every posterior stays out of reach."""
    posterior = replace(gaussian_posterior(torch.zeros(2), 0.3), backbone=SquashingVAE((2,), 1.0))
    prior, facts = fitted(posterior, (2,))
    assert torch.equal(prior.scales, torch.ones(20, 2))
    assert facts["held_out_nll"] > 2 * Normal(0.0, 0.3).entropy().item() + 0.5


def test_it_refuses_an_aggregate_posterior_without_its_encoder_and_latents_that_are_no_numbers():
    posterior = curved_posterior()
    with pytest.raises(TypeError, match="needs the frozen encoder"):
        fitted(AggregatePosterior(posterior.train, posterior.val))
    bad = PosteriorSplit(torch.full((100, 3), math.nan), torch.ones(100, 3))
    with pytest.raises(Diverged, match="not finite"):
        fitted(AggregatePosterior(bad, bad, posterior.backbone))


def test_a_block_is_fitted_as_the_vector_that_it_is():
    split = narrowing(2, 3, 4)
    flat = PosteriorSplit(split._mean.flatten(1), split._std.flatten(1))
    block, _ = fitted(AggregatePosterior(split, split, SquashingVAE((2, 3, 4), 0.3)), (2, 3, 4))
    vector, _ = fitted(AggregatePosterior(flat, flat, SquashingVAE((24,), 0.3)), (24,))
    drawn = block.sample(5, seeded(1))
    assert drawn.shape == (5, 2, 3, 4)
    assert torch.equal(drawn.flatten(1), vector.sample(5, seeded(1)))
    copy = Vamp((2, 3, 4), SMALL)
    copy.load_state_dict(state_of(block))
    assert torch.equal(copy.log_prob(drawn), vector.log_prob(drawn.flatten(1)))


def test_the_encoder_of_a_target_is_what_its_images_have():
    backbone = SquashingVAE((2, 4, 4), 0.5)
    z = TARGETS["block"]().draw(50, seeded())
    image = backbone.decode(z)
    assert image.shape == (50, *backbone.image_shape)
    assert image.min() >= 0
    assert image.max() <= 1
    mean, std = backbone.encode(image)
    assert torch.allclose(mean, z, atol=1e-5)
    assert (std == 0.5).all()


# ---- who is given the backbone ------------------------------------------------------------------------------------


def test_only_a_prior_that_declares_it_is_given_the_backbone():
    bundle, registry = open_bundle(SHIPPED / "digits-conv_vae"), Registry()
    nothing = SimpleNamespace(path=None, card={}, name="", weights=None)
    work = Workspace(bundle, registry, nothing, nothing, None, [], CPU)
    asking = {name for name, cls in registry.all("prior").items() if work.posterior(cls).backbone is not None}
    assert asking == {name for name, cls in registry.all("prior").items() if cls.needs_backbone} == {"vamp"}
    posterior = work.posterior(Vamp)
    assert posterior.train is work.posterior(registry.get("prior", "gmm")).train
    image = posterior.backbone.decode(posterior.train.sample(3, seeded()), seeded())
    assert tuple(image.shape[1:]) == posterior.backbone.image_shape
    pixels = image.clone().requires_grad_()
    mean, std = posterior.backbone.encode(pixels)
    assert mean.shape == std.shape == (3, *bundle.latent_shape)
    (mean.sum() + std.sum()).backward()
    assert (pixels.grad.flatten(1).abs().amax(1) > 0).all()
    assert all(not parameter.requires_grad for parameter in posterior.backbone.parameters())
