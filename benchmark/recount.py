"""The pages of a results folder held against its records, apart from the code that makes them.

What `report` selects and averages is worked out here once more, plainly and with other means: records as JSON has them,
formulas as `docs/statistics.md` has them. All of leaderboard.csv is compared with these numbers, and of the pages of
tables the scores and gaps; every other cell of a page with what this version writes of the records.
"""

from __future__ import annotations

import csv
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from scipy import stats

from benchmark.metrics.api import AGGREGATE_POSTERIOR, FIT, FULL_RECONSTRUCTION
from benchmark.protocol import TUNING_SEED
from benchmark.report.board import make_pages
from benchmark.report.choice import choices, judge_all
from benchmark.report.tables import UNTOLD, make_tables
from benchmark.report.tuning import group_tunings
from benchmark.store.records import RecordStore
from benchmark.store.sealed import Damaged, content_hash, read_sealed
from benchmark.store.tunings import STAR

Record = dict[str, Any]
#: dataset, backbone, backbone_seed, bundle, prior, protocol, device, metric, source, as leaderboard.csv has them
Line = tuple[str, ...]
KEY = ("dataset", "backbone", "backbone_seed", "bundle", "prior", "protocol", "device", "metric", "source")
#: mean, the ends of its interval (nan of one seed), and over how many seeds
Summary = tuple[float, float, float, int]

NUMBER = re.compile(r"-?\d[\d,]*\.?\d*")
WRITTEN = 1e-6  # of a number, or of its interval: leaderboard.csv has eight digits
LARGEST = 1e150


def find_differences(results: Path, store: RecordStore) -> tuple[list[str], list[str], int]:
    """What differs, a sentence each; what is said in other words, likewise; and how many numbers were compared.

    `store` is that of the folder.
    """
    expected = dict(summaries(results, store.all()[0]))
    found = list(_of_csv(results / "leaderboard.csv", expected))
    cells, words = _of_pages(results, store, expected)
    return [*found, *cells], words, len(expected)


def summaries(results: Path, records: list[Record]) -> Iterator[tuple[Line, Summary]]:
    """Every line that leaderboard.csv is to have."""
    for path in sorted((results / "protocols").glob("*/*.json")):
        protocol, bundle = _read(path), path.parent.name
        if not protocol:
            continue
        groups = defaultdict(list)
        for record in _renamed(results, bundle, protocol, records):
            row = record["row"]
            if row["bundle"] == bundle and row["budget"] in (None, protocol["budget"]) and _covers(protocol, record):
                groups[row["dataset"], row["backbone"], row.get("backbone_seed", 0), row["device"]].append(record)
        for (dataset, backbone, seed, device), group in groups.items():
            if protocol.get("settings") and not any(record["row"]["label"].endswith(STAR) for record in group):
                continue  # a device where nothing was tuned
            noted = _read(results / "in_force" / bundle / f"{protocol['budget']}-{device}.json")
            place = (dataset, backbone, str(seed), bundle)
            for (label, metric, source), summary in _summarised(_in_force(group, noted), group, protocol["score"]):
                yield (*place, label, path.stem, device, metric, source), summary


def _renamed(results: Path, bundle: str, protocol: dict[str, Any], records: list[Record]) -> Iterator[Record]:
    """The records of reported seeds: with a star those whose settings were tuned, in a table of such, and there alone.

    What was chosen is read as the pages read it, from the same records.
    """
    tuned = protocol.get("settings") == "tuned"
    chosen = choices(judge_all(results, lambda: records)[0], protocol["extractor"]) if tuned else {}
    for record in records:
        row = record["row"]
        if row["seed"] >= TUNING_SEED:
            continue
        names = [row["label"]]
        if tuned and row["budget"] is not None and row["prior"] != "gaussian":
            names = chosen.get(row["config_hash"], [])
        elif not tuned and row["label"].endswith(STAR):
            noted = _read(results / "in_force" / bundle / f"{protocol['budget']}-{row['device']}.json")
            names = [
                name
                for name, of in noted.get("labels", {}).items()
                if of == row["config_hash"] and not name.endswith(STAR)
            ]
        for name in names:
            yield {**record, "row": {**row, "label": name}}


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_sealed(path)
    except Damaged:
        return {}


