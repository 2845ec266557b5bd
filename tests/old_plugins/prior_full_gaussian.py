"""A whole prior in one file: a Gaussian with the mean and the covariance of the aggregate posterior."""

import torch
from pydantic import Field
from torch.distributions import MultivariateNormal

from priors.api import LatentPrior, PriorConfig, hookimpl


class FullGaussianConfig(PriorConfig):
    draws: int = Field(20_000, ge=2)


class FullGaussian(LatentPrior):
    name = "full_gaussian"
    Config = FullGaussianConfig
    network_evaluations = 0

    def __init__(self, latent_shape, config):
        super().__init__(latent_shape, config)
        d = torch.Size(latent_shape).numel()
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("scale", torch.eye(d))  # covariance = scale @ scale.T

    def fit(self, posterior, generator, progress):
        z = posterior.train.sample(self.config.draws, generator).flatten(1)
        self.mean.copy_(z.mean(0))
        self.scale.copy_(torch.linalg.cholesky(z.T.cov()))
        progress(1, 1, log_likelihood=self.log_prob(z).mean().item())

    def sample(self, n, generator):
        noise = torch.randn(n, len(self.mean), generator=generator, device=generator.device)
        return (self.mean + noise @ self.scale.T).unflatten(1, self.latent_shape)

    def log_prob(self, z):
        return MultivariateNormal(self.mean, scale_tril=self.scale).log_prob(z.flatten(1))


@hookimpl
def register_priors():
    return [FullGaussian]
