"""Records -> tables. Everything here is derived; nothing is measured.

A table holds one bundle under one protocol on one type of device. A measurement belongs to it when the settings
that it was made with are the protocol's, whichever command made it.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.jobs.reference_rows import REFERENCES
from benchmark.protocol import Protocol, saved_protocols
from benchmark.report.statistics import gap_closed, ranked
from benchmark.store.in_force import in_force
from benchmark.store.records import RecordStore

ZERO_LINE, CEILING, RECONSTRUCTION = "gaussian", "aggregate_posterior", "reconstruction"


@dataclass
class TableRow:
    """One label: metric -> seed -> value, of the configuration in force alone."""

    label: str
    values: dict[str, dict[int, Any]]

    def over_seeds(self, metric: str) -> list[float]:
        return [value for _, value in sorted(self.values.get(metric, {}).items())]

    def mean(self, metric: str) -> float:
        """Over seeds; infinite, and so the last, where there is none."""
        values = self.over_seeds(metric)
        return statistics.fmean(values) if values else math.inf

    @property
    def seeds(self) -> int:
        """Behind the score; of a row without one, behind what it has most of."""
        return len(self.values.get("fd", ())) or max(map(len, self.values.values()), default=0)

    @property
    def is_reference(self) -> bool:
        return self.label in REFERENCES or self.label == ZERO_LINE


@dataclass
class Table:
    """All that one table shows. `records` are those it was made from, newest last; `fitted_on` is where times to fit are of."""

    protocol: Protocol
    dataset: str
    backbone: str
    backbone_seed: int
    bundle: str
    device: str
    rows: dict[str, TableRow]
    records: list[dict[str, Any]]
    failures: list[str]
    left_out: list[str]
    fitted_on: str | None

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
    def priors(self) -> list[TableRow]:
        """Rows that are compared, the lowest FD first; those with too few seeds to be ranked after the others."""
        compared = [row for row in self.rows.values() if not row.is_reference]
        enough = ranked({row.label: row.values.get("fd", {}) for row in compared})
        return sorted(compared, key=lambda row: (row.label not in enough, row.mean("fd")))

    @property
    def fd(self) -> dict[str, dict[int, float]]:
        """Label -> seed -> FD of the rows that are compared and have one, in the order of `priors`."""
        return {row.label: row.values["fd"] for row in self.priors if row.values.get("fd")}

    @property
    def ranked(self) -> dict[str, dict[int, float]]:
        """Those of `fd` that are tested against each other, having seeds enough."""
        return ranked(self.fd)

    def paired(self, score: str, *labels: str) -> tuple[list[int], list[list[float]]]:
        """The seeds with which all these rows have a score, and each row's values with them."""
        found = [self.rows[label].values.get(score, {}) if label in self.rows else {} for label in labels]
        seeds = sorted(set.intersection(*map(set, found)))
        return seeds, [[by_seed[seed] for seed in seeds] for by_seed in found]

    def gap_closed(self, row: TableRow, score: str = "fd") -> tuple[tuple[float, float, float] | None, int]:
        """Share of a score's gap from Gaussian to aggregate posterior that a row closes, and over how many seeds.

        The seeds are those that all three have. None of full reconstructions, whose other groups are no prior's on z.
        """
        if row.label in REFERENCES and REFERENCES[row.label].from_images:
            return None, 0
        seeds, paired = self.paired(score, ZERO_LINE, row.label, CEILING)
        return (gap_closed(*paired) if seeds else None), len(seeds)


def tables(results: Path) -> tuple[list[Table], list[str], list[str]]:
    """Every table of a results folder, in a fixed order; what is damaged; and which good records are in none."""
    records, damaged = RecordStore(results / "records").all()
    protocols, damaged_protocols = saved_protocols(results)
    covered = [
        (protocol, [record for record in records if record["row"]["bundle"] == bundle and _belongs(record, protocol)])
        for bundle, protocol in protocols
    ]
    placed = {record["id"] for _, of_protocol in covered for record in of_protocol}
    in_none = _counted([record for record in records if record["id"] not in placed])
    last_run, damaged_notes = in_force(results)
    return _made(covered, last_run), damaged + damaged_protocols + damaged_notes, in_none


