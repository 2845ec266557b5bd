"""Every prior that comes with the suite is held to the contract; the contract catches priors that break it."""

import math
import re

import numpy as np
import pytest
import torch
from draws import CPU, seeded
from scipy import integrate
from torch import nn
from torch.distributions import MultivariateNormal

from benchmark.check.contract import CONTRACT, check, count_passes, divergence, learning
from benchmark.check.new_prior import new_prior
from benchmark.check.targets import TARGETS
from benchmark.jobs.failures import Broken
from benchmark.jobs.plan import resolve_config
from benchmark.registry import Registry
from benchmark.settings import parse_named
from priors.api import LatentPrior
from priors.parts.flows import CouplingFlow

MEMBERS = [
    *Registry().at_hand("prior"),
    "evalp[kl_weight=1]",
    "evalp[sampler=spline]",
    "evalp[sampler=glow]",
    "evalp[sampler=autoregressive]",
    "evalp[sampler=mlp,kl_weight=0]",
]
#: settings of priors, so small that a fit takes no time
FEW = {
    "steps": 20,
    "draws": 1_000,
    "kept": 200,
    "iterations": 5,
    "normaliser_draws": 100_000,
    "contrast_steps": 10,
    "chain": 10,
}


def broken(member, more, targets):
    """How many checks were made of a prior, and what those that do not hold say; more settings, where it has them."""
    ((name, (settings,)),) = parse_named(member, "--priors")
    cls = Registry().get("prior", name)
    more = {setting: value for setting, value in more.items() if setting in cls.Config.model_fields}
    findings = list(check(cls, settings | more, targets, CPU))
    return len(findings), [f"{finding.check}: {finding.detail}" for finding in findings if finding.held is False]


@pytest.mark.parametrize("member", MEMBERS)
def test_every_prior_holds_the_contract_after_a_few_steps(member, monkeypatch):
    """Densities are integrated over a fifth of the points: after so few steps they are smooth."""
    monkeypatch.setattr("benchmark.check.contract.DENSITY_OF_POINTS", 11)
    assert broken(member, FEW, []) == (13, [])


def trains(member):
    """Whether the quick budget is a training of its own: then a few steps stand for it, but where all is asked for."""
    cls = Registry().get("prior", member.partition("[")[0])
    return cls.group != "closed_form" or cls.name == "kde"


@pytest.mark.parametrize(
    "member", [pytest.param(member, marks=pytest.mark.slow if trains(member) else ()) for member in MEMBERS]
)
def test_every_prior_holds_the_contract_and_learns_the_ring(member):
    assert broken(member, {}, ["ring"]) == (14, [])


def test_the_template_passes_as_it_is(tmp_path):
    path = new_prior("my_prior", tmp_path / "new", [])
    assert len(path.read_text().splitlines()) < 60
    findings = list(check(Registry([path]).get("prior", "my_prior"), {}, list(TARGETS), CPU))
    assert all(finding.held is not False for finding in findings)
    assert any(finding.check == "learns narrow" and finding.held for finding in findings)


class Sound(LatentPrior):
    """A prior with one parameter that does all that the contract asks."""

    name = "sound"

    def __init__(self, latent_shape, config):
        super().__init__(latent_shape, config)
        self.mean = torch.nn.Parameter(torch.zeros(latent_shape))

    def fit(self, posterior, generator, progress):
        self.mean.data.copy_(posterior.train.sample(500, generator).mean(0))

    def sample(self, n, generator):
        return self.mean + torch.randn(n, *self.latent_shape, generator=generator)

    def log_prob(self, z):
        return torch.distributions.Normal(self.mean, 1.0).log_prob(z).flatten(1).sum(1)


class WrongShape(Sound):
    def sample(self, n, generator):
        return super().sample(n, generator).flatten(1)[:, :1]


class GlobalNoise(Sound):
    def sample(self, n, generator):
        return self.mean + torch.randn(n, *self.latent_shape)


class HiddenState(Sound):
    shift = 0.0

    def fit(self, posterior, generator, progress):
        super().fit(posterior, generator, progress)
        self.shift = 1.0

    def sample(self, n, generator):
        return super().sample(n, generator) + self.shift


class NotNormalised(Sound):
    def log_prob(self, z):
        return super().log_prob(z) + 0.1


