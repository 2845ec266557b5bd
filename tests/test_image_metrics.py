"""What is measured of images beside FD: against torch-fidelity, double loops and closed forms, and planted cheats."""

import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from commands import contents, record_files
from evaluations import CPU, seeded
from scipy import stats
from sklearn.linear_model import LinearRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from backbones.conv_vae import ConvVAE
from benchmark.bundles.bundle import open_bundle
from benchmark.bundles.decoding import decoded
from benchmark.bundles.reference import find_reference
from benchmark.datasets.digits import Digits
from benchmark.extractors.api import Features
from benchmark.extractors.digit_cnn import DigitCNN
from benchmark.jobs.evaluation import Evaluation
from benchmark.metrics import fd_infinity, memorisation
from benchmark.metrics.api import Facts
from benchmark.metrics.fd_infinity import FrechetAtInfinity, frechet_at_infinity, nested_statistics
from benchmark.metrics.frechet import Frechet
from benchmark.metrics.kid import KID, kernel_distance
from benchmark.metrics.memorisation import Memorisation, best_log_posterior, nearest_squared
from benchmark.metrics.neighbours import ImageNeighbours, neighbourhood_scores
from benchmark.metrics.redraws import Redraws
from benchmark.protocol import PRESETS, protocol_for
from benchmark.scores.frechet import Statistics, feature_statistics, frechet_distance
from benchmark.scores.ranks import superiority
from benchmark.store.places import fresh_cache
from benchmark.streams import seeded_globals, stream
from priors.api import PosteriorSplit
from priors.gaussian import Gaussian

SCORES = ("precision", "recall", "density", "coverage")


def normal(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=seeded(seed))


def clustered(n: int, d: int, seed: int) -> torch.Tensor:
    """As features of a rectifier are: ten clusters, many exact zeros, a mean away from zero."""
    centres = 3 * torch.randn(10, d, generator=seeded(99))
    of = torch.randint(10, (n,), generator=seeded(seed))
    return (centres[of] + 0.7 * normal(n, d, seed + 1)).relu() + 0.5 * (centres[0] > 0)


KINDS = pytest.mark.parametrize("kind", [normal, clustered], ids=lambda kind: kind.__name__)


# Kernel inception distance


@KINDS
@pytest.mark.parametrize("d", [3, 64, 300])
def test_kid_equals_torch_fidelity_at_one_subset_of_the_full_size(kind, d):
    generated, real = kind(150, d, 0) * 1.1 + 0.05, kind(150, d, 10)
    settings = dict(kid_subsets=1, kid_subset_size=150, verbose=False)
    theirs = kid_features_to_metric(generated.double(), real.double(), **settings)[KEY_METRIC_KID_MEAN]
    assert kernel_distance(generated, real) == pytest.approx(theirs, rel=1e-9)


