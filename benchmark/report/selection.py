"""Which records stand in which table: one bundle under one protocol on one type of device.

A measurement belongs to a table when the settings that it was made with are the protocol's, whichever command made it.
Of each label the configuration is taken that its latest run used. Times are of one machine: the one that timed most
rows, and of several such the latest.
"""

from __future__ import annotations

import functools
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from benchmark.metrics.api import FIT
from benchmark.protocol import TUNING_SEED, Protocol, read_protocols
from benchmark.report.choice import choices, judge_all
from benchmark.store.in_force import InForce, read_in_force
from benchmark.store.records import RecordStore
from benchmark.store.sealed import content_hash
from benchmark.store.tunings import STAR

Record = dict[str, Any]


@dataclass(kw_only=True)
class Selection:
    """The records of one table, oldest first, and what is told of those that are not among them.

    `fits`: id -> record of the fits behind them. `fitted_on`: the machine that times to fit are of. `elsewhere`:
    timings of these rows on other machines than the table's.
    """

    protocol: Protocol
    dataset: str
    backbone: str
    backbone_seed: int
    bundle: str
    device: str
    records: list[Record]
    fits: dict[str, Record]
    failures: list[str]
    left_out: list[str]
    fitted_on: str | None
    elsewhere: list[Record]

    @property
    def name(self) -> str:
        return f"{self.dataset}-{self.backbone}-{self.bundle[:8]}-{self.protocol.hash[:8]}-{self.device}"

    @property
    def place(self) -> tuple[str, str, int, str]:
        """Where it stands among tables of one protocol."""
        return self.dataset, self.backbone, self.backbone_seed, self.bundle

    @property
    def first_scored(self) -> str:
        """When the first of its scores was measured; empty without one."""
        return min((r["provenance"]["time"] for r in self.records if r["kind"] == "fd"), default="")

    @property
    def measured(self) -> list[Record]:
        """The measurements that succeeded."""
        return [record for record in self.records if record["kind"] != "fit" and record["status"] == "ok"]

    def facts(self, record: Record) -> dict[str, Any]:
        """What the fit behind a measurement says of itself; no time to fit of another machine than the table's."""
        fit = self.fits.get(record["identity"]["fit"])
        if fit is None:
            return {}
        same_machine = machine_of(fit) == self.fitted_on
        return {name: value for name, value in fit["values"].items() if name != "fit_seconds" or same_machine}


Part = TypeVar("Part", bound=Selection)


def select(results: Path, store: RecordStore | None = None) -> tuple[list[Selection], list[str], list[str]]:
    """The selections of a results folder in the order of its tables; what is damaged; which good records are in none.

    `store` is that of the folder, where one has read of it before.
    """
    records, damaged = (store or RecordStore(results / "records")).all()
    protocols, damaged_protocols = read_protocols(results)
    last_run, damaged_notes = read_in_force(results)
    of_bundle: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        of_bundle[record["row"]["bundle"]].append(record)
    found: list[Selection] = []
    placed: set[str] = set()
    judged, damaged_tunings = judge_all(results, lambda: records)
    for bundle, protocol in protocols:
        covered = [record for record in of_bundle[bundle] if _belongs(record, protocol)]
        placed |= {record["id"] for record in covered}
        chosen = choices(judged, protocol.extractor)
        shown = [each for record in covered for each in _as_shown(record, protocol, chosen, last_run)]
        found += _of_protocol(protocol, shown, last_run)
    in_none = _counted([record for record in records if record["id"] not in placed])
    found.sort(key=lambda of: (*of.place, of.protocol.split, of.protocol.preset, of.first_scored, of.name))
    return found, damaged + damaged_protocols + damaged_notes + damaged_tunings, in_none


def without_parts(made: Sequence[Part]) -> list[Part]:
    """Those of which no other has the records and more: of two extractors latents serve both, images only one."""

    def kind(of: Selection) -> tuple[Any, ...]:
        return of.bundle, of.device, of.protocol.split, of.protocol.budget, of.protocol.settings, of.protocol.groups

    ids = [{record["id"] for record in of.records} for of in made]
    return [
        one
        for one, mine in zip(made, ids, strict=True)
        if not any(mine < theirs and kind(one) == kind(other) for other, theirs in zip(made, ids, strict=True))
    ]


