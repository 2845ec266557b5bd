"""Where a suite's numbers stand: on which bundle under which protocol, with which rows; and what is recorded there.

A run notes its places in a sealed file, `results/suites/NAME.json`, with what the suite's file said: so pages can be
made again from a results folder alone, on a machine that has neither the bundles nor the suite. A run on another type
of device has a note of its own, `NAME-cuda.json`: its times are others, and so may its verdicts be.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from benchmark.errors import UsageError
from benchmark.report.curves import fit_logs
from benchmark.report.frame import is_number
from benchmark.report.selection import machine_of_most
from benchmark.report.statistics import mean_interval
from benchmark.report.tables import CEILING, FD, ZERO_LINE, Key, Table
from benchmark.settings import parse_named
from benchmark.store.schema import Name, read_model
from benchmark.store.sealed import Damaged, write_sealed
from benchmark.suites.quantities import Quantity
from benchmark.suites.suite import OF_GPU, PRESETS, Suite, parse_suite

Log = list[dict[str, Any]]


class PlacedRow(BaseModel):
    """`config`: all settings of the prior; None of a reference row. `seeds`: with which it was asked for."""

    model_config = ConfigDict(extra="forbid")

    prior: str
    config: dict[str, Any] | None
    seeds: list[int]


class Place(BaseModel):
    """A bundle under a protocol on a type of device. `bundle` and `protocol` are the first 16 digits of their ids.

    `settings`: of the bundle's backbone. `rows`: by label. `words`: what the suite types -> the label that it means.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    bundle: str
    protocol: str
    device: str
    settings: dict[str, Any]
    rows: dict[str, PlacedRow]
    words: dict[str, str]

    def find(self, words: Sequence[str]) -> list[str]:
        """The labels here of rows as a suite types them; `evalp[kl_weight=1,*]` is of all rows with that setting."""
        found: list[str] = []
        for word in words:
            if is_open(word):
                found += [label for label, row in self.rows.items() if matches(word, row)]
            elif self.words.get(word) in self.rows:
                found.append(self.words[word])
        return list(dict.fromkeys(found))


def is_open(word: str) -> bool:
    """Whether a word stands for all rows of a prior with some settings: it ends in `*]`."""
    return word.endswith(("[*]", ",*]"))


def split_open(word: str) -> tuple[str, dict[str, Any]]:
    """`evalp[kl_weight=1,*]` -> evalp, {kl_weight: 1}. Raises `UsageError`."""
    typed = word.removesuffix("*]").removesuffix("[").removesuffix(",")
    ((name, (settings,)),) = parse_named(f"{typed}]" if "[" in typed else typed, "row")
    return name, settings


def matches(word: str, row: PlacedRow) -> bool:
    """Whether an open word is of this row."""
    name, settings = split_open(word)
    config = row.config or {}
    return row.prior == name and all(config.get(key) == value for key, value in settings.items())


class Note(BaseModel):
    """What a run of a suite leaves for its pages: what its file said, which preset was run, and where."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    preset: str
    command: str
    content: dict[str, Any]
    places: Annotated[list[Place], Field(min_length=1)]

    @property
    def device(self) -> str:
        """The type of device that all of it was run on."""
        return self.places[0].device

    @property
    def suite(self) -> Suite:
        """The suite as it was when it was run. Raises `UsageError` where this version reads its file no more."""
        return parse_suite(self.name, self.content, f"{self.name}.json")


def read_note(path: Path) -> Note:
    """The note of a file. Raises `Damaged`."""
    return read_model(path, Note)


def folder_apart(results: Path, name: str) -> Path:
    """Where records of the VAEs that a suite trains lie: a results folder of its own, below that of the suite.

    They answer the suite's question, and would each be a column of the usual first screen.
    """
    return results / "suites" / name


def find_notes(results: Path) -> list[Path]:
    """The notes of all suites in a results folder.

    One of a GPU that an earlier version put where that of a CPU belongs moves to its own place, after page and picture,
    so that what was interrupted is done again; where a newer one is there, it is left out.
    """
    found = list[Path]()
    for path in sorted((results / "suites").glob("*.json")):
        own = path
        with suppress(Damaged):
            own = _place(results, read_note(path))
        if path != own and not own.exists():
            for ending in (".md", ".png", ".json"):
                with suppress(OSError):  # there is none, or another process was first
                    path.with_suffix(ending).rename(own.with_suffix(ending))
        found.append(own)
    return list(dict.fromkeys(found))


def keep_note(results: Path, note: Note) -> Path:
    """Write a note, unless it is there as it is to be; a damaged one is replaced. Returns its file.

    Raises `UsageError` where the note of another suite is there, which an earlier version let have this name.
    """
    path = _place(results, note)
    known = _kept(results, path)
    if known is not None and known.name != note.name:
        raise UsageError(f"{path} is the note of the suite {known.name}: move it to another folder")
    if known != note:
        write_sealed(path, note.model_dump(mode="json"))
    return path


def require_largest(results: Path, name: str, preset: str, device: str) -> None:
    """Raise `UsageError` where the page of a suite is of a larger preset, which would be replaced with less."""
    path = _file(results, name, device)
    kept = _kept(results, path)
    if kept is not None and kept.preset in PRESETS[PRESETS.index(preset) + 1 :]:
        raise UsageError(
            f"{path.with_suffix('.md')} is of --preset {kept.preset}, and {preset} would replace it with less: take "
            f"--preset {kept.preset}, or name another folder with --results"
        )


def _kept(results: Path, path: Path) -> Note | None:
    """The note of a file; None where there is none, or a damaged one."""
    with suppress(Damaged):
        return read_note(path) if path in find_notes(results) else None
    return None


def _place(results: Path, note: Note) -> Path:
    """The file of a note; page and picture have the same name."""
    return _file(results, note.name, note.device)


def _file(results: Path, name: str, device: str) -> Path:
    """No suite's own name ends in `OF_GPU`."""
    return results / "suites" / f"{name}{'' if device == 'cpu' else OF_GPU}.json"


