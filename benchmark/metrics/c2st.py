"""Classifier two-sample test: how well can a network tell a prior's latents from held-out q_agg?

The area under the ROC curve of a small MLP on latents that it was not trained on (Lopez-Paz & Oquab 2017, with the
AUC in place of the accuracy): 1/2 where it sees no difference, 1 where it tells every pair apart; it can fall below
1/2 by chance. Five folds, each scored by a network trained on the other four, and the mean of their areas, since two
networks' scores are on scales of their own.

Inputs are standardised by the real latents of the training folds and cut at 10, so that one that lies far off is
seen and harms nothing; beside them come their squares, as a prior of another width is the common case. The network and
its training are constants: two hidden layers of 64, dropout 0.2, 32 epochs of AdamW.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.metrics.api import LATENT_SETTINGS, Column, Evaluation, Metric, hookimpl, projected
from benchmark.scores.ranks import superiority
from priors.parts.graphs import without_python

FOLDS, HIDDEN, EPOCHS, BATCH = 5, 64, 32, 128
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


def classifier_auc(real: Tensor, generated: Tensor, generator: torch.Generator) -> float:
    """The cross-fitted area for two samples (n, d) of n >= 2; `generator` decides folds, weights and batches."""

    def shuffled(x: Tensor) -> Tensor:
        return x[torch.randperm(len(x), generator=generator, device=x.device)]

    folds = min(FOLDS, len(real), len(generated))
    parts = list(zip(shuffled(real).tensor_split(folds), shuffled(generated).tensor_split(folds)))
    areas = []
    for number, held_out in enumerate(parts):
        training = [torch.cat(side) for side in zip(*parts[:number], *parts[number + 1 :])]
        mean, scale = training[0].mean(0), training[0].std(0, unbiased=False).clamp_min(1e-6)
        real_inputs, generated_inputs = (_inputs(side, mean, scale) for side in training)
        layers = _trained(real_inputs, generated_inputs, generator)
        with torch.no_grad():
            real_logits, generated_logits = (_logits(layers, _inputs(side, mean, scale)) for side in held_out)
        areas.append(superiority(real_logits, generated_logits))
    return sum(areas) / folds


def _inputs(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Standardised latents (n, d) and their squares (n, 2 d), each of unit variance under N(0, 1)."""
    x = ((x - mean) / scale).clamp(-CUT, CUT)
    return torch.cat([x, (x.square() - 1) / math.sqrt(2)], 1)


class ClassifierTest(Metric):
    name = "c2st"
    reads = LATENT_SETTINGS
    reference_rows = ("aggregate_posterior",)

    @classmethod
    def columns(cls, protocol: Any) -> list[Column]:
        whole = [Column("c2st_auc", "C2ST AUC", "latents", better="lower")]
        return whole + projected(whole)

    def measure(self, evaluation: Evaluation) -> dict[str, float]:
        return {
            f"c2st_auc{suffix}": classifier_auc(real, drawn, evaluation.stream(f"c2st{suffix}"))
            for suffix, drawn, real in evaluation.latent_pairs("c2st")
        }


@hookimpl
def register_metrics() -> list[type[Metric]]:
    return [ClassifierTest]
