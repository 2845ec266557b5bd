"""A prior trained with its VAE: its pull, kills, an optimum that is known, the bundle of both, arms compared."""

import functools
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commands import only_line
from draws import CPU, seeded, silent
from safetensors.torch import load_file
from torch import nn
from torch.distributions import MultivariateNormal, Normal
from vaes import bright_squares, tiny

from backbones.api import Backbone, BackboneConfig
from backbones.conv_vae import ConvVAE, ConvVAEConfig
from backbones.training import DamagedCheckpoint, TrainingDiverged, train
from benchmark.bundles.bundle import open_bundle
from benchmark.bundles.joint import JointPrior, PriorChoice, TrainingFailed, active_units, ramp, tilt, whole
from benchmark.bundles.prior_file import load_prior_file, read_facts
from benchmark.joint.arms import _framing_scores, _Seed
from benchmark.joint.bound import bound_with_prior, log_normaliser
from benchmark.registry import Registry
from benchmark.report.joint import write_joint_page
from benchmark.store.arms import ARMS, records_in
from benchmark.store.sealed import Damaged, read_sealed, write_sealed
from priors.api import LatentPrior, PosteriorSplit, PriorConfig
from priors.evalp import EVaLP
from priors.gaussian import Gaussian
from priors.latent_flow import LatentFlow
from priors.mcmc_ebm import MCMCEBM
from priors.parts.standard_normal import log_standard_normal

pytestmark = pytest.mark.usefixtures("seeded_modules")

RESULTS = Path(__file__).parent.parent / "results"
#: priors with updates, with settings that make them quick
JOINT = {
    "evalp": (EVaLP, {"batch_size": 8, "energy_steps": 2, "energy_width": 8, "sampler_width": 8}),
    "evalp-rmsprop": (EVaLP, {"batch_size": 8, "optimiser": "rmsprop", "energy_width": 8, "sampler_width": 8}),
    "latent_flow": (LatentFlow, {"batch_size": 8, "width": 8}),
    "mcmc_ebm": (MCMCEBM, {"batch_size": 8, "width": 8, "langevin_steps": 3}),
}
every_prior = pytest.mark.parametrize("cls, settings", JOINT.values(), ids=JOINT)