def _covers(protocol: dict[str, Any], record: Record) -> bool:
    """Whether a record was made with what a protocol says: a fit with none of it."""
    settings = record["identity"].get("settings", {})
    against = protocol.get("reference_split") if "generated" in settings else settings.get("reference_split")
    alike = all(protocol.get(name) == value for name, value in settings.items())
    alike = alike and record["row"].get("groups") == protocol.get("groups")
    return alike and settings.get("reference_split") == against


def _in_force(group: list[Record], noted: dict[str, Any]) -> list[Record]:
    """Of each label the settings that its latest run used, of each metric its version, of timings one machine's."""
    group.sort(key=lambda record: (record["provenance"]["time"], record["id"]))
    configs, metrics = dict[str, set[str]](), dict[str, set[str]]()
    newest_config, newest_metric = dict[str, str](), dict[str, str]()
    for record in group:
        label, kind = record["row"]["label"], record["kind"]
        newest_config[label] = record["row"]["config_hash"]
        configs.setdefault(label, set()).add(newest_config[label])
        if kind != FIT:
            newest_metric[kind] = content_hash(record["identity"]["metric"])
            metrics.setdefault(kind, set()).add(newest_metric[kind])
    for newest, present, notes in (
        (newest_config, configs, noted.get("labels", {})),
        (newest_metric, metrics, noted.get("metrics", {})),
    ):
        newest.update({name: hash for name, hash in notes.items() if hash in present.get(name, ())})
    group = [record for record in group if record["row"]["config_hash"] == newest_config[record["row"]["label"]]]
    timed: dict[tuple[str, str, int], int] = {}
    for number, record in enumerate(group):
        if "machine" in record["identity"]:
            timed[content_hash(record["identity"]["machine"]), record["row"]["label"], record["row"]["seed"]] = number
    machine = _most([key[0] for key in sorted(timed, key=lambda key: timed[key])])
    return [
        record
        for record in group
        if (record["kind"] == FIT or content_hash(record["identity"]["metric"]) == newest_metric[record["kind"]])
        and ("machine" not in record["identity"] or content_hash(record["identity"]["machine"]) == machine)
    ]


def _most(members: list[Any]) -> Any:
    """What comes most often, of several such the last of all to come; None of nothing."""
    last = {member: number for number, member in enumerate(members)}
    return max(last, key=lambda member: (members.count(member), last[member]), default=None)


def _summarised(kept: list[Record], group: list[Record], score: str) -> Iterator[tuple[tuple[str, str, str], Summary]]:
    """(label, metric, source) -> summary of one table, whose rows are those that have a score."""
    scored = {r["row"]["label"] for r in kept if r["kind"] != FIT and "machine" not in r["identity"]}
    fits = {record["id"]: record for record in group if (record["kind"], record["status"]) == (FIT, "ok")}
    shown = [r for r in kept if (r["kind"] != FIT and r["row"]["label"] in scored) or r["status"] != "ok"]
    used = {record["identity"]["fit"] for record in shown if record["kind"] != FIT}
    fitted_on = _most([_machine(fit) for id, fit in fits.items() if id in used])
    values: dict[tuple[str, str, str], dict[int, Any]] = defaultdict(dict)
    for record in shown:
        if record["kind"] == FIT or record["status"] != "ok":
            continue
        label, seed, fit = record["row"]["label"], record["row"]["seed"], fits.get(record["identity"]["fit"])
        for name, value in (fit["values"] if fit else {}).items():
            if name != "fit_seconds" or _machine(fit) == fitted_on:
                values[label, name, FIT][seed] = value
        for name, value in record["values"].items():
            values[label, name, record["kind"]][seed] = value
    numbers = {key: of for key, of in values.items() if all(map(_is_number, of.values()))}
    for (label, name, source), of in numbers.items():
        shown_as = score if (name, source) == ("fd", "fd") else name
        yield (label, shown_as, source), _mean([of[seed] for seed in sorted(of)])
    ends = [numbers.get((label, "fd", "fd"), {}) for label in ("gaussian", AGGREGATE_POSTERIOR)]
    for label in {label for label, _, _ in values} - {FULL_RECONSTRUCTION}:
        own = numbers.get((label, "fd", "fd"), {})
        gap = _gap(own, *ends)
        if gap:
            yield (label, "gap_closed", "fd"), gap


