"""The hierarchy: its cells, its residual groups and what they cost against torch.distributions, and its training."""

import math

import pytest
import torch
from draws import CPU, seeded
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence
from vaes import SMALL, binary, hierarchy, reconstructed

from backbones.conv_vae import ConvVAE, ConvVAEConfig
from backbones.nvae import (
    BRANCH,
    NVAE,
    DecoderCell,
    EncoderCell,
    Group,
    NVAEConfig,
    SqueezeExcite,
    _balance,
    _cost,
    residual_kl,
    soft_bound,
)
from benchmark.bundles.bundle import open_bundle
from benchmark.bundles.reference import find_reference
from benchmark.extractors.digit_cnn import DigitCNN
from benchmark.scores.frechet import feature_statistics, frechet_distance

pytestmark = pytest.mark.usefixtures("seeded_modules")
CELLS = {
    "encoder": (lambda: EncoderCell(6, 6), (6, 8, 8)),
    "encoder, wider": (lambda: EncoderCell(6, 10), (10, 8, 8)),
    "encoder, down": (lambda: EncoderCell(6, 10, 2), (10, 4, 4)),
    "decoder": (lambda: DecoderCell(6, 6, 3), (6, 8, 8)),
    "decoder, up": (lambda: DecoderCell(6, 4, 3, up=True), (4, 16, 16)),
}


@pytest.mark.parametrize("name", CELLS)
def test_cells_have_the_shape_and_a_gradient_for_every_parameter(name):
    build, shape = CELLS[name]
    cell = build()
    x = torch.randn(5, 6, 8, 8, generator=seeded())
    y = cell.train()(x)
    assert y.shape == (5, *shape)
    cell.zero_grad()
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in cell.parameters())
    cell.eval()
    with torch.no_grad():
        apart = torch.cat([cell(one) for one in x.split(1)])
        assert torch.allclose(apart, cell(x), atol=1e-5)
        assert torch.equal(cell(x), cell(x))


def test_a_cell_is_its_skip_and_a_tenth_of_its_branch():
    cell = EncoderCell(4, 4).eval()
    x = torch.randn(2, 4, 6, 6, generator=seeded())
    assert isinstance(cell.skip, nn.Identity)
    assert torch.allclose(cell(x), x + 0.1 * cell.branch(x))
    assert BRANCH == 0.1


