"""A strip of decoded samples, kept in the record so that the sample grid can be drawn from records alone."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image
from torch import Tensor

from benchmark.metrics.api import Column, Evaluation, Metric, hookimpl

LARGEST = 2**24  # pixels of a strip


def as_png(images: Tensor) -> str:
    """uint8 images (n, C, H, W) side by side, as base64 of a PNG."""
    n, channels, height, width = images.shape
    strip = images.permute(2, 0, 3, 1).reshape(height, n * width, channels).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(strip.squeeze(2) if channels == 1 else strip).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def from_png(text: str) -> Image.Image:
    """The inverse of `as_png`, as one picture. Raises `ValueError` where a text is no PNG, or one beyond `LARGEST`."""
    try:
        picture = Image.open(io.BytesIO(base64.b64decode(text)), formats=["PNG"])
        if picture.width * picture.height <= LARGEST:
            picture.load()
            return picture
    except (OSError, ValueError, TypeError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError("a strip of samples is no picture") from error
    raise ValueError(f"a strip of samples has {picture.width} x {picture.height} pixels")


class Samples(Metric):
    """Every row draws from the same stream, so that priors which push noise forward are shown on shared noise."""

    name = "samples"
    reads = ("split", "grid_columns", "rounding")
    reference_rows = ("aggregate_posterior", "reconstruction")
    values = ("png",)

    @classmethod
    def columns(cls, protocol: Any) -> list[Column]:
        return []  # pictures, which a grid shows

    def measure(self, evaluation: Evaluation) -> dict[str, str]:
        latents = evaluation.latents(evaluation.protocol.grid_columns, "grid")
        return {"png": as_png(evaluation.decoded(latents, "grid decode"))}


@hookimpl
def register_metrics() -> list[type[Metric]]:
    return [Samples]
