"""What stands in a table's cells, and the columns of the tables beside the main one."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from benchmark.jobs.evaluation import PRINCIPAL_AXES
from benchmark.report.statistics import mean_interval

if TYPE_CHECKING:
    from benchmark.report.tables import Table, TableRow


def number(values: list[float], least_digits: int = 0) -> str:
    """Mean and half-interval, with three significant digits of the mean."""
    if not values:
        return ""
    mean, low, high = mean_interval(values)
    return interval(mean, low, high, decimals(mean, least_digits))


def decimals(mean: float, least: int = 0) -> int:
    """As many as give three significant digits, four at most."""
    return min(max(2 - math.floor(math.log10(abs(mean))), least), 4) if mean else 2


def interval(mean: float, low: float, high: float, digits: int, unit: str = "") -> str:
    half = "" if math.isnan(low) else f" ± {(high - low) / 2:.{digits}f}"
    return f"{mean:.{digits}f}{half}{unit}"


def share(gap: tuple[float, float, float] | None) -> str:
    """A gap closed, in per cent; blank where there is none to close."""
    return "" if gap is None else interval(*(100 * part for part in gap), digits=1, unit=" %")


def timing(row: TableRow, metric: str) -> str:
    """Milliseconds: median [quartiles], each a mean over seeds."""
    medians, quartiles = row.over_seeds(metric), row.over_seeds(f"{metric}_quartiles")
    if not medians:
        return ""
    low, high = (1000 * statistics.fmean(pair[end] for pair in quartiles) for end in (0, 1))
    middle = 1000 * statistics.fmean(medians)
    return f"{short(middle)} [{short(low)}, {short(high)}]"


def short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def count(row: TableRow, metric: str) -> str:
    values = row.over_seeds(metric)
    return f"{values[0]:,}" if values else ""


@dataclass(frozen=True)
class Column:
    """A metric's mean over seeds, times `scale`, with no fewer decimals than `least_digits`."""

    header: str
    metric: str
    scale: float = 1
    least_digits: int = 0

    def cell(self, row: TableRow) -> str:
        return number([self.scale * value for value in row.over_seeds(self.metric)], self.least_digits)


@dataclass(frozen=True)
class GapColumn:
    """The share of a score's gap that a row closes."""

    header: str
    metric: str
    table: Table

    def cell(self, row: TableRow) -> str:
        return share(self.table.gap_closed(row, self.metric)[0])


@dataclass(frozen=True)
class TimeColumn:
    """A median time with quartiles, in milliseconds."""

    header: str
    metric: str

    def cell(self, row: TableRow) -> str:
        return timing(row, self.metric)


@dataclass(frozen=True)
class SpreadColumn:
    """Standard deviation of a score times `scale`: over seeds, or over the draws of one fit."""

    header: str
    score: str
    scale: float
    of_one_fit: bool

    @property
    def metric(self) -> str:
        return f"{self.score}_redraws"

    def cell(self, row: TableRow) -> str:
        values = row.over_seeds(self.score)
        if self.of_one_fit:
            redrawn = row.values.get(self.metric, {})
            values = [value for seed, further in redrawn.items() for value in self._drawn(row, seed, further)]
        if len(values) < 2:
            return ""
        deviation = self.scale * statistics.stdev(values)
        return f"{deviation:.{decimals(deviation)}f}"

    def _drawn(self, row: TableRow, seed: int, further: list[float]) -> list[float]:
        """The score of a fit's first draw, where that was measured, and of its further ones."""
        first = row.values.get(self.score, {})
        return [first[seed], *further] if seed in first else further


def spread_columns(score: str) -> list[SpreadColumn]:
    """Where the spread of a score comes from: what fit and draw make together, and what the draw makes alone."""
    shown = ((score, "fd", 1), ("MMD² imq ×10³", "mmd_imq", 1000), ("MMD² rbf ×10³", "mmd_rbf", 1000))
    return [
        SpreadColumn(f"{header}, {over}", metric, scale, of_one_fit)
        for header, metric, scale in shown
        for over, of_one_fit in (("over seeds", False), ("one fit", True))
    ]


def time_columns(batches: tuple[int, ...]) -> list[TimeColumn | Column]:
    """The prior and the decoder apart at every batch size, and the memory of each at the largest."""
    of = [("latents", "prior"), ("decoding", "decode")]
    times = [TimeColumn(f"{name}, ms / {n:,}", f"{what}_seconds_{n}") for name, what in of for n in batches]
    megabytes = [
        Column(f"{name}, peak MB / {batches[-1]:,}", f"{what}_peak_bytes_{batches[-1]}", 1e-6) for name, what in of
    ]
    return [*times, *megabytes]


def image_columns(table: Table) -> list[Column | GapColumn]:
    """Images beside the Fréchet distance, which the extractor names."""
    return [
        Column(f"{table.protocol.score} at ∞ ↓", "fd_infinity"),
        Column("KID ×10³ ↓", "kid", 1000),
        GapColumn("gap closed in KID ↑", "kid", table),
        Column("precision ↑", "precision"),
        Column("recall ↑", "recall"),
        Column("density ↑", "density"),
        Column("coverage ↑", "coverage"),
        Column("memorisation (½)", "memorisation"),
    ]


def latent_columns() -> list[Column]:
    """Latents beside the MMD, and all of it again on the principal axes of spatial ones."""
    two_sample = [
        Column("C2ST AUC ↓", "c2st_auc"),
        Column("sliced W₂ ↓", "sliced_wasserstein"),
        Column("precision ↑", "latent_precision"),
        Column("recall ↑", "latent_recall"),
        Column("density ↑", "latent_density"),
        Column("coverage ↑", "latent_coverage"),
    ]
    alone = [
        Column("cross-entropy, nats ↓", "cross_entropy", least_digits=2),
        Column("rate, nats ↓", "rate", least_digits=2),
        Column("memorisation (½)", "latent_memorisation"),
    ]
    mmd = [Column(f"MMD² {kernel} ×10³ ↓", f"mmd_{kernel}", 1000) for kernel in ("imq", "rbf")]
    projected = [
        replace(of, header=f"PCA-{PRINCIPAL_AXES}: {of.header}", metric=f"{of.metric}_pca{PRINCIPAL_AXES}")
        for of in (*mmd, *two_sample)
    ]
    return [*two_sample, *alone, *projected]
