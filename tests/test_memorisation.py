"""Memorisation, in images and in latents: copies are flagged, new draws are not, and no reference is no score."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from boards import all_pages
from commands import contents, record_files, scores_of
from draws import clustered, normal, seeded
from evaluations import Scaled, evaluation
from posteriors import narrowing
from scipy import stats
from sklearn.neighbors import NearestNeighbors

from benchmark.metrics import memorisation
from benchmark.metrics.memorisation import LatentMemorisation, best_log_posterior, nearest_squared
from benchmark.scores.ranks import superiority
from priors.api import PosteriorSplit


@pytest.mark.parametrize("batch", [7, 2_000])
def test_nearest_distances_equal_scikit_learn_s_in_batches_of_any_size(batch, monkeypatch):
    monkeypatch.setattr(memorisation, "BATCH", batch)
    x, training = clustered(40, 6, 0) + 50, clustered(65, 6, 20) + 50
    theirs = NearestNeighbors(n_neighbors=1).fit(training.double().numpy()).kneighbors(x.double().numpy())[0][:, 0]
    assert nearest_squared(x, training).sqrt().tolist() == pytest.approx(theirs.tolist(), abs=1e-6)


@pytest.mark.parametrize("batch", [7, 2_000])
@pytest.mark.parametrize("d", [1, 6])
def test_the_best_training_posterior_equals_a_double_loop_over_densities(d, batch, monkeypatch):
    monkeypatch.setattr(memorisation, "BATCH", batch)
    mean, std = 5 + normal(30, d, 0), 0.02 + torch.rand(30, d, generator=seeded(1))
    z = torch.cat([mean[:5] + 0.01, 5 + 2 * normal(15, d, 2)])
    by_hand = [
        max(stats.norm.logpdf(point, m, s).sum() for m, s in zip(mean.double().numpy(), std.double().numpy()))
        for point in z.double().numpy()
    ]
    assert best_log_posterior(z, mean, std).tolist() == pytest.approx(by_hand, rel=1e-9)


def share_memorised(generated, held_out, training):
    return superiority(-nearest_squared(generated, training), -nearest_squared(held_out, training))


def test_memorisation_is_a_half_where_draws_are_as_new_as_held_out_ones():
    values = [share_memorised(*(normal(100, 5, 3 * draw + i) for i in range(3))) for draw in range(60)]
    error = np.std(values, ddof=1) / math.sqrt(60)
    assert np.mean(values) == pytest.approx(0.5, abs=3 * error)
    assert error < 0.01


def test_memorisation_of_copies_is_one_and_of_what_is_far_off_zero():
    training, held_out = normal(200, 5, 0), normal(100, 5, 1)
    assert share_memorised(training[:100], held_out, training) == 1
    assert share_memorised(training[:100] + 1e-3, held_out, training) > 0.999
    assert share_memorised(held_out + 100, held_out, training) == 0
    half = torch.cat([training[:50], normal(50, 5, 2)])  # half of it copied
    assert share_memorised(half, held_out, training) == pytest.approx(0.75, abs=0.06)


def test_without_a_reference_of_training_images_memorisation_is_blank_until_there_is_one(small_bundle, tmp_path, cli):
    bundle, results = tmp_path / "bundles" / "small-conv_vae", tmp_path / "r"
    shutil.copytree(small_bundle, bundle)
    hidden = [path.rename(tmp_path / path.name) for path in (bundle / "reference").glob("digit-cnn-train.*")]
    assert len(hidden) == 2
    words = ["run", "--bundle", bundle, "--priors", "gaussian", "--seeds", 1, "--device", "cpu", "--results", results]
    words += ["--metrics", "fd,kid,memorisation,latent_memorisation"]
    first = cli(*words)
    assert first.code == 0
    assert "FAILED" not in first.err
    before, fits = contents(results / "records"), contents(tmp_path / "cache" / "fits")
    kinds = {path.name.partition("-")[0] for path in before}
    assert kinds == {"fit", "fd", "kid", "latent_memorisation"}
    assert "memorisation" not in scores_of(results)
    assert "Failed" not in all_pages(results)
    assert cli(*words).code == 0
    assert contents(results / "records") == before

    for path in hidden:
        path.rename(bundle / "reference" / path.name)
    assert cli(*words).code == 0
    after = contents(results / "records")
    assert {path: after[path] for path in before} == before
    assert contents(tmp_path / "cache" / "fits") == fits
    added = [
        json.loads(path.read_text())
        for path in record_files(results)
        if path.relative_to(results / "records") in set(after) - set(before)
    ]
    assert [record["kind"] for record in added] == ["memorisation"] * 3  # gaussian and two reference rows
    assert 0 <= scores_of(results)["memorisation"]["gaussian"] <= 1


def test_a_damaged_reference_of_training_images_is_named_and_leaves_a_blank(small_bundle, tmp_path, cli):
    bundle = tmp_path / "bundles" / "small-conv_vae"
    shutil.copytree(small_bundle, bundle)
    path = bundle / "reference" / "digit-cnn-train.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    words = ["run", "--bundle", bundle, "--priors", "gaussian", "--seeds", 1, "--device", "cpu"]
    done = cli(*words, "--metrics", "fd,memorisation", "--results", tmp_path / "r")
    assert done.code == 0
    assert str(path) in done.err
    assert "memorisation" not in scores_of(tmp_path / "r")


# In latent space


def memorised(source, train, held_out, **settings) -> float:
    asked = evaluation(source, held_out, mmd_latents=100, **settings)
    asked.train_posterior = lambda: (train._mean, train._std)
    return LatentMemorisation().measure(asked)["latent_memorisation"]


class Bank:
    """Draws from fixed latents, as a prior that learnt them by heart does."""

    def __init__(self, z):
        self.z = z

    def sample(self, n, generator):
        return self.z[torch.randint(len(self.z), (n,), generator=generator)]


@pytest.mark.parametrize("shape", [(6,), (2, 2, 3)])
def test_replayed_training_latents_are_flagged_and_new_ones_are_not(shape):
    d = math.prod(shape)
    halves = [PosteriorSplit(normal(400, d, s).unflatten(1, shape), torch.full((400, *shape), 0.05)) for s in range(3)]
    train, held_out, new = halves
    assert memorised(Bank(train.one_each(300, seeded(0))), train, held_out) > 0.99
    assert memorised(Bank(train._mean), train, held_out) == 1
    assert memorised(Bank(new.one_each(300, seeded(0))), train, held_out) == pytest.approx(0.5, abs=0.12)
    assert memorised(Scaled(shape, 1.0, shift=20.0), train, held_out) == 0


def test_posteriors_as_wide_as_the_prior_hide_a_replay():
    """Where every training posterior is q_agg itself, there is nothing to memorise, and nothing is flagged."""
    wide = PosteriorSplit(torch.zeros(400, 3), torch.ones(400, 3))
    assert memorised(Bank(wide.one_each(300, seeded(0))), wide, wide) == pytest.approx(0.5, abs=0.12)


def test_of_points_a_replay_is_flagged_and_new_ones_are_not():
    train, held_out, new = (PosteriorSplit(normal(400, 6, seed), torch.zeros(400, 6)) for seed in range(3))
    assert memorised(Bank(train._mean), train, held_out) == 1
    assert memorised(Bank(new._mean), train, held_out) == pytest.approx(0.5, abs=0.12)
    assert memorised(Scaled((6,), 1.0, shift=20.0), train, held_out) == 0
    narrow = [PosteriorSplit(split._mean, torch.full((400, 6), 1e-3)) for split in (train, held_out)]
    as_narrow = memorised(Bank(new._mean), *narrow)
    assert memorised(Bank(new._mean), train, held_out) == pytest.approx(as_narrow, abs=1e-3)


def test_no_more_training_posteriors_are_asked_than_the_cap(monkeypatch):
    asked = []
    monkeypatch.setattr("benchmark.metrics.memorisation.TRAINING", 50)
    monkeypatch.setattr(
        "benchmark.metrics.memorisation.best_log_posterior", lambda z, mean, std: asked.append((mean, std)) or z[:, 0]
    )
    train = PosteriorSplit(normal(120, 3, 0), 0.1 + torch.rand(120, 3, generator=seeded(1)))
    memorised(Scaled((3,), 1.0), train, narrowing(3), seed=0)
    memorised(Scaled((3,), 1.0), train, narrowing(3), seed=1)
    mean, std = asked[0]
    assert len(mean) == len(std) == 50
    assert all(torch.equal(other, mean) for other, _ in asked)
    place = [(train._mean == row).all(1).nonzero().item() for row in mean]
    assert len(set(place)) == 50
    assert torch.equal(train._std[place], std)
    assert max(place) > 60