@dataclass(frozen=True)
class Recorded:
    """A place with the table of its records; None where nothing is recorded there."""

    place: Place
    table: Table | None

    def values(self, label: str, quantity: Quantity) -> dict[int, float]:
        """Seed -> number, for each seed that was asked for: nan where there is none."""
        found = self._found(label, quantity)
        return {seed: found.get(seed, math.nan) for seed in self.place.rows[label].seeds}

    def setting(self, label: str, quantity: Quantity) -> float | None:
        """The value of a setting of the row's prior or of the bundle; None where it has none that is a number."""
        of = (self.place.rows[label].config or {}) if quantity.kind == "prior" else self.place.settings
        value = of.get(quantity.name)
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None

    def logs(self, label: str) -> dict[int, Log]:
        """Seed -> what its fit logged."""
        seeds = self.place.rows[label].seeds
        return {s: log for s, log in fit_logs(self.table, label).items() if s in seeds} if self.table else {}

    def interval(self, label: str, quantity: Quantity) -> tuple[float, float, float]:
        """Mean and 95 % interval over seeds; nan where there is none."""
        if quantity.kind == "gap_closed":
            row = self.table.rows.get(label) if self.table else None
            gap = self.table.gap_closed(row, FD)[0] if self.table and row else None
            return (100 * gap[0], 100 * gap[1], 100 * gap[2]) if gap else (math.nan,) * 3
        values = [value for value in self.values(label, quantity).values() if math.isfinite(value)]
        return mean_interval(values) if values else (math.nan,) * 3

    def gap(self, quantity: Quantity) -> float | None:
        """From N(0, I) to the aggregate posterior; None where it is not shown to be above 0."""
        differences = self._differences_of_ends(quantity)
        if len(differences) < 2:
            return None
        mean, low, _ = mean_interval(differences)
        return mean if low > 0 else None

    def has_ends(self, quantity: Quantity) -> bool:
        """Whether enough of both ends is recorded to tell whether there is a gap."""
        return len(self._differences_of_ends(quantity)) > 1

    def _differences_of_ends(self, quantity: Quantity) -> list[float]:
        """N(0, I) less the aggregate posterior, of each seed that both have."""
        if ZERO_LINE not in self.place.rows or CEILING not in self.place.rows:
            return []
        ends = [self.values(label, quantity) for label in (ZERO_LINE, CEILING)]
        differences = [ends[0][s] - ends[1][s] for s in ends[0] if s in ends[1]]
        return [value for value in differences if math.isfinite(value)]

    @property
    def machines(self) -> set[str]:
        """The processors that measured these rows."""
        measured = self.table.measured if self.table else []
        return {r["provenance"]["device"] for r in measured if r["row"]["label"] in self.place.rows}

    def _found(self, label: str, quantity: Quantity) -> dict[int, float]:
        if self.table is None or label not in self.table.rows:
            return {}
        kind, name = quantity.kind, quantity.name
        if kind == "share":
            return self._shares(label, name, quantity.other)
        if kind == "seconds":
            return self._seconds.get(label, {})
        if kind == "gain":
            before, after = self._numbers(ZERO_LINE, name), self._numbers(label, name)
            return {seed: before[seed] - value for seed, value in after.items() if seed in before}
        return self._numbers(label, name)

    @functools.cached_property
    def _seconds(self) -> dict[str, dict[int, float]]:
        """Label -> seed -> seconds for 1,000 latents, on the machine that timed most of the place's rows.

        The table may have its times from another one: it has more rows.
        """
        assert self.table is not None
        records = [*self.table.measured, *self.table.elsewhere]
        ours = [r for r in records if r["kind"] == "sampling_time" and r["row"]["label"] in self.place.rows]
        machine, batch = machine_of_most(ours), self.table.protocol.timing_batches[-1]
        seconds: dict[str, dict[int, float]] = defaultdict(dict)
        for record in ours:
            taken = record["values"].get(f"prior_seconds_{batch}")
            if record["identity"]["machine"] == machine and is_number(taken):
                seconds[record["row"]["label"]][record["row"]["seed"]] = 1_000 * taken / batch
        return seconds

    def _numbers(self, label: str, name: str) -> dict[int, float]:
        assert self.table is not None
        row = self.table.rows.get(label)
        key: Key | None = next((key for key in row.values if key[1] == name), None) if row else None
        values = row.values[key] if row and key else {}
        return {seed: float(value) for seed, value in values.items() if is_number(value)}

    def _shares(self, label: str, one: str, other: str) -> dict[int, float]:
        """Seed -> the share of the logged steps at which the first value is above the second."""
        shares = {}
        for seed, log in self.logs(label).items():
            both = [(at[one], at[other]) for at in log if is_number(at.get(one)) and is_number(at.get(other))]
            if both:
                shares[seed] = sum(first > second for first, second in both) / len(both)
        return shares


def find_tables(note: Note, tables: Sequence[Table]) -> list[Recorded]:
    """The places of a note with their tables."""
    by_place = {(table.bundle, table.protocol.hash[:16], table.device): table for table in tables}
    return [Recorded(of, by_place.get((of.bundle, of.protocol, of.device))) for of in note.places]
