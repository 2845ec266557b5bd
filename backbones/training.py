"""Stage 1: train a backbone on images, select it on the validation loss, survive a kill.

Every epoch draws its order and its noise from (seed, epoch) alone, and the checkpoint holds the rest, so a
run that was killed and resumed ends with the weights of one that was not (on the same device and threads).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import TypeAdapter
from torch import Tensor

from backbones.api import Backbone, Progress, Pull


class TrainingDiverged(RuntimeError):
    """The loss of a backbone is no longer finite; the message says at which epoch."""


class DamagedCheckpoint(ValueError):
    """A checkpoint that cannot be gone on from: cut, overwritten, or of another training. The message names it."""


class Companion(Protocol):
    """What is trained beside a backbone, whose `loss` then takes what it pulls with: a prior."""

    def pull(self, share: float, generator: torch.Generator) -> Pull:
        """For the next step, `share` of the training being done; `generator` is the companion's own."""

    def watch(self, backbone: Backbone, images: Tensor) -> dict[str, float]:
        """What is logged after an epoch, of uint8 validation images."""

    def state_dict(self) -> dict[str, Any]:
        """All that it needs to go on: tensors, numbers, lists and dicts."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put that back."""


@dataclass
class TrainingLog:
    """One entry an epoch; `best_epoch` (from 1) has the lowest validation loss and gives the weights.

    `val_terms`: the named terms of the validation loss. `watched`: what a companion logged; beside one the last epoch
    is taken, since its state is of that epoch and what it pulls with moves from one to the next.
    """

    train_loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_terms: list[dict[str, float]] = field(default_factory=list)
    watched: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    seconds: float = 0.0

    @property
    def terms(self) -> dict[str, float]:
        """Of the best epoch's validation loss."""
        return self.val_terms[self.best_epoch - 1]


def as_input(images: Tensor) -> Tensor:
    """uint8 images (n, C, H, W) -> floats in [0, 1]."""
    return images.float().div_(255)


def _generator(device: torch.device, *parts: int) -> torch.Generator:
    seed = 0
    for part in parts:
        seed = (seed * 1_000_003 + part + 1) % 2**62
    return torch.Generator(device).manual_seed(seed)


@torch.no_grad()
def validation_loss(backbone: Backbone, images: Tensor, batch_size: int = 500) -> tuple[float, dict[str, float]]:
    """Mean loss and terms over uint8 images in evaluation mode, with posterior noise that is the same in every call."""
    backbone.eval()
    generator = _generator(images.device, 0)
    totals: dict[str, float] = {}
    for batch in images.split(batch_size):
        loss, terms = backbone.loss(as_input(batch), generator)
        for name, term in {"loss": loss, **terms}.items():
            totals[name] = totals.get(name, 0.0) + float(term) * len(batch)
    means = {name: total / len(images) for name, total in totals.items()}
    return means.pop("loss"), means


