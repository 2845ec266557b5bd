"""The MMD against a double loop, its permutation test, and its bandwidths; on principal axes too."""

import math

import numpy as np
import pytest
import torch
from draws import CPU, seeded
from evaluations import SUFFIX, Scaled, evaluation, spatial_evaluation
from posteriors import narrowing
from scipy import stats

from benchmark.metrics import mmd
from benchmark.metrics.api import Facts
from benchmark.metrics.mmd import MMD, ProjectedMMD
from benchmark.scores.mmd import (
    KERNELS,
    kernel_matrix,
    median_squared_distance,
    mmd_squared,
    permutation_test,
    squared_distances,
)
from benchmark.streams import stream


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
    assert min(p_values) >= 1 / 200
    assert max(p_values) <= 1
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


# On principal axes


def test_the_mmd_on_principal_axes_is_that_of_the_projected_latents():
    """As if the latents were vectors of 64 numbers; the bandwidths too are theirs."""
    asked = spatial_evaluation(seed=2)
    values, plain = ProjectedMMD().measure(asked), MMD().measure(asked)
    assert set(values) == {f"mmd_{kernel}{SUFFIX}{p}" for kernel in KERNELS for p in ("", "_p")}
    assert set(plain) == {name.replace(SUFFIX, "") for name in values}
    fixed = narrowing(4, 5, 6).one_each(100, stream(CPU, "mmd bandwidth")).flatten(1) @ asked.principal_axes
    median = median_squared_distance(fixed)
    _, (_, drawn, real) = asked.latent_pairs("mmd")

    def mean(x, y, diagonal):
        squared = torch.cdist(x.double(), y.double()) ** 2
        kernel = sum(c * median / (c * median + squared) for c in asked.protocol.mmd_bandwidths)
        return (kernel.sum() - (kernel.trace() if diagonal else 0)) / (len(x) * (len(y) - diagonal))

    by_hand = mean(drawn, drawn, True) + mean(real, real, True) - 2 * mean(drawn, real, False)
    assert values[f"mmd_imq{SUFFIX}"] == pytest.approx(by_hand.item(), abs=1e-6)
    assert values[f"mmd_imq{SUFFIX}"] != pytest.approx(plain["mmd_imq"], rel=0.01)


def test_the_mmd_on_principal_axes_is_of_spatial_bundles_alone():
    for shape, applies in (((16,), False), ((2, 3), False), ((20, 8, 8), True)):
        assert ProjectedMMD().applies(Facts("evalp", False, 0, shape, None, False)) is applies
