"""Fitting a network to a regression that has noise in its inputs and targets, as denoising and flow matching have.

Adam with a cosine decay to zero on fresh draws. What is kept is a moving average of the weights, at its lowest held-out
loss: with a few thousand images a network can learn the images by heart, and then that loss rises.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from priors.api import PriorConfig, Progress
from priors.parts.averages import MovingAverage
from priors.parts.early_stopping import BestState
from priors.parts.graphs import without_python

VALIDATE_EVERY = 250  # steps
HELD_OUT = 5_000  # draws in the held-out loss


class RegressionConfig(PriorConfig):
    """`averaged`: share of the steps over which weights are averaged; `patience` counts validations (in 250 steps)."""

    steps: int = Field(8_000, ge=1)
    batch_size: int = Field(256, ge=2)
    width: int = Field(256, ge=1)
    blocks: int = Field(3, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    averaged: float = Field(0.05, gt=0, le=1)
    patience: int = Field(8, ge=1)


def regress(
    network: nn.Module,
    loss: Callable[[nn.Module], Tensor],
    held_out: Callable[[nn.Module], Tensor],
    config: RegressionConfig,
    progress: Progress,
    replay: torch.Generator | None,
) -> dict[str, Any]:
    """Leave in `network` the average of the weights that minimise `loss`, at its best `held_out`; facts for the record.

    `loss` draws a batch anew whenever it is called, `held_out` is to use the same draws and noise at each call.
    `replay`: the generator that `loss` draws from, None where it waits for the host and so cannot be replayed. Raises
    `Diverged` when the held-out loss is not finite.
    """
    live = copy.deepcopy(network)
    average = MovingAverage(network, live, config.averaged * config.steps)
    device = next(live.parameters()).device
    rate = torch.tensor(config.learning_rate, device=device)
    optimiser = torch.optim.Adam(live.parameters(), rate, fused=True, capturable=device.type == "cuda")
    best = BestState(network, config.patience)

    def step() -> Tensor:
        value = loss(live)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        average.update()
        return value.detach()

    if replay is not None:
        step = without_python(step, replay)
    for index in range(1, config.steps + 1):
        rate.fill_(config.learning_rate * (1 + math.cos(math.pi * (index - 1) / config.steps)) / 2)
        value = step()
        if index % VALIDATE_EVERY == 0 or index == config.steps:
            with torch.no_grad():
                found = held_out(network).item()
            progress(index, config.steps, loss=value.item(), held_out_loss=found)
            if best.exhausted(found, index, "held-out loss"):
                break
    best.restore()
    return {"held_out_loss": best.value, "best_step": best.step}