def built(cls, settings, latent_shape=(4,), seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        prior = cls(latent_shape, cls.Config(**settings))
        with torch.no_grad():
            for parameter in prior.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return prior


def test_every_prior_that_has_updates_is_held_here():
    registered = Registry().all("prior").values()
    assert {cls for cls in registered if cls.updates is not LatentPrior.updates} == {cls for cls, _ in JOINT.values()}
    assert Gaussian((2,), Gaussian.Config()).updates() is None


# The pull


@every_prior
def test_the_pull_is_the_gradient_of_energy_against_the_base(cls, settings):
    """Of t(z) = energy(z) + log N(z; 0, I), by finite differences in float64; its value is t's mean."""
    prior = built(cls, settings).double()
    z = torch.randn(6, 4, generator=seeded(1), dtype=torch.float64).requires_grad_()
    value = tilt(prior, z)
    (gradient,) = torch.autograd.grad(value, z)

    @torch.no_grad()
    def t(at):
        return (prior.energy(at) + log_standard_normal(at)).mean()

    step = 1e-6
    for row, column in ((0, 0), (3, 2), (5, 3)):
        moved = torch.zeros_like(z)
        moved[row, column] = step
        slope = (t(z + moved) - t(z - moved)) / (2 * step)
        assert gradient[row, column].item() == pytest.approx(slope.item(), abs=1e-7)
    assert value.item() == pytest.approx(t(z).item(), abs=1e-10)
    assert all(parameter.grad is None for parameter in prior.parameters())


def test_evalps_pull_is_the_input_gradient_of_its_energy_network_cut_at_one():
    prior = built(*JOINT["evalp"])
    with torch.no_grad():
        prior.energy_network.last.weight.mul_(20)
    z = torch.randn(50, 4, generator=seeded(1)).requires_grad_()
    (gradient,) = torch.autograd.grad(tilt(prior, z, prior.updates().steepest), z)
    _, slope = prior.energy_network.value_and_input_gradient(z.detach())
    length = slope.norm(dim=1, keepdim=True)
    assert (length > 1).any()
    assert (length < 1).any()
    assert torch.allclose(50 * gradient, slope / length.clamp(min=1), atol=1e-5)


def test_the_weight_rises_evenly_to_one_in_the_first_third():
    assert [ramp(share) for share in (0.0, 1 / 6, 1 / 3, 0.9)] == pytest.approx([0, 0.5, 1, 1])
    assert whole(0.0) == 1


# The loop


class Interrupted(Exception):
    pass


def trained(checkpoint, joint, init=0, stop_at=None, epochs=3):
    """A tiny conv_vae on squares with what `joint(latent_shape)` makes for it -> (backbone, companion, log)."""

    def progress(step, total, **values):
        if stop_at == (values["epoch"], "val_loss" in values):
            raise Interrupted

    backbone = tiny(ConvVAE, init=init, epochs=epochs, batch_size=8)
    companion = joint and joint(backbone.latent_shape)
    log = train(backbone, bright_squares(30), bright_squares(10, seed=1), 7, checkpoint, progress, companion)
    return backbone, companion, log


def same_state(one: nn.Module, other: nn.Module) -> bool:
    state = other.state_dict()
    return all(torch.equal(value, state[name]) for name, value in one.state_dict().items())


@every_prior
def test_a_prior_that_pulls_with_nothing_leaves_the_plain_training_bit_for_bit(cls, settings, tmp_path):
    """The last epoch of the plain one is its best, so that both keep the same."""
    plain, _, of_plain = trained(tmp_path / "plain.pt", None)
    assert of_plain.best_epoch == 3
    start = built(cls, settings, plain.latent_shape)
    idle, companion, log = trained(
        tmp_path / "idle.pt", lambda shape: JointPrior(built(cls, settings, shape), lambda share: 0.0)
    )
    assert same_state(plain, idle)
    assert (log.train_loss, log.val_loss) == (of_plain.train_loss, of_plain.val_loss)
    assert not same_state(start, companion.prior), "the prior is trained all the same"
    pulled, _, _ = trained(tmp_path / "pulled.pt", lambda shape: JointPrior(built(cls, settings, shape)))
    assert not same_state(plain, pulled)
    assert of_plain.watched == []


@every_prior
@pytest.mark.parametrize(
    "stops", [[(1, True)], [(2, False)], [(1, True), (3, False)]], ids=["epoch", "middle", "twice"]
)
def test_an_interrupted_joint_training_ends_like_an_uninterrupted_one(cls, settings, stops, tmp_path):
    """Exactly: backbone, prior, what its optimisers remember, and log, though who resumes starts from other ones."""

    def other(shape, seed):
        return JointPrior(built(cls, settings, shape, seed))

    whole_run = trained(tmp_path / "whole.pt", functools.partial(other, seed=0))
    for attempt, stop in enumerate(stops):
        joint = functools.partial(other, seed=10 * attempt)
        with pytest.raises(Interrupted):
            trained(tmp_path / "cut.pt", joint, 10 * attempt, stop)
        torch.manual_seed(100 + attempt)
    resumed = trained(tmp_path / "cut.pt", functools.partial(other, seed=99), 99)
    assert same_state(whole_run[0], resumed[0])
    assert same_state(whole_run[1].prior, resumed[1].prior)
    assert repr(whole_run[1].state_dict()) == repr(resumed[1].state_dict())
    logs = [{name: value for name, value in vars(of[2]).items() if name != "seconds"} for of in (whole_run, resumed)]
    assert logs[0] == logs[1]
    assert logs[0]["best_epoch"] == 3, "the prior's state is of the last epoch, so the backbone's is, too"


def test_a_checkpoint_of_a_training_without_a_prior_is_none_of_one_with_it(tmp_path):
    trained(tmp_path / "c.pt", None)
    with pytest.raises(DamagedCheckpoint):
        trained(tmp_path / "c.pt", lambda shape: JointPrior(built(*JOINT["evalp"], shape)))


def test_a_prior_that_is_not_finite_is_a_training_that_diverged(tmp_path):
    def broken(shape):
        prior = built(*JOINT["evalp"], shape)
        with torch.no_grad():
            prior.energy_network.last.weight.fill_(math.nan)
        return JointPrior(prior)

    with pytest.raises(TrainingDiverged, match="epoch 1"):
        trained(tmp_path / "c.pt", broken)


def test_what_is_watched_is_what_it_says(tmp_path):
    backbone, companion, log = trained(tmp_path / "c.pt", lambda shape: JointPrior(built(*JOINT["latent_flow"], shape)))
    assert len(log.watched) == 3
    images = bright_squares(10, seed=1)
    with torch.no_grad():
        mean, std = backbone.eval().encode(images / 255)
    assert log.watched[-1]["std"] == pytest.approx(std.mean().item(), rel=1e-5)
    assert log.watched[-1]["active_units"] == (mean.var(0) > 0.01).sum()
    assert active_units(torch.tensor([[0.0, 1.0, 0.05], [1.0, 1.0, -0.05]])) == 1

    class Same(LatentPrior):
        """Whose draws are those of q_agg, with a density that is N(0, I)'s."""

        def fit(self, posterior, generator, progress): ...

        def sample(self, n, generator):
            return PosteriorSplit(mean, std).sample(n, generator)

        def log_prob(self, z):
            return log_standard_normal(z)

    companion.prior = Same(backbone.latent_shape, PriorConfig())
    assert abs(companion.watch(backbone, images)["hole"]) < 0.5
    far = Gaussian(backbone.latent_shape, Gaussian.Config())
    far.sample = lambda n, generator: 9 + torch.randn(n, *backbone.latent_shape, generator=generator)
    companion.prior = far
    assert companion.watch(backbone, images)["hole"] > 1
    rates = [companion.watch(backbone, images)["rate"]]
    kl = torch.distributions.kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).sum(1).mean().item()
    assert rates[0] == pytest.approx(kl, abs=2.5)