class OtherDensity(Sound):
    def log_prob(self, z):
        return torch.distributions.Normal(self.mean, 1.3).log_prob(z).flatten(1).sum(1)


class NeverTrained(Sound):
    def __init__(self, latent_shape, config):
        super().__init__(latent_shape, config)
        self.idle = torch.nn.Parameter(torch.zeros(1))


class UnseededFit(Sound):
    fits = 0

    def fit(self, posterior, generator, progress):
        type(self).fits += 1
        self.mean.data.fill_(float(self.fits))


class ForgivesNaN(Sound):
    def fit(self, posterior, generator, progress):
        self.mean.data.copy_(posterior.train.sample(500, generator).nan_to_num().mean(0) + 1e-3)


class NumberlessEnergy(Sound):
    def energy(self, z):
        return z.flatten(1)


class WrongLogDeterminant(Sound):
    """It holds a flow whose second coupling is not told of."""

    def __init__(self, latent_shape, config):
        super().__init__(latent_shape, config)
        self.flow = CouplingFlow(2, 2, 8)
        push = self.flow.push
        self.flow.push = lambda noise: (push(noise)[0], push(noise)[1] + 0.1)


class Flat(Sound):
    """It can draw vectors alone."""

    def __init__(self, latent_shape, config):
        super().__init__(latent_shape[:1], config)


class PromisesTooMuch(Sound):
    learns = {"ring": 0.01}


class Layered(Sound):
    """It passes a network three times for each latent, and once a batch through a layer that is told of no latent."""

    network_evaluations = 3

    def __init__(self, latent_shape, config):
        super().__init__(latent_shape, config)
        d = math.prod(latent_shape)
        self.network = nn.Sequential(nn.Linear(d, 5), nn.ReLU(), nn.Linear(5, d))
        self.once = nn.Linear(1, 1)
        self.requires_grad_(False)

    def fit(self, posterior, generator, progress):
        super().fit(posterior, generator, progress)
        for parameter in self.parameters():
            parameter += self.mean.mean()

    def sample(self, n, generator):
        z = super().sample(n, generator).flatten(1) + 0 * self.once(torch.ones(1))
        for _ in range(3):
            z = 0.5 * self.network(z)
        return z.unflatten(1, self.latent_shape)

    log_prob = LatentPrior.log_prob


class WrongCost(Layered):
    network_evaluations = 1


class NoNetwork(Sound):
    """Its state is no network's, and what it costs was not said: the usual number is 1."""

    def __init__(self, latent_shape, config):
        LatentPrior.__init__(self, latent_shape, config)
        self.register_buffer("mean", torch.zeros(latent_shape))

    def fit(self, posterior, generator, progress):
        self.mean.copy_(posterior.train.sample(500, generator).mean(0))


@pytest.mark.parametrize(
    "prior, fails",
    [
        (Sound, None),
        (WrongShape, "shape and dtype of samples"),
        (GlobalNoise, "the generator alone decides the draw"),
        (HiddenState, "saved and loaded"),
        (NotNormalised, "log_prob integrates to 1"),
        (OtherDensity, "log_prob describes the samples"),
        (NeverTrained, "every parameter is trained"),
        (UnseededFit, "a second fit gives the same bits"),
        (ForgivesNaN, "NaN latents are refused"),
        (NumberlessEnergy, "energy"),
        (WrongLogDeterminant, "flows invert, log-det is autograd's"),
        (Flat, "a block of latents (2, 4, 4)"),
        (PromisesTooMuch, "learns ring"),
        (Layered, None),
        (WrongCost, "network evaluations"),
        (NoNetwork, "network evaluations"),
    ],
)
def test_each_breach_is_found(prior, fails):
    failing = [finding.check for finding in check(prior, {}, list(prior.learns), CPU) if finding.held is False]
    assert fails in failing if fails else failing == []


# ---- the cost of a draw -------------------------------------------------------------------------------------------

examine_cost = CONTRACT["network evaluations"]


def built(member, shape=(2,)):
    """A prior as it is before its fit."""
    ((name, (settings,)),) = parse_named(member, "--priors")
    config, _, _ = resolve_config(Registry().get("prior", name), settings, "synthetic", shape, "full")
    return Registry().get("prior", name)(shape, config).eval()


