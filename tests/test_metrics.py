"""Each metric against a closed form, an independent implementation or its own statistics."""

import math
import time

import numpy as np
import pytest
import torch
from evaluations import CPU, Scaled, evaluation, seeded
from scipy import stats
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

from benchmark.machine.peak_memory import peak_memory
from benchmark.machine.stopwatch import durations
from benchmark.metrics import mmd
from benchmark.metrics.mmd import MMD
from benchmark.metrics.samples import as_png, from_png
from benchmark.metrics.sampling_time import SamplingTime
from benchmark.scores.frechet import Statistics, feature_statistics, frechet_distance
from benchmark.scores.mmd import kernel_matrix, mmd_squared, permutation_test, squared_distances
from benchmark.streams import stream
from priors.api import PosteriorSplit, PriorConfig
from priors.gaussian import Gaussian

# Fréchet distance


def correlated(n: int, d: int, seed: int) -> torch.Tensor:
    """Features with a mean away from zero and a full, ill-conditioned covariance."""
    generator = seeded(seed)
    mixing = torch.randn(d, d, generator=generator, dtype=torch.float64) * torch.logspace(0, -2, d, dtype=torch.float64)
    mean = torch.randn(d, generator=generator, dtype=torch.float64)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) @ mixing + mean


def of_torch_fidelity(generated: torch.Tensor, reference: torch.Tensor) -> float:
    pair = [fid_features_to_statistics(features) for features in (generated, reference)]
    return fid_statistics_to_metric(*pair, verbose=False)[KEY_METRIC_FID]


def ours(generated: torch.Tensor, reference: torch.Tensor) -> float:
    return frechet_distance(feature_statistics(generated), feature_statistics(reference))


@pytest.mark.parametrize("d", [2, 5, 64, 200])
def test_frechet_equals_torch_fidelity(d):
    generated, reference = correlated(3 * d + 100, d, seed=d), correlated(4 * d + 50, d, seed=d + 1)
    theirs = of_torch_fidelity(generated, reference)
    assert ours(generated, reference) == pytest.approx(theirs, rel=1e-4)
    assert ours(generated.float(), reference.float()) == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("n", [10, 40])
def test_frechet_of_rank_deficient_covariances_equals_torch_fidelity(n):
    """With fewer images than features, what can differ is the roots of eigenvalues that are zero but for rounding."""
    generated, reference = correlated(n, 64, seed=1), correlated(n + 5, 64, seed=2)
    assert ours(generated, reference) == pytest.approx(of_torch_fidelity(generated, reference), rel=1e-4)


def test_frechet_of_equal_statistics_is_zero():
    statistics = feature_statistics(correlated(500, 32, seed=0))
    scale = statistics.covariance.trace().item()
    assert abs(frechet_distance(statistics, statistics)) < 1e-6 * scale


def test_frechet_of_equal_distributions_vanishes_with_n():
    """It is biased upwards by a term of order d^2 / n, and by no more."""
    small = ours(*torch.randn(2, 500, 8, generator=seeded(0)))
    large = ours(*torch.randn(2, 50_000, 8, generator=seeded(1)))
    assert 0 < large < 2e-3 < small < 0.2


def test_frechet_has_the_closed_form_of_commuting_gaussians():
    """With shared axes: |m1 - m2|^2 + sum (s1 - s2)^2."""
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=seeded(0), dtype=torch.float64))[0]
    s1, s2 = torch.tensor([[1.0, 2.0, 0.5, 3.0], [2.0, 2.0, 1.5, 0.1]], dtype=torch.float64)
    m1, m2 = torch.tensor([[0.0, 1.0, 2.0, 3.0], [1.0, 1.0, 0.0, 5.0]], dtype=torch.float64)
    first, second = (Statistics(m, rotation @ (s**2).diag() @ rotation.T) for m, s in ((m1, s1), (m2, s2)))
    by_hand = (1 + 0 + 4 + 4) + (1 + 0 + 1 + 2.9**2)
    assert frechet_distance(first, second) == pytest.approx(by_hand, rel=1e-10)
    assert frechet_distance(second, first) == pytest.approx(by_hand, rel=1e-10)


