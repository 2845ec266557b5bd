"""Networks written again: energies out of torch's own layers, flows out of nflows' own transforms."""

import copy

import torch
from nflows.transforms import ActNorm, CompositeTransform
from nflows.transforms.coupling import AffineCouplingTransform
from torch import nn

from priors.parts.energies import ConvEnergy, MLPEnergy
from priors.parts.flows import LOG_SCALE_BOUND, AffineCoupling, CouplingFlow


def plain_energy(energy: MLPEnergy) -> nn.Sequential:
    """The same perceptron with a copy of its weights: (n, d) -> (n, 1)."""
    *hidden, last = [copy.deepcopy(module) for module in energy.modules() if isinstance(module, nn.Linear)]
    return nn.Sequential(*[part for linear in hidden for part in (linear, nn.LeakyReLU(0.01))], last)


def plain_conv_energy(energy: ConvEnergy) -> nn.Sequential:
    """The same convolutions with its very weights, on blocks: (n, C, H, W) -> (n,)."""
    parts = [part for layer in energy.hidden for part in (layer, nn.LeakyReLU(0.01))]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), energy.last, nn.Flatten(0))


class PlainCoupling(AffineCouplingTransform):
    """`AffineCoupling` as nflows has its couplings written: a scale and a shift, from the networks' joined output."""

    def _shift_and_log_scale(self, parameters):
        shift, unbounded = parameters.chunk(2, dim=1)
        return shift, LOG_SCALE_BOUND * torch.tanh(unbounded / LOG_SCALE_BOUND)

    def _coupling_transform_forward(self, inputs, transform_params):
        shift, log_scale = self._shift_and_log_scale(transform_params)
        return inputs * log_scale.exp() + shift, log_scale.flatten(1).sum(1)

    def _coupling_transform_inverse(self, inputs, transform_params):
        shift, log_scale = self._shift_and_log_scale(transform_params)
        return (inputs - shift) * (-log_scale).exp(), -log_scale.flatten(1).sum(1)


class WithContext(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x, context=None):
        return self.network(x)


def plain_flow(flow: CouplingFlow) -> CompositeTransform:
    """The same couplings and norms with its very parameters, from latents to noise."""
    layers = []
    for index, layer in enumerate(flow.to_noise._transforms):
        if isinstance(layer, ActNorm):
            plain = ActNorm(flow.features)
            plain.log_scale, plain.shift = layer.log_scale, layer.shift
        elif isinstance(layer, AffineCoupling):
            mask = (torch.arange(flow.features) + index // 2) % 2
            plain = PlainCoupling(mask, lambda inputs, outputs, layer=layer: WithContext(layer.transform_net))
        else:
            plain = layer
        layers.append(plain)
    return CompositeTransform(layers).eval()