# A linear-Gaussian VAE, whose optimum is known


class Linear(Backbone):
    """x = z + N(0, s^2): pixels are z themselves, and q(z|x) is a Gaussian whose mean is linear in x."""

    name = "linear"
    latent_shape = (2,)
    noise = 0.5

    def __init__(self, image_shape, config) -> None:
        super().__init__(image_shape, config)
        self.matrix, self.shift = nn.Parameter(torch.eye(2)), nn.Parameter(torch.zeros(2))
        self.log_std = nn.Parameter(torch.zeros(2))

    def encode(self, x):
        return x.flatten(1) @ self.matrix.T + self.shift, self.log_std.exp().expand(len(x), -1)

    def decode(self, z, generator=None):
        return z[:, None, None]

    def loss(self, x, generator, progress=1.0, pull=None):
        mean, std = self.encode(x)
        z = mean + std * torch.randn(mean.shape, generator=generator)
        error = (x.flatten(1) - z).square().sum(1).mean() / (2 * self.noise**2)
        kl = (0.5 * (mean**2 + std**2 - 1) - std.log()).sum(1).mean()
        return error + (kl if pull is None else kl + pull(mean, std, z)), {"kl": kl}


def test_a_linear_gaussian_vae_and_a_flow_reach_the_optimum_together(monkeypatch, tmp_path):
    """x ~ N(m, V): the learned prior is N(m, V - s^2) and the posterior's mean linear, as Bayes has it.

    Under N(0, I), which no data of this mean and spread has, posterior and marginal are others.
    """
    m, v = torch.tensor([1.5, -1.0]), torch.tensor([1.0, 0.6])  # variances
    data = m + v.sqrt() * torch.randn(3_000, 2, generator=seeded(1))
    x = data[:, None, None]
    monkeypatch.setattr("backbones.training.as_input", lambda images: images)
    monkeypatch.setattr("benchmark.bundles.joint.posterior", lambda backbone, images: backbone.encode(images))
    settings = BackboneConfig(epochs=20, batch_size=100, learning_rate=0.02)
    ends = {}
    for name in ("joint", "plain"):
        vae = Linear((1, 1, 2), settings)
        prior = LatentFlow((2,), LatentFlow.Config(width=16, batch_size=200, learning_rate=3e-3))
        companion = JointPrior(prior) if name == "joint" else None
        train(vae, x, x[:100], 0, tmp_path / f"{name}.pt", silent, companion)
        ends[name] = vae, prior
    vae, prior = ends["joint"]
    of_prior = v - Linear.noise**2
    gain = of_prior / v
    assert torch.allclose(vae.matrix.detach(), torch.diag(gain), atol=0.06)
    assert torch.allclose(vae.shift.detach(), (1 - gain) * m, atol=0.1)
    assert torch.allclose(vae.log_std.detach().exp(), (of_prior * Linear.noise**2 / v).sqrt(), atol=0.04)
    fresh = MultivariateNormal(m, torch.diag(of_prior))
    z = fresh.sample((4_000,))
    with torch.no_grad():
        divergence = (fresh.log_prob(z) - prior.log_prob(z)).mean().item()
    assert 0 <= divergence + 0.02 < 0.07
    assert not torch.allclose(ends["plain"][0].shift.detach(), (1 - gain) * m, atol=0.2)


