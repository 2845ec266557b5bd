"""A Gaussian with the mean and covariance of the aggregate posterior."""

import torch

from priors.api import LatentPrior, PriorConfig, hookimpl


class MomentsConfig(PriorConfig):
    draws: int = 20_000


class Moments(LatentPrior):
    name = "moments"
    Config = MomentsConfig

    def __init__(self, latent_shape, config):
        super().__init__(latent_shape, config)
        size = torch.Size(latent_shape).numel()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("root", torch.eye(size))

    def fit(self, posterior, generator, progress):
        z = posterior.train.sample(self.config.draws, generator).flatten(1)
        self.mean.copy_(z.mean(0))
        self.root.copy_(torch.linalg.cholesky(z.T.cov()))

    def sample(self, n, generator):
        noise = torch.randn(n, len(self.mean), generator=generator, device=generator.device)
        return (self.mean + noise @ self.root.T).unflatten(1, self.latent_shape)

    def log_prob(self, z):
        return torch.distributions.MultivariateNormal(self.mean, scale_tril=self.root).log_prob(z.flatten(1))


@hookimpl
def register_priors():
    return [Moments]
