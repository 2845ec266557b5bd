"""What metrics are given: pairs of features, pairs of latents, and principal axes that all rows share."""

import math

import numpy as np
import pytest
import torch
from draws import CPU
from evaluations import SUFFIX, Scaled, evaluation, spatial_evaluation
from posteriors import narrowing
from sklearn.decomposition import PCA

from benchmark.streams import stream


def indexed(n: int) -> torch.Tensor:
    return torch.arange(n).float()[:, None].expand(n, 3)


@pytest.mark.parametrize("n, m, pairs", [(30, 50, 30), (50, 30, 30), (10_000, 2_000, 2_000), (10_000, 3_000, 2_000)])
def test_pairs_are_equally_many_distinct_and_at_random(n, m, pairs, given):
    generated, real = given(indexed(n), indexed(m)).feature_pair
    assert len(generated) == len(real) == pairs
    chosen = generated[:, 0].tolist()
    assert len(set(chosen)) == pairs
    assert set(chosen) <= set(range(n))
    assert chosen != sorted(chosen), "the first of a sorted sample would be one mode of it"
    if n > pairs:
        assert np.mean(chosen) == pytest.approx(n / 2, rel=0.1)
        assert chosen != given(indexed(n), indexed(m), seed=1).feature_pair[0][:, 0].tolist()


# Latents


@pytest.mark.parametrize("shape", [(4,), (2, 3)])
def test_latents_that_are_not_spatial_are_compared_as_they_are_alone(shape):
    asked = evaluation(Scaled(shape, 1.0), narrowing(*shape), seed=2)
    ((suffix, drawn, real),) = asked.latent_pairs("some purpose")
    assert suffix == ""
    assert torch.equal(drawn, Scaled(shape, 1.0).sample(40, stream(CPU, "mmd sample", 2)).flatten(1))
    assert torch.equal(real, narrowing(*shape).one_each(40, stream(CPU, "some purpose held-out", 2)).flatten(1))


@pytest.mark.parametrize("shape, n", [((4, 5, 6), 100), ((3, 5, 5), 100), ((1, 2, 2), 100), ((4, 5, 6), 30)])
def test_principal_axes_are_those_of_scikit_learn(shape, n):
    """With more dimensions than latents and with fewer; with fewer than 64 of either."""
    asked = spatial_evaluation(shape=shape, mmd_latents=n)
    fixed = narrowing(*shape).one_each(n, stream(CPU, "principal axes")).flatten(1).double().numpy()
    count = min(64, math.prod(shape), n - 1)
    theirs = torch.from_numpy(PCA(count, svd_solver="full").fit(fixed).components_)
    axes = asked.principal_axes.double()
    assert axes.shape == (math.prod(shape), count)
    assert torch.allclose(axes.T @ axes, torch.eye(count).double(), atol=1e-5)
    aligned = (theirs @ axes.flip(1)).abs().diagonal()  # the sign of an axis is nobody's
    assert aligned.min() > 1 - 1e-4


def test_principal_axes_are_shared_by_all_rows_and_seeds():
    axes = [
        spatial_evaluation(Scaled((4, 5, 6), scale), seed=seed).principal_axes for scale, seed in ((1, 0), (9.0, 3))
    ]
    assert torch.equal(*axes)


def test_spatial_latents_are_compared_on_principal_axes_too():
    asked = spatial_evaluation()
    (_, drawn, real), (suffix, projected, projected_real) = asked.latent_pairs("purpose")
    assert suffix == SUFFIX
    assert drawn.shape == (100, 120)
    assert projected.shape == (100, 64)
    assert torch.equal(projected, drawn @ asked.principal_axes)
    assert torch.equal(projected_real, real @ asked.principal_axes)
