"""The columns of a table, as its metrics declare them, and what stands in a cell."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from benchmark.metrics.api import Column, Metric
from benchmark.registry import Registry
from benchmark.report.frame import is_number
from benchmark.report.tables import FIT_SECONDS, Key, Table, TableRow

#: the groups of columns that have a place, and the metrics of each in order; any other metric's columns come after
#: these, and any other group after the groups
ORDER = {
    "main": ("fd", "memorisation", "latent_memorisation", "fld", "mmd", "sampling_time"),
    "images": ("fd_infinity", "kid", "neighbours", "memorisation", "fld"),
    "latents": ("c2st", "sliced_wasserstein", "latent_neighbours", "cross_entropy"),
    "projected": ("mmd_pca64", "c2st", "sliced_wasserstein", "latent_neighbours"),
    "spread": ("fd", "mmd"),
    "time": ("sampling_time",),
}


@dataclass(frozen=True)
class Shown:
    """One column of one table: what stands above it, the value without which it is blank, and a row's cell."""

    head: str
    key: Key
    cell: Callable[[TableRow], str]


def columns_of(table: Table) -> dict[str, list[Shown]]:
    """Group -> its columns that some row has a value of, all in the order in which they are shown."""
    declared = [(name, column) for name, columns in _declared(table) for column in columns]
    others = sorted({column.group for _, column in declared} - set(ORDER))
    shown: dict[str, list[Shown]] = {}
    for group in (*ORDER, *others):
        of_group = [(name, column) for name, column in declared if column.group == group]
        places = {name: place for place, name in enumerate(ORDER.get(group, ()))}
        of_group.sort(key=lambda each: places.get(each[0], len(places)))
        made = [each for name, column in of_group for each in _shown(name, column, table)]
        shown[group] = [each for each in made if any(row.values.get(each.key) for row in table.rows.values())]
    shown["main"] += [
        Shown("fit, s", FIT_SECONDS, lambda row: format_number(row, FIT_SECONDS)),
        Shown("seeds", FIT_SECONDS, lambda row: str(row.seeds)),
    ]
    return shown


@functools.cache
def _built_in() -> dict[str, type[Metric]]:
    registry = Registry()
    return {name: registry.get("metric", name) for name in registry.at_hand("metric")}


def _declared(table: Table) -> Iterator[tuple[str, list[Column]]]:
    """Each metric with its columns: a built-in's as its class has them, another's as its newest record has."""
    built_in = _built_in()
    for name, metric in built_in.items():
        yield name, metric.columns(table.protocol) or []
    newest = {record["kind"]: record for record in table.measured if record["kind"] not in built_in}
    for name, record in sorted(newest.items()):
        columns = _recorded(record)
        yield name, [Column(value, value, name) for value in _numbers(name, table)] if columns is None else columns


def _recorded(record: dict[str, Any]) -> list[Column] | None:
    """The columns that a record declares; None where it declares none, or none that can be read."""
    try:
        return TypeAdapter(list[Column]).validate_python(record["columns"]) if "columns" in record else None
    except ValidationError:
        return None


def _numbers(metric: str, table: Table) -> list[str]:
    """The names of a metric's values that are numbers in some row, in the order of its records."""
    return [
        name
        for source, name in dict.fromkeys(key for row in table.rows.values() for key in row.values)
        if source == metric and any((source, name) in row.intervals for row in table.rows.values())
    ]


def _shown(metric: str, column: Column, table: Table) -> list[Shown]:
    key = metric, column.value
    if column.shows == "spread":
        drawn = "redraws", f"{column.value}_redraws"
        return [
            Shown(f"{column.head}, over seeds", drawn, lambda row: _deviation(row.numbers(key).values(), column)),
            Shown(f"{column.head}, one fit", drawn, lambda row: _deviation(_of_one_fit(row, key, drawn), column)),
        ]
    cells: dict[str, Callable[[TableRow], str]] = {
        "mean": lambda row: format_number(row, key, column.scale, column.digits),
        "median": lambda row: _median(row, key, column),
        "count": lambda row: _count(row, key),
        "time": lambda row: _time(row, key),
        "gap": lambda row: format_share(table.gap_closed(row, key)[0]),
    }
    return [Shown(column.head, key, cells[column.shows])]


def format_number(row: TableRow, key: Key, scale: float = 1, least_digits: int = 0) -> str:
    """Mean and half-interval, times `scale`, with three significant digits of the mean."""
    if key not in row.intervals:
        return ""
    mean, low, high = (scale * part for part in row.intervals[key])
    return format_interval(mean, low, high, count_decimals(mean, least_digits))


def count_decimals(mean: float, least: int = 0) -> int:
    """As many as give three significant digits, four at most."""
    return min(max(2 - math.floor(math.log10(abs(mean))), least), 4) if mean and math.isfinite(mean) else 2


def format_interval(mean: float, low: float, high: float, digits: int, unit: str = "") -> str:
    """A mean ± half its interval, where it has one, with so many digits after the point."""
    half = "" if math.isnan(low) else f" ± {(high - low) / 2:.{digits}f}"
    return f"{mean:.{digits}f}{half}{unit}"


def format_share(gap: tuple[float, float, float] | None, unit: str = " %") -> str:
    """A gap closed, in per cent; blank where there is none to close."""
    if gap is None:
        return ""
    mean, low, high = (100 * part for part in gap)
    return format_interval(mean, low, high, 1, unit)


def format_short(value: float) -> str:
    """A number in few characters: a whole one from 100 on, three significant digits below."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def quartiles(row: TableRow, key: Key) -> tuple[float, float, float] | None:
    """Median and quartiles of a time in milliseconds, each a mean over seeds; None where one is missing."""
    pairs = row.over_seeds((key[0], f"{key[1]}_quartiles"))
    if key not in row.intervals or not pairs or not all(_is_pair(pair) for pair in pairs):
        return None
    low, high = (1000 * statistics.fmean(pair[end] for pair in pairs) for end in (0, 1))
    return 1000 * statistics.fmean(row.numbers(key).values()), low, high


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value))


def _time(row: TableRow, key: Key) -> str:
    found = quartiles(row, key)
    return "{} [{}, {}]".format(*map(format_short, found)) if found else ""


def _count(row: TableRow, key: Key) -> str:
    values = list(row.numbers(key).values())
    return f"{values[0]:,}" if values else ""


def _median(row: TableRow, key: Key, column: Column) -> str:
    values = row.numbers(key).values()
    return f"{column.scale * statistics.median(values):.{column.digits}f}" if values else ""


def _deviation(values: Any, column: Column) -> str:
    if len(values) < 2:
        return ""
    deviation = column.scale * statistics.stdev(values)
    return f"{deviation:.{count_decimals(deviation)}f}"


def _of_one_fit(row: TableRow, key: Key, drawn: Key) -> list[float]:
    """The score of a fit's first draw, where that was measured, and of its further ones."""
    first, values = row.numbers(key), []
    for seed, further in row.values.get(drawn, {}).items():
        if isinstance(further, list) and all(map(is_number, further)):
            values += [first[seed], *further] if seed in first else further
    return values
