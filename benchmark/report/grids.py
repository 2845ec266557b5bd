"""Sample grids: a picture a table, of what each row draws from the same noise."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from benchmark.metrics.samples import from_png
from benchmark.report.pictures import DRAWN_FROM, is_drawn_from
from benchmark.report.tables import CEILING, RECONSTRUCTION, ZERO_LINE, Key, Table
from benchmark.store.sealed import content_hash, write_atomic

SAMPLES: Key = ("samples", "png")
VERSION = 1  # of the drawing: a picture of another is drawn again


def grid_file(table: Table) -> str:
    """Where the grid lies in a results folder."""
    return f"samples/{table.page}.png"


def draw_grid(table: Table, results: Path) -> None:
    """Reference rows first, then priors, one shared noise per column.

    Nothing where no row has samples, or where the file there is that picture already.
    """
    order = [RECONSTRUCTION, CEILING, ZERO_LINE, *(row.label for row in table.priors)]
    strips = {label: table.rows[label].over_seeds(SAMPLES)[:1] for label in order if label in table.rows}
    shown = {label: strip[0] for label, strip in strips.items() if strip}
    path, drawn_from = results / grid_file(table), content_hash([VERSION, list(shown.items())])
    if shown and not is_drawn_from(path, drawn_from):
        _draw({label: from_png(strip) for label, strip in shown.items()}, path, drawn_from)


def _draw(strips: dict[str, Image.Image], path: Path, drawn_from: str) -> None:
    scale, gap, font = 2, 4, ImageFont.load_default(14)
    margin = max(int(font.getlength(label)) for label in strips) + 2 * gap
    width, height = (scale * side for side in next(iter(strips.values())).size)
    picture = Image.new("RGB", (margin + width, len(strips) * (height + gap) - gap), "white")
    pen = ImageDraw.Draw(picture)
    for index, (label, strip) in enumerate(strips.items()):
        top = index * (height + gap)
        pen.text((gap, top + height // 2), label, fill="black", font=font, anchor="lm")
        picture.paste(strip.convert("RGB").resize((width, height), Image.Resampling.NEAREST), (margin, top))
    note = PngInfo()
    note.add_text(DRAWN_FROM, drawn_from)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True, pnginfo=note)
    write_atomic(path, buffer.getvalue())