def test_frechet_has_the_closed_form_of_two_dimensions():
    """For 2 x 2 matrices that do not commute, tr sqrt(S1 S2) = sqrt(tr S1 S2 + 2 sqrt(det S1 det S2))."""
    s1 = torch.tensor([[2.0, 0.9], [0.9, 1.0]], dtype=torch.float64)
    s2 = torch.tensor([[0.5, -0.3], [-0.3, 3.0]], dtype=torch.float64)
    trace_of_root = math.sqrt((s1 @ s2).trace() + 2 * math.sqrt(s1.det() * s2.det()))
    zero = torch.zeros(2, dtype=torch.float64)
    distance = frechet_distance(Statistics(zero, s1), Statistics(zero, s2))
    assert distance == pytest.approx(6.5 - 2 * trace_of_root, rel=1e-10)


# Maximum mean discrepancy


def naive_kernel(x, y, kernel: str, bandwidths) -> float:
    squared = sum((float(a) - float(b)) ** 2 for a, b in zip(x, y))
    if kernel == "imq":
        return sum(s / (s + squared) for s in bandwidths)
    return sum(math.exp(-squared / (2 * s)) for s in bandwidths)


def naive_mmd(x, y, kernel: str, bandwidths) -> float:
    n = len(x)
    within_x = sum(naive_kernel(x[i], x[j], kernel, bandwidths) for i in range(n) for j in range(n) if i != j)
    within_y = sum(naive_kernel(y[i], y[j], kernel, bandwidths) for i in range(n) for j in range(n) if i != j)
    across = sum(naive_kernel(x[i], y[j], kernel, bandwidths) for i in range(n) for j in range(n))
    return (within_x + within_y) / (n * (n - 1)) - 2 * across / n**2


def pooled_kernel(x: torch.Tensor, y: torch.Tensor, kernel: str, bandwidths) -> torch.Tensor:
    pooled = torch.cat([x, y])
    return kernel_matrix(squared_distances(pooled, pooled), kernel, bandwidths)


def first_half(n: int) -> torch.Tensor:
    return torch.cat([torch.ones(n, 1), torch.zeros(n, 1)]).double()


@pytest.mark.parametrize("kernel", mmd.KERNELS)
def test_mmd_equals_a_double_loop_for_every_labelling(kernel):
    """The vectorised U-statistic, for the labelling as drawn and for a shuffled one in the same call."""
    n, bandwidths = 9, [0.3, 2.0, 7.0]
    x, y = torch.randn(n, 3, generator=seeded(0)), torch.randn(n, 3, generator=seeded(1)) * 1.5 + 0.4
    shuffled = torch.randperm(2 * n, generator=seeded(2))
    labels = torch.cat([first_half(n), first_half(n)], 1)
    labels[:, 1] = labels[shuffled, 1]
    values = mmd_squared(pooled_kernel(x, y, kernel, bandwidths), labels)
    pooled, chosen = torch.cat([x, y]), labels[:, 1].bool()
    assert values[0].item() == pytest.approx(naive_mmd(x, y, kernel, bandwidths), abs=1e-9)
    assert values[1].item() == pytest.approx(naive_mmd(pooled[chosen], pooled[~chosen], kernel, bandwidths), abs=1e-9)


def test_mmd_is_unbiased_and_goes_below_zero():
    """Over 200 pairs of equal distributions; the biased V-statistic would be told apart ten times over."""
    n, bandwidths, values, diagonal = 30, [1.0, 4.0], [], []
    for draw in range(200):
        x, y = torch.randn(2, n, 3, generator=seeded(draw))
        kernel = pooled_kernel(x, y, "imq", bandwidths)
        values.append(mmd_squared(kernel, first_half(n)).item())
        off_diagonal = (kernel.sum() - kernel.trace()) / (2 * n * (2 * n - 1))
        diagonal.append((2 / n * (kernel[0, 0] - off_diagonal)).item())
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    assert abs(np.mean(values)) < 2 * error < 0.1 * np.mean(diagonal)
    assert 0.3 < np.mean(np.array(values) < 0) < 0.8