# Bounds


def test_the_bound_of_a_linear_gaussian_model_with_its_own_prior_is_its_likelihood(monkeypatch):
    """q(z|x) is the true posterior, so that every weight is p(x)."""
    monkeypatch.setattr("benchmark.joint.bound.as_input", lambda images: images)

    class Wide(LatentPrior):
        """N(1, 4 I), which has an energy up to a constant."""

        def fit(self, posterior, generator, progress): ...

        def sample(self, n, generator):
            return 1 + 2 * torch.randn(n, 2, generator=generator)

        def log_prob(self, z):
            return Normal(1.0, 2.0).log_prob(z).sum(1)

        def energy(self, z):
            return 7 - self.log_prob(z)

    class Exact(Linear):
        def encode(self, x):
            variance = 1 / (1 / 4 + 1 / self.noise**2)
            mean = variance * (1 / 4 + x.flatten(1) / self.noise**2)
            return mean, torch.full_like(mean, variance**0.5)

        def log_likelihood(self, x, z):
            return Normal(z, self.noise).log_prob(x.flatten(1)).sum(1)

    prior, x = Wide((2,), PriorConfig()), 3 * torch.randn(20, 1, 1, 2, generator=seeded(2))
    log_z, ess = log_normaliser(prior, seeded(3))
    assert log_z == pytest.approx(-7, abs=0.02)
    assert 0.3 < ess <= 1
    values = bound_with_prior(Exact((1, 1, 2), BackboneConfig()), prior, x, 3, seeded(4), silent)
    expected = Normal(1.0, (4 + Linear.noise**2) ** 0.5).log_prob(x).sum((1, 2, 3)).mean().item()
    assert values["bound"] == pytest.approx(expected, abs=1e-3)
    assert values["bound_energy"] == pytest.approx(expected, abs=0.02)
    assert values["bound_normal"] < expected - 0.3
    assert bound_with_prior(Linear((1, 1, 2), BackboneConfig()), prior, x, 3, seeded(4), silent) == {}


def test_evalps_normaliser_is_that_of_quadrature():
    prior = built(EVaLP, {"energy_width": 16, "sampler_width": 8}, (2,))
    with torch.no_grad():
        axis = torch.linspace(-8, 8, 400)
        density = (-prior.energy(torch.cartesian_prod(axis, axis))).exp().view(400, 400)
        exact = torch.trapezoid(torch.trapezoid(density, axis), axis).log().item()
    assert log_normaliser(prior, seeded(1))[0] == pytest.approx(exact, abs=0.03)


@pytest.mark.parametrize("channels, kl_weight", [(1, 0.312), (3, 0.02)])
def test_the_loss_over_its_weight_is_an_evidence_bound_under_its_likelihood(channels, kl_weight):
    vae = ConvVAE((channels, 16, 16), ConvVAEConfig(width=2, nz=3, kl_weight=kl_weight)).eval()
    x = torch.rand(5, channels, 16, 16, generator=seeded(1))
    with torch.no_grad():
        loss, terms = vae.loss(x, seeded(2))
        mean, std = vae.encode(x)
        z = mean + std * torch.randn(mean.shape, generator=seeded(2))
        elbo = vae.log_likelihood(x, z).mean() - terms["kl"]
    constant = x[0].numel() / 2 * math.log(math.pi * kl_weight * channels)
    assert elbo.item() == pytest.approx(-loss.item() / kl_weight - constant, rel=1e-5)
    assert ConvVAE((1, 16, 16), ConvVAEConfig(width=2, nz=3, kl_weight=0)).log_likelihood(x[:, :1], z) is None
    with pytest.raises(ValueError, match="0 and 1"):
        ConvVAE((1, 16, 16), ConvVAEConfig(width=2, nz=3, likelihood="bernoulli")).log_likelihood(x[:, :1], z)


