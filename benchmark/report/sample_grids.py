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
from benchmark.text import one_line

SAMPLES: Key = ("samples", "png")
LONGEST = 200  # characters of a label
VERSION = 1  # of the drawing: a picture of another is drawn again


def grid_file(table: Table) -> str:
    """Where the grid lies in a results folder."""
    return f"samples/{table.page}.png"


def has_samples(table: Table) -> bool:
    """Whether a row has samples, without which there is no grid."""
    return any(row.values.get(SAMPLES) for row in table.rows.values())


def draw_grid(table: Table, results: Path) -> list[str]:
    """Reference rows first, then priors, one shared noise per column. Returns for each strip left out why, a sentence.

    Nothing is drawn where no row has samples, or where the file there is that picture already.
    """
    order = [RECONSTRUCTION, CEILING, ZERO_LINE, *(row.label for row in table.priors)]
    strips = {label: table.rows[label].over_seeds(SAMPLES)[:1] for label in order if label in table.rows}
    shown = {label: strip[0] for label, strip in strips.items() if strip}
    path, drawn_from = results / grid_file(table), content_hash([VERSION, list(shown.items())])
    if not shown or is_drawn_from(path, drawn_from):
        return []
    pictures, left_out = {}, []
    for label, strip in shown.items():
        try:
            pictures[label] = from_png(strip)
        except ValueError as error:
            left_out.append(f"{label} in {grid_file(table)}: {error}")
    if pictures:
        _draw(pictures, path, drawn_from if not left_out else "")
    return left_out


def _draw(strips: dict[str, Image.Image], path: Path, drawn_from: str) -> None:
    scale, gap, font = 2, 4, ImageFont.load_default(14)
    strips = {one_line(label, LONGEST): strip for label, strip in strips.items()}
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