def _machine(record: Record | None) -> tuple[Any, ...]:
    return () if record is None else (record["provenance"]["device"], record["provenance"]["threads"])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) < LARGEST


def _mean(values: list[float]) -> Summary:
    """Mean and 95 % t-interval over seeds."""
    mean, n = math.fsum(values) / len(values), len(values)
    if n == 1:
        return mean, math.nan, math.nan, 1
    half = float(stats.t.ppf(0.975, n - 1)) * statistics.stdev(values) / math.sqrt(n)
    return mean, mean - half, mean + half, n


def _gap(own: dict[int, float], gaussian: dict[int, float], ceiling: dict[int, float]) -> Summary | None:
    """The share of the gap from N(0, I) to the aggregate posterior: a ratio of means, its interval linearised."""
    seeds = sorted(set(own) & set(gaussian) & set(ceiling))
    if not seeds:
        return None
    gaps = [gaussian[seed] - ceiling[seed] for seed in seeds]
    mean, low, _, n = _mean(gaps)
    if mean <= 0 or low <= 0:
        return None
    ratio = math.fsum(gaussian[seed] - own[seed] for seed in seeds) / math.fsum(gaps)
    left = [gaussian[seed] - own[seed] - ratio * gap for seed, gap in zip(seeds, gaps, strict=True)]
    _, below, above, _ = _mean(left)
    half = (above - below) / 2 / mean
    return ratio, ratio - half, ratio + half, n


