"""Every prior that comes with the suite is held to the contract; the contract catches priors that break it."""

import pytest
import torch

from benchmark.check.contract import check
from benchmark.check.new_prior import new_prior
from benchmark.check.targets import TARGETS
from benchmark.registry import Registry
from benchmark.settings import parse_named
from priors.api import LatentPrior
from priors.parts.flows import CouplingFlow

CPU = torch.device("cpu")
MEMBERS = [
    *Registry().at_hand("prior"),
    "evalp[kl_weight=1]",
    "evalp[sampler=spline]",
    "evalp[sampler=mlp,kl_weight=0]",
]
#: whose quick budget takes the longest to learn the ring; they keep the contract like the others after a few steps
LONG = ("ncp", "mcmc_ebm", "kde", "evalp[kl_weight=1]", "evalp[sampler=spline]", "evalp[sampler=mlp,kl_weight=0]")
#: settings that are known to several priors, so small that a fit takes no time
FEW = {"steps": 20, "draws": 1_000, "kept": 200, "iterations": 5}


def broken(member, more, targets):
    """How many checks were made of a prior, and what those that do not hold say; more settings, where it has them."""
    ((name, (settings,)),) = parse_named(member, "--priors")
    cls = Registry().get("prior", name)
    more = {setting: value for setting, value in more.items() if setting in cls.Config.model_fields}
    findings = list(check(cls, settings | more, targets, CPU))
    return len(findings), [f"{finding.check}: {finding.detail}" for finding in findings if finding.held is False]


@pytest.mark.parametrize("member", MEMBERS)
def test_every_prior_holds_the_contract_after_a_few_steps(member):
    assert broken(member, FEW, []) == (11, [])


@pytest.mark.parametrize(
    "member", [pytest.param(member, marks=pytest.mark.slow if member in LONG else ()) for member in MEMBERS]
)
def test_every_prior_holds_the_contract_and_learns_the_ring(member):
    assert broken(member, {}, ["ring"]) == (12, [])


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
    ],
)
def test_each_breach_is_found(prior, fails):
    failing = [finding.check for finding in check(prior, {}, ["ring"], CPU) if finding.held is False]
    assert fails in failing if fails else failing == []