def test_decoder_cells_are_depthwise_in_the_middle_and_encoder_cells_are_not():
    depthwise = [m for m in DecoderCell(6, 6, 3).modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert [(m.groups, m.kernel_size) for m in depthwise] == [(18, (5, 5))]
    kernels = [m.kernel_size for m in EncoderCell(6, 6).modules() if isinstance(m, nn.Conv2d)]
    assert kernels == [(3, 3), (3, 3)]


def test_squeeze_excite_scales_channels_by_their_means():
    layer, x = SqueezeExcite(8), torch.randn(3, 8, 5, 5, generator=seeded())
    y = layer(x)
    scale = (y / x).flatten(2)
    assert torch.allclose(scale, scale[:, :, :1].expand_as(scale), atol=1e-5)
    assert (scale > 0).all()
    assert (scale < 1).all()
    shuffled = x.flatten(2)[:, :, torch.randperm(25, generator=seeded())].view_as(x)
    assert torch.allclose((layer(shuffled) / shuffled)[:, :, 0, 0], scale[:, :, 0], atol=1e-5)


def test_soft_bound_is_the_identity_near_zero_and_stays_within_five():
    x = torch.linspace(-100, 100, 1001)
    assert soft_bound(x).abs().max() <= 5
    assert (soft_bound(x).diff() >= 0).all()
    assert torch.allclose(soft_bound(torch.tensor([-0.1, 0.05])), torch.tensor([-0.1, 0.05]), atol=1e-4)


def test_the_residual_kl_is_that_of_torch_distributions():
    mean, log_std, shift, log_ratio = (torch.randn(7, 3, 2, 2, generator=seeded(i)).double() for i in range(4))
    posterior = Normal(mean + shift, (log_std + log_ratio).exp())
    expected = kl_divergence(posterior, Normal(mean, log_std.exp())).flatten(1).sum(1)
    assert torch.allclose(residual_kl(shift, log_ratio, log_std), expected)
    assert torch.equal(residual_kl(shift * 0, log_ratio * 0, log_std), torch.zeros(7).double())


def test_the_cost_of_a_draw_is_its_log_ratio():
    mean, log_std, shift, log_ratio, noise = (torch.randn(7, 3, 2, 2, generator=seeded(i)).double() for i in range(5))
    posterior, prior = Normal(mean + shift, (log_std + log_ratio).exp()), Normal(mean, log_std.exp())
    z = posterior.mean + posterior.stddev * noise
    expected = (posterior.log_prob(z) - prior.log_prob(z)).flatten(1).sum(1)
    kl, log_q_over_p = _cost(shift, log_ratio, log_std, noise)
    assert torch.allclose(log_q_over_p, expected)
    assert torch.equal(kl, residual_kl(shift, log_ratio, log_std))


def test_a_group_draws_from_its_prior_without_an_image_and_costs_nothing_where_it_adds_nothing():
    group = Group(8, NVAEConfig(**SMALL)).eval()
    features, bottom_up = (torch.randn(4, 8, 4, 4, generator=seeded(i)) for i in (0, 1))
    above = group.condition(features)
    below = group.draw(above, seeded(2), 1.0)
    assert group.joined(above, below).shape == features.shape
    nn.init.zeros_(group.posterior[-1].weight)
    nn.init.zeros_(group.posterior[-1].bias)
    same, eps, (kl, _) = group.infer(above, bottom_up, seeded(2))
    assert torch.allclose(same, below)
    assert torch.allclose(eps, torch.randn(eps.shape, generator=seeded(2)))
    assert torch.equal(kl, torch.zeros(4))


def test_temperature_scales_the_noise_of_lower_groups():
    model, z = hierarchy(), torch.randn(4, 3, 2, 2, generator=seeded())
    with torch.no_grad():
        cold = [model.decode(z, seeded(seed), temperature=0.0) for seed in (1, 2)]
        warm = [model.decode(z, seeded(seed)) for seed in (1, 2)]
        cool = [model.decode(z, seeded(seed), temperature=0.5) for seed in (1, 2)]
    assert torch.equal(*cold)
    assert not torch.equal(*warm)
    spread = [(a - b).square().mean().item() for a, b in (cool, warm)]
    assert 0 < spread[0] < spread[1]
    apart = torch.cat([model.decode(one, None, temperature=0.0) for one in z.split(1)])
    assert torch.allclose(apart, cold[0], atol=1e-5)


def test_lower_groups_draw_the_same_noise_for_every_latent_of_a_stream():
    """What makes rows of a table differ by the top group alone: the noise below depends on the generator only."""
    model = hierarchy()
    drawn = []
    for seed in (0, 1):
        generator = seeded(5)
        model.decode(torch.randn(4, 3, 2, 2, generator=seeded(seed)), generator)
        drawn.append(generator.get_state())
    assert torch.equal(*drawn)


def test_loss_is_the_bound_of_its_docstring():
    model, x = hierarchy(kl_weight_top=1.0), binary(6)
    with torch.no_grad():
        loss, terms = model.loss(x, seeded(3))
        log_likelihood, costs = model.bound_terms(x, seeded(3))
    kls = [kl.mean() for kl, _ in costs]
    assert len(costs) == 3
    assert [f"kl_{i}" for i in range(3)] == [name for name in terms if name.startswith("kl")]
    assert loss.item() == pytest.approx((sum(kls) - log_likelihood.mean()).item(), rel=1e-6)
    assert all(terms[f"kl_{i}"].item() == pytest.approx(kl.item()) and kl > 0 for i, kl in enumerate(kls))
    mean, std = model.encode(x)
    top = kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).flatten(1).sum(1).mean()
    assert terms["kl_0"].item() == pytest.approx(top.item(), rel=1e-4)


@torch.no_grad()
def test_a_full_reconstruction_is_the_mean_of_the_likelihood_that_the_bound_has():
    model, x = hierarchy(), binary(6)
    log_likelihood, _ = model.bound_terms(x, seeded(3))
    made = model.reconstruct(x, seeded(3))
    assert torch.allclose(Bernoulli(probs=made).log_prob(x).flatten(1).sum(1), log_likelihood, rtol=1e-4)
    mean, std = model.encode(x)
    of_top_alone = model.decode(mean + std * torch.randn(mean.shape, generator=(noise := seeded(3))), noise)
    assert (made - of_top_alone).abs().max() > 1e-3  # the lower groups saw the images as well
    flat = ConvVAE((1, 16, 16), ConvVAEConfig(width=2, nz=3)).eval()
    assert flat.reconstruct(x, seeded()) is None


@pytest.mark.parametrize("setting, groups", [("kl_weight_top", [0]), ("kl_weight_below", [1, 2])])
def test_a_weight_on_groups_counts_there_alone(setting, groups):
    x = binary(6)
    losses = {}
    for weight in (0.0, 1.0, 3.0):
        torch.manual_seed(0)
        losses[weight], terms = hierarchy(**{setting: weight}).loss(x, seeded(3))
    weighed = sum(terms[f"kl_{group}"].item() for group in groups)
    assert (losses[1.0] - losses[0.0]).item() == pytest.approx(weighed, rel=1e-3)
    assert (losses[3.0] - losses[0.0]).item() == pytest.approx(3 * weighed, rel=1e-3)


