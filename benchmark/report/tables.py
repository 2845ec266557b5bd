"""Records -> tables. Everything here is derived; nothing is measured."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.jobs.reference_rows import REFERENCES
from benchmark.metrics.api import FIT
from benchmark.report.frame import is_number, tidy_values
from benchmark.report.names import name_pages
from benchmark.report.selection import Selection, select
from benchmark.report.statistics import (
    CONFIDENCE,
    Difference,
    Gap,
    above_best,
    gaps_closed,
    mean_intervals,
    near_best,
    ranked,
)
from benchmark.store.records import RecordStore
from benchmark.store.submissions import read_submissions

#: as good as the best, to `MARGIN`; and not told apart from it, which a row that scatters is too
NEAR, UNTOLD = "near", "≈"
ZERO_LINE, CEILING, RECONSTRUCTION = "gaussian", "aggregate_posterior", "reconstruction"

#: who says a value, a metric's name or `FIT`, and what it is called there
Key = tuple[str, str]
FD: Key = ("fd", "fd")
FIT_SECONDS: Key = (FIT, "fit_seconds")


@dataclass
class TableRow:
    """One label: key -> seed -> value, and of what is a number with every seed mean and 95 % interval."""

    label: str
    values: dict[Key, dict[int, Any]] = field(default_factory=dict)
    intervals: dict[Key, tuple[float, float, float]] = field(default_factory=dict)

    def over_seeds(self, key: Key) -> list[Any]:
        return [value for _, value in sorted(self.values.get(key, {}).items())]

    def numbers(self, key: Key) -> dict[int, float]:
        """Seed -> value; empty where there is none, or one that is no number."""
        return self.values[key] if key in self.intervals else {}

    def mean(self, key: Key) -> float:
        """Over seeds; infinite, and so the last, where there is none."""
        return self.intervals[key][0] if key in self.intervals else math.inf

    @property
    def seeds(self) -> int:
        """Behind the score; of a row without one, behind what it has most of."""
        return len(self.values.get(FD, ())) or max(map(len, self.values.values()), default=0)

    @property
    def is_reference(self) -> bool:
        return self.label in REFERENCES or self.label == ZERO_LINE


@dataclass(kw_only=True)
class Table(Selection):
    """All that one table shows. Made once and read often: what costs something to work out is kept.

    `page`: what its page and pictures are called. `submitted`: prior -> who ran it, of rows from elsewhere.
    """

    rows: dict[str, TableRow]
    page: str
    submitted: dict[str, str]
    _gaps: dict[Key, dict[str, tuple[Gap | None, int]]] = field(default_factory=dict, repr=False)

    @functools.cached_property
    def priors(self) -> list[TableRow]:
        """Rows that are compared, the lowest FD first; those with too few seeds to be ranked after the others."""
        compared = [row for row in self.rows.values() if not row.is_reference]
        enough = ranked({row.label: row.numbers(FD) for row in compared})
        return sorted(compared, key=lambda row: (row.label not in enough, row.mean(FD)))

    @functools.cached_property
    def fd(self) -> dict[str, dict[int, float]]:
        """Label -> seed -> FD of the rows that are compared and have one, in the order of `priors`."""
        return {row.label: row.numbers(FD) for row in self.priors if row.numbers(FD)}

    @functools.cached_property
    def ranked(self) -> dict[str, dict[int, float]]:
        """Those of `fd` that are tested against each other, having seeds enough."""
        return ranked(self.fd)

    @functools.cached_property
    def above_best(self) -> dict[str, Difference]:
        """Label -> how far a ranked row lies above the best one, which is not among them."""
        return above_best(self.fd)

    @functools.cached_property
    def marks(self) -> dict[str, str]:
        """Label -> `NEAR` of the best row and those shown to be near it, `UNTOLD` of those not told apart from it."""
        untold = {label: UNTOLD for label, above in self.above_best.items() if above.p > 1 - CONFIDENCE}
        return untold | dict.fromkeys(near_best(self.fd, self.above_best, self._gap), NEAR)

    @property
    def _gap(self) -> float | None:
        """From N(0, I) to the aggregate posterior in FD; None where one is missing, or the first not above."""
        ends = [self.rows[label].mean(FD) for label in (ZERO_LINE, CEILING) if label in self.rows]
        return ends[0] - ends[1] if len(ends) == 2 and math.inf > ends[0] > ends[1] else None

    def paired(self, score: Key, *labels: str) -> tuple[list[int], list[list[float]]]:
        """The seeds with which all these rows have a score, and each row's values with them."""
        found = [self.rows[label].numbers(score) if label in self.rows else {} for label in labels]
        seeds = sorted(set.intersection(*map(set, found)))
        return seeds, [[by_seed[seed] for seed in seeds] for by_seed in found]

    @property
    def rank_deficient(self) -> bool:
        """Whether there are so few images that a covariance of their features has no full rank."""
        return min(self.protocol.generated, self.protocol.reference) <= self.protocol.features

    def gap_closed(self, row: TableRow, score: Key = FD) -> tuple[Gap | None, int]:
        """Share of a score's gap from Gaussian to aggregate posterior that a row closes, and over how many seeds.

        The seeds are those that all three have. None of full reconstructions, whose other groups are no prior's on z,
        and where one seed tells no gap from noise (`rank_deficient`).
        """
        if score not in self._gaps:
            self._gaps[score] = self._gaps_closed(score)
        return self._gaps[score].get(row.label, (None, 0))

    def _gaps_closed(self, score: Key) -> dict[str, tuple[Gap | None, int]]:
        """Of all rows that can be paired with both ends: label -> gap closed, and over how many seeds."""
        least = 2 if self.rank_deficient else 1
        labels = [label for label in self.rows if not (label in REFERENCES and REFERENCES[label].from_images)]
        paired = {label: self.paired(score, ZERO_LINE, label, CEILING) for label in labels}
        paired = {label: each for label, each in paired.items() if len(each[0]) >= least}
        gaps = gaps_closed([(first, second, third) for _, (first, second, third) in paired.values()])
        return {label: (gap, len(seeds)) for (label, (seeds, _)), gap in zip(paired.items(), gaps, strict=True)}


def make_tables(results: Path, store: RecordStore | None = None) -> tuple[list[Table], list[str], list[str]]:
    """Every table of a results folder, in a fixed order; what is damaged; and which good records are in none."""
    selections, damaged, in_none = select(results, store)
    rows: list[dict[str, TableRow]] = [
        {label: TableRow(label) for label in dict.fromkeys(r["row"]["label"] for r in selection.measured)}
        for selection in selections
    ]
    for selection, of_table in zip(selections, rows, strict=True):
        for label, _, seed, name, source, value in tidy_values(selection):
            of_table[label].values.setdefault((source, name), {})[seed] = value
    _summarise([row for of_table in rows for row in of_table.values()])
    submissions, damaged_submissions = read_submissions(results)
    made = []
    for selection, of_table, page in zip(selections, rows, name_pages(selections), strict=True):
        priors = {record["row"]["prior"] for record in selection.records}
        submitted = {prior: of.sentence for prior, of in submissions.items() if prior in priors}
        made.append(Table(**vars(selection), rows=of_table, page=page, submitted=submitted))
    return made, [*damaged, *damaged_submissions], in_none


def _summarise(rows: list[TableRow]) -> None:
    """Take means and intervals, of all rows at once."""
    summed = [(row, key) for row in rows for key, of in row.values.items() if all(map(is_number, of.values()))]
    intervals = mean_intervals([row.over_seeds(key) for row, key in summed])
    for (row, key), interval in zip(summed, intervals, strict=True):
        row.intervals[key] = interval
