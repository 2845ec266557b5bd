"""Synthetic aggregate posteriors whose densities are known, to ask of a prior whether it learns.

Each `Target` is a distribution over latents, vectors or a block, with exact draws and an exact log-density.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, MultivariateNormal, Normal

from priors.api import Above, AggregatePosterior, Hierarchy
from priors.parts.hierarchies import Given


@dataclass(frozen=True, eq=False)
class Target:
    """`draw(n, generator)` gives (n, *shape) float32, `log_prob` nats; `modes` (k, d) are what must be covered.

    Draws end with Gaussian noise; with standard deviation `noise` in place of its own, `means` gives what passes for
    the posterior means of images, q(z|x) = N(mean, noise^2 I). `hierarchy`: whose groups the latents are, in eps;
    `by_group` then has log q(eps_l | eps_<l) (n, groups) in nats.
    """

    name: str
    shape: tuple[int, ...]
    draw: Callable[[int, torch.Generator], Tensor]
    log_prob: Callable[[Tensor], Tensor]
    means: Callable[[int, torch.Generator], Tensor]
    noise: float
    modes: Tensor | None = None
    hierarchy: Hierarchy | None = None
    by_group: Callable[[Tensor], Tensor] | None = None

    def posterior(self, device: torch.device, with_backbone: bool = False) -> AggregatePosterior:
        """The target in the place of q_agg: every draw is a fresh one."""
        split = FreshDraws(self, device)
        return AggregatePosterior(split, split, SquashingVAE(self.shape, self.noise) if with_backbone else None)

    def coverage(self, z: Tensor) -> float | None:
        """Share of the modes that are the nearest of at least a quarter of their due share of z (n, *shape)."""
        if self.modes is None:
            return None
        nearest = torch.cdist(z.flatten(1).cpu(), self.modes).argmin(1)
        counts = torch.bincount(nearest, minlength=len(self.modes)) / len(z)
        return (counts >= 0.25 / len(self.modes)).float().mean().item()


@dataclass(frozen=True)
class FreshDraws:
    """What `PosteriorSplit` is to images, for a known density: the same methods, never the same draw twice."""

    target: Target
    device: torch.device

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return self.target.draw(n, generator)

    one_each = sample

    def posteriors(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        mean = self.target.means(n, generator)
        return mean, torch.full_like(mean, self.target.noise)

    def __len__(self) -> int:
        return 1_000_000


@dataclass(frozen=True)
class SquashingVAE:
    """What a frozen backbone is to a prior, where latents were made from no image: a pixel for each number of a mean.

    The pixel is the number's sigmoid; an image's posterior is N(mean, noise^2 I).
    """

    latent_shape: tuple[int, ...]
    noise: float

    @property
    def image_shape(self) -> tuple[int, ...]:
        return 1, 1, math.prod(self.latent_shape)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = x.logit().view(-1, *self.latent_shape)
        return mean, torch.full_like(mean, self.noise)

    def decode(self, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return z.sigmoid().view(-1, *self.image_shape)


@dataclass(frozen=True)
class Stairs:
    """A top-down network of two groups of two latents: p(z_1 | z_0) = N(tanh(z_0), 1/4 I), and z_0 is what says it."""

    group_shapes: tuple[tuple[int, ...], ...] = ((2,), (2,))
    context_shapes: tuple[tuple[int, ...], ...] = ((0,), (2,))

    def walk(
        self,
        choose: Callable[[int, Above], Tensor | None],
        n: int,
        generator: torch.Generator | None = None,
        groups: int | None = None,
    ) -> Tensor:
        z = choose(0, Given(torch.empty(n, 0), torch.zeros(()), torch.ones(())))
        assert z is not None, "a prior chooses its groups itself"
        if groups == 1:
            return z
        below = choose(1, Given(z, z.tanh(), torch.full_like(z, 0.5)))
        assert below is not None, "a prior chooses its groups itself"
        return torch.cat([z, below], 1)


def _gaussian_noise(n: int, features: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, features, generator=generator, device=generator.device)


def _mixture(name: str, means: Tensor, std: float) -> Target:
    """Equal modes at means (k, *shape)."""
    flat, shape = means.flatten(1), tuple(means.shape[1:])
    components = Independent(Normal(flat, torch.full_like(flat, std)), 1)
    density = MixtureSameFamily(Categorical(torch.ones(len(flat))), components)

    placed = cache(flat.to)  # on a GPU a step that is recorded may copy nothing from the host

    def draw(n: int, generator: torch.Generator, std: float = std) -> Tensor:
        index = torch.randint(len(means), (n,), generator=generator, device=generator.device)
        z = placed(generator.device)[index] + std * _gaussian_noise(n, flat.shape[1], generator)
        return z.unflatten(1, shape)

    def log_prob(z: Tensor) -> Tensor:
        return density.log_prob(z.flatten(1).cpu())

    half = std / math.sqrt(2)
    return Target(name, shape, draw, log_prob, partial(draw, std=half), half, flat)


def _normal(name: str, features: int, std: float) -> Target:
    density: Distribution = MultivariateNormal(torch.zeros(features), std**2 * torch.eye(features))

    def draw(n: int, generator: torch.Generator, std: float = std) -> Tensor:
        return std * _gaussian_noise(n, features, generator)

    half = std / math.sqrt(2)
    return Target(name, (features,), draw, lambda z: density.log_prob(z.cpu()), partial(draw, std=half), half)


@cache
def ring() -> Target:
    """Eight modes of standard deviation 0.25 on a circle of radius 2."""
    angles = torch.arange(8) * (2 * math.pi / 8)
    return _mixture("ring", 2 * torch.stack([angles.cos(), angles.sin()], 1), 0.25)


@cache
def mixture() -> Target:
    """Ten modes of standard deviation 0.5 in 16 dimensions, about 4 from the origin and from one another."""
    return _mixture("mixture", torch.randn(10, 16, generator=torch.Generator().manual_seed(0)), 0.5)


@cache
def banana() -> Target:
    """x ~ N(0, 1), y = x^2 / 2 - 1/2 + N(0, 0.3^2).

    Images that would make it have posteriors of no width in x; theirs are as wide as in y, and so q_agg a little wider.
    """
    std = 0.3

    def draw(n: int, generator: torch.Generator, std: float = std) -> Tensor:
        x, noise = _gaussian_noise(n, 2, generator).unbind(1)
        return torch.stack([x, x.square() / 2 - 0.5 + std * noise], 1)

    def log_prob(z: Tensor) -> Tensor:
        x, y = z.cpu().unbind(1)
        return Normal(0.0, 1.0).log_prob(x) + Normal(x.square() / 2 - 0.5, std).log_prob(y)

    half = std / math.sqrt(2)
    return Target("banana", (2,), draw, log_prob, partial(draw, std=half), half)


@cache
def narrow() -> Target:
    """N(0, 0.1^2 I) in 8 dimensions."""
    return _normal("narrow", 8, 0.1)


@cache
def standard() -> Target:
    """N(0, I) in 16 dimensions: there is no prior hole, and nothing should change."""
    return _normal("standard", 16, 1.0)


@cache
def block() -> Target:
    """Four modes of standard deviation 0.8 on blocks of 2 x 4 x 4: a bright half, left, right, above or below."""
    rising = torch.tensor([-0.5, -0.5, 0.5, 0.5]).expand(4, 4)
    halves = torch.stack([rising, -rising, rising.T, -rising.T])
    return _mixture("block", torch.stack([halves, -halves.flip(0)], 1), 0.8)


@cache
def stairs() -> Target:
    """Two groups of a hierarchy: two modes of eps_0, and two of eps_1 beside a place that hangs on eps_0.

    eps_0 ~ +-(1.2, 0) + 0.5 noise, eps_1 ~ eps_0 / 2 +- (0, 1.2) + 0.5 noise, in units of the network's own prior.
    """
    std, ways = 0.5, torch.tensor([[1.2, 0.0], [0.0, 1.2]])
    placed = cache(ways.to)  # on a GPU a step that is recorded may copy nothing from the host

    def draw(n: int, generator: torch.Generator, std: float = std) -> Tensor:
        noise = std * _gaussian_noise(n, 4, generator)
        signs = 2.0 * torch.randint(2, (n, 2), generator=generator, device=generator.device) - 1
        upper, lower = placed(generator.device)
        top = signs[:, :1] * upper + noise[:, :2]
        return torch.cat([top, top / 2 + signs[:, 1:] * lower + noise[:, 2:]], 1)

    def by_group(z: Tensor) -> Tensor:
        top, below = z.cpu().split(2, 1)
        return torch.stack([_of_two(top, ways[0]), _of_two(below - top / 2, ways[1])], 1)

    def _of_two(x: Tensor, way: Tensor) -> Tensor:
        both = torch.stack([Normal(sign * way, std).log_prob(x).sum(1) for sign in (-1, 1)])
        return both.logsumexp(0) - math.log(2)

    half = std / math.sqrt(2)
    return Target(
        "stairs",
        (4,),
        draw,
        lambda z: by_group(z).sum(1),
        partial(draw, std=half),
        half,
        hierarchy=Stairs(),
        by_group=by_group,
    )


TARGETS: dict[str, Callable[[], Target]] = {
    make.__name__: make for make in (ring, mixture, banana, narrow, standard, block, stairs)
}