# The command `pretrain`

QUICK = "evalp[energy_width=8,sampler_width=8,energy_steps=2,steps=20]"
SETTINGS = {"width": 2, "nz": 6, "batch_size": 32}


@pytest.fixture
def pretrained(small_bundle, tmp_path, cli):
    """`pretrained(name, *words)`: a bundle of the small digits, and what was said."""

    def make(name, *words, code=0, epochs=1, **settings):
        typed = {"epochs": epochs} | SETTINGS | settings
        settings = [word for name, value in typed.items() for word in ("--set", f"{name}={value}")]
        words = ["--device", "cpu", "--out", tmp_path / name, *settings, *words]
        done = cli("pretrain", "--dataset", small_bundle.parent / "small.npz", *words)
        assert done.code == code, done.err
        return open_bundle(tmp_path / name) if code == 0 else done

    return make


def test_a_bundle_holds_the_prior_that_it_was_trained_with(pretrained):
    bundle = pretrained("joint", "--prior", QUICK, epochs=2)
    card = bundle.card["training"]
    assert card["prior"]["name"] == "evalp"
    assert card["prior"]["settings"]["energy_width"] == 8
    assert [set(each) for each in card["watched"]] == 2 * [{"active_units", "std", "hole", "rate"}]
    prior = bundle.open_prior(Registry(), CPU)
    assert prior.sample(3, seeded()).shape == (3, 6)
    assert not any(parameter.requires_grad for parameter in prior.parameters())
    assert read_facts(bundle.prior_path)["trained"] == "with its VAE"
    with open(bundle.prior_path, "r+b") as file:
        file.truncate(100)
    with pytest.raises(Damaged, match=r"prior\.safetensors"):
        open_bundle(bundle.path)


def test_a_plain_bundle_has_no_prior_and_a_card_as_ever(pretrained):
    bundle = pretrained("plain")
    assert bundle.prior_path is None
    assert not {"prior", "start", "watched"} & bundle.card["training"].keys()
    with pytest.raises(Exception, match="trained without a prior"):
        bundle.open_prior(Registry(), CPU)


def test_a_training_begins_with_a_bundle_and_the_prior_is_fitted_to_it_or_is_its_own(pretrained, tmp_path):
    """At a learning rate of next to nothing, weights stay those of the start, but for float16; so does a prior."""
    start = pretrained("start", "--prior", QUICK, epochs=3)
    still = {"learning_rate": 1e-12}
    on = pretrained("on", "--start", start.path, **still)
    weights, others = (load_file(each.path / "weights.safetensors") for each in (start, on))
    names = [name for name in weights if "running" not in name and "tracked" not in name]
    assert all(torch.allclose(weights[name].float(), others[name].float(), atol=1e-6) for name in names)
    assert on.card["training"]["start"] == start.id
    assert on.prior_path is None
    slow = "evalp[energy_width=8,sampler_width=8,learning_rate=1e-12]"
    own = pretrained("own", "--start", start.path, "--prior", slow, **still)
    states = [load_file(each.prior_path) for each in (start, own)]
    assert all(torch.allclose(states[0][name], states[1][name], atol=1e-6) for name in states[0])
    fitted = pretrained("fitted", "--start", on.path, "--prior", QUICK, **still)
    fresh = PriorChoice(EVaLP, {}).build("digits", (6,), 0, CPU)
    assert fitted.prior_path is not None
    assert load_file(fitted.prior_path).keys() == fresh.state_dict().keys()


@pytest.mark.parametrize(
    "words, said",
    [
        (["--prior", "gmm"], "gmm cannot be trained with a VAE"),
        (["--prior", "evalq"], "did you mean 'evalp'"),
        (["--prior", "evalp[kl=1]"], "unknown setting of prior evalp 'kl'"),
        (["--prior", "evalp[steps=1,2]"], "one prior with one value"),
        (["--start", "nosuch"], "unknown bundle 'nosuch'"),
        (["--start", "mnist-conv_vae"], "was trained on other images"),
    ],
)
def test_bad_words_are_one_line(words, said, pretrained):
    assert said in only_line(pretrained("bad", *words, code=2))


