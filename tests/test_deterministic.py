"""A deterministic encoder, whose posteriors are points: every prior fits them or says why not, and tables say it."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commands import record_files, scores_of
from draws import normal, seeded, silent
from test_check import FEW

import benchmark
from backbones.api import bernoulli_log_weight
from benchmark.bundles.bundle import NO_PART
from benchmark.jobs.plan import resolve_config
from benchmark.registry import Registry
from priors.api import AggregatePosterior, PosteriorSplit

NEED_WIDTH = {"riemannian", "vamp"}
FEWER = FEW | {"normaliser_draws": 1_000, "contrast_steps": 2, "chain": 2, "pool": 500, "held_out": 500}
PRIORS = Registry().at_hand("prior")


def fitted(name):
    """A prior after a few steps on 300 points, with a backbone whose encoder gives points."""
    points = [PosteriorSplit(normal(300, 4, seed), torch.zeros(300, 4)) for seed in (1, 2)]
    cls = Registry().get("prior", name)
    few = {setting: value for setting, value in FEWER.items() if setting in cls.Config.model_fields}
    config, _, _ = resolve_config(cls, few, "digits", (4,), "quick")
    backbone = SimpleNamespace(
        encode=lambda x: (x.flatten(1), torch.zeros(len(x), 4)),
        decode=lambda z, generator=None: z.sigmoid().reshape(-1, 1, 2, 2),
    )
    prior = cls((4,), config).train()
    prior.fit(AggregatePosterior(*points, backbone if cls.needs_backbone else None), seeded(), silent)
    return prior.eval()


@pytest.mark.usefixtures("seeded_modules")
@pytest.mark.parametrize("name", sorted({*PRIORS} - NEED_WIDTH))
def test_a_prior_is_fitted_to_points(name):
    prior = fitted(name)
    assert prior.sample(20, seeded()).isfinite().all()
    log_density = prior.log_prob(normal(20, 4, 3))
    assert log_density is None or log_density.isfinite().all()


@pytest.mark.parametrize("name", sorted(NEED_WIDTH))
def test_a_prior_that_needs_width_says_so_in_a_line(name):
    with pytest.raises(ValueError, match=r"these (posteriors )?have no width: their encoder is deterministic") as error:
        fitted(name)
    assert "\n" not in str(error.value)


@pytest.fixture
def bundle(small_bundle, tmp_path):
    """The small digits and their principal axes, which are a deterministic autoencoder."""
    file = small_bundle.parent / "small.npz"
    images = torch.from_numpy(np.load(file)["train"]).flatten(1) / 255
    centre, axes = images.mean(0), torch.linalg.svd(images - images.mean(0), full_matrices=False)[2][:4].clone()
    return benchmark.wrap(
        encode=lambda x: (x.flatten(1) - centre) @ axes.T,
        decode=lambda z: (z @ axes + centre).unflatten(1, (1, 16, 16)),
        images=file,
        name="axes",
        value_range=(0, 1),
        spread="none",
        out=tmp_path / "axes",
        device="cpu",
    )


def test_every_score_of_points_is_a_number_and_the_tables_say_what_they_are(bundle, tmp_path, cli):
    words = ["--priors", "gaussian,fitted_gaussian", "--seeds", 2, "--device", "cpu", "--metrics", "scores"]
    done = cli("run", "--bundle", bundle.path, "--results", tmp_path / "r", *words)
    assert done.code == 0, done.err
    assert ", 0 failed" in done.err
    scores = scores_of(tmp_path / "r")
    assert scores.loc["fitted_gaussian"].notna().all()
    assert scores["latent_memorisation"]["aggregate_posterior"] == 1
    assert scores["latent_memorisation"]["gaussian"] < 0.5
    assert "rate" not in scores
    (page,) = (tmp_path / "r" / "boards").glob("*.md")
    assert f"Note: deterministic encoder: N(0, I), the 0 % line, {NO_PART}" in page.read_text()
    told = [json.loads(path.read_text())["row"].get("deterministic") for path in record_files(tmp_path / "r")]
    assert set(told) == {True}


def test_a_deterministic_encoder_has_no_evidence_bound():
    backbone = SimpleNamespace(encode=lambda x: (x, torch.zeros_like(x)), decode=lambda z: z)
    with pytest.raises(ValueError, match="no evidence bound"):
        bernoulli_log_weight(backbone, torch.ones(3, 2), seeded())
