"""`python -m benchmark new-prior NAME`: a commented plugin file that passes `check` as it is."""

from __future__ import annotations

import keyword
from pathlib import Path

from benchmark.errors import UsageError

TEMPLATE = '''"""A Gaussian with the mean and covariance of the aggregate posterior: replace it by your prior."""

import torch
from pydantic import Field

from priors.api import LatentPrior, PriorConfig, hookimpl


class {cls}Config(PriorConfig):
    """Settings, typed and checked: --priors '{name}[draws=1000]' sets one."""

    draws: int = Field(20_000, ge=100)


class {cls}(LatentPrior):
    name = "{name}"  # the row's name
    Config = {cls}Config
    quick = {{"draws": 20_000}}  # largest values under --budget quick
    learns = {{"narrow": 0.01}}  # what `check` is to require: target -> share of the Gaussian's MMD^2 left over
    network_evaluations = 0  # passes through a network per latent, shown beside the sampling time

    def __init__(self, latent_shape, config):
        """Called with the shape of one latent, e.g. (16,). Everything learned is a parameter or a buffer."""
        super().__init__(latent_shape, config)
        size = torch.Size(latent_shape).numel()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("root", torch.eye(size))

    def fit(self, posterior, generator, progress):
        """Called once. posterior.train and .val give fresh z ~ q_agg; the generator is to decide every draw."""
        z = posterior.train.sample(self.config.draws, generator).flatten(1)
        self.mean.copy_(z.mean(0))
        self.root.copy_(torch.linalg.cholesky(z.T.cov()))
        held_out = -self.log_prob(posterior.val.sample(1_000, generator)).mean().item()
        progress(1, 1, held_out_nll=held_out)  # step, total, and values to keep in the record
        return {{"held_out_nll": held_out}}  # facts for the record; raise priors.api.Diverged if training failed

    def sample(self, n, generator):
        """Called for every score: n latents (n, *latent_shape), float32, on the generator's device."""
        noise = torch.randn(n, len(self.mean), generator=generator, device=generator.device)
        return (self.mean + noise @ self.root.T).unflatten(1, self.latent_shape)

    def log_prob(self, z):
        """Normalised log-density (n,) in nats of what `sample` draws; leave it out where there is none."""
        return torch.distributions.MultivariateNormal(self.mean, scale_tril=self.root).log_prob(z.flatten(1))


@hookimpl
def register_priors():
    return [{cls}]
'''


def new_prior(name: str, folder: Path, taken: list[str]) -> Path:
    """Write `<name>.py` into `folder`. Raises `UsageError` for a bad or taken name, or a file that exists."""
    cls = name.title().replace("_", "")
    if not name.isidentifier() or name != name.lower() or keyword.iskeyword(cls) or not cls.isidentifier():
        raise UsageError(f"new-prior {name}: expected a lower-case Python name, e.g. my_prior")
    if name in taken:
        raise UsageError(f"new-prior {name}: there is a prior of that name already; choose another, e.g. my_{name}")
    path = folder / f"{name}.py"
    if path.exists():
        raise UsageError(f"{path} exists already: choose another name")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(TEMPLATE.format(name=name, cls=cls))
    return path
