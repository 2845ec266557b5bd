"""What a backbone is: a VAE whose decoder and posterior are frozen once it is trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pluggy
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.distributions import Normal

hookimpl = pluggy.HookimplMarker("latent_prior_benchmark")

#: Called by a training loop as `progress(step, total, name=value, ...)`.
Progress = Callable[..., None]

#: What a prior that is trained with the backbone adds to KL(q(z|x) || N(0, I)): mean and std of q(z|x) and a draw z of
#: it, each (n, *latent_shape) -> an estimate of E[log N(z; 0, I) - log p(z)] over the batch, in nats, a scalar.
Pull = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Conditional:
    """What the groups above say of a latent group: p(z_l | z_<l) = N(mean, std^2), and the features that say it.

    `features` (n, *context_shape); `mean`, `log_std` (n, *group_shape).
    """

    features: Tensor
    mean: Tensor
    log_std: Tensor

    @property
    def std(self) -> Tensor:
        return self.log_std.exp()

    def at(self, eps: Tensor) -> Tensor:
        """z = mean + std eps, for eps (n, *group_shape) in standard deviations from the mean."""
        return self.mean + self.std * eps


#: number of a group and what those above say of it -> its z (n, *group_shape), None for a draw of the conditional
Choose = Callable[[int, Conditional], Tensor | None]


def require_binary(x: Tensor) -> None:
    """Raise ValueError where x holds another value than 0 and 1: a Bernoulli likelihood is a density of those alone."""
    if not ((x == 0) | (x == 1)).all():
        raise ValueError("a Bernoulli likelihood needs images of 0 and 1 alone")


def bernoulli_log_weight(backbone: Backbone, x: Tensor, generator: torch.Generator) -> Tensor:
    """log p(x | z) + log N(z; 0, I) - log q(z | x) (n,) in nats at one z ~ q(z | x), p(x | z) of Bernoulli pixels."""
    require_binary(x)
    mean, std = backbone.encode(x)
    if not (std != 0).all():
        raise ValueError("a deterministic encoder has no evidence bound: its posteriors are points, without a density")
    z = mean + std * torch.randn(mean.shape, generator=generator, device=mean.device)
    log_likelihood = -F.binary_cross_entropy(backbone.decode(z), x, reduction="none").flatten(1).sum(1)
    return log_likelihood + (Normal(0.0, 1.0).log_prob(z) - Normal(mean, std).log_prob(z)).flatten(1).sum(1)


class BackboneConfig(BaseModel):
    """Settings every backbone has: how it is trained. A backbone adds its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    epochs: int = Field(20, ge=1)
    batch_size: int = Field(128, ge=2)
    learning_rate: float = Field(1e-3, gt=0)
    final_learning_rate: float = Field(0.0, ge=0)


