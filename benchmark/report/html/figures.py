"""Figures as SVG inside a page, which take its colours, and as files for papers."""

from __future__ import annotations

import html
import io
import re
from pathlib import Path
from typing import Any

#: stands for the colour of text, which a page has its own of
INK = "#010203"
STYLE: Any = {  # the names that matplotlib's types want are hundreds
    "svg.fonttype": "none",
    "svg.hashsalt": "latent priors",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def as_svg(figure: Any, title: str, description: str, points: dict[str, str]) -> str:
    """The figure as an element of a page, named and described for those who hear it.

    `points`: id of an artist -> what is shown where a pointer rests on it.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg [^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg [^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r"(\d\.\d\d)\d+", r"\1", text)  # of coordinates, which are in points: a third of the file
    named = f"<title>{html.escape(title)}</title><desc>{html.escape(description)}</desc>"
    text = re.sub(r"<svg [^>]*>", lambda found: found[0][:-1] + f' role="img">{named}', text, count=1)
    for id, said in points.items():
        text = text.replace(f'<g id="{id}">', f'<g id="{id}"><title>{html.escape(said)}</title>', 1)
    return text


def save_figure(figure: Any, folder: Path, name: str) -> list[Path]:
    """Write PNG and PDF of a figure; their bytes repeat."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{kind}" for kind in ("png", "pdf")]
    for path in paths:
        metadata = {"Software": None} if path.suffix == ".png" else {"CreationDate": None, "Producer": None}
        figure.savefig(path, dpi=200, metadata=metadata)
    return paths