def test_the_kl_is_warmed_up_and_balanced_while_it_is():
    model, x = hierarchy(warmup=0.5), binary(6)
    with torch.no_grad():
        (start, terms), (half, _), (end, _) = (model.loss(x, seeded(3), progress) for progress in (0.0, 0.25, 0.5))
    kls = torch.stack([terms[f"kl_{i}"] for i in range(3)])
    sizes = torch.tensor([3 * 4, 3 * 16, 3 * 16])
    balanced = (_balance(kls, sizes) * kls).sum()
    nll = terms["negative_log_likelihood"]
    assert start.item() == pytest.approx(nll.item(), rel=1e-6)
    assert half.item() == pytest.approx((nll + 0.5 * balanced).item(), rel=1e-5)
    assert end.item() == pytest.approx((nll + kls.sum()).item(), rel=1e-5)
    weights = _balance(torch.tensor([12.0, 0.0, 96.0]), sizes)
    assert weights.mean().item() == pytest.approx(1)
    assert weights[1] < weights[0] < weights[2]


def test_the_bernoulli_and_the_gaussian_likelihood_are_torchs():
    model, x = hierarchy(), binary(4)
    with torch.no_grad():
        features = model.grow(model._infer(x, seeded(3))[0])
        expected = Bernoulli(logits=model.to_image(features)).log_prob(x).flatten(1).sum(1)
        assert torch.allclose(model._log_likelihood(features, x), expected, rtol=1e-5)
        model, x = hierarchy((3, 16, 16)), torch.rand(4, 3, 16, 16, generator=seeded())
        model.log_scale.fill_(-1.5)
        features = torch.randn(4, 8, 16, 16, generator=seeded(1))
        expected = Normal(model.to_image(features), math.exp(-1.5)).log_prob(x).flatten(1).sum(1)
        assert torch.allclose(model._log_likelihood(features, x), expected, rtol=1e-5)


def test_a_likelihood_std_that_is_set_is_the_pixels_and_is_not_trained():
    model, x = hierarchy((3, 16, 16), likelihood_std=0.2).train(), torch.rand(4, 3, 16, 16, generator=seeded())
    features = torch.randn(4, 8, 16, 16, generator=seeded(1))
    expected = Normal(model.to_image(features), 0.2).log_prob(x).flatten(1).sum(1)
    assert torch.allclose(model._log_likelihood(features, x), expected, rtol=1e-5)
    model.loss(x, seeded())[0].backward()
    assert model.log_scale.grad is None
    assert model.constant.grad.abs().sum() > 0
    learned = hierarchy((3, 16, 16))
    learned.log_scale.data.fill_(-3.0)
    model.load_state_dict(learned.state_dict())  # as a training that starts from that bundle does
    assert torch.allclose(
        model._log_likelihood(features, x),
        Normal(model.to_image(features), 0.2).log_prob(x).flatten(1).sum(1),
        rtol=1e-5,
    )
    with pytest.raises(ValueError, match="leave likelihood_std out"):
        hierarchy(likelihood_std=0.2)


def test_spectral_norms_are_the_largest_singular_values():
    model = hierarchy().train()
    with torch.no_grad():
        for _ in range(300):
            total = model._spectral_norms()
    matrices = [m.weight.flatten(1) for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups == 1]
    expected = sum(torch.linalg.matrix_norm(matrix, 2) for matrix in matrices)
    assert total.item() == pytest.approx(expected.item(), rel=1e-2)
    x = binary(4)
    with torch.no_grad():
        heavy, light = (hierarchy(spectral_weight=weight).train().loss(x, seeded())[0] for weight in (1.0, 0.0))
        assert hierarchy(spectral_weight=1.0).eval().loss(x, seeded())[0] < heavy
    assert heavy > light


def test_batch_norm_is_readjusted_to_what_decoding_passes_and_encoding_is_left_alone():
    model, x = hierarchy(), binary(6)
    encoded = model.encode(x)
    z = torch.randn(20, 16, 3, 2, 2, generator=seeded())
    with torch.no_grad():
        before = model.decode(z[0], seeded(1), temperature=0.5)
        model.readjust_batch_norm(z, seeded(2), temperature=0.5)
        after = model.decode(z[0], seeded(1), temperature=0.5)
    assert not torch.allclose(before, after, atol=1e-4)
    assert not model.training
    assert all(torch.equal(a, b) for a, b in zip(encoded, model.encode(x)))
    seen, norm = [], model.grow[0].branch[0]
    handle = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    generator = seeded(2)
    with torch.no_grad():
        for batch in z:
            model.decode(batch, generator, temperature=0.5)
    handle.remove()
    assert torch.allclose(torch.cat(seen).mean((0, 2, 3)), norm.running_mean, atol=0.1)
    assert norm.momentum == 0.05


