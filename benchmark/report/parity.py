"""parity.md: what papers report beside what came out here, and what can be concluded from it.

No published figure is of this suite's backbones, so a figure places a row and never ranks it; each line names what
differs. Claims of an order within one paper can be asked of a table here, and are.
"""

from __future__ import annotations

import math
from typing import Any

from tabulate import tabulate

from benchmark.report.columns import format_number, format_share
from benchmark.report.published import CLAIMS, FIFTY, FIGURES, OTHER_RECIPES, Claim, Figure
from benchmark.report.statistics import RANKED_FROM, paired_difference
from benchmark.report.tables import FD, Key, Table, TableRow
from benchmark.text import in_code, in_markdown

#: a claim's metric -> where its value is, what it is called, and the factor and unit in which it is shown
SHOWN: dict[str, tuple[Key, str, float, str]] = {
    "fd": (FD, "FD", 1, ""),
    "mmd_imq": (("mmd", "mmd_imq"), "MMD² imq", 1000, " × 10⁻³"),
    "prior_seconds_1000": (("sampling_time", "prior_seconds_1000"), "time of 1,000 latents", 1000, " ms"),
}
STANDING_IN = {"celeba64": ("celeba64", "celeba64-preview")}
TITLE = """# Parity with published numbers

Made by `python -m benchmark leaderboard`: figures and claims as their papers have them
(`benchmark/report/published.py`), beside the test tables of [leaderboard.md](leaderboard.md): those of the nvae
protocol for a figure of 50,000 images against train where there are any, else those of the rae protocol.

**What cannot be concluded.** No line compares like with like: the published scores are FID of other, larger and often
jointly trained VAEs by the 2048 Inception features, ours are of the extractor that is named, on small frozen backbones.
The two columns are on different scales, and that a number in one is lower than one in the other means nothing.

**What can.** Within one of our tables everything but the prior is the same, so an order that a paper claims can be held
against the order here; that is the second table: differences within seeds with their 95 % t-intervals, each of one
claim alone. It is about this suite's backbones, and a claim that fails on them may hold on its paper's.
"""


def parity_markdown(made: list[Table]) -> str | None:
    """The page, or None where no data set of a published figure has a table."""
    on_test = [table for table in made if table.protocol.split == "test" and table.fd]
    rae, nvae = ([table for table in on_test if table.protocol.preset == preset] for preset in ("rae", "nvae"))
    if not any(_tables_of(figure.dataset, rae + nvae) for figure in FIGURES):
        return None
    recipes = [note for dataset, note in OTHER_RECIPES.items() if any(table.dataset == dataset for table in rae)]
    claims = [_claims(rae), "", *(f"- {note}" for note in recipes), ""]
    return "\n".join([TITLE, "## Figures", "", _figures(rae, nvae), "", "## Claims", "", *claims])


def _tables_of(dataset: str, shown: list[Table]) -> list[Table]:
    return [table for table in shown if table.dataset in STANDING_IN.get(dataset, (dataset,))]


def _named(table: Table) -> str:
    backbone = f"{in_markdown(table.backbone)} seed {table.backbone_seed} (bundle {in_code(table.bundle[:8])})"
    return f"{in_markdown(table.dataset)}, {backbone}, {in_markdown(table.protocol.score)}, {in_markdown(table.device)}"


def _figures(rae: list[Table], nvae: list[Table]) -> str:
    header = [
        "data set",
        "method",
        "published",
        "its protocol",
        "its backbone",
        "source (read in)",
        "here",
        "what differs",
    ]
    body: list[Any] = []
    for figure in FIGURES:
        shared = [figure.dataset, figure.method, figure.value, figure.protocol, figure.backbone]
        shared.append(f"{figure.source} ({figure.read})")
        alike = _tables_of(figure.dataset, nvae) if figure.protocol == FIFTY else []
        shown: list[Table | None] = [*(alike or _tables_of(figure.dataset, rae))] or [None]
        # what several tables lack is said once
        body += dict.fromkeys((*shared, *_obtained(figure, table)) for table in shown)
    return tabulate(body, header, "pipe", disable_numparse=True)


def _obtained(figure: Figure, table: Table | None) -> tuple[str, str]:
    """What came out here for a published figure, and in what it differs."""
    if figure.prior is None:
        return "no such prior here", ""
    if table is None or not (row := table.rows.get(figure.prior)) or not row.numbers(FD):
        return "not measured", ""
    gap, _ = table.gap_closed(row)
    closed = "" if gap is None or row.is_reference else f", gap closed {format_share(gap)}"
    p = table.protocol
    here = f"{in_markdown(p.score)} {format_number(row, FD)}{closed} ({_named(table)})"
    differs = (
        f"{p.generated:,} images against {p.reference:,} of {p.images}, {in_markdown(p.score)}; frozen backbone; "
        f"{in_markdown(p.preparation)}"
    )
    return here, differs


def _claims(shown: list[Table]) -> str:
    header = ["claim", "source", "table", "first", "second", "first above second", "here"]
    body = []
    for claim in CLAIMS:
        relation = "about as" if claim.alike else "lower than"
        said = f"`{claim.first}` {relation} `{claim.second}` in {SHOWN[claim.metric][1]}"
        for dataset in claim.datasets:
            asked = set()
            for table in _tables_of(dataset, shown):
                # latents and their time are one and the same in the tables of several extractors
                judge = (table.bundle, table.device, table.protocol.score if claim.metric == "fd" else None)
                if judge not in asked:
                    body.append([said, claim.source, _named(table), *_held(claim, table)])
                asked.add(judge)
            if not _tables_of(dataset, shown):
                body.append([said, claim.source, dataset, "", "", "", "not measured"])
    return tabulate(body, header, "pipe", disable_numparse=True)


def _held(claim: Claim, table: Table) -> list[str]:
    """Both values, their difference with its interval, and what that says of the claim."""
    key, _, scale, unit = SHOWN[claim.metric]
    rows = [table.rows.get(label, TableRow(label)) for label in (claim.first, claim.second)]
    values = [row.numbers(key) for row in rows]
    shown = [f"{format_number(row, key, scale)}{unit}" if of else "" for row, of in zip(rows, values, strict=True)]
    seeds = sorted(set(values[0]) & set(values[1]))
    if not seeds:
        return [*shown, "", "not measured"]
    mean, low, high = (scale * part for part in paired_difference(*([of[seed] for seed in seeds] for of in values)))
    difference = f"{mean:.3g}" + ("" if math.isnan(low) else f" [{low:.3g}, {high:.3g}]") + unit
    return [*shown, difference, _verdict(claim, mean, low, high, len(seeds))]


def _verdict(claim: Claim, mean: float, low: float, high: float, seeds: int) -> str:
    if seeds < RANKED_FROM:
        order = "" if claim.alike else "lower, " if mean < 0 else "not lower, "
        return f"{order}{seeds} seed{'s' if seeds > 1 else ''} alone"
    if low <= 0 <= high:
        return "not told apart"
    if claim.alike:
        return "they differ"
    return "holds" if mean < 0 else "fails"
