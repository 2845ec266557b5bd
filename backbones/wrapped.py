"""A VAE that was trained elsewhere, as a backbone: its own module, with what differs between VAEs said, not guessed.

    x_theirs = low + (high - low) x,    x = (x_theirs - low) / (high - low),    x in [0, 1]
    std = exp(log_variance / 2)

A file of a few lines makes one, which `python -m benchmark wrap FILE` turns into a bundle:

    class MyVAE(WrappedVAE):
        name = "my_vae"
        value_range = (-1, 1)
        spread = "log_variance"

        def build_model(self):
            return Net(latents=16)

        def load_weights(self):
            return torch.load("checkpoint.pt", weights_only=True)

    @hookimpl
    def register_backbones():
        return [MyVAE]
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from backbones.api import Backbone, BackboneConfig, bernoulli_log_weight, hookimpl

__all__ = ["WrappedConfig", "WrappedVAE", "hookimpl"]

#: what an encoder gives beside the mean; "none": it is deterministic, and gives a point
Spread = Literal["std", "log_variance", "none"]
#: where colours stand: (n, C, H, W) or (n, H, W, C)
Channels = Literal["first", "last"]
Likelihood = Literal["bernoulli", "squared_error"]


class Unreadable(TypeError):
    """What a module gave is not what it is said to give."""


class WrappedConfig(BackboneConfig):
    """Settings of a VAE that was trained elsewhere; those of training, of which nothing is known, stand in no card."""

    epochs: int = Field(1, exclude=True)
    batch_size: int = Field(2, exclude=True)
    learning_rate: float = Field(1.0, exclude=True)
    final_learning_rate: float = Field(0.0, exclude=True)


class WrappedVAE(Backbone):
    """A trained module and how it is to be read.

    value_range: lowest and highest pixel that it takes and gives, e.g. (0, 1), (-1, 1).
    spread: what its encoder gives beside the mean of q(z|x).
    channels: the order of its images' axes.
    likelihood: that of its decoder; with "bernoulli" and binary images `bound` works, None where it is not known.
    std: of q(z|x) where the encoder is deterministic (`spread = "none"`).
    """

    value_range: tuple[float, float]
    spread: Spread
    channels: Channels = "first"
    likelihood: Likelihood | None = None
    std: float = 0.0
    Config = WrappedConfig

    def __init__(self, image_shape: tuple[int, int, int], config: BackboneConfig) -> None:
        super().__init__(image_shape, config)
        self.model = self.build_model()
        self.register_buffer("_here", torch.empty(0), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.get_buffer("_here").device

    @abstractmethod
    def build_model(self) -> nn.Module:
        """The module that encodes and decodes, with weights of any value; `self.config` has the settings."""

    @abstractmethod
    def load_weights(self) -> Mapping[str, Tensor]:
        """The state of the module, by a loader of your own: called once, when the bundle is made."""

    def run_encoder(self, x: Tensor) -> Any:
        """Images, as the module takes them -> what its encoder gives: (mean, spread), or z of a deterministic one.

        That of `model.encode`, or, of a module without one, the last two of what `model(x)` returns.
        """
        model: Any = self.model
        return model.encode(x) if hasattr(model, "encode") else model(x)[-2:]

    def run_decoder(self, z: Tensor, generator: torch.Generator | None = None) -> Any:
        """Latents -> images, as the module gives them; `generator` decides any draw. That of `model.decode`."""
        model: Any = self.model
        return model.decode(z) if hasattr(model, "decode") else model.decoder(z)

    @property
    def latent_shape(self) -> tuple[int, ...]:  # type: ignore[override]  # found, not said
        """The shape of z, found by encoding one grey image."""
        if "latent_shape" not in self.__dict__:
            training = self.training
            with torch.no_grad():
                grey = torch.full((1, *self.image_shape), 0.5, device=self.device)
                self.__dict__["latent_shape"] = tuple(self.eval().encode(grey)[0].shape[1:])
            self.train(training)
        return self.__dict__["latent_shape"]

    def read_encoder(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images in [0, 1] -> mean and spread as the encoder gives them, the latter None where it is deterministic.

        Raises `Unreadable` where it gives something else.
        """
        low, high = self.value_range
        theirs = low + (high - low) * x
        given = self.run_encoder(theirs.movedim(1, -1) if self.channels == "last" else theirs)
        if self.spread == "none":
            (mean,) = given if isinstance(given, (tuple, list)) and len(given) == 1 else (given,)
            spread = None
        else:
            if not isinstance(given, (tuple, list)) or len(given) != 2:
                raise Unreadable(f"encode gives {_describe(given)}, not two tensors: the mean and the {self.spread}")
            mean, spread = given
        for each in (mean,) if spread is None else (mean, spread):
            if not isinstance(each, Tensor) or not each.is_floating_point():
                raise Unreadable(f"encode gives {_describe(given)}, not tensors of floats")
        if spread is not None and spread.shape != mean.shape:
            raise Unreadable(f"encode gives a mean {tuple(mean.shape)} and a {self.spread} {tuple(spread.shape)}")
        return mean.float(), None if spread is None else spread.float()

    def read_decoder(self, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Latents -> images (n, C, H, W) in the decoder's range. Raises `Unreadable` for something else."""
        given = self.run_decoder(z, generator)
        if not isinstance(given, Tensor) or not given.is_floating_point():
            raise Unreadable(f"decode gives {_describe(given)}, not a tensor of floats")
        return (given.movedim(-1, 1) if self.channels == "last" else given).float()

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, spread = self.read_encoder(x)
        if spread is None:
            return mean, torch.full_like(mean, self.std)
        return mean, (spread / 2).exp() if self.spread == "log_variance" else spread

    def decode(self, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        low, high = self.value_range
        return ((self.read_decoder(z, generator) - low) / (high - low)).clamp(0, 1)

    def loss(self, x: Tensor, generator: torch.Generator, progress: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
        raise ValueError(
            f"{self.name} was trained elsewhere: `python -m benchmark wrap` makes its bundle, not pretrain"
        )

    def log_weight(self, x: Tensor, generator: torch.Generator) -> Tensor | None:
        return bernoulli_log_weight(self, x, generator) if self.likelihood == "bernoulli" else None


def _describe(given: Any) -> str:
    """What a stranger's function returned, in a few words."""
    if isinstance(given, Tensor):
        return f"a tensor {tuple(given.shape)} {given.dtype}"
    if isinstance(given, (tuple, list)):
        return f"{len(given)} things ({', '.join(map(_describe, given[:4]))})"
    return f"a {type(given).__name__}"
