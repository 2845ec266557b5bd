"""Average ranks of priors over bundles, and the critical-difference diagram where there are bundles enough for one."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tabulate import tabulate

from benchmark.report.pareto import VERSION, is_drawn_from, save_figure
from benchmark.report.statistics import critical_difference, friedman, mean_ranks
from benchmark.report.tables import Table
from benchmark.store.sealed import content_hash

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DIAGRAM_FROM = 8  # tables: below, hardly any two mean ranks can be told apart


@dataclass(frozen=True)
class Group:
    """Ranking test-split tables, one a bundle, of one protocol and device, and the priors that all of them rank."""

    preset: str
    version: int
    device: str
    tables: list[Table]

    @property
    def labels(self) -> list[str]:
        return sorted(set.intersection(*(set(table.ranked) for table in self.tables)))

    @property
    def ranks(self) -> dict[str, float]:
        """Label -> mean rank of its mean FD among these priors, the best first."""
        ranks = dict(zip(self.labels, mean_ranks(self.scores)))
        return dict(sorted(ranks.items(), key=lambda item: item[1]))

    @property
    def scores(self) -> list[list[float]]:
        """Mean FD: a list a table, a number a label."""
        return [[table.rows[label].mean("fd") for label in self.labels] for table in self.tables]

    @property
    def has_diagram(self) -> bool:
        return len(self.tables) >= DIAGRAM_FROM

    @property
    def file(self) -> str:
        """Where the diagram lies in a results folder."""
        return f"ranks/{self.preset}-{self.version}-{self.device}.png"


def across_bundles(made: list[Table]) -> list[Group]:
    """Groups of two bundles or more that share two priors or more.

    No bundle counts twice: of its tables the newest by the extractor that scored it first stands for it, so that a
    second extractor, looked at beside the first, changes no rank here.
    """
    found: dict[tuple[str, int, str], dict[str, Table]] = defaultdict(dict)
    for table in sorted(made, key=lambda table: (table.first_scored, table.name)):
        if table.ranked and table.protocol.split == "test":
            group = found[table.protocol.preset, table.protocol.version, table.device]
            standing = group.setdefault(table.bundle, table)
            if table.protocol.extractor["name"] == standing.protocol.extractor["name"]:
                group[table.bundle] = table
    groups = [
        Group(*key, sorted(by_bundle.values(), key=lambda table: table.place))
        for key, by_bundle in sorted(found.items())
    ]
    return [group for group in groups if len(group.tables) > 1 and len(group.labels) > 1]


def across_markdown(groups: list[Group]) -> list[str]:
    """The last section of leaderboard.md; nothing where no bundles can be compared."""
    if not groups:
        return []
    explained = "Mean rank of a prior's FD within each bundle's table, 1 is best; each bundle counts once."
    lines = ["## Across bundles", "", explained, ""]
    for group in groups:
        named = ", ".join(f"{t.dataset} {t.backbone} seed {t.backbone_seed} ({t.protocol.score})" for t in group.tables)
        lines += [
            f"Protocol {group.preset}, version {group.version}, {group.device}, {len(group.tables)} bundles: {named}.",
            "",
        ]
        body = [[label, f"{rank:.2f}"] for label, rank in group.ranks.items()]
        grid = tabulate(body, ["prior", "mean rank ↓"], "pipe", disable_numparse=True, colalign=("left", "right"))
        lines += [grid, ""]
        p = friedman(group.scores)
        if p is None:
            lines += ["Too few bundles or priors for a test: an average of these tables, no more.", ""]
        else:
            lines.append(f"Friedman's test of all priors ranking alike: p = {p:.3g}, were bundles independent;")
            lines += ["those of one data set are less so.", ""]
        if group.has_diagram:
            distance = critical_difference(len(group.labels), len(group.tables))
            lines += [f"Mean ranks within {distance:.2f} of each other are not told apart (Nemenyi, 5 %).", ""]
            lines += [f"![critical differences, {group.preset} protocol, {group.device}]({group.file})", ""]
    return ["\n".join(lines)]


def cliques(ranks: list[float], distance: float) -> list[tuple[int, int]]:
    """First and last index of each longest run of ascending mean ranks that lie within `distance`; no run of one."""
    runs: list[tuple[int, int]] = []
    for first, rank in enumerate(ranks):
        last = max(index for index, other in enumerate(ranks) if other - rank <= distance)
        if last > first and (not runs or last > runs[-1][1]):
            runs.append((first, last))
    return runs


def draw_critical_difference(group: Group, results: Path) -> None:
    """Draw a group's diagram (Demsar 2006) where it has one and the file there is not it already."""
    if not group.has_diagram:
        return
    ranks, path = group.ranks, results / group.file
    distance = critical_difference(len(ranks), len(group.tables))
    drawn_from = content_hash([VERSION, list(ranks.items()), distance])
    if not is_drawn_from(path, drawn_from):
        save_figure(_figure(ranks, distance), path, drawn_from)


def _figure(ranks: dict[str, float], distance: float) -> Figure:
    """Ranks on a line, best on the left; the better half is named on the left, the other on the right."""
    from matplotlib.figure import Figure

    k, runs = len(ranks), cliques(list(ranks.values()), distance)
    low, high, half = 1, k, (k + 1) // 2
    depth = 1 + 0.5 * len(runs)  # names start below the bars that join what is not told apart
    figure = Figure(figsize=(8, 1.2 + 0.28 * (depth + half)), dpi=120, layout="constrained")
    axes = figure.add_subplot(xlim=(low - 0.35 * k, high + 0.35 * k), ylim=(depth + half + 0.5, -2.5))
    axes.axis("off")
    axes.plot([low, high], [0, 0], color="black", linewidth=1)
    for tick in range(low, high + 1):
        axes.plot([tick, tick], [0, -0.3], color="black", linewidth=1)
        axes.text(tick, -0.5, str(tick), ha="center", va="bottom", fontsize=9)
    axes.plot([low, low + distance], [-1.9, -1.9], color="black", linewidth=2)
    axes.text(low + distance, -1.9, f"  critical difference {distance:.2f}", va="center", fontsize=9)
    for number, (first, last) in enumerate(runs):
        ends = [list(ranks.values())[index] for index in (first, last)]
        axes.plot([ends[0] - 0.05, ends[1] + 0.05], [0.5 + 0.5 * number] * 2, color="black", linewidth=4)
    for index, (label, rank) in enumerate(ranks.items()):
        left = index < half
        height, edge = depth + (index if left else k - 1 - index), low - 0.05 * k if left else high + 0.05 * k
        axes.plot([rank, rank, edge], [0, height, height], color="0.4", linewidth=1)
        axes.text(edge, height, f" {label} ({rank:.2f}) ", ha="right" if left else "left", va="center", fontsize=9)
    return figure
