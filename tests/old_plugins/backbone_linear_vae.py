"""A backbone of two matrices: a linear encoder with one width for all images, and a linear decoder."""

import torch
from pydantic import Field
from torch import nn

from backbones.api import Backbone, BackboneConfig, hookimpl


class LinearVAEConfig(BackboneConfig):
    nz: int = Field(3, ge=1)
    kl_weight: float = Field(0.1, ge=0)


class LinearVAE(Backbone):
    name = "linear_vae"
    Config = LinearVAEConfig

    def __init__(self, image_shape, config):
        super().__init__(image_shape, config)
        self.latent_shape = (config.nz,)
        pixels = torch.Size(image_shape).numel()
        self.encoder, self.decoder = nn.Linear(pixels, config.nz), nn.Linear(config.nz, pixels)
        self.log_std = nn.Parameter(torch.full((config.nz,), -1.0))

    def encode(self, x):
        mean = self.encoder(x.flatten(1))
        return mean, self.log_std.exp().expand_as(mean)

    def decode(self, z, generator=None):
        return self.decoder(z).sigmoid().unflatten(1, self.image_shape)

    def loss(self, x, generator, progress=1.0):
        mean, std = self.encode(x)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        error = (self.decode(mean + std * noise) - x).square().flatten(1).sum(1).mean()
        kl = (0.5 * (mean**2 + std**2 - 1) - std.log()).sum(1).mean()
        return error + self.config.kl_weight * kl, {"squared_error": error, "kl": kl}


@hookimpl
def register_backbones():
    return [LinearVAE]
