"""Energy networks written again, out of torch's own layers."""

import copy

from torch import nn

from priors.parts.energies import ConvEnergy, MLPEnergy


def plain_energy(energy: MLPEnergy) -> nn.Sequential:
    """The same perceptron with a copy of its weights: (n, d) -> (n, 1)."""
    *hidden, last = [copy.deepcopy(module) for module in energy.modules() if isinstance(module, nn.Linear)]
    return nn.Sequential(*[part for linear in hidden for part in (linear, nn.LeakyReLU(0.01))], last)


def plain_conv_energy(energy: ConvEnergy) -> nn.Sequential:
    """The same convolutions with its very weights, on blocks: (n, C, H, W) -> (n,)."""
    parts = [part for layer in energy.hidden for part in (layer, nn.LeakyReLU(0.01))]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), energy.last, nn.Flatten(0))
