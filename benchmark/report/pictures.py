"""A picture's own note of what it shows: one that is there is not drawn again, and one of ours may be removed."""

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
    return _read_note(path) == drawn_from


def _read_note(path: Path) -> str | None:
    """What a picture says that it was drawn from; None where there is none, or it is not ours."""
    try:
        with Image.open(path, formats=["PNG"]) if path.is_file() else nullcontext() as picture:
            return None if picture is None else picture.info.get(DRAWN_FROM)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def is_ours(path: Path) -> bool:
    """Whether a picture was drawn by this module's callers, whatever it shows."""
    return _read_note(path) is not None


def draw_figure(path: Path, drawn_from: str, make: Callable[[], Any]) -> None:
    """Write the matplotlib figure that `make` returns, unless the picture there shows this already."""
    if is_drawn_from(path, drawn_from):
        return
    buffer = io.BytesIO()
    make().savefig(buffer, format="png", metadata={"Software": None, DRAWN_FROM: drawn_from})
    write_atomic(path, buffer.getvalue())