def test_permutation_p_values_are_uniform_under_the_null():
    p_values = []
    for draw in range(150):
        x, y = torch.randn(2, 15, 2, generator=seeded(1000 + draw))
        kernel = pooled_kernel(x, y, "rbf", [1.0])
        p_values.append(permutation_test(kernel, 199, seeded(draw))[1])
    assert min(p_values) >= 1 / 200 and max(p_values) <= 1
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


@pytest.mark.parametrize("kernel", mmd.KERNELS)
def test_permutation_p_value_of_a_clear_shift_is_the_least_there_is(kernel):
    x, y = torch.randn(40, 4, generator=seeded(0)), torch.randn(40, 4, generator=seeded(1)) + 1.5
    value, p = permutation_test(pooled_kernel(x, y, kernel, [1.0, 8.0]), 299, seeded(2))
    assert value == pytest.approx(mmd_squared(pooled_kernel(x, y, kernel, [1.0, 8.0]), first_half(40)).item())
    assert p == pytest.approx(1 / 300)


def test_permutation_test_counts_ties():
    """Between two copies of one point everything is a tie, so that nothing is evidence."""
    assert permutation_test(torch.ones(20, 20, dtype=torch.float64), 99, seeded(0))[1] == 1.0


def test_distances_survive_an_offset_in_float32():
    """Far from the origin, cancellation in |x|^2 + |y|^2 - 2xy would eat the distances of float32."""
    x = torch.randn(20, 5, generator=seeded(0)) + 100
    assert torch.allclose(squared_distances(x, x), torch.cdist(x.double(), x.double()) ** 2, atol=1e-8)
    assert mmd.median_squared_distance(torch.tensor([[0.0], [1.0], [3.0]])) == pytest.approx(4.0)


@pytest.fixture
def held_out() -> PosteriorSplit:
    return PosteriorSplit(torch.randn(60, 2, 3, generator=seeded(0)), torch.full((60, 2, 3), 0.3))


def test_mmd_bandwidths_are_the_same_for_all_priors_and_seeds(held_out, monkeypatch):
    used = []

    def noting(distances, kernel, bandwidths):
        used.append((kernel, bandwidths))
        return kernel_matrix(distances, kernel, bandwidths)

    monkeypatch.setattr(mmd, "kernel_matrix", noting)
    for source in (Scaled((2, 3), 0.01), Scaled((2, 3), 50.0, shift=9.0)):
        for seed in (0, 1):
            MMD().measure(evaluation(source, held_out, seed))
    bandwidths = used[0][1]
    assert {kernel for kernel, _ in used} == set(mmd.KERNELS)
    assert all(other == bandwidths for _, other in used)
    z = held_out.one_each(60, seeded(5)).flatten(1).double()
    median = torch.pdist(z).square().median().item()
    factors = evaluation(None, held_out).protocol.mmd_bandwidths
    assert bandwidths == pytest.approx([factor * median for factor in factors], rel=0.2)


def test_mmd_of_a_prior_that_is_everywhere_is_what_held_out_latents_have_among_themselves(held_out):
    """The further it spreads, the less its own kernel values are: with bandwidths of its own they would stay."""
    values = [MMD().measure(evaluation(Scaled((2, 3), scale), held_out)) for scale in (1e5, 1e7)]
    for kernel in mmd.KERNELS:
        assert values[0][f"mmd_{kernel}"] == pytest.approx(values[1][f"mmd_{kernel}"], rel=1e-4)
        assert 1 < values[1][f"mmd_{kernel}"] < 7
        assert values[1][f"mmd_{kernel}_p"] == pytest.approx(1 / 51)


def test_mmd_measure_equals_a_double_loop_on_the_same_draws(held_out):
    asked = evaluation(Scaled((2, 3), 0.5), held_out, seed=3, mmd_latents=12, mmd_bandwidths=(0.5, 2.0))
    values = MMD().measure(asked)
    median = mmd.median_squared_distance(held_out.one_each(12, stream(CPU, "mmd bandwidth")).flatten(1))
    real = held_out.one_each(12, stream(CPU, "mmd held-out", 3)).flatten(1)
    drawn = Scaled((2, 3), 0.5).sample(12, stream(CPU, "mmd sample", 3)).flatten(1)
    for kernel in mmd.KERNELS:
        by_hand = naive_mmd(drawn, real, kernel, [0.5 * median, 2 * median])
        assert values[f"mmd_{kernel}"] == pytest.approx(by_hand, abs=1e-6)


