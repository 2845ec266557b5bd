"""Sampling-importance-resampling: the target from other proposals, weights of any size, and memory."""

import math
import sys

import pytest
import torch
from draws import seeded
from scipy import stats
from torch.distributions import Normal

from priors.parts import sir
from priors.parts.sir import effective_sample_size, resample


def test_resampling_gives_the_target_from_proposals_of_another_density():
    """N(0, 1.5^2) proposals, weighted to N(1, 0.7^2): mean, variance and distribution function."""
    n, m = 20_000, 300
    proposal, target = Normal(0.0, 1.5), Normal(1.0, 0.7)
    z = 1.5 * torch.randn(n, m, generator=seeded(1))
    drawn = resample(z[:, :, None], target.log_prob(z) - proposal.log_prob(z), seeded(2)).squeeze(1)
    assert drawn.mean().item() == pytest.approx(1.0, abs=4 * 0.7 / math.sqrt(n))
    assert drawn.var().item() == pytest.approx(0.49, abs=4 * 0.49 * math.sqrt(2 / n))
    assert stats.kstest(drawn.numpy(), stats.norm(1, 0.7).cdf).pvalue > 0.01


def test_resampling_chooses_in_proportion_to_the_weights():
    weights = torch.tensor([0.05, 0.6, 0.0, 0.35])
    proposals = torch.arange(4.0)[None, :, None].expand(40_000, 4, 1)
    for offset in (0.0, 50.0, -50.0):
        drawn = resample(proposals, (weights.log() + offset).expand(40_000, 4), seeded()).flatten().long()
        counts = torch.bincount(drawn, minlength=4)
        assert counts[2] == 0
        kept = [0, 1, 3]
        assert stats.chisquare(counts[kept], (weights[kept] * 40_000).double()).pvalue > 0.01


def test_resampling_of_one_proposal_returns_it():
    z = torch.randn(6, 1, 3, generator=seeded())
    for log_weight in (0.0, 1e4, -1e4):
        assert torch.equal(resample(z, torch.full((6, 1), log_weight), seeded()), z[:, 0])


def test_resampling_keeps_rows_apart_and_proposals_whole():
    """Row i only ever gets one of its own proposals, with all its coordinates."""
    z = torch.arange(5 * 7 * 3.0).view(5, 7, 3)
    drawn = resample(z, torch.randn(5, 7, generator=seeded()), seeded())
    assert drawn.shape == (5, 3)
    assert all((z[row] == drawn[row]).all(1).any() for row in range(5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_log_weights_are_safe(dtype):
    z = torch.arange(4.0, dtype=dtype)[None, :, None].expand(1000, 4, 1)
    rows = {(-1e4, 1e4, -1e4, 0.0): {1}, (-1e4, -1e4, -2e4, -2e4): {0, 1}, (1e4, 1e4, 1e4, 1e4): {0, 1, 2, 3}}
    for row, chosen in rows.items():
        log_weights = torch.tensor(row, dtype=dtype).expand(1000, 4)
        assert set(resample(z, log_weights, seeded()).flatten().long().tolist()) == chosen
        sizes = effective_sample_size(log_weights)
        assert torch.allclose(sizes, torch.full_like(sizes, len(chosen)), rtol=5e-3)


def test_effective_sample_size_by_hand():
    rows = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 1e-30, 1e-30, 1e-30], [2.0, 1.0, 1.0, 0.0]])
    expected = torch.tensor([4.0, 1.0, 16 / 6])
    assert torch.allclose(effective_sample_size(rows.log()), expected, rtol=1e-5)
    assert torch.allclose(effective_sample_size(rows.log() - 20), expected, rtol=1e-4)


def test_many_draws_take_no_more_memory_than_few():
    """Small results kept between the large blocks that come and go pinned a new block each: gigabytes."""
    resource = pytest.importorskip("resource")

    def weighted(n, generator):
        proposals = torch.randn(n, 5_000, 4, generator=generator)
        hidden = proposals.repeat(1, 1, 128)  # the 10 MB of an energy network's layer
        return proposals, hidden.sum(2) * 0

    def peak(draws):
        sir.sample(weighted, draws, 5_000, seeded())
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    before = peak(20)
    assert peak(400) - before < 200e6