def _counted(in_none: list[dict[str, Any]]) -> list[str]:
    """For each bundle with records that no protocol covers, the sentence that counts them."""
    counts: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    for record in in_none:
        row = record["row"]
        counts[row["dataset"], row["backbone"], row["bundle"]][record["kind"]] += 1
    return [
        f"{sum(kinds.values())} records of {dataset} {backbone} (bundle `{bundle}`), measured under settings that no "
        f"protocol here has: {', '.join(f'{kind} {count}' for kind, count in sorted(kinds.items()))}"
        for (dataset, backbone, bundle), kinds in sorted(counts.items())
    ]


def _made(
    covered: list[tuple[Protocol, list[dict[str, Any]]]], last_run: dict[tuple[str, str, str], dict[str, str]]
) -> list[Table]:
    """The tables of each protocol with the records that it covers."""
    made = []
    for protocol, records in covered:
        groups = defaultdict(list)
        for record in records:
            row = record["row"]
            seed = row.get("backbone_seed", 0)  # records of the first bundles do not name it
            groups[row["dataset"], row["backbone"], seed, row["bundle"], row["device"]].append(record)
        shared = (
            _table(protocol, *key, group, last_run.get((key[3], protocol.budget, key[4]), {}))
            for key, group in groups.items()
        )
        # fits and timings of another protocol's run alone make no table
        made += [table for table in shared if any(record["kind"] != "fit" for record in table.records)]
    return sorted(made, key=lambda t: (*t.place, t.protocol.split, t.protocol.preset, t.first_scored, t.name))


def _belongs(record: dict[str, Any], protocol: Protocol) -> bool:
    if record["row"]["budget"] not in (None, protocol.budget):
        return False
    return protocol.covers(record["identity"].get("settings", {}))


def _table(
    protocol: Protocol,
    dataset: str,
    backbone: str,
    backbone_seed: int,
    bundle: str,
    device: str,
    records: list[dict[str, Any]],
    last_run: dict[str, str],
) -> Table:
    records = sorted(records, key=lambda record: (record["provenance"]["time"], record["id"]))
    current = {record["row"]["label"]: record["row"]["config_hash"] for record in records}
    present = {(record["row"]["label"], record["row"]["config_hash"]) for record in records}
    current |= {label: noted for label, noted in last_run.items() if (label, noted) in present}
    machines = [record["identity"]["machine"] for record in records if "machine" in record["identity"]]
    kept, left_out = [], set()
    for record in records:
        label = record["row"]["label"]
        if record["row"]["config_hash"] != current[label]:
            left_out.add(f"an older {label}")
        elif record["identity"].get("machine") not in (None, *machines[-1:]):
            left_out.add(f"{label}'s {record['kind']} on another machine")
        else:
            kept.append(record)
    # fits and timings serve several protocols, so they make no row: a score does, and takes its fit under any label
    scored = {r["row"]["label"] for r in kept if r["kind"] != "fit" and "machine" not in r["identity"]}
    kept = [record for record in kept if record["row"]["label"] in scored or record["status"] != "ok"]
    fits = {record["id"]: record for record in records if (record["kind"], record["status"]) == ("fit", "ok")}
    used = {r["identity"]["fit"] for r in kept if r["kind"] != "fit"}
    fitted_on = next((machine_of(fit) for id, fit in reversed(fits.items()) if id in used), None)
    made: dict[str, TableRow] = {}
    for record in kept:
        if record["kind"] != "fit" and record["status"] == "ok":
            row = made.setdefault(record["row"]["label"], TableRow(record["row"]["label"], {}))
            fit = fits.get(record["identity"]["fit"])
            told = dict(fit["values"]) if fit else {}
            if fit and machine_of(fit) != fitted_on:
                del told["fit_seconds"]
                left_out.add(f"{record['row']['label']}'s time to fit on another machine")
            for metric, value in {**told, **record["values"]}.items():
                row.values.setdefault(metric, {})[record["row"]["seed"]] = value
    failures, shown_out = _failures(kept), sorted(left_out)
    return Table(protocol, dataset, backbone, backbone_seed, bundle, device, made, kept, failures, shown_out, fitted_on)


def machine_of(record: dict[str, Any]) -> str:
    """The processor that made a record, and how much of it."""
    return "{device}, {threads} threads".format(**record["provenance"])


def _failures(records: list[dict[str, Any]]) -> list[str]:
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