def _counted(in_none: list[Record]) -> list[str]:
    """For each bundle with records that no protocol covers, the sentence that counts them."""
    counts: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    for record in in_none:
        row = record["row"]
        counts[row["dataset"], row["backbone"], row["bundle"]][record["kind"]] += 1
    return [
        f"{sum(kinds.values())} records of {dataset} {backbone} (bundle {bundle}), measured under settings that no "
        f"protocol here has: {', '.join(f'{kind} {count}' for kind, count in sorted(kinds.items()))}"
        for (dataset, backbone, bundle), kinds in sorted(counts.items())
    ]


def _belongs(record: Record, protocol: Protocol) -> bool:
    if record["row"]["budget"] not in (None, protocol.budget):
        return False
    if record["row"].get("groups") != protocol.groups:
        return False
    return protocol.covers(record["identity"].get("settings", {}))


def _as_shown(
    record: Record, protocol: Protocol, chosen: dict[str, list[str]], last_run: dict[tuple[str, str, str], InForce]
) -> list[Record]:
    """A record as a table of this protocol has it: under other labels, or not at all.

    What was tried with tuning seeds is in no table. One of tuned settings has the rows whose configuration was chosen,
    whichever command made the records, beside the reference rows; one of recipes has them under the label that a run
    gave them without a star, if one did.
    """
    row = record["row"]
    if row["seed"] >= TUNING_SEED:
        return []
    framing = row["budget"] is None or row["prior"] == "gaussian"
    if protocol.settings == "tuned":
        labels = [row["label"]] if framing else chosen.get(row["config_hash"], [])
    elif row["label"].endswith(STAR):
        noted = last_run.get((row["bundle"], protocol.budget, row["device"]), InForce()).labels
        labels = [label for label, of in noted.items() if of == row["config_hash"] and not label.endswith(STAR)]
    else:
        return [record]
    return [{**record, "row": {**row, "label": label}} for label in labels]


def _of_protocol(
    protocol: Protocol, records: list[Record], last_run: dict[tuple[str, str, str], InForce]
) -> Iterator[Selection]:
    """The selections that a protocol makes of the records that it covers: one a device and bundle."""
    groups = defaultdict(list)
    for record in records:
        row = record["row"]
        seed = row.get("backbone_seed", 0)  # records of the first bundles do not name it
        groups[row["dataset"], row["backbone"], seed, row["bundle"], row["device"]].append(record)
    for key, group in groups.items():
        if protocol.settings and not any(record["row"]["label"].endswith(STAR) for record in group):
            continue  # a device where nothing was tuned
        made = _selection(protocol, *key, group, last_run.get((key[3], protocol.budget, key[4]), InForce()))
        # fits and timings of another protocol's run alone make no table
        if any(record["kind"] != "fit" for record in made.records):
            yield made


def _metrics_in_force(records: list[Record], last_run: InForce) -> dict[str, str]:
    """Kind of a measurement -> hash of the metric's identity: that of the latest run, or of the newest record."""
    newest = {record["kind"]: _metric_of(record) for record in records if record["kind"] != FIT}
    present = {(record["kind"], _metric_of(record)) for record in records if record["kind"] != FIT}
    return newest | {kind: noted for kind, noted in last_run.metrics.items() if (kind, noted) in present}


def _metric_of(record: Record) -> str:
    return _hash_of(*sorted(record["identity"]["metric"].items()))


@functools.cache
def _hash_of(*items: tuple[str, Any]) -> str:
    """The hash of a metric's identity, taken once: there are few, in many records."""
    return content_hash(dict(items))