def test_networks_that_do_not_fit_are_one_line(pretrained, small_bundle, tmp_path, cli):
    start = pretrained("start", "--prior", QUICK)
    assert "other settings" in pretrained("bad", "--start", start.path, code=2, nz=4).err.splitlines()[-1]
    other = ["--start", start.path, "--prior", "evalp[energy_width=9]"]
    assert "networks of other settings" in pretrained("bad", *other, code=2).err.splitlines()[-1]
    words = ["--dataset", small_bundle.parent / "small.npz", "--backbone", "nvae", "--prior", "evalp"]
    assert "its loss takes no `pull`" in only_line(cli("pretrain", *words, "--out", tmp_path / "x"))
    assert not (tmp_path / "x").exists()


def test_a_prior_goes_on_with_all_settings_that_it_has_but_those_typed(pretrained):
    """They need not be typed again, and where they change no shape nothing would say that they were forgotten."""
    start = pretrained("start", "--prior", QUICK)
    on = pretrained("on", "--start", start.path, "--prior", "evalp[gp_weight=3]")
    kept, now = (read_facts(each.prior_path)["settings"] for each in (start, on))
    assert now == {**kept, "gp_weight": 3.0}
    assert now["energy_width"] == 8


def test_a_file_that_is_none_of_a_prior_is_damaged(tmp_path):
    (tmp_path / "prior.safetensors").write_bytes(b"none")
    with pytest.raises(Damaged, match="not the file of a fitted prior"):
        load_prior_file(tmp_path / "prior.safetensors", EVaLP)


# The command `joint`


@pytest.fixture
def joint(small_bundle, tmp_path, cli, monkeypatch):
    """`joint(*words)`: the comparison on the small digits, with short scores."""
    monkeypatch.setattr("benchmark.joint.arms.BOUND", {"quick": (20, 3)})
    monkeypatch.setattr("benchmark.joint.bound.NORMALISER_DRAWS", 200)
    settings = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
    words = ["--dataset", small_bundle.parent / "small.npz", "--device", "cpu", *settings, "--results", tmp_path / "r"]
    return lambda *more: cli("joint", *words, *more)


FRAME = ("fd_normal", "fd_aggregate")
PRIOR = ("--prior", "evalp[energy_width=8,sampler_width=8,energy_steps=2]")


def test_four_arms_are_trained_scored_and_compared_and_the_page_follows_from_records(joint, tmp_path, monkeypatch):
    framed = []

    def count(jobs, work):
        framed.append((work.bundle.id, jobs["gaussian"].seed))
        return _framing_scores(jobs, work)

    monkeypatch.setattr("benchmark.joint.arms._framing_scores", count)
    done = joint(*PRIOR, "--seeds", 2)
    assert done.code == 0, done.err
    records = [read_sealed(path) for path in sorted(records_in(tmp_path / "r").glob("*.json"))]
    assert sorted((record["arm"], record["seed"]) for record in records) == sorted(
        (arm, seed) for arm in ARMS for seed in (0, 1)
    )
    by_arm = {(record["arm"], record["seed"]): record for record in records}
    assert len({json.dumps(record["experiment"], sort_keys=True) for record in records}) == 1
    refitted, together = by_arm["joint, prior refitted", 0], by_arm["joint", 0]
    assert refitted["bundle"] == together["bundle"]
    assert refitted["values"]["distortion"] == together["values"]["distortion"]
    assert refitted["values"]["bound"] != together["values"]["bound"]
    assert {name: refitted["values"][name] for name in FRAME} == {name: together["values"][name] for name in FRAME}
    assert len(framed) == len(set(framed)) == 2 * 3, "four arms have three VAEs, each framed once"
    starts = {arm: by_arm[arm, 0] for arm in ("two-stage", "two-stage, then joint")}
    cards = [read_sealed(path) for path in (tmp_path / "cache" / "bundles").glob("*/bundle.json")]
    start_of = {card["seal"]: card["training"].get("start") for card in cards}
    assert len({start_of[record["bundle"]] for record in starts.values()}) == 1, "one training is the start of both"
    (then_joint,) = (card for card in cards if card["seal"] == starts["two-stage, then joint"]["bundle"])
    assert then_joint["training"]["prior"]["settings"]["steps"] == 2 * 5 * (160 // 32)
    for record in records:
        assert {"bound", "bound_energy", "fd", "mmd_imq", "rate", "distortion", "std"} <= record["values"].keys()
        assert all(math.isfinite(value) for value in record["values"].values())
    page = (tmp_path / "r" / "joint.md").read_text()
    bound = np.mean([by_arm["joint", seed]["values"]["bound"] for seed in (0, 1)])
    assert f"{bound:.2f} ±" in page
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "r" / "joint.md").unlink()
    assert joint().code == 0
    assert (tmp_path / "r" / "joint.md").read_text() == page


