"""Who draws from the generator that is handed over, and from the global one too, has two independent noises."""

import pytest
import torch
from draws import CPU, silent
from evaluations import evaluation

from benchmark.bundles.joint import JointPrior, fit_to
from benchmark.fitted import FittedPrior
from benchmark.jobs.fitting import Specimen, fit_prior
from benchmark.streams import seeded_globals, stream
from priors.api import PriorConfig
from priors.gaussian import Gaussian

SHAPE = (2, 3)
IMAGES = torch.arange(60, dtype=torch.uint8).reshape(10, 1, 2, 3)


class Pixels(torch.nn.Module):
    """Whose latents are six pixels."""

    def encode(self, x):
        return x[:, 0], torch.full_like(x[:, 0], 0.1)


class Both(Gaussian):
    """Notes a draw of each."""

    def note(self, generator):
        self.noted = torch.rand(8, generator=generator), torch.rand(8)

    def fit(self, posterior, generator, progress):
        self.note(generator)
        Both.last = self.noted

    def sample(self, n, generator):
        self.note(generator)
        return super().sample(n, generator)


def of_a_fit(held_out):
    made, _ = fit_prior(Both, Specimen({}, SHAPE, 0, CPU), None, silent)
    assert made["status"] == "ok", made
    return Both.last


def of_a_run(held_out):
    prior = Both(SHAPE, PriorConfig())
    evaluation(prior, held_out).latents(5, "sample")
    return prior.noted


def of_a_loaded_prior(held_out):
    prior = Both(SHAPE, PriorConfig())
    FittedPrior(prior, None, CPU, "", 0).sample(5)
    return prior.noted


def of_a_fit_before_joint_training(held_out):
    prior = Both(SHAPE, PriorConfig())
    fit_to(prior, Pixels(), IMAGES, IMAGES, 0)
    return prior.noted


def of_what_a_joint_training_watches(held_out):
    prior = Both(SHAPE, PriorConfig())
    joint = JointPrior.__new__(JointPrior)
    joint.prior = prior
    joint.watch(Pixels(), IMAGES)
    return prior.noted


@pytest.mark.parametrize(
    "draw",
    [of_a_fit, of_a_run, of_a_loaded_prior, of_a_fit_before_joint_training, of_what_a_joint_training_watches],
)
def test_the_global_generator_is_none_of_the_one_that_is_handed_over(draw, held_out):
    handed, everybodys = draw(held_out)
    assert not torch.equal(handed, everybodys)
    again = draw(held_out)
    assert torch.equal(again[1], everybodys), "and is seeded all the same"


def test_of_one_name_both_draw_the_same_numbers_so_that_a_test_can_tell():
    with seeded_globals(CPU, "name", 1):
        assert torch.equal(torch.rand(8), torch.rand(8, generator=stream(CPU, "name", 1)))
