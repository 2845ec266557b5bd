"""Sample grids: a picture a table, of what each row draws from the same noise."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from benchmark.metrics.samples import from_png
from benchmark.report.tables import CEILING, RECONSTRUCTION, ZERO_LINE, Table
from benchmark.store.sealed import write_atomic


def grid_file(table: Table) -> str:
    """Where the grid lies in a results folder."""
    return f"samples/{table.name}.png"


def draw_grid(table: Table, results: Path) -> None:
    """Reference rows first, then priors, one shared noise per column; nothing where no row has samples."""
    order = [RECONSTRUCTION, CEILING, ZERO_LINE, *(row.label for row in table.priors)]
    strips = {label: table.rows[label].over_seeds("png")[:1] for label in order if label in table.rows}
    strips = {label: from_png(strip[0]) for label, strip in strips.items() if strip}
    if strips:
        _draw(strips, results / grid_file(table))


def _draw(strips: dict[str, Image.Image], path: Path) -> None:
    scale, gap, font = 2, 4, ImageFont.load_default(14)
    margin = max(int(font.getlength(label)) for label in strips) + 2 * gap
    width, height = (scale * side for side in next(iter(strips.values())).size)
    picture = Image.new("RGB", (margin + width, len(strips) * (height + gap) - gap), "white")
    pen = ImageDraw.Draw(picture)
    for index, (label, strip) in enumerate(strips.items()):
        top = index * (height + gap)
        pen.text((gap, top + height // 2), label, fill="black", font=font, anchor="lm")
        picture.paste(strip.convert("RGB").resize((width, height), Image.NEAREST), (margin, top))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    write_atomic(path, buffer.getvalue())