def test_kid_equals_a_double_loop_also_for_samples_of_two_sizes():
    generated, real = clustered(7, 4, 0), clustered(11, 4, 5)

    def kernel(x, y):
        return (sum(float(a) * float(b) for a, b in zip(x, y)) / 4 + 1) ** 3

    def among(x):
        pairs = [kernel(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j]
        return sum(pairs) / len(pairs)

    across = sum(kernel(x, y) for x in generated for y in real) / 77
    assert kernel_distance(generated, real) == pytest.approx(among(generated) + among(real) - 2 * across, rel=1e-9)


def test_kid_is_unbiased_and_goes_below_zero():
    """Over 200 pairs of equal distributions; with the diagonal kept in, the mean would be ten times its error."""
    values = [kernel_distance(normal(40, 6, 2 * draw), normal(40, 6, 2 * draw + 1)) for draw in range(200)]
    error = np.std(values, ddof=1) / math.sqrt(200)
    diagonal = [(((x.square().sum(1) / 6 + 1) ** 3).mean() - 1) / 40 for x in (normal(4_000, 6, 7),)]
    assert abs(np.mean(values)) < 3 * error < diagonal[0] / 3
    assert 0.2 < np.mean(np.array(values) < 0) < 0.8


def test_kid_of_features_that_never_change_is_zero():
    assert kernel_distance(torch.full((9, 4), 2.0), torch.full((9, 4), 2.0)) == pytest.approx(0, abs=1e-9)


# Precision, recall, density, coverage


@KINDS
@pytest.mark.parametrize("part", [False, True])
def test_precision_and_recall_equal_torch_fidelity(kind, part):
    generated, real = kind(300, 8, 0) * 1.2, kind(260, 8, 10)
    settings = dict(prc_neighborhood=5, prc_batch_size=70, save_cpu_ram=part, verbose=False)
    theirs = prc_features_to_metric(generated.double(), real.double(), **settings)
    ours = neighbourhood_scores(generated, real)
    assert 0.05 < ours["precision"] < 1 and 0.05 < ours["recall"] < 1
    assert ours["precision"] == pytest.approx(theirs[KEY_METRIC_PRECISION], abs=1e-6)
    assert ours["recall"] == pytest.approx(theirs[KEY_METRIC_RECALL], abs=1e-6)


def naive_scores(generated: torch.Tensor, real: torch.Tensor, k: int) -> dict[str, float]:
    """As the definitions read, item by item; radii by scikit-learn."""
    generated, real = generated.double().numpy(), real.double().numpy()

    def radii(x):
        return NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(x).kneighbors(x)[0][:, k]

    of_real, of_generated = radii(real), radii(generated)
    distance = [[math.dist(g, r) for r in real] for g in generated]
    n, m = len(generated), len(real)
    inside = [[distance[i][j] <= of_real[j] for j in range(m)] for i in range(n)]
    return {
        "precision": sum(any(row) for row in inside) / n,
        "recall": sum(any(distance[i][j] <= of_generated[i] for i in range(n)) for j in range(m)) / m,
        "density": sum(map(sum, inside)) / (k * n),
        "coverage": sum(any(inside[i][j] for i in range(n)) for j in range(m)) / m,
    }


@KINDS
@pytest.mark.parametrize("k, n, m", [(1, 40, 40), (5, 60, 60), (5, 30, 50)])
def test_the_four_scores_equal_a_double_loop(kind, k, n, m):
    generated, real = kind(n, 3, 0) * 1.3 + 0.2, kind(m, 3, 10)
    assert neighbourhood_scores(generated, real, k) == pytest.approx(naive_scores(generated, real, k), abs=1e-12)


def test_scores_of_one_distribution_are_what_they_are_expected_to_be():
    """Density 1; coverage 1 - (n-1)...(n-k) / (2n-1)...(2n-k), which nears 1 - 2^-k (Naeem et al. 2020)."""
    n, k, runs = 200, 5, 20
    made = [neighbourhood_scores(clustered(n, 5, 40 * i), clustered(n, 5, 40 * i + 20)) for i in range(runs)]
    mean = {name: np.mean([scores[name] for scores in made]) for name in SCORES}
    error = {name: np.std([scores[name] for scores in made], ddof=1) / math.sqrt(runs) for name in SCORES}
    expected = 1 - math.prod((n - i) / (2 * n - i) for i in range(1, k + 1))
    assert expected == pytest.approx(1 - 2**-k, abs=3e-3)
    assert mean["coverage"] == pytest.approx(expected, abs=4 * error["coverage"]) and error["coverage"] < 0.01
    assert mean["density"] == pytest.approx(1, abs=4 * error["density"]) and error["density"] < 0.05


def test_one_mode_out_of_ten_shows_in_coverage_and_recall_and_not_in_precision():
    real, all_modes = clustered(500, 16, 0), clustered(500, 16, 30)
    one = clustered(4_000, 16, 60)
    one = one[torch.cdist(one, one[:1])[:, 0].argsort()[:300]]
    scores, whole = neighbourhood_scores(one, real), neighbourhood_scores(all_modes, real)
    assert scores["coverage"] < 0.2 and scores["recall"] < 0.2 and scores["precision"] > 0.9
    assert whole["coverage"] > 0.9 and whole["recall"] > 0.6


def test_a_replayed_sample_has_all_and_a_far_one_nothing():
    real = clustered(100, 6, 0)
    assert neighbourhood_scores(real, real) == pytest.approx(
        {"precision": 1, "recall": 1, "density": (5 + 1) / 5, "coverage": 1}, abs=0.05
    )
    assert set(neighbourhood_scores(real + 1e4, real).values()) == {0.0}


def test_scores_do_not_move_with_the_origin():
    generated, real = normal(80, 4, 0) * 1.2, normal(80, 4, 1)
    moved = neighbourhood_scores(generated.double() + 1e7, real.double() + 1e7)
    assert moved == pytest.approx(neighbourhood_scores(generated, real), abs=1e-9)


@pytest.mark.parametrize("n", [2, 3, 5, 6])
def test_with_no_more_items_than_neighbours_a_ball_reaches_the_farthest(n):
    generated, real = normal(n, 3, 0), normal(n, 3, 1)
    expected = naive_scores(generated, real, min(5, n - 1))
    assert neighbourhood_scores(generated, real) == pytest.approx(expected, abs=1e-12)


def test_features_that_never_change_are_each_other_s_neighbours():
    constant = torch.full((12, 4), 0.3)
    scores = neighbourhood_scores(constant, constant)
    assert (scores["precision"], scores["recall"], scores["coverage"]) == (1, 1, 1)
    assert all(math.isfinite(value) for value in neighbourhood_scores(constant, normal(12, 4, 0)).values())


# The Fréchet distance at infinity


def test_nested_statistics_are_those_of_the_first_rows(monkeypatch):
    features, sizes = clustered(100, 6, 0) + 1_000, [25, 26, 70, 100]
    for block in (2_000, 7):
        monkeypatch.setattr(fd_infinity, "BLOCK", block)
        for size, made in zip(sizes, nested_statistics(features, sizes), strict=True):
            expected = feature_statistics(features[:size])
            assert torch.allclose(made.mean, expected.mean, rtol=1e-12)
            assert torch.allclose(made.covariance, expected.covariance, rtol=1e-9, atol=1e-9)


def test_it_is_the_intercept_of_a_least_squares_line_in_1_over_n():
    features, reference = clustered(400, 5, 0), feature_statistics(clustered(900, 5, 50))
    shuffled = features[torch.randperm(400, generator=seeded(3))]
    sizes = [100, 142, 185, 228, 271, 314, 357, 400]
    distances = [frechet_distance(feature_statistics(shuffled[:n]), reference) for n in sizes]
    line = LinearRegression().fit(1 / np.array(sizes)[:, None], distances)
    assert frechet_at_infinity(features, reference, seeded(3)) == pytest.approx(line.intercept_, rel=1e-6)


def test_it_takes_the_bias_of_n_away():
    """Against the true statistics, where the distance of infinitely many is 0, and of a wider Gaussian d (s - 1)^2."""
    d, n = 16, 400
    truth = Statistics(torch.zeros(d).double(), torch.eye(d).double())
    for scale, limit in ((1.0, 0.0), (1.5, d * 0.25)):
        drawn = [scale * normal(n, d, seed) for seed in range(40)]
        biased = np.array([frechet_distance(feature_statistics(x), truth) for x in drawn]) - limit
        at_infinity = np.array([frechet_at_infinity(x, truth, seeded(seed)) for seed, x in enumerate(drawn)]) - limit
        error = at_infinity.std(ddof=1) / math.sqrt(len(drawn))
        assert abs(at_infinity.mean()) < 0.15 * biased.mean() + 3 * error and biased.mean() > 0.1
        assert 6 * error < biased.mean()


def test_it_does_not_ask_in_which_order_items_come():
    """The first quarter of a sorted sample is another distribution; a random one is not."""
    features = clustered(2_000, 8, 0)
    reference = feature_statistics(clustered(4_000, 8, 50))
    in_order = frechet_at_infinity(features[features[:, 0].argsort()], reference, seeded(0))
    assert in_order == pytest.approx(frechet_at_infinity(features, reference, seeded(0)), abs=0.3)


@pytest.mark.parametrize("n, blank", [(12, True), (259, True), (260, False)])
def test_it_is_blank_where_a_subset_would_have_no_more_items_than_features(n, blank):
    value = frechet_at_infinity(normal(n, 64, 0), feature_statistics(normal(500, 64, 1)), seeded(0))
    assert (value is None) is blank


# Ranks and memorisation


@pytest.mark.parametrize("n, m", [(30, 50), (1, 4)])
def test_superiority_is_the_area_under_the_curve_and_the_share_of_pairs(n, m):
    x, y = (torch.randint(8, (size,), generator=seeded(size)).double() for size in (n, m))  # with ties
    by_hand = np.mean([(a > b) + (a == b) / 2 for a in x.tolist() for b in y.tolist()])
    assert superiority(x, y) == pytest.approx(by_hand, abs=1e-12)
    area = roc_auc_score([1] * n + [0] * m, torch.cat([x, y]))
    assert superiority(x, y) == pytest.approx(area, abs=1e-12)
    u = stats.mannwhitneyu(x.numpy(), y.numpy()).statistic
    assert superiority(x, y) == pytest.approx(u / (n * m), abs=1e-12)


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
    assert np.mean(values) == pytest.approx(0.5, abs=3 * error) and error < 0.01


def test_memorisation_of_copies_is_one_and_of_what_is_far_off_zero():
    training, held_out = normal(200, 5, 0), normal(100, 5, 1)
    assert share_memorised(training[:100], held_out, training) == 1
    assert share_memorised(training[:100] + 1e-3, held_out, training) > 0.999
    assert share_memorised(held_out + 100, held_out, training) == 0
    half = torch.cat([training[:50], normal(50, 5, 2)])  # half of it copied
    assert share_memorised(half, held_out, training) == pytest.approx(0.75, abs=0.06)


# What they are given


@pytest.fixture
def given(small_bundle):
    """An evaluation whose features are given: `given(features, real)`."""

    def make(features, real, seed=0):
        bundle, extractor = open_bundle(small_bundle), DigitCNN()
        protocol = protocol_for(bundle, PRESETS["quick"], "test", extractor, features=64)
        reference = SimpleNamespace(subsample=lambda device: real)
        made = Evaluation(None, {}, None, None, None, reference, protocol, seed, CPU, None)
        made.features = features
        return made

    return make


def indexed(n: int) -> torch.Tensor:
    return torch.arange(n).float()[:, None].expand(n, 3)


@pytest.mark.parametrize("n, m, pairs", [(30, 50, 30), (50, 30, 30), (10_000, 2_000, 2_000), (10_000, 3_000, 2_000)])
def test_pairs_are_equally_many_distinct_and_at_random(n, m, pairs, given):
    generated, real = given(indexed(n), indexed(m)).feature_pair
    assert len(generated) == len(real) == pairs
    chosen = generated[:, 0].tolist()
    assert len(set(chosen)) == pairs and set(chosen) <= set(range(n))
    assert chosen != sorted(chosen), "the first of a sorted sample would be one mode of it"
    if n > pairs:
        assert np.mean(chosen) == pytest.approx(n / 2, rel=0.1)
        assert chosen != given(indexed(n), indexed(m), seed=1).feature_pair[0][:, 0].tolist()


def test_the_subsample_of_a_reference_is_of_its_images(small_bundle):
    for split, count in (("train", 160), ("test", 60)):
        reference = find_reference(open_bundle(small_bundle), DigitCNN(), split)
        features = reference.subsample(CPU)
        assert features.dtype == torch.float32 and len(features) == count  # all of so few
        assert torch.allclose(features.double().mean(0), reference.statistics(CPU).mean, rtol=1e-2, atol=1e-2)


IMAGE_METRICS = (Frechet, KID, ImageNeighbours, FrechetAtInfinity, Memorisation)


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
    assert set(values) == {"fd", "kid", *SCORES, "fd_infinity", "memorisation"}


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
    assert values[0] == pytest.approx(values[1], rel=1e-4, abs=1e-6) and values[0]["kid"] < 0.1


def test_metrics_of_many_features_are_measured_within_a_gigabyte(given):
    """n = 10,000, d = 2,048: what each allocates beyond the features it is given, by torch's own account."""
    made = given(normal(10_000, 2_048, 0), normal(2_000, 2_048, 1))
    made.train_reference = SimpleNamespace(subsample=lambda device: normal(2_000, 2_048, 2))
    for metric in (KID, ImageNeighbours, Memorisation):
        assert peak_bytes(lambda: metric().measure(made)) < 500e6
    statistics = nested_statistics(made.features, [2_500, 10_000])
    assert peak_bytes(lambda: next(statistics)) < 500e6


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


# Through the real run

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


def scores_of(results):
    board = pd.read_csv(results / "leaderboard.csv")
    return board.pivot(index="prior", columns="metric", values="mean")


def test_planted_cheats_are_caught(tmp_path, cli):
    """Training latents replayed, a single mode, and, honest in that respect, validation latents replayed."""
    (tmp_path / "cheats.py").write_text(CHEATS)
    words = ["run", "--dataset", "digits", "--plugin", tmp_path / "cheats.py", "--results", tmp_path / "r"]
    words += ["--priors", "replays,one_mode,fresh", "--seeds", 1, "--device", "cpu"]
    done = cli(*words, "--metrics", "fd,kid,neighbours,memorisation,latent_neighbours,latent_memorisation,c2st")
    assert done.code == 0, done.err
    scores = scores_of(tmp_path / "r")

    latents = scores["latent_memorisation"]
    assert latents["replays"] > 0.8 and abs(latents["fresh"] - 0.5) < 0.06 and latents["gaussian"] < 0.4
    assert latents["replays"] == pytest.approx(latents["aggregate_posterior"], abs=0.05)
    images = scores["memorisation"]
    assert images["replays"] > max(images["fresh"], images["reconstruction"]) + 0.05
    assert images["replays"] == pytest.approx(images["aggregate_posterior"], abs=0.06)

    for prefix in ("", "latent_"):
        coverage, recall, precision = (scores[prefix + name] for name in ("coverage", "recall", "precision"))
        assert coverage["one_mode"] < 0.05 and recall["one_mode"] < 0.05 < 0.9 < precision["one_mode"]
        assert coverage["one_mode"] < coverage["fresh"] < coverage["replays"]
    assert scores["c2st_auc"]["one_mode"] > 0.99 and scores["c2st_auc"]["replays"] < 0.65
    assert scores["kid"].idxmax() == "one_mode" and scores["kid"]["gaussian"] > scores["kid"]["replays"]


def test_without_a_reference_of_training_images_memorisation_is_blank_until_there_is_one(small_bundle, tmp_path, cli):
    bundle, results = tmp_path / "bundles" / "small-conv_vae", tmp_path / "r"
    shutil.copytree(small_bundle, bundle)
    hidden = [path.rename(tmp_path / path.name) for path in (bundle / "reference").glob("digit-cnn-train.*")]
    assert len(hidden) == 2
    words = ["run", "--bundle", bundle, "--priors", "gaussian", "--seeds", 1, "--device", "cpu", "--results", results]
    words += ["--metrics", "fd,kid,memorisation,latent_memorisation"]
    first = cli(*words)
    assert first.code == 0 and "FAILED" not in first.err
    before, fits = contents(results / "records"), contents(tmp_path / "cache" / "fits")
    kinds = {path.name.partition("-")[0] for path in before}
    assert kinds == {"fit", "fd", "kid", "latent_memorisation"}
    assert "memorisation" not in scores_of(results) and "Failed" not in (results / "leaderboard.md").read_text()
    assert cli(*words).code == 0 and contents(results / "records") == before

    for path in hidden:
        path.rename(bundle / "reference" / path.name)
    assert cli(*words).code == 0
    after = contents(results / "records")
    assert {path: after[path] for path in before} == before and contents(tmp_path / "cache" / "fits") == fits
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
    assert done.code == 0 and str(path) in done.err
    assert "memorisation" not in scores_of(tmp_path / "r")


# Repeat draws from one fit


class Wide(Gaussian):
    def sample(self, n, generator):
        return 1.5 * super().sample(n, generator)


def test_redraws_are_scores_of_new_draws_of_one_fit(small_bundle):
    bundle, extractor = open_bundle(small_bundle), DigitCNN()
    protocol = protocol_for(bundle, PRESETS["rae"], "test", extractor, features=64)
    source, held_out = Wide(bundle.latent_shape, Gaussian.Config()), PosteriorSplit(*bundle.posterior("test", CPU))
    backbone, features = bundle.backbone(ConvVAE, CPU), Features(extractor, CPU)
    reference = find_reference(bundle, extractor, "test")
    asked = Evaluation(source, {"fit": "wide"}, backbone, held_out, features, reference, protocol, 3, CPU, None)
    values = Redraws().measure(asked)
    assert {name: len(scores) for name, scores in values.items()} == dict.fromkeys(
        ("fd_redraws", "mmd_imq_redraws", "mmd_rbf_redraws"), 4
    )
    for scores in values.values():
        assert len(set(scores)) == 4, "each is another draw"
    assert Frechet().measure(asked)["fd"] not in values["fd_redraws"]
    with fresh_cache():
        assert values == Redraws().measure(asked), "streams decide them"
    with seeded_globals(CPU, "redraw 2", 3):
        z = source.sample(protocol.generated, stream(CPU, "redraw 2", 3))
    images = decoded(backbone, z, stream(CPU, "redraw 2 decode", 3))
    by_hand = frechet_distance(feature_statistics(features(images)), reference.statistics(CPU))
    assert values["fd_redraws"][1] == pytest.approx(by_hand, rel=1e-9)
    spread, apart = np.std(values["fd_redraws"]), abs(np.mean(values["fd_redraws"]) - Frechet().measure(asked)["fd"])
    assert apart < 5 * spread, "the first draw is one of them"


def test_redraws_belong_to_the_first_seed_under_a_protocol_that_asks_for_them():
    for seed, redraws, applies in ((0, 4, True), (1, 4, False), (0, 0, False)):
        facts = Facts("evalp", False, seed, (16,), SimpleNamespace(redraws=redraws), False)
        assert Redraws().applies(facts) is applies
