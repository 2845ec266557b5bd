"""Fréchet distance between Gaussians fitted to features of generated and of real images (Heusel et al. 2017).

    d^2 = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S2^1/2 S1 S2^1/2)^1/2

The symmetric form has the eigenvalues of S1 S2 and needs no eigenvalues of a non-symmetric matrix; the
reference's root S2^1/2 is computed once and kept. Called FID for the 2048 Inception features alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.metrics.api import Statistics


def feature_statistics(features: Tensor) -> Statistics:
    """Mean and unbiased covariance of features (n, d)."""
    features = features.double()
    return Statistics(features.mean(0), features.T.cov())


def frechet_distance(generated: Statistics, reference: Statistics) -> float:
    """The squared distance d^2 above, which is what is reported as FID."""
    product = reference.root @ generated.covariance @ reference.root
    trace_of_root = torch.linalg.eigvalsh(product).clamp_min(0).sqrt().sum()
    shift = (generated.mean - reference.mean).square().sum()
    return (shift + generated.covariance.trace() + reference.covariance.trace() - 2 * trace_of_root).item()
