"""A picture's own note of what it shows, so that one that is there already is not drawn again."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from PIL import Image

from benchmark.store.sealed import write_atomic

DRAWN_FROM = "Drawn-From"  # a text of the PNG: the hash of all that it was drawn from


def is_drawn_from(path: Path, drawn_from: str) -> bool:
    """Whether a picture is there and says that it shows this."""
    try:
        with Image.open(path, formats=["PNG"]) if path.is_file() else nullcontext() as picture:
            return picture is not None and picture.info.get(DRAWN_FROM) == drawn_from
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def draw_figure(path: Path, drawn_from: str, make: Callable[[], Any]) -> None:
    """Write the matplotlib figure that `make` returns, unless the picture there shows this already."""
    if is_drawn_from(path, drawn_from):
        return
    buffer = io.BytesIO()
    make().savefig(buffer, format="png", metadata={"Software": None, DRAWN_FROM: drawn_from})
    write_atomic(path, buffer.getvalue())
