"""Normalising flows, built on nflows: exact densities, one-pass sampling, both ways differentiable.

nflows 0.14 bounds the scale of its affine couplings by 1.001 (a sigmoid), so that it cannot fit anything
narrower than its base. `AffineCoupling` has a log-scale that is bounded and symmetric instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from nflows.transforms import ActNorm, CompositeTransform
from nflows.transforms.coupling import AffineCouplingTransform, PiecewiseRationalQuadraticCouplingTransform
from torch import Tensor, nn

from priors.parts.standard_normal import log_standard_normal

#: one coupling can scale by exp(+-LOG_SCALE_BOUND) at most: e^3 = 20
LOG_SCALE_BOUND = 3.0
#: splines bend inside this interval of normalised latents
SPLINE_BOUND = 4.0


def mlp(inputs: int, outputs: int, hidden: int, activation: type[nn.Module]) -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, hidden), activation(), nn.Linear(hidden, hidden), activation(), nn.Linear(hidden, outputs)
    )


class ScaleAndShift(nn.Module):
    """The two networks of a coupling, as in the EVaLP release: tanh for the log-scale, ReLU for the shift."""

    def __init__(self, inputs: int, outputs: int, hidden: int) -> None:
        super().__init__()
        self.shift = mlp(inputs, outputs // 2, hidden, nn.ReLU)
        self.scale = mlp(inputs, outputs // 2, hidden, nn.Tanh)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.shift(x), self.scale(x)], 1)


class AffineCoupling(AffineCouplingTransform):
    """y = x exp(s) + t on the transformed half, s = B tanh(u / B) and t from networks of the other half.

    Halves are taken and joined by `index_select`: for small batches nflows' advanced indexing is a fifth of the time.
    """

    _order: Tensor

    def __init__(self, mask: Tensor | list[int], create_networks: Callable[[int, int], nn.Module]) -> None:
        super().__init__(mask, create_networks)
        order = torch.cat([self.identity_features, self.transform_features]).argsort()
        self.register_buffer("_order", order, persistent=False)

    def forward(self, inputs: Tensor, context: None = None) -> tuple[Tensor, Tensor]:
        kept, moved = self._halves(inputs)
        shift, log_scale = self._shift_and_log_scale(kept)
        return self._joined(kept, moved * log_scale.exp() + shift), log_scale.sum(1)

    def inverse(self, inputs: Tensor, context: None = None) -> tuple[Tensor, Tensor]:
        kept, moved = self._halves(inputs)
        shift, log_scale = self._shift_and_log_scale(kept)
        return self._joined(kept, (moved - shift) * (-log_scale).exp()), -log_scale.sum(1)

    def _shift_and_log_scale(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        shift, unbounded = self.transform_net(kept).chunk(2, dim=1)
        return shift, LOG_SCALE_BOUND * torch.tanh(unbounded / LOG_SCALE_BOUND)

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.index_select(1, self.identity_features), x.index_select(1, self.transform_features)

    def _joined(self, kept: Tensor, moved: Tensor) -> Tensor:
        return torch.cat([kept, moved], 1).index_select(1, self._order)


class VectorNorm(ActNorm):
    """ActNorm of vectors, whose log-determinant is one number for all of them."""

    def forward(self, inputs: Tensor, context: None = None) -> tuple[Tensor, Tensor]:
        return self.scale * inputs + self.shift, self.log_scale.sum()

    def inverse(self, inputs: Tensor, context: None = None) -> tuple[Tensor, Tensor]:
        return (inputs - self.shift) / self.scale, -self.log_scale.sum()


class SplineParameters(nn.Module):
    """The network of a spline coupling: two hidden ReLU layers."""

    def __init__(self, inputs: int, outputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden_features = hidden  # nflows divides the bins' logits by its root, which keeps them flat at first
        self.layers = mlp(inputs, outputs, hidden, nn.ReLU)

    def forward(self, x: Tensor, context: None = None) -> Tensor:
        return self.layers(x)


def _affine(mask: Tensor, hidden: int) -> nn.Module:
    return AffineCoupling(mask, lambda i, o: ScaleAndShift(i, o, hidden))


def _spline(mask: Tensor, hidden: int) -> nn.Module:
    """Monotone rational-quadratic splines, the identity outside [-B, B] (Durkan et al. 2019, arXiv 1906.04032)."""
    return PiecewiseRationalQuadraticCouplingTransform(
        mask, lambda i, o: SplineParameters(i, o, hidden), num_bins=8, tails="linear", tail_bound=SPLINE_BOUND
    )


COUPLINGS = {"realnvp": _affine, "spline": _spline}


class Flow(nn.Module):
    """An invertible map between latents of one shape and noise, built of nflows transforms; flat on the outside.

    The map g takes noise to latents; log p(g(eps)) = log N(eps; 0, I) - log|det dg/deps|.
    ActNorm starts as the identity; `initialise` sets it from data.
    """

    def __init__(
        self, to_noise: CompositeTransform, latent_shape: tuple[int, ...], noise_shape: tuple[int, ...] | None = None
    ) -> None:
        super().__init__()
        self.features = math.prod(latent_shape)
        self._latent_shape, self._noise_shape = tuple(latent_shape), tuple(noise_shape or latent_shape)
        self.to_noise = to_noise
        self.eval()  # nflows' ActNorm initialises itself in training mode, with a device sync at every call

    def train(self, mode: bool = True) -> Flow:
        return super().train(False)

    def push(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Noise (n, d) -> latents g(noise) (n, d) and log|det dg/dnoise| (n,)."""
        z, log_det = noise.unflatten(1, self._noise_shape), noise.new_zeros(())
        for layer in reversed(self.to_noise._transforms):
            z, of_layer = layer.inverse(z)
            log_det = log_det + of_layer
        return z.flatten(1), log_det

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density (n,) in nats at z (n, d)."""
        noise, log_det = self.to_noise(z.unflatten(1, self._latent_shape))
        return log_standard_normal(noise) + log_det

    @torch.no_grad()
    def initialise(self, z: Tensor) -> None:
        """Set every ActNorm so that z (n, d), on its way to noise, leaves it with zero mean and unit variance."""
        z = z.unflatten(1, self._latent_shape)
        for layer in self.to_noise._transforms:
            if isinstance(layer, ActNorm):
                each = z.transpose(0, 1).flatten(1)  # of every channel
                std = each.std(1).clamp_min(1e-6)
                layer.log_scale.copy_(-std.log())
                layer.shift.copy_(-each.mean(1) / std)
            z, _ = layer(z)


class CouplingFlow(Flow):
    """Couplings on vectors with ActNorm after each: `realnvp` (Dinh et al. 2017, arXiv 1605.08803) or `spline`."""

    def __init__(self, features: int, couplings: int, hidden: int, family: str = "realnvp") -> None:
        if features < 2:
            raise ValueError(f"a coupling flow needs 2 latents or more, got {features}")
        layers: list[nn.Module] = []
        for index in range(couplings):
            layers.append(COUPLINGS[family]((torch.arange(features) + index) % 2, hidden))
            layers.append(VectorNorm(features))
        super().__init__(CompositeTransform(layers), (features,))


class MLPGenerator(nn.Module):
    """A plain network from noise to latents, without an inverse and so without a density."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.features = features
        self.layers = mlp(features, features, hidden, nn.ReLU)

    def push(self, noise: Tensor) -> tuple[Tensor, None]:
        """Noise (n, d) -> latents (n, d), and None where a flow has its log-determinant."""
        return self.layers(noise), None
