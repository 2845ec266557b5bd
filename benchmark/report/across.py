"""Average ranks of priors over bundles."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from tabulate import tabulate

from benchmark.report.statistics import friedman, mean_ranks
from benchmark.report.tables import FD, Table
from benchmark.text import in_markdown


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
        return [[table.rows[label].mean(FD) for label in self.labels] for table in self.tables]


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
            if table.protocol.extractor.get("name") == standing.protocol.extractor.get("name"):
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
        named = ", ".join(
            in_markdown(f"{t.dataset} {t.backbone} seed {t.backbone_seed} ({t.protocol.score})") for t in group.tables
        )
        lines += [
            (
                f"Protocol {in_markdown(group.preset)}, version {group.version}, {in_markdown(group.device)}, "
                f"{len(group.tables)} bundles: {named}."
            ),
            "",
        ]
        body = [[in_markdown(label), f"{rank:.2f}"] for label, rank in group.ranks.items()]
        grid = tabulate(body, ["prior", "mean rank ↓"], "pipe", disable_numparse=True, colalign=("left", "right"))
        lines += [grid, ""]
        p = friedman(group.scores)
        if p is None:
            lines += ["Too few bundles or priors for a test: an average of these tables, no more.", ""]
        else:
            lines.append(f"Friedman's test of all priors ranking alike: p = {p:.3g}, were bundles independent;")
            lines += ["those of one data set are less so.", ""]
    return ["\n".join(lines)]
