"""A mixture of Gaussians, fitted by expectation-maximisation (Dempster, Laird and Rubin 1977) to draws of q_agg.

    p(z) = sum_k w_k N(z; mu_k, S_k)
    E:  r_nk = w_k N(z_n; mu_k, S_k) / p(z_n)
    M:  w_k = mean r_nk;  mu_k, S_k = mean and covariance of z under r_nk,  S_k + floor I

the "ex-post density estimation" of Ghosh et al. 2020 (RAE, arXiv 1903.12436), who take 10 full covariances and
scikit-learn's stopping rule: the log-likelihood of a draw gains less than `tolerance`. Components start as the clusters
of k-means, from centres drawn by k-means++ (Arthur and Vassilvitskii 2007). Each has a covariance of its own from the
start: with one for all, in 128 dimensions, EM stays beside the saddle where all components are alike.

`components=auto` climbs a ladder of sizes while the held-out likelihood rises, and keeps the best: on draws of the
validation images, so that components that have learned single images by heart do not pass. With a number, that many.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from priors.api import AggregatePosterior, Between, Diverged, LatentPrior, OneOf, PriorConfig, Progress, hookimpl
from priors.parts.chunks import is_open
from priors.parts.draws import finite_draws
from priors.parts.mixtures import choose, draw, log_density, log_joint

LADDER = (1, 2, 5, 10, 20, 50, 100, 200)  # numbers of components that `auto` tries
HELD_OUT = 10_000  # draws in the held-out likelihood
LARGEST = 2**28  # numbers in all covariances together
LLOYD = 10  # iterations of k-means before EM
LEAST = {"ring": 8, "mixture": 10, "banana": 10, "block": 4, "stairs": 4}  # components that targets of `check` need


class GMMConfig(PriorConfig):
    """`iterations` are at most so many for each number of components; `floor` is added to every variance."""

    components: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    covariance: Literal["diagonal", "full"] = "full"
    draws: int = Field(100_000, ge=2)
    iterations: int = Field(200, ge=1)
    tolerance: float = Field(1e-3, gt=0)
    floor: float = Field(1e-6, gt=0)


class Mixture(NamedTuple):
    """As in `priors.parts.mixtures`: weights (k,), means (k, d), roots (k, d) or (k, d, d)."""

    weights: Tensor
    means: Tensor
    roots: Tensor


#: rows of z (m, d), and how much of each belongs to each component (k, m)
Shares = Iterator[tuple[Tensor, Tensor]]


class GMM(LatentPrior):
    name = "gmm"
    group = "closed_form"
    Config = GMMConfig
    config: GMMConfig
    recipes = {
        "mnist": (16, {}),
        "celeba64": (64, {}),
        "cifar10": (128, {"draws": 50_000, "tolerance": 1e-2}),  # where an iteration is dear
    }
    block_recipes = {
        "mnist": (128, {}),
        "celeba64": (1_280, {"covariance": "diagonal", "draws": 50_000}),
        "cifar10": (5_120, {"covariance": "diagonal", "draws": 20_000}),
    }
    long_recipes = {"mnist": (1_792, {"covariance": "diagonal", "draws": 50_000})}
    space = {
        "components": OneOf(("auto", 5, 10, 20, 50, 100, 200), "the ladder, and its rungs but for the first two"),
        "floor": Between(1e-6, 1e-2, "from next to nothing to where no component is narrower than 0.1"),
    }
    quick = {"draws": 10_000, "iterations": 50}
    learns = {
        "ring": 0.05,
        "mixture": 0.05,
        "banana": 0.05,
        "narrow": 0.01,
        "standard": 0.005,
        "block": 0.1,
        "stairs": 0.1,
    }
    network_evaluations = 0
    weights: Tensor
    means: Tensor
    roots: Tensor

    def __init__(self, latent_shape: tuple[int, ...], config: GMMConfig) -> None:
        super().__init__(latent_shape, config)
        d, most = math.prod(latent_shape), max(ladder(config.components))
        if config.covariance == "full" and most * d * d > LARGEST:
            raise ValueError(
                f"full covariances of {most} components of {d:,} latents are {most * d * d:,} numbers: take "
                "covariance=diagonal, or fewer components"
            )
        self.learns = {name: share for name, share in self.learns.items() if most >= LEAST.get(name, 1)}
        # where fewer components are chosen than there is room for, those behind them have no weight
        self.register_buffer("weights", torch.full((most,), 1 / most))
        self.register_buffer("means", torch.zeros(most, d))
        root = torch.ones(d) if config.covariance == "diagonal" else torch.eye(d)
        self.register_buffer("roots", root.expand(most, *root.shape).clone())

    @torch.no_grad()
    def fit(self, posterior: AggregatePosterior, generator: torch.Generator, progress: Progress) -> dict[str, Any]:
        config, best = self.config, math.inf
        z = finite_draws(posterior.train, config.draws, generator)
        held_out = finite_draws(posterior.val, HELD_OUT, generator)
        sizes = [size for size in ladder(config.components) if size <= len(z)]
        if not sizes:
            raise Diverged(f"{config.components:,} components are more than {len(z):,} draws can start")
        for rung, size in enumerate(sizes):
            begun = start(z, size, config.covariance == "full", config.floor, generator)
            made, iterations = expectation_maximisation(z, begun, config.floor, config.iterations, config.tolerance)
            nll = -log_density(held_out, *made).mean().item()
            progress(rung + 1, len(sizes), held_out_nll=nll, components=size, iterations=iterations)
            if not math.isfinite(nll):
                raise Diverged(f"the held-out likelihood of {size} components is not finite")
            if nll >= best:
                break
            best = nll
            self._keep(made)
        return {"held_out_nll": best, "components": int((self.weights > 0).sum())}

    def _keep(self, made: Mixture) -> None:
        self.weights.zero_()
        for mine, its in zip((self.weights, self.means, self.roots), made):
            mine[: len(its)] = its

    def _mixture(self) -> Mixture:
        """The components that have any weight."""
        used = self.weights > 0
        return Mixture(self.weights[used], self.means[used], self.roots[used])

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        # whole where nobody can be asked which have weight: those without stand last, and are never drawn
        mixture = (self.weights, self.means, self.roots) if is_open(n) else self._mixture()
        return draw(n, *mixture, generator).unflatten(1, self.latent_shape)

    def log_prob(self, z: Tensor) -> Tensor:
        return log_density(z.flatten(1), *self._mixture())

    def energy(self, z: Tensor) -> Tensor:
        return -self.log_prob(z)


def ladder(components: int | Literal["auto"]) -> tuple[int, ...]:
    """The numbers of components to try."""
    return LADDER if components == "auto" else (components,)


def start(z: Tensor, components: int, full: bool, floor: float, generator: torch.Generator) -> Mixture:
    """The clusters that k-means finds in z (n, d), from centres drawn by k-means++.

    A cluster's covariance is shrunk to that within all of them, as if d of its draws had that one: the covariance of
    few draws in many dimensions is singular.
    """
    n, d = z.shape
    centres = _far_apart(z, components, generator)
    for _ in range(LLOYD):
        centres = _moments(_nearest(z, centres), z.new_zeros(components, d), full=False)[1]
    counts, means, seconds = _moments(_nearest(z, centres), z.new_zeros(components, d), full)
    within = _covariances(means, seconds)
    by = counts.view(-1, *[1] * (within.dim() - 1))
    pooled = (by * within).sum(0) / n
    return _mixture(counts, means, (by * within + d * pooled) / (by + d), floor)


def _far_apart(z: Tensor, components: int, generator: torch.Generator) -> Tensor:
    """Centres (k, d) out of z (n, d), each in proportion to its squared distance from the nearest before it."""
    centres = z[choose(z.new_ones(len(z)), 1, generator)]
    nearest = (z - centres).square().sum(1)
    for _ in range(1, components):
        centre = z[choose(nearest + torch.finfo(z.dtype).tiny, 1, generator)]
        nearest = torch.minimum(nearest, (z - centre).square().sum(1))
        centres = torch.cat([centres, centre])
    return centres


def _nearest(z: Tensor, centres: Tensor) -> Shares:
    """Shares of z (n, d): all of a draw for the nearest of the centres (k, d)."""
    equal = centres.new_full((len(centres),), 1 / len(centres))
    for rows, joint in log_joint(z, equal, centres, torch.ones_like(centres)):
        yield rows, F.one_hot(joint.argmax(1), len(centres)).to(z.dtype).T


def expectation_maximisation(
    z: Tensor, mixture: Mixture, floor: float, iterations: int, tolerance: float
) -> tuple[Mixture, int]:
    """The mixture that EM makes of a first one on z (n, d), and after how many iterations. Raises `Diverged`."""
    iteration, now, gain = 0, -math.inf, math.inf
    while iteration < iterations and abs(gain) >= tolerance:
        iteration, before = iteration + 1, now
        likelihood = z.new_zeros(())
        counts, means, seconds = _moments(
            _responsibilities(z, mixture, likelihood), mixture.means, full=mixture.roots.dim() == 3
        )
        mixture = _mixture(counts, means, _covariances(means, seconds), floor)
        now = likelihood.item() / len(z)
        gain = now - before
        if not math.isfinite(now):
            raise Diverged(f"the likelihood of {len(mixture.weights)} components is not finite")
    return mixture, iteration


def _responsibilities(z: Tensor, mixture: Mixture, likelihood: Tensor) -> Shares:
    """Shares of z (n, d) by the E step; its log-likelihood is added up in `likelihood`."""
    for rows, joint in log_joint(z, *mixture):
        log_p = joint.logsumexp(1, keepdim=True)
        likelihood += log_p.sum()
        yield rows, (joint - log_p).exp().T


def _moments(shares: Shares, like: Tensor, full: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Of each component, shaped `like` their means (k, d): counts (k,), means, and mean products or squares."""
    (components, d), counts, firsts = like.shape, like.new_zeros(len(like)), torch.zeros_like(like)
    seconds = like.new_zeros(components * d, d) if full else torch.zeros_like(like)
    for rows, share in shares:
        counts += share.sum(1)
        firsts += share @ rows
        seconds += (share[:, None] * rows.T).flatten(0, 1) @ rows if full else share @ rows.square()
    counts += 10 * torch.finfo(like.dtype).eps  # a component that nothing belongs to
    seconds = seconds.unflatten(0, (components, d)) / counts[:, None, None] if full else seconds / counts[:, None]
    return counts, firsts / counts[:, None], seconds


def _covariances(means: Tensor, seconds: Tensor) -> Tensor:
    """Covariances (k, d, d), or variances (k, d)."""
    if seconds.dim() == 2:
        return (seconds - means.square()).clamp_min(0)
    return seconds - means[:, :, None] * means[:, None, :]


def _mixture(counts: Tensor, means: Tensor, covariances: Tensor, floor: float) -> Mixture:
    """With the floor below every variance. Raises `Diverged` where a covariance is singular all the same."""
    if covariances.dim() == 2:
        roots = (covariances + floor).sqrt()
    else:
        covariances.diagonal(dim1=1, dim2=2).add_(floor)
        roots, failed = torch.linalg.cholesky_ex(covariances)
        if failed.any():
            raise Diverged(f"a covariance of {len(means)} components is singular: raise the floor")
    return Mixture(counts / counts.sum(), means, roots)


@hookimpl
def register_priors() -> list[type[LatentPrior]]:
    return [GMM]
