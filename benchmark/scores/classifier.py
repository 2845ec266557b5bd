"""A small network that tells two samples of latents apart, and the plane in which it does so.

Inputs are standardised by the real latents and cut at 10, so that one that lies far off is seen and harms nothing;
beside them come their squares, as a prior of another width is the common case. The network and its training are
constants: two hidden layers of 64, dropout 0.2, 32 epochs of AdamW.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from priors.parts.graphs import without_python

HIDDEN, EPOCHS, BATCH = 64, 32, 128
LEARNING_RATE, WEIGHT_DECAY, DROPOUT, CUT = 4e-3, 0.05, 0.2, 10.0
BETA, EPSILON = 0.999, 1e-8  # of AdamW


Layers = list[tuple[Tensor, Tensor]]


def _layers(sizes: list[int], generator: torch.Generator) -> tuple[Layers, Tensor]:
    """Weights of variance 2 / inputs, biases of zero; and all of them as one vector, in which they lie."""
    device, parts = generator.device, list[Tensor]()
    for inputs, outputs in itertools.pairwise(sizes):
        parts += [torch.randn(outputs, inputs, generator=generator, device=device) * math.sqrt(2 / inputs)]
        parts += [torch.zeros(outputs, device=device)]
    whole = torch.cat([part.flatten() for part in parts])
    views = whole.split([part.numel() for part in parts])
    leaves = [view.detach().view(part.shape).requires_grad_() for view, part in zip(views, parts)]
    return list(zip(leaves[::2], leaves[1::2])), whole


def _logits(layers: Layers, x: Tensor, dropout: torch.Generator | None = None) -> Tensor:
    for weight, bias in layers[:-1]:
        x = F.relu(F.linear(x, weight, bias))
        if dropout is not None:
            x = x * (torch.rand(x.shape, generator=dropout, device=x.device) >= DROPOUT) / (1 - DROPOUT)
    return F.linear(x, *layers[-1]).squeeze(1)


@torch.enable_grad()
def _trained(real: Tensor, generated: Tensor, generator: torch.Generator) -> Layers:
    """A network whose logit is high for real latents.

    AdamW is written out on the vector of all weights: a third of a step of these small networks is the bookkeeping of
    `torch.optim`, and the numbers are the same.
    """
    layers, weights = _layers([real.shape[1], HIDDEN, HIDDEN, 1], generator)
    parameters = [parameter for layer in layers for parameter in layer]
    size = min(BATCH, len(real))
    labels = torch.tensor([1.0, 0.0], device=real.device).repeat_interleave(size)
    mean, square = torch.zeros_like(weights), torch.zeros_like(weights)

    def find_gradient() -> Tensor:
        batch = torch.cat([_drawn(part, size, generator) for part in (real, generated)])
        loss = F.binary_cross_entropy_with_logits(_logits(layers, batch, generator), labels)
        return torch.cat([each.flatten() for each in torch.autograd.grad(loss, parameters)])

    find_gradient = without_python(find_gradient, generator)
    for step, (rate, beta) in enumerate(_one_cycle(EPOCHS * math.ceil(len(real) / size)), 1):
        gradient = find_gradient()
        with torch.no_grad():
            weights.mul_(1 - rate * WEIGHT_DECAY)
            mean.lerp_(gradient, 1 - beta)
            square.mul_(BETA).addcmul_(gradient, gradient, value=1 - BETA)
            scale = (square.sqrt() / math.sqrt(1 - BETA**step)).add_(EPSILON)
            weights.addcdiv_(mean, scale, value=-rate / (1 - beta**step))
    return layers


@functools.cache
def _one_cycle(steps: int) -> list[tuple[float, float]]:
    """Learning rate and first beta of each step: up and down once, the momentum the other way round (Smith 2018)."""
    optimiser = torch.optim.AdamW([torch.zeros(())], LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, steps)
    (now,), found = optimiser.param_groups, []
    for _ in range(steps):
        found.append((now["lr"], now["betas"][0]))
        optimiser.step()
        schedule.step()
    return found


def _drawn(part: Tensor, n: int, generator: torch.Generator) -> Tensor:
    return part[torch.randint(len(part), (n,), generator=generator, device=part.device)]


@dataclass(frozen=True)
class Classifier:
    """The trained network with the mean and the deviation (d,) by which its inputs are standardised."""

    mean: Tensor
    scale: Tensor
    layers: Layers

    def logits(self, x: Tensor) -> Tensor:
        """Latents (n, d) -> logits (n,), high for what looks real."""
        return _logits(self.layers, _inputs(x, self.mean, self.scale))


def train_classifier(real: Tensor, generated: Tensor, generator: torch.Generator) -> Classifier:
    """Of two samples (n, d); `generator` decides weights and batches."""
    mean, scale = real.mean(0), real.std(0, unbiased=False).clamp_min(1e-6)
    layers = _trained(_inputs(real, mean, scale), _inputs(generated, mean, scale), generator)
    return Classifier(mean, scale, layers)


def _inputs(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Standardised latents (n, d) and their squares (n, 2 d), each of unit variance under N(0, 1)."""
    x = ((x - mean) / scale).clamp(-CUT, CUT)
    return torch.cat([x, (x.square() - 1) / math.sqrt(2)], 1)


@torch.enable_grad()
def find_plane(classifier: Classifier, x: Tensor) -> Tensor:
    """The two directions (d, 2) of standardised latents in which the logit changes most, the first one most.

    The active subspace of the logit (Constantine 2015): the leading eigenvectors of E[g g^T] over the latents x (n, d),
    g being its gradient. Orthonormal, their signs such that the entry of largest size is positive.
    """
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(classifier.logits(x).sum(), x)
    g = (gradient * classifier.scale).double()
    plane = torch.linalg.eigh(g.T @ g).eigenvectors[:, -2:].flip(1)
    largest = plane.gather(0, plane.abs().argmax(0, keepdim=True))
    return (plane * largest.sign()).to(x.dtype)