# Sampling time


def test_durations_take_three_repeats_even_over_the_limit():
    calls = []

    def slow():
        calls.append(time.sleep(0.01))

    taken = durations(slow, CPU, repeats=20, seconds=0.0)
    assert len(taken) == len(calls) == 3
    assert all(0.01 <= seconds < 1 for seconds in taken)


def test_the_first_draw_of_each_batch_is_a_warm_up_and_not_counted(held_out):
    class Slow(Gaussian):
        waits = iter([0.4, 0, 0, 0, 0, 0] * 2)

        def sample(self, n, generator):
            time.sleep(next(self.waits))
            return super().sample(n, generator)

    asked = evaluation(Slow((2, 3), PriorConfig()), held_out, timing_batches=(3, 50), timing_repeats=4)
    values = SamplingTime().measure(asked)
    assert all(values[f"prior_seconds_{batch}_quartiles"][1] < 0.05 for batch in (3, 50))


def test_durations_stop_at_the_repeats():
    assert len(durations(lambda: None, CPU, repeats=7, seconds=1e9)) == 7
    assert len(durations(lambda: None, CPU, repeats=1, seconds=1e9)) == 3


def test_durations_stop_at_the_time_limit():
    taken = durations(lambda: time.sleep(0.02), CPU, repeats=1000, seconds=0.1)
    assert 3 <= len(taken) <= 5 and sum(taken[:-1]) < 0.1


def test_sampling_time_reports_each_batch_with_what_explains_it(held_out):
    asked = []

    class Noting(Gaussian):
        def sample(self, n, generator):
            asked.append(n)
            time.sleep(0.001)
            return super().sample(n, generator)

    source = Noting((2, 3), PriorConfig())
    values = SamplingTime().measure(evaluation(source, held_out, timing_batches=(3, 50), timing_repeats=5))
    assert sorted(set(asked)) == [3, 50]
    for batch in (3, 50):
        for what in ("prior", "decode", "images"):
            low, high = values[f"{what}_seconds_{batch}_quartiles"]
            assert 0 < low <= values[f"{what}_seconds_{batch}"] <= high < 1
        prior, decode, images = (values[f"{what}_seconds_{batch}"] for what in ("prior", "decode", "images"))
        assert prior > 0.001 and images == prior + decode
        assert values[f"prior_repeats_{batch}"] == values[f"decode_repeats_{batch}"] == 5
        assert values[f"prior_peak_bytes_{batch}"] == batch * 6 * 4
        assert values[f"decode_peak_bytes_{batch}"] == batch * 6 * 4
    assert len(asked) == 2 * 7, "what is decoded to be timed is not asked of a prior that may be slow"
    assert values["network_evaluations"] == 0 and values["parameters"] == 0


def test_peak_memory_counts_what_lives_at_once():
    kept = torch.ones(1000)

    def run():
        one = kept + 1  # 4,000 bytes
        two = one.double()  # 8,000 more: the peak
        del one
        view = two[:500].reshape(5, 100)  # no storage of its own
        view.add_(1)
        return two.float()  # 8,000 + 4,000 again

    assert peak_memory(run, CPU) == 12_000
    assert peak_memory(lambda: [torch.zeros(250) for _ in range(3)], CPU) == 3_000
    assert peak_memory(lambda: [torch.zeros(250).sum() for _ in range(3)][-1], CPU) == 1_000 + 3 * 4
    assert peak_memory(lambda: kept.mul_(1), CPU) == 0


# Sample strips


@pytest.mark.parametrize("channels", [1, 3])
def test_png_round_trip(channels):
    images = torch.randint(0, 256, (5, channels, 6, 4), generator=seeded(0), dtype=torch.uint8)
    picture = from_png(as_png(images))
    assert picture.size == (5 * 4, 6) and picture.mode == {1: "L", 3: "RGB"}[channels]
    pixels = torch.from_numpy(np.array(picture)).reshape(6, 5, 4, channels)
    assert torch.equal(pixels.permute(1, 3, 0, 2), images)