@pytest.mark.parametrize(
    "member, passes",
    [
        ("gaussian", {}),
        ("latent_flow[couplings=3]", {"flow": 1}),
        ("evalp[couplings=3]", {"sampler": 1}),
        ("evalp[sampler=mlp,kl_weight=0]", {"sampler": 1}),
        ("evalp[sampler=spline,proposals=4]", {"sampler": 4, "energy_network": 4}),
        ("mcmc_ebm[langevin_steps=3]", {"energy_network": 3}),
        ("ncp[proposals=7]", {"energy_network": 7}),
        ("ncp[sampler=langevin,langevin_steps=4]", {"energy_network": 4}),
    ],
)
@pytest.mark.parametrize("shape", [(2,), (2, 4, 4)])
def test_the_passes_of_a_draw_are_counted_and_another_number_is_refused(member, passes, shape):
    prior = built(member, shape)
    with torch.no_grad():
        assert count_passes(prior, 9, lambda: prior.sample(9, seeded())) == passes
    stated = sum(passes.values())
    assert examine_cost(prior, CPU) == f"{stated} a latent, as counted"
    for wrong in (stated - 1, stated + 1):
        prior.network_evaluations = wrong
        with pytest.raises(Broken, match=f"network_evaluations is {wrong}, but a latent was counted to cost"):
            examine_cost(prior, CPU)


def test_networks_of_a_list_are_counted_apart_and_bare_layers_together():
    prior = nn.Module()
    prior.stages = nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)) for _ in range(2))
    prior.first, prior.rest = nn.Linear(2, 2), nn.ModuleDict({"last": nn.Linear(2, 2)})
    z = torch.zeros(5, 2)

    def draw():
        for stage in prior.stages:
            stage(stage(z))
        prior.rest["last"](input=prior.first(z))

    assert count_passes(prior, 5, draw) == {"stages.0": 2, "stages.1": 2, "": 1}
    assert not any(module._forward_pre_hooks for module in prior.modules()), "no hook is left"


class Rejects(Layered):
    """Draws until each is accepted: what it costs is a matter of chance."""

    rate = 0.25

    def sample(self, n, generator):
        z = torch.randn(n, *self.latent_shape, generator=generator)
        left = torch.arange(n)
        while len(left):
            self.network(z[left].flatten(1))
            left = left[torch.rand(len(left), generator=generator) > self.rate]
        return z


@pytest.mark.parametrize(
    "stated, rate, holds", [(100, 0.25, True), (4, 0.25, True), (4, 1 / 4.48, True), (3, 0.25, False)]
)
def test_a_cost_that_hangs_on_the_draw_is_stated_on_average_or_at_most(stated, rate, holds):
    """An average may be rounded, and what one draw costs lies by chance above it."""
    prior = Rejects((2,), Rejects.Config())
    prior.network_evaluations, prior.rate = stated, rate
    if holds:
        assert examine_cost(prior, CPU)
    else:
        with pytest.raises(Broken, match=r"counted to cost (3\.[5-9]|4\.)\S* of network"):
            examine_cost(prior, CPU)


def test_what_no_layer_of_torch_holds_is_not_counted():
    assert examine_cost(Sound((2,), Sound.Config()), CPU) is None


# ---- the divergence -----------------------------------------------------------------------------------------------


def test_the_divergence_of_gaussians_is_that_of_the_formula():
    means, covariances = (
        torch.tensor([[1.0, -0.5], [0.2, 0.3]]),
        torch.tensor([[[0.5, 0.2], [0.2, 0.3]]]).repeat(2, 1, 1),
    )
    covariances[1] = torch.tensor([[2.0, -0.6], [-0.6, 1.0]])
    q, p = (MultivariateNormal(mean, covariance) for mean, covariance in zip(means, covariances))
    exact = torch.distributions.kl_divergence(q, p).item()
    assert divergence(q.log_prob, p.log_prob, CPU) == pytest.approx(exact, abs=1e-5)