class Backbone(nn.Module, ABC):
    """A VAE, built from an image shape (C, H, W) and a validated config.

    Subclasses set `name`, `version`, `Config`, where it is not Adam the class of their `optimiser`, and, where a paper
    chose settings per data set, `recipes`: data set name -> (image shape, settings). The latent block z that takes the
    prior has `latent_shape`.

    A hierarchy has further latent groups, and offers all of them in whitened coordinates,

        eps_l = (z_l - mu_l(z_<l)) / sigma_l(z_<l)      where  p(z_l | z_<l) = N(mu_l, sigma_l^2),

    in which its own prior of all groups together is one N(0, I), and log-ratios to it are the same numbers: it has
    `group_shapes` and `context_shapes`, and overrides `walk`, `image` and `draw_all`.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    source: ClassVar[str | None] = None  # of a plugin, the hash of its source: set where it is registered
    Config: ClassVar[type[BackboneConfig]] = BackboneConfig
    recipes: ClassVar[dict[str, tuple[tuple[int, int, int], dict[str, Any]]]] = {}
    optimiser: ClassVar[type[torch.optim.Optimizer]] = torch.optim.Adam

    latent_shape: tuple[int, ...]
    config: BackboneConfig

    def __init__(self, image_shape: tuple[int, int, int], config: BackboneConfig) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.image_shape = channels, height, width
        self.config = config

    @classmethod
    def recipe(cls, dataset: str, image_shape: tuple[int, int, int]) -> tuple[dict[str, Any], str | None]:
        """Settings for a data set, and a sentence where they were chosen for another one.

        An unknown data set gets the settings of the one whose images are nearest in size.
        """
        if not cls.recipes:
            return {}, None
        if dataset in cls.recipes:
            return dict(cls.recipes[dataset][1]), None
        size = torch.Size(image_shape).numel()
        nearest = min(cls.recipes, key=lambda name: abs(torch.Size(cls.recipes[name][0]).numel() - size))
        return dict(cls.recipes[nearest][1]), f"{cls.name} has no recipe for {dataset}: using that of {nearest}"

    @abstractmethod
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, C, H, W) in [0, 1] -> mean and standard deviation of q(z|x), each (n, *latent_shape)."""

    @abstractmethod
    def decode(self, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Latents (n, *latent_shape) -> images (n, C, H, W) in [0, 1]. `generator` decides any further draw."""

    @property
    def group_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of each latent group, the top one, z, first."""
        return (self.latent_shape,)

    @property
    def context_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of the features above each group (`Conditional.features`)."""
        return ((0,),)

    def walk(
        self, choose: Choose, n: int, generator: torch.Generator | None = None, groups: int | None = None
    ) -> Tensor:
        """From the top down, group by group: what `image` makes n images of.

        `generator` decides the groups that are not chosen. `groups`: only so many are visited, for their contexts'
        sake, and what is returned is no image's yet.
        """
        device = next(self.parameters(), torch.empty(0)).device
        zero = torch.zeros(n, *self.latent_shape, device=device)
        z = choose(0, Conditional(zero.new_empty(n, 0), zero, zero))
        return torch.randn(zero.shape, generator=generator, device=device) if z is None else z

    def image(self, walked: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """What `walk` returns -> images (n, C, H, W) in [0, 1]."""
        return self.decode(walked, generator)

    def draw_all(self, x: Tensor, generator: torch.Generator) -> list[Tensor]:
        """Images -> eps (n, *group_shape) of each group: one draw of q(z_0..L|x), the top group first."""
        mean, std = self.encode(x)
        return [mean + std * torch.randn(mean.shape, generator=generator, device=mean.device)]

    def decode_all(self, eps: Sequence[Tensor | None], generator: torch.Generator | None = None) -> Tensor:
        """eps (n, *group_shape) of each group -> images; a group that is None is drawn as `decode` draws those below z.

        Raises ValueError where no group is given.
        """
        n = next((len(each) for each in eps if each is not None), None)
        if n is None or len(eps) != len(self.group_shapes):
            raise ValueError(f"expected eps of {len(self.group_shapes)} groups, at least one of which is not None")

        def choose(number: int, above: Conditional) -> Tensor | None:
            given = eps[number]
            return None if given is None else above.at(given)

        return self.image(self.walk(choose, n, generator), generator)

    @abstractmethod
    def loss(self, x: Tensor, generator: torch.Generator, progress: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
        """Training loss of a batch (a scalar) and its named terms; `generator` draws the posterior noise.

        `progress` is the share of training that is done, for what is warmed up; validation takes the end's.
        """

    def reconstruct(self, x: Tensor, generator: torch.Generator) -> Tensor | None:
        """Images (n, C, H, W) of x with every latent group drawn from its posterior.

        None where z is all that the model has: decoding a draw of `encode` does the same.
        """
        return None

    def finish(self, z: Tensor, generator: torch.Generator) -> None:
        """Called once after training, with draws of the aggregate posterior (n, *latent_shape): nothing, usually."""

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor | None:
        """log p(x | z) (n,) in nats under the likelihood that the loss is of; None where it is of none, or z not all.

        ValueError where it is, but not one of these images.
        """
        return None

    def log_weight(self, x: Tensor, generator: torch.Generator) -> Tensor | None:
        """log p(x, z) - log q(z | x) (n,) in nats at one z ~ q(z | x) of every latent the model has.

        Its mean is the evidence lower bound. None where the loss is no likelihood; ValueError where it is, but not one
        of these images.
        """
        return None
