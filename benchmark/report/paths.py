"""Interpolations: what lies between two draws of a prior, decoded."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from benchmark.bundles.decoding import decode_images
from benchmark.errors import UsageError
from benchmark.metrics.samples import as_png, from_png
from benchmark.registry import Registry
from benchmark.report.draws import Draws
from benchmark.report.tables import ZERO_LINE
from benchmark.store.sealed import Damaged
from benchmark.streams import stream

STEPS = 12


def decode_paths(draws: Draws, registry: Registry) -> dict[str, Image.Image]:
    """Label -> the decoded path from a row's first draw to its second; none where the decoder is not at hand."""
    cpu = torch.device("cpu")
    try:
        backbone = draws.bundle.open_backbone(registry, cpu)
        return {
            label: from_png(as_png(decode_images(backbone, _path(label, *drawn[:2]), stream(cpu, "report paths"))))
            for label, drawn in draws.of_rows.items()
        }
    except (UsageError, Damaged, ArithmeticError):
        return {}


def _path(label: str, start: Tensor, end: Tensor) -> Tensor:
    """Straight; of N(0, I), whose draws lie near a sphere that a straight path leaves, along a great circle."""
    return spherical_path(start, end, STEPS) if label == ZERO_LINE else straight_path(start, end, STEPS)


def straight_path(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """(steps, *shape): (1 - t) start + t end at even t from 0 to 1."""
    t = torch.linspace(0, 1, steps).view(-1, *[1] * start.dim())
    return (1 - t) * start + t * end


def spherical_path(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """(steps, *shape): [sin((1 - t) w) start + sin(t w) end] / sin w, w the angle between the two (Shoemake 1985).

    Straight where they point the same way or opposite ones, so that no great circle is theirs alone.
    """
    cosine = torch.nn.functional.cosine_similarity(start.flatten(), end.flatten(), 0).clamp(-1, 1)
    w = cosine.acos()
    if w.sin() < 1e-4:
        return straight_path(start, end, steps)
    t = torch.linspace(0, 1, steps).view(-1, *[1] * start.dim())
    return (((1 - t) * w).sin() * start + (t * w).sin() * end) / w.sin()
