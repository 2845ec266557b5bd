"""Flows that are made to be sampled from: one pass from noise to latents, whatever a density then costs.

`glow`: affine couplings with an invertible linear map after each, in place of alternating halves alone (Kingma and
Dhariwal 2018, arXiv 1807.03039; for vectors its 1x1 convolution is a matrix).
`autoregressive`: latent i is scaled and shifted by what noise before it says, so that all latents come in one pass
(inverse autoregressive flow, Kingma et al. 2016, arXiv 1606.04934). The density of given latents takes a pass a latent.
"""

from __future__ import annotations

import torch
from nflows.transforms import CompositeTransform
from torch import Tensor, nn
from zuko.nn import MaskedMLP

from priors.parts.flows import COUPLINGS, LOG_SCALE_BOUND, Flow, VectorNorm


class InvertibleLinear(nn.Module):
    """noise -> P L U noise: a fixed random permutation, unit lower and upper triangles; at first the permutation.

    The diagonal of U is exp(s), |s| <= B, so that the map is invertible whatever the parameters.
    """

    order: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("order", torch.randperm(features))
        self.lower = nn.Parameter(torch.zeros(features, features))
        self.upper = nn.Parameter(torch.zeros(features, features))
        self.unbounded = nn.Parameter(torch.zeros(features))

    def forward(self, inputs: Tensor, context: None = None) -> tuple[Tensor, Tensor]:
        """To noise."""
        lower, upper, log_scale = self._factors()
        z = inputs.index_select(1, self.order.argsort()).T
        z = torch.linalg.solve_triangular(lower, z, upper=False, unitriangular=True)
        return torch.linalg.solve_triangular(upper, z, upper=True).T, -log_scale.sum()

    def inverse(self, inputs: Tensor, context: None = None) -> tuple[Tensor, Tensor]:
        """From noise."""
        lower, upper, log_scale = self._factors()
        return (inputs @ (lower @ upper).T).index_select(1, self.order), log_scale.sum()

    def _factors(self) -> tuple[Tensor, Tensor, Tensor]:
        log_scale = LOG_SCALE_BOUND * torch.tanh(self.unbounded / LOG_SCALE_BOUND)
        identity = torch.eye(len(log_scale), dtype=log_scale.dtype, device=log_scale.device)
        return self.lower.tril(-1) + identity, self.upper.triu(1) + torch.diag(log_scale.exp()), log_scale


class Autoregressive(nn.Module):
    """noise x -> x exp(s) + t, with s_i = B tanh(u_i / B) and t_i of the noise before x_i, by a masked network.

    `reverse`: before is behind.
    """

    def __init__(self, features: int, hidden: int, reverse: bool) -> None:
        super().__init__()
        before = torch.ones(features, features, dtype=torch.bool).tril(-1)
        self.network = MaskedMLP((before.T if reverse else before).repeat(2, 1), (hidden, hidden), nn.Tanh)

    def forward(self, inputs: Tensor, context: None = None) -> tuple[Tensor, Tensor]:
        """To noise: each pass finds one more latent's, the others being known or not yet asked for."""
        noise = torch.zeros_like(inputs)
        for _ in range(inputs.shape[1]):
            shift, log_scale = self._shift_and_log_scale(noise)
            noise = (inputs - shift) * (-log_scale).exp()
        _, log_scale = self._shift_and_log_scale(noise)
        return noise, -log_scale.sum(1)

    def inverse(self, inputs: Tensor, context: None = None) -> tuple[Tensor, Tensor]:
        """From noise."""
        shift, log_scale = self._shift_and_log_scale(inputs)
        return inputs * log_scale.exp() + shift, log_scale.sum(1)

    def _shift_and_log_scale(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        shift, unbounded = self.network(noise).chunk(2, dim=1)
        return shift, LOG_SCALE_BOUND * torch.tanh(unbounded / LOG_SCALE_BOUND)


class GlowFlow(Flow):
    """`couplings` of half of the latents each, ActNorm and an invertible linear map after each."""

    def __init__(self, features: int, couplings: int, hidden: int) -> None:
        if features < 2:
            raise ValueError(f"a coupling flow needs 2 latents or more, got {features}")
        layers: list[nn.Module] = []
        for index in range(couplings):
            coupling = COUPLINGS["realnvp"]((torch.arange(features) + index) % 2, hidden)
            layers += [coupling, VectorNorm(features), InvertibleLinear(features)]
        super().__init__(CompositeTransform(layers), (features,))


class AutoregressiveSampler(Flow):
    """`transforms` of all latents each, in an order that is reversed from one to the next, ActNorm after each."""

    def __init__(self, features: int, transforms: int, hidden: int) -> None:
        if features < 2:
            raise ValueError(f"an autoregressive flow needs 2 latents or more, got {features}")
        layers: list[nn.Module] = []
        for index in range(transforms):
            layers += [Autoregressive(features, hidden, reverse=index % 2 == 1), VectorNorm(features)]
        super().__init__(CompositeTransform(layers), (features,))