def test_the_divergence_that_is_shown_of_a_mixture_in_the_plane_is_exact():
    """From the ring to N(0, 4 I): cross-entropy by the ring's moments, its entropy by scipy over an eighth of it."""
    at = 2 * np.stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], 1)

    def integrand(angle, r):
        apart = ((r * np.array([np.cos(angle), np.sin(angle)]) - at) ** 2).sum(1)
        density = np.exp(-apart / (2 * 0.25**2)).mean() / (2 * np.pi * 0.25**2)
        return -density * np.log(density) * r

    entropy = 8 * integrate.dblquad(integrand, 0.3, 4, -np.pi / 8, np.pi / 8, epsabs=1e-6)[0]
    exact = math.log(2 * math.pi * 4) + (4 + 2 * 0.25**2) / (2 * 4) - entropy

    class Wide(Sound):
        def sample(self, n, generator):
            return 2 * torch.randn(n, 2, generator=generator)

        def log_prob(self, z):
            return MultivariateNormal(torch.zeros(2), 4 * torch.eye(2)).log_prob(z)

    finding = learning(Wide((2,), Wide.Config()), TARGETS["ring"](), CPU)
    shown = re.search(r"KL (-?[\d.]+) nats", finding.detail)
    assert float(shown[1]) == pytest.approx(exact, abs=6e-4)  # draws would leave an error of 0.02


PLUGIN = """
import os, sys, torch
from priors.api import LatentPrior, hookimpl
from priors.parts.standard_normal import log_standard_normal

class Mine(LatentPrior):
    name = "mine"
    network_evaluations = 0
    def fit(self, posterior, generator, progress):
        {fit}
    def sample(self, n, generator):
        {sample}
        return torch.randn(n, *self.latent_shape, generator=generator)
    def log_prob(self, z):
        {log_prob}
        return log_standard_normal(z)
    def diagnostics(self, generator):
        return {diagnostics}

@hookimpl
def register_priors():
    return [Mine]
"""
SOUND = {"fit": "pass", "sample": "", "log_prob": "", "diagnostics": "{}"}
FAKE = 'print("holds  fits at all\\nmine: all checks hold", flush=True); '
#: what it does -> the line that says that it does not hold
ATTACKS = {
    "ends in order": ({"fit": "sys.exit(0)"}, "fits at all .*SystemExit: 0"),
    "ends at once": ({"fit": "os._exit(0)"}, "comes to an end .*exit code 0"),
    "boasts and ends": ({"fit": f"{FAKE}os._exit(0)"}, "comes to an end .*exit code 0"),
    "boasts and goes on": ({"fit": FAKE, "log_prob": "return z"}, r"log_prob of .* returned \(\d+, 2\)"),
    "is killed": ({"sample": "os.abort()"}, "comes to an end .*SIGABRT"),
    "ends in a draw": ({"sample": "sys.exit(0)"}, "shape and dtype of samples .*SystemExit: 0"),
    "forgets a sum": ({"log_prob": "return -0.5 * z**2"}, r"log_prob of .* returned \(\d+, 2\)"),
    "no numbers": ({"log_prob": "return z.flatten(1).sum(1) * float('nan')"}, "are no numbers"),
    "whole numbers": ({"log_prob": "return z.flatten(1).sum(1).long()"}, "int64, expected a float each"),
    "half of it": ({"log_prob": "return log_standard_normal(z) / 2"}, "integrates to"),
    "facts of lists": ({"fit": "return {'losses': [1, 2]}"}, "fits at all .*losses of type list"),
    "diagnoses a word": ({"diagnostics": "5"}, "diagnostics .*int"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_plugin_passes_that_does_not_hold(attack, tmp_path, cli):
    edit, said = ATTACKS[attack]
    (tmp_path / "mine.py").write_text(PLUGIN.format(**SOUND | edit))
    done = cli("check", "mine", "--plugin", tmp_path / "mine.py", "--target", "standard")
    assert done.code == 1
    assert re.search(f"^FAILS .*{said}", done.out, re.MULTILINE), done.out
    assert re.fullmatch(r"mine: \d+ checks fail", done.out.splitlines()[-1])
    assert "all checks hold" not in done.out


def test_a_plugin_that_holds_passes(tmp_path, cli):
    (tmp_path / "mine.py").write_text(PLUGIN.format(**SOUND | {"fit": "print('at work')"}))
    done = cli("check", "mine", "--plugin", tmp_path / "mine.py", "--target", "standard")
    assert done.code == 0, done.out
    assert done.out.endswith("mine: all checks hold\n")
    assert "mine: at work" in done.err


def test_settings_that_do_not_suit_a_plugin_are_one_line(tmp_path, cli):
    (tmp_path / "mine.py").write_text(PLUGIN.format(**SOUND))
    done = cli("check", "mine[steps=3]", "--plugin", tmp_path / "mine.py")
    assert done.code == 2
    assert "steps" in done.err
    assert "Traceback" not in done.err
