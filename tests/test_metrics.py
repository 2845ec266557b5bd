"""The metrics together: they share their draws and features, hold little memory, and catch planted cheats."""

from types import SimpleNamespace

import pytest
import torch
from commands import scores_of
from draws import CPU, normal
from evaluations import SUFFIX, Scaled, evaluation, spatial_evaluation
from posteriors import narrowing

from benchmark.datasets.digits import Digits
from benchmark.extractors.api import Features
from benchmark.extractors.digit_cnn import DigitCNN
from benchmark.jobs.evaluation import Evaluation
from benchmark.metrics.c2st import ClassifierTest, classifier_auc
from benchmark.metrics.cross_entropy import CrossEntropy
from benchmark.metrics.fd_infinity import FrechetAtInfinity, nested_statistics
from benchmark.metrics.fld import LikelihoodGap
from benchmark.metrics.frechet import Frechet
from benchmark.metrics.kid import KID
from benchmark.metrics.memorisation import LatentMemorisation, Memorisation
from benchmark.metrics.mmd import MMD
from benchmark.metrics.neighbours import ImageNeighbours, LatentNeighbours, neighbourhood_scores
from benchmark.metrics.sliced_wasserstein import SlicedWasserstein, directions, sliced_wasserstein
from benchmark.scores.frechet import feature_statistics
from benchmark.streams import stream

IMAGE_METRICS = (Frechet, KID, ImageNeighbours, FrechetAtInfinity, Memorisation, LikelihoodGap)


def test_features_are_extracted_once_and_serve_all(small_bundle, given, monkeypatch):
    made, extracted = given(None, normal(60, 64, 0)), []
    del made.features
    made.reference.statistics = lambda device: feature_statistics(normal(60, 64, 0))
    made.train_reference = SimpleNamespace(subsample=lambda device: normal(50, 64, 1))
    monkeypatch.setattr(Evaluation, "_extracted", lambda self: extracted.append(1) or normal(300, 64, 2))
    values = {}
    for metric in IMAGE_METRICS:
        values |= metric().measure(made)
    assert len(extracted) == 1
    names = {"fd", "kid", "precision", "recall", "density", "coverage", "fd_infinity", "memorisation"}
    assert set(values) == names | {"fld_gap", "fld_gap_error"}


def test_scores_do_not_depend_on_the_batches_of_extraction(given):
    digits = Digits().load([])
    values = []
    for batch in (7, 200):
        features_of = Features(DigitCNN(), CPU, batch)
        generated, real, training = (features_of(part[:200]) for part in (digits.val, digits.test, digits.train))
        made = given(generated, real)
        made.reference.statistics = lambda device: feature_statistics(real)
        made.train_reference = SimpleNamespace(subsample=lambda device: training)
        values.append({name: value for metric in IMAGE_METRICS for name, value in metric().measure(made).items()})
    assert values[0] == pytest.approx(values[1], rel=1e-4, abs=1e-6)
    assert values[0]["kid"] < 0.1


def test_metrics_of_many_features_are_measured_within_a_gigabyte(given, monkeypatch):
    """What each allocates beyond the features it is given, by torch's own account, of n = 10,000 and d = 2,048.

    Of half the n and half the d: tensors of n x n, n x d or d x d are then a quarter, and so is what is allowed.
    """
    monkeypatch.setattr("benchmark.metrics.fld.STEPS", 2)  # of 50 that are alike: the second has all that one holds
    made = given(normal(5_000, 1_024, 0), normal(1_000, 1_024, 1))
    made.train_reference = SimpleNamespace(subsample=lambda device: normal(1_000, 1_024, 2))
    for metric in (KID, ImageNeighbours, Memorisation, LikelihoodGap):
        assert peak_bytes(lambda: metric().measure(made)) < 500e6 / 4
    statistics = nested_statistics(made.features, [1_250, 5_000])
    assert peak_bytes(lambda: next(statistics)) < 500e6 / 4


def peak_bytes(run) -> int:
    """The most that tensors made within `run` hold at one time."""
    with torch.profiler.profile(profile_memory=True) as profile:
        run()
    held = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


