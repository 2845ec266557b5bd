"""What tuning changed on test, a table a VAE: of the first screen and of the report."""

from __future__ import annotations

import math
from collections import defaultdict

from benchmark.report.choice import Judged
from benchmark.report.columns import format_share, format_short
from benchmark.report.markdown_table import Grid, as_grid
from benchmark.report.statistics import RANKED_FROM, Gap
from benchmark.report.tables import Table
from benchmark.report.tuning import Change, Tuned, changes_of, describe_settings, find_recipe_elsewhere, format_change
from benchmark.text import in_code, in_markdown

TUNING = "tuning.md"


def tuned_head(tuned: list[Tuned]) -> str:
    """What `prior*` is, and where to read how it was chosen."""
    trials = sorted({each.tuning.allowed for group in tuned for each in group.judged if each.chosen})
    of = f", {' or '.join(map(str, trials))} trials of each prior" if trials else ""
    return f"Tuned: settings chosen on val{of}, in tables apart from recipes ([how, and at what cost]({TUNING}))."


def tuned_grids(tuned: list[Tuned], tables: list[Table]) -> list[Grid]:
    """A table for each VAE on which tuned rows are scored on test."""
    vaes: dict[str, list[Tuned]] = defaultdict(list)
    for group in tuned:
        vaes[group.vae].append(group)
    grids = [_grid(vae, groups, tables) for vae, groups in vaes.items()]
    return [grid for grid in grids if grid is not None]


def unfinished(tuned: list[Tuned]) -> list[str]:
    """The tunings that chose nothing: those that are not through, and those of which no trial fits."""
    told: dict[str, list[str]] = defaultdict(list)
    for group in tuned:
        for each in group.judged:
            if not each.chosen:
                kind = "of which every trial failed" if each.spent else "that are not through"
                told[kind].append(f"{in_code(each.tuning.label)} ({in_markdown(group.title)})")
    return [f"Tunings {kind}, and so choose nothing: {', '.join(of)}." for kind, of in told.items()]


def _grid(vae: str, groups: list[Tuned], tables: list[Table]) -> Grid | None:
    """The table of one VAE. A prior that was tuned on several types of device stands there once."""
    found = sorted(((changes_of(group, tables), group) for group in groups), key=lambda each: -len(each[0]))
    chosen: dict[str, tuple[Change, Judged]] = {}
    elsewhere: dict[str, Gap | None] = {}
    for changes, group in found:  # that on which most were tuned first
        of = {each.tuning.label: each for each in group.judged}
        for change in changes:
            if change.label in of and change.label not in chosen:  # else its plan is damaged, and named
                chosen[change.label] = change, of[change.label]
                if change.recipe is None:
                    elsewhere[change.label] = find_recipe_elsewhere(change.label, group, tables)
    told = sorted((each for each in chosen.values() if each[0].tuned), key=lambda each: -_closed(each[0].tuned))
    if not told:
        return None
    devices = {judged.tuning.device for _, judged in told}
    both = [change for change, _ in told if change.recipe and change.seeds >= RANKED_FROM]
    before = sorted(both, key=lambda change: -_closed(change.recipe))
    body = [
        [
            in_markdown(change.label),
            f"{format_share(gap, '')} †" if (gap := elsewhere.get(change.label)) else format_share(change.recipe, ""),
            format_share(change.tuned, ""),
            format_change(change),
            f"{before.index(change) + 1} → {both.index(change) + 1}" if change in both else "",
            format_short(judged.seconds / 60),
            judged.tuning.device,
            in_markdown(describe_settings(judged.chosen.settings)) if judged.chosen else "",
        ]
        for change, judged in told
    ]
    header = ["prior", "recipe, gap closed %", "tuned", "FD, tuned - recipe", "place", "core-min", "device"]
    ends = ", each device's rows between its own N(0, I) and aggregate posterior" if len(devices) > 1 else ""
    places = f"; places among rows with {RANKED_FROM} seeds of both"
    places += "; †: on another type of device, so not tested against it" if any(elsewhere.values()) else ""
    return Grid(f"{in_markdown(vae)}{ends}{places}", as_grid([*header, "settings chosen"], body))


def _closed(gap: Gap | None) -> float:
    return gap[0] if gap else math.nan