def _of_csv(path: Path, expected: dict[Line, Summary]) -> Iterator[str]:
    """What leaderboard.csv has otherwise than the records, and what it lacks."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
    except FileNotFoundError:
        yield f"{path.name}: it is not there"
        return
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        yield f"{path.name}: it cannot be read ({error})"
        return
    seen: set[Line] = set()
    for number, line in enumerate(lines, 2):
        key = tuple(str(line.get(name)) for name in KEY)
        of = f"{path.name}, line {number}: {line.get('prior')}, {line.get('metric')} by {line.get('source')}"
        if key in seen:
            yield f"{of}: it is there twice"
        elif key not in expected:
            yield f"{of}: no record says so"
        else:
            there, here = _summary(line), expected[key]
            if there is None or not _agree(there, here):
                yield f"{of}: {_said(there)} there, {_said(here)} by the records"
        seen.add(key)
    for key in sorted(set(expected) - seen):
        yield f"{path.name}: {key[4]}, {key[7]} by {key[8]} is missing: {_said(expected[key])} by the records"


def _summary(line: dict[str, Any]) -> Summary | None:
    try:
        mean, low, high = (float(line[name]) if line[name] else math.nan for name in ("mean", "low", "high"))
        return mean, low, high, int(line["seeds"])
    except (KeyError, TypeError, ValueError):
        return None


def _agree(one: Summary, other: Summary) -> bool:
    size = max((abs(part) for part in other[:3] if not math.isnan(part)), default=0)
    close = all(
        math.isnan(a) == math.isnan(b) and (math.isnan(a) or abs(a - b) <= WRITTEN * size)
        for a, b in zip(one[:3], other[:3], strict=True)
    )
    return close and one[3] == other[3]


def _said(summary: Summary | None) -> str:
    if summary is None:
        return "no numbers"
    mean, low, high, n = summary
    interval = "" if math.isnan(low) else f" [{low:.6g}, {high:.6g}]"
    return f"{mean:.6g}{interval} of {n} seed{'s' if n > 1 else ''}"


def _of_pages(results: Path, store: RecordStore, expected: dict[Line, Summary]) -> tuple[list[str], list[str]]:
    """What the pages have otherwise than the records: cells of their tables, and words beside them."""
    made, damaged, in_none = make_tables(results, store)
    cells, words = [], []
    tuned = group_tunings(judge_all(results, lambda: store.all()[0])[0])
    for name, here in make_pages(made, [*damaged, *in_none], tuned).items():
        try:
            there = (results / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            cells.append(f"{name}: it is not there")
            continue
        except (OSError, UnicodeDecodeError) as error:
            cells.append(f"{name}: it cannot be read ({error})")
            continue
        cells += _of_scores(name, there, expected)
        cells += _of_rows(name, there, here)
        known = set(here.splitlines())
        masked = {NUMBER.sub("#", line) for line in known}
        for line in there.splitlines():
            if line in known or line.startswith("|"):
                continue
            if NUMBER.sub("#", line) in masked:
                cells.append(f"{name}: other numbers than the records give: {line[:120]}")
            else:
                words.append(f"{name}: this version does not write: {line[:120]}")
    return cells, words


def _of_rows(name: str, there: str, here: str) -> Iterator[str]:
    """Rows of tables that a page has and the records do not give, or the reverse."""
    ours, theirs = _sections(here), _sections(there)
    for section in dict.fromkeys([*ours, *theirs]):
        one, other = ours.get(section, []), theirs.get(section, [])
        for row in [each for each in other if each not in one]:
            yield f"{name}, {section}: the records give no row {_short(row)}"
        for row in [each for each in one if each not in other]:
            yield f"{name}, {section}: by the records there is a row {_short(row)}"
        if one != other and sorted(one) == sorted(other):
            yield f"{name}, {section}: its rows are in another order"


def _sections(text: str) -> dict[str, list[tuple[str, ...]]]:
    """Heading -> the rows of all tables below it, cells without the spaces around them."""
    found: dict[str, list[tuple[str, ...]]] = {}
    heading = ""
    for line in text.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("|") and not line.startswith("|:"):
            found.setdefault(heading, []).append(_cells(line))
    return found


def _cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])


def _short(row: Iterable[str]) -> str:
    text = " | ".join(row)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _of_scores(name: str, text: str, expected: dict[Line, Summary]) -> Iterator[str]:
    """Scores and gaps of the tables of a page that are not those worked out here."""
    by_place = {(*key[3:7], key[7]): summary for key, summary in expected.items() if key[8] == "fd"}
    for section in re.split(r"^#+ ", text, flags=re.MULTILINE)[1:]:
        named = re.search(r"^- bundle `(\w+)`; protocol .*`(\w+)`$", section, re.MULTILINE)
        device = re.search(r"^- device: (\w+)", section, re.MULTILINE)
        if not (named and device):
            continue
        header: tuple[str, ...] = ()
        for line in section.splitlines():
            if not line.startswith("|"):
                header = ()
            elif not header:
                header = _cells(line)
            elif not line.startswith("|:"):
                row = dict(zip(header, _cells(line), strict=False))
                label = row.get("prior", "").removesuffix(UNTOLD).strip("* ").replace("\\", "")
                for head, cell in row.items():
                    score = head.removesuffix(" ↓")
                    metric, scale = ("gap_closed", 100) if head == "gap closed ↑" else (score, 1)
                    summary = by_place.get((named[1], label, named[2], device[1], metric))
                    if summary and not _shows(cell, summary, scale):
                        where, (mean, low, high, n) = section.splitlines()[0], summary
                        scaled = scale * mean, scale * low, scale * high, n
                        yield f"{name}, {where}: {label}, {head}: {cell} there, {_said(scaled)} by the records"


def _shows(cell: str, summary: Summary, scale: float) -> bool:
    """Whether a cell is this mean and half interval, rounded as it is written."""
    numbers = [scale * summary[0], *([] if math.isnan(summary[1]) else [scale * (summary[2] - summary[1]) / 2])]
    written = [text.replace(",", "") for text in NUMBER.findall(cell)]
    return len(written) == len(numbers) and all(
        abs(float(text) - number) <= 0.5001 * 10.0 ** -len(text.partition(".")[2]) + 1e-9
        for text, number in zip(written, numbers, strict=True)
    )