CHEATS = """
import torch
from priors.api import LatentPrior, hookimpl

class Stored(LatentPrior):
    def __init__(self, latent_shape, config):
        super().__init__(latent_shape, config)
        self.register_buffer("bank", torch.zeros(1000, *latent_shape))

    def sample(self, n, generator):
        return self.bank[torch.randint(len(self.bank), (n,), generator=generator)]

class Replays(Stored):
    name = "replays"

    def fit(self, posterior, generator, progress):
        self.bank.copy_(posterior.train.one_each(1000, generator))

class OneMode(Stored):
    name = "one_mode"

    def fit(self, posterior, generator, progress):
        drawn = posterior.train.one_each(1000, generator)
        self.bank.copy_(drawn[:1] + 0.01 * drawn)

class Fresh(Stored):
    name = "fresh"

    def fit(self, posterior, generator, progress):
        self.bank.copy_(posterior.val.one_each(200, generator).repeat(5, 1))

@hookimpl
def register_priors():
    return [Replays, OneMode, Fresh]
"""


def test_planted_cheats_are_caught(tmp_path, cli):
    """Training latents replayed, a single mode, and, honest in that respect, validation latents replayed."""
    (tmp_path / "cheats.py").write_text(CHEATS)
    words = ["run", "--dataset", "digits", "--plugin", tmp_path / "cheats.py", "--results", tmp_path / "r"]
    words += ["--priors", "replays,one_mode,fresh", "--seeds", 1, "--device", "cpu"]
    done = cli(*words, "--metrics", "fd,kid,neighbours,memorisation,latent_neighbours,latent_memorisation,c2st")
    assert done.code == 0, done.err
    scores = scores_of(tmp_path / "r")

    latents = scores["latent_memorisation"]
    assert latents["replays"] > 0.8
    assert abs(latents["fresh"] - 0.5) < 0.06
    assert latents["gaussian"] < 0.4
    assert latents["replays"] == pytest.approx(latents["aggregate_posterior"], abs=0.05)
    images = scores["memorisation"]
    assert images["replays"] > max(images["fresh"], images["reconstruction"]) + 0.05
    assert images["replays"] == pytest.approx(images["aggregate_posterior"], abs=0.06)

    for prefix in ("", "latent_"):
        coverage, recall, precision = (scores[prefix + name] for name in ("coverage", "recall", "precision"))
        assert coverage["one_mode"] < 0.05
        assert recall["one_mode"] < 0.05 < 0.9 < precision["one_mode"]
        assert coverage["one_mode"] < coverage["fresh"] < coverage["replays"]
    assert scores["c2st_auc"]["one_mode"] > 0.99
    assert scores["c2st_auc"]["replays"] < 0.65
    assert scores["kid"].idxmax() == "one_mode"
    assert scores["kid"]["gaussian"] > scores["kid"]["replays"]


BY_HAND = {
    SlicedWasserstein: (
        "sliced wasserstein",
        lambda drawn, real, suffix: {
            f"sliced_wasserstein{suffix}": sliced_wasserstein(
                drawn, real, directions(drawn.shape[1], stream(CPU, "sliced wasserstein directions"))
            )
        },
    ),
    LatentNeighbours: (
        "neighbours",
        lambda drawn, real, suffix: {
            f"latent_{name}{suffix}": value for name, value in neighbourhood_scores(drawn, real).items()
        },
    ),
    ClassifierTest: (
        "c2st",
        lambda drawn, real, suffix: {f"c2st_auc{suffix}": classifier_auc(real, drawn, stream(CPU, f"c2st{suffix}", 1))},
    ),
}


@pytest.mark.parametrize("metric", BY_HAND, ids=lambda metric: metric.name)
def test_each_metric_measures_these_pairs(metric):
    purpose, by_hand = BY_HAND[metric]
    asked, expected = spatial_evaluation(seed=1), {}
    for suffix, drawn, real in spatial_evaluation(seed=1).latent_pairs(purpose):
        expected |= by_hand(drawn, real, suffix)
    values = metric().measure(asked)
    assert values == pytest.approx(expected)
    assert {name.endswith(SUFFIX) for name in values} == {True, False}
    assert metric().measure(evaluation(Scaled((4,), 1.3), narrowing(4))).keys() == {
        name for name in values if not name.endswith(SUFFIX)
    }


def test_latents_drawn_for_one_metric_serve_all():
    class Once(Scaled):
        drawn = 0

        def sample(self, n, generator):
            self.drawn += 1
            return super().sample(n, generator)

    source = Once((3,), 1.0)
    asked = evaluation(source, narrowing(3))
    asked.train_posterior = lambda: (narrowing(3)._mean, narrowing(3)._std)
    for metric in (MMD, SlicedWasserstein, LatentNeighbours, ClassifierTest, LatentMemorisation, CrossEntropy):
        metric().measure(asked)
    assert source.drawn == 1
