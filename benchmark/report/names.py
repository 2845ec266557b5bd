"""What the page and the pictures of a table are called: the bundle and the protocol, in words that can be typed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from benchmark.report.selection import Selection


def name_pages(selections: list[Selection]) -> list[str]:
    """A name for each table, all different: `mnist-conv_vae-seed1-rae-cuda`.

    What is usual is not said: the backbone's seed 0, the test split, the CPU, the extractor that scored it first.
    Two tables that agree in all of it get the first digits of their bundles as well, and of their protocols if need be.
    """
    names = [_name(selection, _usual_extractor(selection, selections)) for selection in selections]
    for digits in ([of.bundle[:8] for of in selections], [of.protocol.hash[:8] for of in selections]):
        count = Counter(names)
        names = [f"{name}-{of}" if count[name] > 1 else name for name, of in zip(names, digits, strict=True)]
    return names


def name_groups(groups: dict[str, Any]) -> str:
    """What a protocol's latent groups are called: `all groups`, `group 1`, `groups 0, 1`."""
    chosen = groups["chosen"]
    return name_chosen("all" if len(chosen) == groups["of"] else chosen)


def name_chosen(chosen: Sequence[int] | Literal["all"]) -> str:
    """The same of the groups that a request asks for."""
    if chosen == "all":
        return "all groups"
    return f"group{'s' if len(chosen) > 1 else ''} {', '.join(map(str, chosen))}"


def _name(selection: Selection, usual: str) -> str:
    p = selection.protocol
    extractor = str(p.extractor.get("name"))
    words = [
        selection.dataset,
        selection.backbone,
        f"seed{selection.backbone_seed}" if selection.backbone_seed else "",
        p.preset,
        p.split if p.split != "test" else "",
        p.settings or "",
        "" if p.groups is None else name_groups(p.groups).replace(" ", ""),
        extractor if extractor != usual else "",
        selection.device if selection.device != "cpu" else "",
    ]
    return re.sub(r"[^\w.-]+", "_", "-".join(filter(None, words)), flags=re.ASCII)


def _usual_extractor(selection: Selection, selections: list[Selection]) -> str:
    """The name of the one that scored this bundle first."""
    scored = [of for of in selections if of.bundle == selection.bundle and of.first_scored]
    first = min(scored, key=lambda of: of.first_scored, default=selection)
    return str(first.protocol.extractor.get("name"))
