"""Importance-weighted bounds on log p(x) where the prior is a learned one, under the likelihood of the VAE's loss.

    L_K = E[log 1/K sum_k p(x | z_k) p(z_k) / q(z_k | x)],      z_k ~ q(z | x)

`bound`        p is the density of what the prior draws: a lower bound on log p(x) of that very sampler, up to the noise
               of its mean. Blank for a prior without such a density.
`bound_energy` p = exp(-energy) / Z of a prior with an energy, with log Z by importance sampling. The estimate of Z is
               unbiased, so that of log Z is on the mean too low and this number too high: it bounds neither side, and
               is to be believed as far as the weights' effective sample size, `log_z_ess` (of 1), is not small.
`bound_normal` p = N(0, I), of the same VAE.

Proposals for Z are half of the prior's draws, where it has their density, and half of N(0, I), each weighed against the
mixture of both; else all of N(0, I).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Normal

from backbones.api import Backbone
from backbones.training import as_input
from benchmark.progress import Progress
from priors.api import LatentPrior
from priors.parts.standard_normal import log_standard_normal

BATCH = 100  # images
NORMALISER_DRAWS = 20_000


@torch.no_grad()
def bound_with_prior(
    backbone: Backbone, prior: LatentPrior, images: Tensor, draws: int, generator: torch.Generator, progress: Progress
) -> dict[str, float]:
    """The bounds above in nats, means over uint8 images (n, C, H, W); `draws` is K.

    Those that the prior or the backbone's loss does not allow are left out.
    """
    log_z, ess = log_normaliser(prior, generator)
    sums: dict[str, list[Tensor]] = {}
    for number, batch in enumerate(images.split(BATCH)):
        x = as_input(batch)
        mean, std = backbone.encode(x)
        terms: dict[str, list[Tensor]] = {}
        for _ in range(draws):
            z = mean + std * torch.randn(mean.shape, generator=generator, device=mean.device)
            try:
                log_likelihood = backbone.log_likelihood(x, z)
            except ValueError:
                log_likelihood = None
            if log_likelihood is None:
                return {}
            rest = log_likelihood.double() - Normal(mean, std).log_prob(z).flatten(1).sum(1).double()
            densities = {"bound_normal": log_standard_normal(z), "bound": prior.log_prob(z)}
            if (energy := prior.energy(z)) is not None:
                densities["bound_energy"] = -energy - log_z
            for name, density in densities.items():
                if density is not None:
                    terms.setdefault(name, []).append(rest + density.double())
        for name, weights in terms.items():
            sums.setdefault(name, []).append(torch.stack(weights).logsumexp(0) - math.log(draws))
        progress(min((number + 1) * BATCH, len(images)), len(images))
    values = {name: torch.cat(parts).mean().item() for name, parts in sums.items()}
    return {**values, "log_z_ess": ess} if "bound_energy" in values else values


@torch.no_grad()
def log_normaliser(prior: LatentPrior, generator: torch.Generator, n: int = NORMALISER_DRAWS) -> tuple[float, float]:
    """log of the integral of exp(-energy), and the effective share of the n proposals; (0, 1) without an energy."""
    normal = torch.randn(n, *prior.latent_shape, generator=generator, device=generator.device)
    if prior.energy(normal[:1]) is None:
        return 0.0, 1.0
    z, own = normal, prior.log_prob(normal[:1]) is not None
    if own:
        z = torch.cat([normal[: n // 2], prior.sample(n - n // 2, generator)])
    log_q = log_standard_normal(z).double()
    if own:
        of_prior = prior.log_prob(z)
        assert of_prior is not None
        log_q = torch.stack([log_q, of_prior.double()]).logsumexp(0) - math.log(2)
    energy = prior.energy(z)
    assert energy is not None
    log_weights = -energy.double() - log_q
    log_weights = log_weights[log_weights.isfinite()]
    total = log_weights.logsumexp(0)
    ess = (2 * total - (2 * log_weights).logsumexp(0)).exp() / n
    return (total - math.log(n)).item(), ess.item()
