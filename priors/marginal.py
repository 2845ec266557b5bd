"""Independent after a rotation: coordinates of q_agg by PCA or ICA, and a density of one variable along each.

    x = W (z - m),      p(z) = |det W| prod_j p_j(x_j)

For `rotation=pca` W is orthogonal, the eigenvectors of the covariance, and its determinant 1. For `rotation=ica` W is
R S^(-1/2): coordinates are made white, then turned by FastICA (Hyvarinen 1999), whose directions are as far from
Gaussian as can be, with the contrast log cosh and symmetric decorrelation:

    R <- E[g(R y) y^T] - diag(E[g'(R y)]) R,      R <- (R R^T)^(-1/2) R,      g = tanh

The p_j are kernels (`priors.parts.kernels`). The idea of KAEM (arXiv 2506.14167), whose prior is a product of
univariate energies that are sampled by inverse transform, taken to a frozen VAE. What a `gmm` gains over it is
dependence.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from priors.api import AggregatePosterior, Diverged, LatentPrior, PriorConfig, Progress, hookimpl
from priors.parts import kernels
from priors.parts.draws import finite_draws

HELD_OUT = 2_000  # draws in the held-out likelihood
ITERATIONS = 200  # of FastICA, at most
RANK = 1e-12  # of the largest variance: an axis with less has none
TOLERANCE = 1e-4  # how far its directions may still turn: 1 - |cos| of the angle


class MarginalConfig(PriorConfig):
    """`draws` of q_agg are what rotation and densities are fitted to."""

    rotation: Literal["pca", "ica"] = "ica"
    draws: int = Field(50_000, ge=2)


class Marginal(LatentPrior):
    name = "marginal"
    group = "closed_form"
    by_default = False
    Config = MarginalConfig
    config: MarginalConfig
    block_recipes = {
        "mnist": (128, {}),
        "celeba64": (1_280, {"rotation": "pca", "draws": 20_000}),
        "cifar10": (5_120, {"rotation": "pca", "draws": 20_000}),
    }
    quick = {"draws": 10_000}
    learns = {"ring": 0.5, "banana": 0.5, "narrow": 0.01, "standard": 0.005}
    network_evaluations = 0
    mean: Tensor
    rotate: Tensor
    back: Tensor
    centres: Tensor
    widths: Tensor

    def __init__(self, latent_shape: tuple[int, ...], config: MarginalConfig) -> None:
        super().__init__(latent_shape, config)
        d = math.prod(latent_shape)
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("rotate", torch.eye(d))
        self.register_buffer("back", torch.eye(d))
        self.register_buffer("centres", torch.zeros(d, kernels.KERNELS))
        self.register_buffer("widths", torch.ones(d, kernels.KERNELS))

    @torch.no_grad()
    def fit(self, posterior: AggregatePosterior, generator: torch.Generator, progress: Progress) -> dict[str, Any]:
        z = finite_draws(posterior.train, self.config.draws, generator)
        mean = z.mean(0)
        variances, axes = torch.linalg.eigh(torch.atleast_2d(z.T.cov()))
        if variances[0] <= RANK * variances[-1]:
            raise Diverged(f"the covariance of {len(z):,} draws is singular")
        rotate, back, iterations = axes.T, axes, 0
        if self.config.rotation == "ica":
            to_white, from_white = axes.T / variances.sqrt()[:, None], axes * variances.sqrt()
            turn, iterations = fast_ica((z - mean) @ to_white.T, generator)
            rotate, back = turn @ to_white, from_white @ turn.T
        x, held_out = ((each - mean) @ rotate.T for each in (z, finite_draws(posterior.val, HELD_OUT, generator)))
        centres, widths = kernels.fit_kernels(x, held_out)
        for mine, made in zip(self.buffers(), (mean, rotate, back, centres, widths), strict=True):
            mine.copy_(made)
        return {"ica_iterations": iterations}

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        x = kernels.draw(n, self.centres, self.widths, generator)
        return (self.mean + x @ self.back.T).unflatten(1, self.latent_shape)

    def log_prob(self, z: Tensor) -> Tensor:
        rotate = self.rotate.double()
        x = (z.flatten(1).double() - self.mean) @ rotate.T
        density = kernels.log_density(x, self.centres, self.widths).sum(1) + torch.linalg.slogdet(rotate).logabsdet
        return density.to(z.dtype)

    def energy(self, z: Tensor) -> Tensor:
        return -self.log_prob(z)


def fast_ica(white: Tensor, generator: torch.Generator) -> tuple[Tensor, int]:
    """An orthogonal matrix R (d, d) whose rows are directions of white (n, d), and after how many iterations."""
    d = white.shape[1]
    start = torch.randn(d, d, generator=generator, device=generator.device).double()
    turn = _orthogonal(start)
    iteration, still = 0, torch.ones(())
    while still >= TOLERANCE and iteration < ITERATIONS:
        iteration += 1
        g = torch.tanh(white @ turn.T)
        new = _orthogonal(g.T @ white / len(white) - (1 - g.square()).mean(0)[:, None] * turn)
        still = (1 - (new * turn).sum(1).abs()).max()
        turn = new
    return turn, iteration


def _orthogonal(matrix: Tensor) -> Tensor:
    """(M M^T)^(-1/2) M: the nearest orthogonal matrix."""
    left, _, right = torch.linalg.svd(matrix)
    return left @ right


@hookimpl
def register_priors() -> list[type[LatentPrior]]:
    return [Marginal]
