"""Which tables stand for which data set: the columns of the first screen, and what has no column, with the reason."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from benchmark.report.names import name_groups
from benchmark.report.signatures import no_hole
from benchmark.report.statistics import Gap
from benchmark.report.tables import CEILING, FD, ZERO_LINE, Table


@dataclass(frozen=True)
class Column:
    """One data set under one backbone and protocol.

    `tables`: of the backbone's first seed, one a type of device, the one with most rows first; their scores are of one
    scale, for each is held against its own N(0, I) and aggregate posterior. `repeats`: of other seeds of the backbone.
    """

    head: str
    tables: list[Table]
    repeats: list[Table]

    @property
    def first(self) -> Table:
        return self.tables[0]

    @property
    def labels(self) -> list[str]:
        """All rows that are compared, those of the first table first."""
        return list(dict.fromkeys(label for table in self.tables for label in table.fd))

    def table_of(self, label: str) -> Table | None:
        """The first table with a score of this row, one that ranks it before the others."""
        scored = [table for table in self.tables if label in table.fd]
        return next((table for table in scored if label in table.ranked), scored[0] if scored else None)

    def ranks(self, label: str) -> bool:
        """Whether the row has seeds enough to be ranked."""
        return any(label in table.ranked for table in self.tables)

    def gap_closed(self, label: str) -> Gap | None:
        table = self.table_of(label)
        return table.gap_closed(table.rows[label])[0] if table else None

    def shares(self, label: str) -> list[float]:
        """Of each seed's FD the share of the gap between the mean scores of N(0, I) and aggregate posterior."""
        table = self.table_of(label)
        if table is None:
            return []
        worst, best = table.rows[ZERO_LINE].mean(FD), table.rows[CEILING].mean(FD)
        return [(worst - value) / (worst - best) for value in table.fd[label].values()]


def is_recipe(label: str) -> bool:
    """Whether a row is a prior as its recipe has it: other settings of it are no further entrant."""
    return "[" not in label


@dataclass(frozen=True)
class Standing:
    """The columns, and the other test tables, each with why it is none."""

    columns: list[Column]
    apart: list[tuple[Table, str]]


def find_standing(made: list[Table]) -> Standing:
    """Columns of the tables of the test split.

    Of a bundle's tables those by the extractor that scored it first stand: a second one, looked at beside the first,
    changes nothing here. Tuned settings have tables of their own, apart from the recipes'. A data set with nothing to
    repair is no column: what orders its rows is noise. Nor are other latent groups than the top one of a hierarchy.
    """
    tables = [table for table in made if table.protocol.split == "test" and not table.protocol.settings]
    tables.sort(key=lambda table: (not table.first_scored, table.first_scored, table.page))  # unscored ones last
    usual: dict[str, Any] = {}
    for table in tables:
        usual.setdefault(table.bundle, table.protocol.extractor.get("name"))
    columns: dict[tuple[str, str, str, str], dict[int, list[Table]]] = defaultdict(lambda: defaultdict(list))
    apart = []
    for table in tables:
        if table.protocol.groups is not None:
            apart.append((table, f"{name_groups(table.protocol.groups)} of the hierarchy as latents"))
        elif table.protocol.extractor.get("name") != usual[table.bundle]:
            apart.append((table, f"{table.protocol.score}, a second score of the same rows"))
        elif without := _without_a_gap(table):
            apart.append((table, without))
        else:
            of = (table.dataset, table.backbone, table.protocol.preset, _bundle_of(table, tables))
            columns[of][table.backbone_seed].append(table)
    return Standing(_named([_column(by_seed) for _, by_seed in sorted(columns.items())]), apart)


def _without_a_gap(table: Table) -> str:
    """Why there is nothing to close in a table; empty where there is."""
    if not table.fd:
        return f"no {table.protocol.score} of a prior"
    if found := no_hole(table):
        return f"N(0, I) fits these latents already, so there is nothing to repair: {found[0]}"
    if not any(table.gap_closed(table.rows[label])[0] for label in table.fd):
        return (
            "no gap: the scores of N(0, I) and of the aggregate posterior are needed, with the second below the first"
        )
    return ""


def _bundle_of(table: Table, tables: list[Table]) -> str:
    """Empty where a seed of the backbone has one bundle, as is usual; else the bundle, which gets a column."""
    alike = {
        other.bundle
        for other in tables
        if (other.dataset, other.backbone, other.backbone_seed) == (table.dataset, table.backbone, table.backbone_seed)
    }
    return table.bundle if len(alike) > 1 else ""


def _column(by_seed: dict[int, list[Table]]) -> Column:
    """Of tables with equally many rows the newest first."""
    ordered = [by_seed[seed][::-1] for seed in sorted(by_seed)]
    for tables in ordered:
        tables.sort(key=lambda table: (-len(table.ranked), -len(table.fd)))
    first, *others = ordered
    return Column("", _newest(first), [tables[0] for tables in others])


def _newest(tables: list[Table]) -> list[Table]:
    """One a device: of several versions of a protocol the one that stands first."""
    by_device: dict[str, Table] = {}
    for table in tables:
        by_device.setdefault(table.device, table)
    return list(by_device.values())


def _named(columns: list[Column]) -> list[Column]:
    """Headed by the data set, and where several share it by what tells them apart: the name of their pages."""
    heads = [column.first.dataset for column in columns]
    return [
        Column(head if heads.count(head) == 1 else column.first.page, column.tables, column.repeats)
        for head, column in zip(heads, columns, strict=True)
    ]