def train(
    backbone: Backbone,
    train_images: Tensor,
    val_images: Tensor,
    seed: int,
    checkpoint: Path,
    progress: Progress,
    companion: Companion | None = None,
) -> TrainingLog:
    """The backbone's optimiser with a cosine decay over `config.epochs`; the best epoch's weights are left in it.

    Images are uint8 (n, C, H, W) on the backbone's device. `checkpoint` is written after each epoch and
    taken up when it exists. A `companion` is trained along, and its state kept; its draws are its own, so that one that
    pulls with nothing changes nothing. Raises `TrainingDiverged`, and `DamagedCheckpoint`, after which backbone and
    companion are to be made anew.
    """
    config, device = backbone.config, train_images.device
    steps = len(train_images) // config.batch_size
    if not steps:
        raise ValueError(f"batch_size {config.batch_size} is larger than the {len(train_images)} training images")
    total = config.epochs * steps
    make_optimiser: Callable[..., torch.optim.Optimizer] = backbone.optimiser  # whose arguments the base does not have
    optimiser = make_optimiser(backbone.parameters(), config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, total, config.final_learning_rate)
    log = TrainingLog()
    best: dict[str, Tensor] = {}
    if checkpoint.exists():
        try:
            log, best = _go_on(checkpoint, backbone, optimiser, schedule, companion)
        except Exception as error:  # whatever reading what somebody else may have written comes to
            raise DamagedCheckpoint(
                f"{checkpoint}: not a checkpoint of this training ({_first_line(error)})"
            ) from error
    loss_of: Callable[..., tuple[Tensor, dict[str, Tensor]]] = backbone.loss  # which takes a pull if it has a companion
    for epoch in range(len(log.val_loss), config.epochs):
        start, losses = time.perf_counter(), torch.zeros((), device=device)
        generator, beside = _generator(device, seed, epoch), _generator(device, seed, epoch, 1)
        order = torch.randperm(len(train_images), generator=generator, device=device)
        backbone.train()
        for step in range(steps):
            x = as_input(train_images[order[step * config.batch_size : (step + 1) * config.batch_size]])
            share = (epoch * steps + step) / total
            loss, _ = loss_of(x, generator, share, *([] if companion is None else [companion.pull(share, beside)]))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses += loss.detach()
            if step % 50 == 0:
                progress(epoch * steps + step, total, epoch=epoch + 1)
        log.train_loss.append(losses.item() / steps)
        val_loss, val_terms = validation_loss(backbone, val_images)
        log.val_loss.append(val_loss)
        log.val_terms.append(val_terms)
        if not (math.isfinite(log.train_loss[-1]) and math.isfinite(log.val_loss[-1])):
            raise TrainingDiverged(f"the loss is not finite in epoch {epoch + 1}: lower learning_rate")
        if companion is not None:
            log.watched.append(companion.watch(backbone, val_images))
        if companion is not None or not best or log.val_loss[-1] < log.val_loss[log.best_epoch - 1]:
            log.best_epoch = epoch + 1
            best = {name: value.clone() for name, value in backbone.state_dict().items()}
        log.seconds += time.perf_counter() - start
        state = {
            "backbone": backbone.state_dict(),
            "optimiser": optimiser.state_dict(),
            "schedule": schedule.state_dict(),
            "log": vars(log),
            "best": best,
            "companion": None if companion is None else companion.state_dict(),
        }
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        temporary = checkpoint.with_suffix(f".{os.getpid()}.tmp")
        torch.save(state, temporary)
        os.replace(temporary, checkpoint)
        progress((epoch + 1) * steps, total, epoch=epoch + 1, val_loss=log.val_loss[-1])
    backbone.load_state_dict(best)
    return log


def _go_on(
    checkpoint: Path,
    backbone: Backbone,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    companion: Companion | None,
) -> tuple[TrainingLog, dict[str, Tensor]]:
    """Put everything as it was when the checkpoint was written; the log, and the best epoch's weights."""
    if not checkpoint.is_file():
        raise ValueError("no regular file")
    # to the CPU: loading moves what belongs on the device, and step counts there would be waited for at each step
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    log = TypeAdapter(TrainingLog).validate_python(state["log"])
    if not 1 <= log.best_epoch <= len(log.val_loss) == len(log.train_loss) == len(log.val_terms):
        raise ValueError("its log is not whole")
    for weights in (state["best"], state["backbone"]):
        backbone.load_state_dict(weights)
    optimiser.load_state_dict(state["optimiser"])
    schedule.load_state_dict(state["schedule"])
    if companion is not None:
        companion.load_state_dict(state["companion"])
    return log, state["best"]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


@torch.no_grad()
def posterior(backbone: Backbone, images: Tensor, batch_size: int = 500) -> tuple[Tensor, Tensor]:
    """Mean and std of q(z|x) for uint8 images, each (n, *latent_shape), in evaluation mode."""
    backbone.eval()
    pairs = [backbone.encode(as_input(batch)) for batch in images.split(batch_size)]
    return torch.cat([mean for mean, _ in pairs]), torch.cat([std for _, std in pairs])