def _selection(
    protocol: Protocol,
    dataset: str,
    backbone: str,
    backbone_seed: int,
    bundle: str,
    device: str,
    records: list[Record],
    last_run: InForce,
) -> Selection:
    records = sorted(records, key=lambda record: (record["provenance"]["time"], record["id"]))
    current = {record["row"]["label"]: record["row"]["config_hash"] for record in records}
    present = {(record["row"]["label"], record["row"]["config_hash"]) for record in records}
    current |= {label: noted for label, noted in last_run.labels.items() if (label, noted) in present}
    metrics = _metrics_in_force(records, last_run)
    in_force = [r for r in records if r["row"]["config_hash"] == current[r["row"]["label"]]]
    left_out: dict[str, set[str]] = defaultdict(set)  # why -> of which rows
    for record in records:
        if record["row"]["config_hash"] != current[record["row"]["label"]]:
            left_out["an older"].add(record["row"]["label"])
    kept, elsewhere = [], []
    timed_on = machine_of_most(in_force)
    for record in in_force:
        label, kind = record["row"]["label"], record["kind"]
        if kind in metrics and metrics[kind] != _metric_of(record):
            left_out[f"{kind} by another version of that metric, of"].add(label)
        elif record["identity"].get("machine", timed_on) != timed_on:
            left_out[f"{kind} on another machine, of"].add(label)
            if record["status"] == "ok":
                elsewhere.append(record)
        else:
            kept.append(record)
    # fits and timings serve several protocols, so they make no row: a score does, and takes its fit under any label
    scored = {r["row"]["label"] for r in kept if r["kind"] != "fit" and "machine" not in r["identity"]}
    kept = [record for record in kept if record["row"]["label"] in scored or record["status"] != "ok"]
    fits = {record["id"]: record for record in records if (record["kind"], record["status"]) == ("fit", "ok")}
    used = {record["identity"]["fit"]: _drawn(record) for record in kept if record["kind"] != "fit"}
    made = Selection(
        protocol=protocol,
        dataset=dataset,
        backbone=backbone,
        backbone_seed=backbone_seed,
        bundle=bundle,
        device=device,
        records=kept,
        fits=fits,
        failures=_failures(kept),
        left_out=[],
        fitted_on=_most_common([(machine_of(fit), used[id]) for id, fit in fits.items() if id in used]),
        elsewhere=elsewhere,
    )
    for record in made.measured:
        fit = fits.get(record["identity"]["fit"])
        if fit and machine_of(fit) != made.fitted_on:
            left_out["times to fit on another machine, of"].add(record["row"]["label"])
    made.left_out = [f"{why} {', '.join(sorted(labels))}" for why, labels in sorted(left_out.items())]
    return made


def machine_of_most(records: list[Record]) -> Any:
    """Of the records that are timings, what the identity of most says of its machine; None where nothing is timed."""
    timings = [record for record in records if "machine" in record["identity"]]
    return _most_common([(record["identity"]["machine"], _drawn(record)) for record in timings])


def _drawn(record: Record) -> tuple[str, int]:
    """Which row with which seed a record is of."""
    return record["row"]["label"], record["row"]["seed"]


def _most_common(pairs: list[tuple[Any, tuple[str, int]]]) -> Any:
    """The first member that stands beside the most different second ones; of several the last that came, or None."""
    members: dict[str, Any] = {}
    beside: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for member, other in pairs:
        key = json.dumps(member, sort_keys=True)
        members.pop(key, None)  # so that what came last stands last
        members[key] = member
        beside[key].add(other)
    return max(reversed(members.items()), key=lambda item: len(beside[item[0]]), default=(None, None))[1]


def machine_of(record: Record) -> str:
    """The processor that made a record, and how much of it."""
    return "{device}, {threads} threads".format(**record["provenance"])


def _failures(records: list[Record]) -> list[str]:
    """A sentence for each reason of a row and seed, naming all that failed for it: a bad draw fails every metric."""
    kinds: dict[tuple[str, int, str, str], list[str]] = defaultdict(list)
    for record in records:
        if record["status"] != "ok":
            row = record["row"]
            kinds[row["label"], row["seed"], record["status"], record["reason"]].append(record["kind"])
    return sorted(
        f"{label} seed {seed}: {', '.join(sorted(failed))} {status}: {reason}"
        for (label, seed, status, reason), failed in kinds.items()
    )