def test_a_comparison_that_was_cut_goes_on_and_ends_with_the_same_numbers(joint, tmp_path, monkeypatch):
    done = joint(*PRIOR, "--seeds", 1)
    assert done.code == 0, done.err

    def scores():
        found = [read_sealed(path) for path in records_in(tmp_path / "r").glob("*.json")]
        return {record["arm"]: record["values"] for record in found}

    whole_scores = scores()
    shutil.rmtree(tmp_path / "r")
    shutil.rmtree(tmp_path / "cache")
    real = train
    calls = []

    def cut(backbone, images, val, seed, checkpoint, progress, companion=None):
        """Each training ends in the middle of its last epoch, once."""

        def stop(step, total, **values):
            progress(step, total, **values)
            if "val_loss" not in values and values["epoch"] == backbone.config.epochs and checkpoint not in calls:
                calls.append(checkpoint)
                raise KeyboardInterrupt

        return real(backbone, images, val, seed, checkpoint, stop, companion)

    monkeypatch.setattr("benchmark.bundles.pretrain.train", cut)
    codes = []
    while not codes or codes[-1] == 130:
        done = joint(*PRIOR, "--seeds", 1)
        codes.append(done.code)
        assert len(codes) < 10, done.err
    assert codes == [*5 * [130], 0]
    assert scores() == whole_scores
    before = {path: path.read_bytes() for path in records_in(tmp_path / "r").glob("*.json")}
    monkeypatch.setattr("benchmark.joint.arms.bound_with_prior", lambda *_: 1 // 0)
    assert joint(*PRIOR, "--seeds", 1).code == 0, "nothing is scored twice"
    assert {path: path.read_bytes() for path in records_in(tmp_path / "r").glob("*.json")} == before


def test_an_arm_that_fails_is_recorded_and_named_and_the_others_are_scored(joint, tmp_path, monkeypatch):
    def fail(prior, *_):
        raise TrainingFailed("its fit diverged")

    monkeypatch.setattr("benchmark.bundles.pretrain.fit_to", fail)
    done = joint(*PRIOR, "--seeds", 1)
    assert done.code == 1
    assert "two-stage, then joint, seed 0: its fit diverged" in done.err
    page = (tmp_path / "r" / "joint.md").read_text()
    assert "- two-stage, then joint, seed 0: its fit diverged" in page
    assert len(list(records_in(tmp_path / "r").glob("*.json"))) == 4
    assert sum(line.startswith(("| two-stage", "| joint")) for line in page.splitlines()) == 3 + 2


@pytest.mark.parametrize(
    "words, said",
    [
        ([*PRIOR, "--set", "epochs=7"], "a multiple of 6"),
        (["--prior", "gmm"], "cannot be trained with a VAE"),
        ([*PRIOR, "--images", "999"], "fewer than the 999 asked"),
        ([], "no records of a comparison here"),
    ],
)
def test_a_comparison_that_cannot_be_is_one_line(words, said, joint):
    assert said in only_line(joint(*words))


def test_a_damaged_record_is_left_out_and_named(tmp_path):
    write_sealed(records_in(tmp_path) / "a.json", {"arm": "joint"})
    path = records_in(tmp_path) / "a.json"
    path.write_text(path.read_text().replace("joint", "juint"))
    _, (damaged,) = write_joint_page(tmp_path)
    assert "a.json" in damaged
    assert not (tmp_path / "joint.md").exists()


OF_AN_ARM = {
    "arm": "joint",
    "seed": 0,
    "values": {"bound": -1.0},
    "experiment": {
        "dataset": "digits",
        "backbone": {"name": "conv_vae", "config": {}},
        "images": 9,
        "epochs": 6,
        "prior": {"label": "evalp"},
        "score": "digit-cnn",
        "device": "cpu",
    },
}


@pytest.mark.parametrize(
    "field, value",
    [("arm", "fifth"), ("seed", "zero"), ("values", []), ("values", {"bound": "low"}), ("experiment", {})],
)
def test_a_sealed_record_of_something_else_is_left_out_and_named(field, value, tmp_path):
    write_sealed(records_in(tmp_path) / "a.json", OF_AN_ARM)
    write_sealed(records_in(tmp_path) / "b.json", {**OF_AN_ARM, field: value})
    _, (said,) = write_joint_page(tmp_path)
    assert "b.json" in said
    assert field in said
    assert (tmp_path / "joint.md").read_text().count("## evalp on digits") == 1


def test_claims_of_joint_training_are_judged_in_findings_from_the_records(tmp_path, cli):
    """Arms of known differences: a bound higher by a nat with every seed, an FD that is not, one that failed."""
    for seed, noise in enumerate((0.0, 0.1, -0.1)):
        arms = {"two-stage": (-40, 3), "joint": (-39 + noise, 3 + noise), "two-stage, then joint": (-41, 4)}
        for arm, (bound, fd) in arms.items():
            values = {"bound": float(bound), "fd": float(fd)}
            reason = {"reason": "it diverged", "values": {}} if (arm, seed) == ("two-stage, then joint", 2) else {}
            record = OF_AN_ARM | {"arm": arm, "seed": seed, "values": values} | reason
            write_sealed(records_in(tmp_path) / f"{arm}-{seed}.json", record)
    assert cli("joint", "--results", tmp_path).code == 0
    lines = (tmp_path / "findings.md").read_text().splitlines()
    rows = [line.split("|")[1:] for line in lines if line.startswith("| evalp")]
    found = [[cell.strip() for cell in row[:5]] for row in rows]
    assert [(verdict.strip("*"), number, seeds) for _, verdict, number, _, seeds in found] == [
        ("held", "1", "3"),
        ("undecided", "0", "3"),
        ("undecided", "-1", "2"),
        ("undecided", "1", "2"),
    ]
    assert found[0][0] == "evalp trained with its VAE from the start has a higher bound than in two stages"
    assert rows[0][5].strip() == "digits, conv_vae (), 9 images"
    assert "[joint](joint.md)" in rows[0][6]


def test_the_leaderboard_rewrites_the_page_from_records_alone(tmp_path, cli):
    """The page is the one that `joint` writes; a damaged record is named, and is an error as one of a run is."""
    shutil.copytree(records_in(RESULTS), records_in(tmp_path))
    assert cli("leaderboard", "--results", tmp_path).code == 0
    assert (tmp_path / "joint.md").read_bytes() == (RESULTS / "joint.md").read_bytes()
    (tmp_path / "joint.md").unlink()
    assert cli("joint", "--results", tmp_path).code == 0
    assert (tmp_path / "joint.md").read_bytes() == (RESULTS / "joint.md").read_bytes()
    write_sealed(records_in(tmp_path) / "a.json", {"arm": "joint"})
    done = cli("leaderboard", "--results", tmp_path)
    assert done.code == 1
    assert "left out" in done.err
    assert "a.json" in done.err
    assert (tmp_path / "joint.md").read_bytes() == (RESULTS / "joint.md").read_bytes()


@pytest.mark.parametrize("config, settings", [(EVaLP.Config, {"steps": 7, "scale": 2}), (PriorConfig, {"scale": 2})])
def test_an_arm_says_steps_only_to_a_prior_that_has_them(config, settings):
    choice = SimpleNamespace(cls=SimpleNamespace(Config=config), settings={"scale": 2})
    one = _Seed(SimpleNamespace(choice=choice), 0, 6, None, None)
    assert one._with_steps(7) == settings