@torch.no_grad()
def test_the_setting_of_the_temperature_decides_where_none_is_given():
    warm, cold = hierarchy(), hierarchy(temperature=0.3)
    cold.load_state_dict(warm.state_dict())
    z = torch.randn(4, *warm.latent_shape, generator=seeded())
    assert torch.equal(cold.decode(z, seeded(1)), warm.decode(z, seeded(1), temperature=0.3))
    assert not torch.equal(cold.decode(z, seeded(1)), warm.decode(z, seeded(1)))


def test_a_bundle_is_readjusted_where_that_is_asked_for_and_its_posteriors_are_the_same(squares, tmp_path):
    squares("plain", epochs=1)
    squares("adjusted", epochs=1, readjust_batch_norm=True)
    bundles = [open_bundle(tmp_path / name) for name in ("plain", "adjusted")]
    for one, other in zip(*(bundle.posterior("test", CPU) for bundle in bundles)):
        assert torch.equal(one, other)
    plain, adjusted = (bundle.backbone(NVAE, CPU) for bundle in bundles)
    changed = {n for n, v in plain.state_dict().items() if not torch.equal(v, adjusted.state_dict()[n])}
    assert changed
    assert all("running_" in name or "num_batches" in name for name in changed)
    assert not any(name.startswith(("bottom_up", "shrink")) or ".posterior." in name for name in changed)


def test_the_papers_sizes_are_settings():
    mnist = NVAE((1, 32, 32), NVAEConfig(groups=(5, 10), top_side=4, z_channels=20, width=32))
    assert mnist.latent_shape == (20, 4, 4)
    assert [len(groups) for groups in mnist.groups] == [4, 10]
    celeba = NVAE((3, 64, 64), NVAEConfig(groups=(5, 10, 20), top_side=8, z_channels=20, width=8, max_width=16))
    assert celeba.latent_shape == (20, 8, 8)
    assert [len(groups) for groups in celeba.groups] == [4, 10, 20]
    assert len(celeba.bottom_up) == 35


@pytest.mark.parametrize("shape, part", [((1, 24, 24), "24x24"), ((1, 32, 16), "32x16"), ((1, 4, 4), "power of two")])
def test_images_that_do_not_fit_the_scales_are_named(shape, part):
    with pytest.raises(ValueError, match=f"nvae with 2 scales from 4.*{part}"):
        NVAE(shape, NVAEConfig(groups=(1, 1), top_side=4))


def test_every_prior_runs_on_a_tiny_hierarchy_from_pretraining_to_the_table(squares, tmp_path, cli):
    squares("squares-nvae", epochs=2)
    priors = "gaussian,evalp[steps=20],latent_flow[steps=20],ncp[steps=20,proposals=5],mcmc_ebm[steps=5]"
    words = [
        "--dataset",
        tmp_path / "squares.npz",
        "--bundle",
        tmp_path / "squares-nvae",
        "--seeds",
        1,
        "--device",
        "cpu",
    ]
    done = cli("run", *words, "--priors", priors, "--metrics", "fd,mmd,samples", "--results", tmp_path / "results")
    assert done.code == 0, done.err
    assert all(f"| {name}" in done.out for name in ("evalp", "latent_flow", "ncp", "mcmc_ebm", "gaussian"))
    assert not list((tmp_path / "squares-nvae" / "reference").glob("*-train-*"))
    seen = {split: reconstructed(tmp_path / "squares-nvae", split) for split in ("val", "test")}
    assert {split: len(features) for split, features in seen.items()} == {"val": 40, "test": 60}
    (row,) = [line for line in done.out.splitlines() if "| full_reconstruction" in line]
    reference = find_reference(open_bundle(tmp_path / "squares-nvae"), DigitCNN(), "test")
    fd = frechet_distance(feature_statistics(seen["test"]), reference.statistics(CPU))
    assert float(row.split("|")[2]) == pytest.approx(fd, rel=0.01)
    assert row.rstrip(" |").endswith("1")
    assert not row.split("|")[3].strip(), "no share of a gap that is the top group's"
    bound = cli(
        "bound",
        "--dataset",
        tmp_path / "squares.npz",
        "--bundle",
        tmp_path / "squares-nvae",
        "--samples",
        5,
        "--device",
        "cpu",
    )
    assert bound.code == 0
    assert "L_5 = -" in bound.out
    assert "L_1 = -" in bound.out
    assert "60 test images" in bound.out
