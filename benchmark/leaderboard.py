"""Records -> leaderboard.md, leaderboard.csv and sample grids. Everything here is derived; nothing is measured.

A table holds one bundle under one protocol on one type of device. A measurement belongs to it when the settings
that it was made with are the protocol's, whichever command made it.
"""

from __future__ import annotations

import io
import math
import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock
from PIL import Image, ImageDraw, ImageFont
from tabulate import tabulate

from backbones.hashing import content_hash, write_atomic
from benchmark.columns import Column, count, image_columns, interval, latent_columns, number, timing
from benchmark.evaluation import PAIR, REFERENCE_ROWS
from benchmark.metrics.neighbours import K
from benchmark.metrics.samples import from_png
from benchmark.places import lock_path
from benchmark.protocol import Protocol, saved_protocols
from benchmark.records import RecordStore
from benchmark.statistics import RANKED_FROM, gap_closed, mean_interval, not_worse_than_best

ZERO_LINE, CEILING = "gaussian", "aggregate_posterior"
COLUMNS = [
    "dataset",
    "backbone",
    "backbone_seed",
    "bundle",
    "prior",
    "reference",
    "protocol",
    "device",
    "metric",
    "mean",
    "low",
    "high",
    "seeds",
]


@dataclass
class TableRow:
    """One label: metric -> seed -> value, of its newest configuration alone."""

    label: str
    values: dict[str, dict[int, Any]]

    def over_seeds(self, metric: str) -> list[float]:
        return [value for _, value in sorted(self.values.get(metric, {}).items())]

    @property
    def seeds(self) -> int:
        return max((len(by_seed) for by_seed in self.values.values()), default=0)

    @property
    def is_reference(self) -> bool:
        return self.label in REFERENCE_ROWS or self.label == ZERO_LINE


@dataclass
class Table:
    """All that one table shows. `records` are those it was made from, newest last."""

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

    @property
    def name(self) -> str:
        return f"{self.dataset}-{self.backbone}-{self.bundle[:8]}-{self.protocol.hash[:8]}-{self.device}"

    def gap_closed(self, row: TableRow) -> tuple[tuple[float, float, float] | None, int]:
        """Share of the gap from Gaussian to aggregate posterior that a row closes, and over how many seeds.

        The seeds are those that all three have.
        """
        gaussian, ceiling = (
            self.rows[at].values.get("fd", {}) if at in self.rows else {} for at in (ZERO_LINE, CEILING)
        )
        own = row.values.get("fd", {})
        seeds = sorted(set(gaussian) & set(ceiling) & set(own))
        paired = [[by_seed[seed] for seed in seeds] for by_seed in (gaussian, own, ceiling)]
        return (gap_closed(*paired) if seeds else None), len(seeds)


def tables(results: Path) -> tuple[list[Table], list[str]]:
    """Every table of a results folder, in a fixed order, and what was left out for being damaged."""
    records, damaged = RecordStore(results / "records").all()
    protocols, damaged_protocols = saved_protocols(results)
    made = []
    for bundle, protocol in protocols:
        groups = defaultdict(list)
        for record in records:
            row = record["row"]
            if row["bundle"] == bundle and _belongs(record, protocol):
                seed = row.get("backbone_seed", 0)  # records of the first bundles do not name it
                groups[row["dataset"], row["backbone"], seed, bundle, row["device"]].append(record)
        shared = (_table(protocol, *key, group) for key, group in groups.items())
        # fits and timings of another protocol's run alone make no table
        made += [table for table in shared if any(record["kind"] != "fit" for record in table.records)]
    made.sort(
        key=lambda t: (t.dataset, t.backbone, t.backbone_seed, t.bundle, t.protocol.split, t.protocol.budget, t.name)
    )
    return made, damaged + damaged_protocols


def _belongs(record: dict[str, Any], protocol: Protocol) -> bool:
    if record["row"]["budget"] not in (None, protocol.budget):
        return False
    settings = record["identity"].get("settings", {})
    return protocol.part(tuple(settings)) == settings


def _table(
    protocol: Protocol,
    dataset: str,
    backbone: str,
    backbone_seed: int,
    bundle: str,
    device: str,
    records: list[dict[str, Any]],
) -> Table:
    records = sorted(records, key=lambda record: (record["provenance"]["time"], record["id"]))
    current = {record["row"]["label"]: record["row"]["config_hash"] for record in records}  # the newest of each label
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
    fits = {record["id"]: record["values"] for record in records if (record["kind"], record["status"]) == ("fit", "ok")}
    made: dict[str, TableRow] = {}
    for record in kept:
        if record["kind"] != "fit" and record["status"] == "ok":
            row = made.setdefault(record["row"]["label"], TableRow(record["row"]["label"], {}))
            for metric, value in {**fits.get(record["identity"]["fit"], {}), **record["values"]}.items():
                row.values.setdefault(metric, {})[record["row"]["seed"]] = value
    failures, shown_out = _failures(kept), sorted(left_out)
    return Table(protocol, dataset, backbone, backbone_seed, bundle, device, made, kept, failures, shown_out)


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


def write_tables(results: Path) -> list[str]:
    """Rewrite leaderboard.md and leaderboard.csv from the records. Returns what is damaged, a sentence each."""
    folder = content_hash(str(results.resolve()))[:16]
    with FileLock(lock_path(f"results-{folder}")):  # two processes: the later one sees the records of both
        made, damaged = tables(results)
        title = "# Leaderboard\n\nMade from the records in `records/` by `python -m benchmark leaderboard`.\n"
        text = "\n".join([title, *map(_markdown, made), *(f"Left out: {sentence}\n" for sentence in damaged)])
        write_atomic(results / "leaderboard.md", text.encode())
        tidy = pd.DataFrame([line for table in made for line in _tidy(table)], columns=COLUMNS)
        write_atomic(results / "leaderboard.csv", tidy.to_csv(index=False, float_format="%.8g").encode())
    return damaged


def table_text(results: Path, bundle: str, protocol: str) -> str:
    """The markdown of one bundle's tables under one protocol (one a device type)."""
    made = [table for table in tables(results)[0] if (table.bundle, table.protocol.hash) == (bundle, protocol)]
    return "\n".join(map(_markdown, made))


def _tidy(table: Table) -> Iterator[list[Any]]:
    shared = [table.dataset, table.backbone, table.backbone_seed, table.bundle]
    for _, row in sorted(table.rows.items()):
        numbers: dict[str, tuple[float, float, float, int]] = {}
        for metric in row.values:
            values = row.over_seeds(metric)
            if all(isinstance(value, (int, float)) for value in values):
                name = table.protocol.score if metric == "fd" else metric
                numbers[name] = (*mean_interval(values), len(values))
        gap, paired = table.gap_closed(row)
        if gap is not None:
            numbers["gap_closed"] = (*gap, paired)
        for metric, summary in sorted(numbers.items()):
            yield [*shared, row.label, row.is_reference, table.protocol.hash[:16], table.device, metric, *summary]


def _markdown(table: Table) -> str:
    ranked = [row for row in table.rows.values() if not row.is_reference]
    references = [row for label in (CEILING, ZERO_LINE, "reconstruction") if (row := table.rows.get(label))]
    scored = [row for row in ranked if row.over_seeds("fd")]
    best = not_worse_than_best({row.label: row.over_seeds("fd") for row in scored})
    ranked.sort(key=lambda row: _mean(row.over_seeds("fd")))
    backbone = f"{table.backbone} seed {table.backbone_seed}"
    lines = [f"## {table.dataset}, {backbone}, {table.protocol.split} split, {table.protocol.budget} budget", ""]
    lines += [f"- {fact}" for fact in _facts(table)] + [""]
    lines += [_grid(table, ranked, best), ""] if ranked else []
    lines += ["Reference rows, apart from the ranking (see README):", "", _grid(table, references, set()), ""]
    p, rows = table.protocol, [*ranked, *references]
    pair = min(PAIR, p.generated, p.reference)
    lines += _beside(
        f"Images beside {p.score}: {pair:,} generated against {pair:,} {p.split} images (at ∞: all), k = {K}:",
        rows,
        image_columns(p.score),
    )
    lines += _beside(
        f"Latents against held-out q_agg: {p.mmd_latents:,} against as many draws, k = {K}:", rows, latent_columns()
    )
    few = [row.label for row in scored if len(row.over_seeds("fd")) < RANKED_FROM]
    if few:
        lines.append(f"Fewer than {RANKED_FROM} seeds: ordered by mean, but this table does not rank.")
    elif ranked:
        lines.append("**Bold**: not significantly worse than the best (Welch's t-test, Holm's correction, 5 %).")
    lines += [f"Failed: {failure}" for failure in table.failures]
    if table.left_out:
        lines.append(f"Left out: {', '.join(table.left_out)}.")
    lines += ["", f"![samples of {table.name}](samples/{table.name}.png)", ""]
    return "\n".join(lines)


def _facts(table: Table) -> list[str]:
    p = table.protocol
    origins = [record["provenance"] for record in table.records if record["kind"] != "fit"]
    packages = ", ".join(f"{name} {origins[-1]['packages'][name]}" for name in ("torch", "torch-fidelity", "nflows"))
    machines = sorted({f"{origin['device']}, {origin['threads']} threads" for origin in origins})
    code = sorted({_code(record["provenance"]["code"]) for record in table.records})
    bandwidths = ", ".join(f"{factor:g}" for factor in p.mmd_bandwidths)
    return [
        f"bundle `{table.bundle}`; protocol `{p.hash[:16]}`, version {p.version}",
        f"{p.score}: {p.generated:,} generated images against {p.reference:,} {p.split} images, {p.rounding} rounding; "
        f"images: {p.preparation}",
        f"MMD: unbiased MMD² of {p.mmd_latents:,} latents against as many held-out draws, bandwidths {bandwidths} "
        f"x median squared distance, {p.mmd_permutations} permutations",
        f"time: median [quartiles] of up to {p.timing_repeats} repeats or {p.timing_seconds:g} s "
        f"at batch {p.timing_batches[-1]:,}",
        f"device: {table.device} ({'; '.join(machines)}); {packages}; code {', '.join(code)}",
        *(f"command: `{command}`" for command in sorted({origin["command"] for origin in origins})),
        "± is half a 95 % t-interval over seeds; p is the median over seeds",
    ]


def _code(code: dict[str, Any]) -> str:
    return (code["commit"] or f"version {code['version']}")[:10] + (" (modified)" if code["dirty"] else "")


def _grid(table: Table, rows: list[TableRow], best: set[str]) -> str:
    batch = table.protocol.timing_batches[-1]
    header = ["prior", f"{table.protocol.score} ↓", "gap closed ↑", "MMD² imq ×10³ ↓", "p", "MMD² rbf ×10³ ↓", "p"]
    header += [
        f"latents, ms / {batch:,}",
        f"images, ms / {batch:,}",
        "network evaluations",
        "parameters",
        "fit, s",
        "seeds",
    ]
    body = []
    for row in rows:
        gap, _ = table.gap_closed(row)
        line = [f"**{row.label}**" if row.label in best else row.label, number(row.over_seeds("fd"))]
        line.append("" if gap is None else interval(*(100 * part for part in gap), digits=1, unit=" %"))
        for kernel in ("imq", "rbf"):
            line.append(number([1000 * value for value in row.over_seeds(f"mmd_{kernel}")]))
            p_values = row.over_seeds(f"mmd_{kernel}_p")
            line.append(f"{statistics.median(p_values):.3f}" if p_values else "")
        line += [timing(row, f"prior_seconds_{batch}"), timing(row, f"images_seconds_{batch}")]
        line += [count(row, "network_evaluations"), count(row, "parameters"), number(row.over_seeds("fit_seconds"))]
        body.append([*line, row.seeds])
    return _pipes(header, body)


def _beside(caption: str, rows: list[TableRow], columns: list[Column]) -> list[str]:
    """A further table, reference rows in italics, of the rows and columns that have a value; nothing where none has."""
    columns = [column for column in columns if any(row.over_seeds(column.metric) for row in rows)]
    if not columns:
        return []
    body = [
        [f"*{row.label}*" if row.is_reference else row.label, *(column.cell(row) for column in columns)]
        for row in rows
        if any(row.over_seeds(column.metric) for column in columns)
    ]
    return [caption, "", _pipes(["prior", *(column.header for column in columns)], body), ""]


def _pipes(header: list[str], body: list[list[Any]]) -> str:
    alignment = ["left"] + ["right"] * (len(header) - 1)
    return tabulate(body, header, tablefmt="pipe", disable_numparse=True, colalign=alignment)


def _mean(values: list[float]) -> float:
    return statistics.fmean(values) if values else math.inf


def write_grids(results: Path) -> None:
    """Draw the sample grid of every table: reference rows first, then priors, one shared noise per column."""
    for table in tables(results)[0]:
        path = results / "samples" / f"{table.name}.png"
        order = ["reconstruction", CEILING, ZERO_LINE]
        order += sorted(
            (label for label in table.rows if label not in order),
            key=lambda label: _mean(table.rows[label].over_seeds("fd")),
        )
        strips = {label: table.rows[label].over_seeds("png")[:1] for label in order if label in table.rows}
        strips = {label: from_png(strip[0]) for label, strip in strips.items() if strip}
        if strips:
            _draw(strips, path)


def _draw(strips: dict[str, Image.Image], path: Path) -> None:
    scale, gap, font = 2, 4, ImageFont.load_default(14)
    margin = max(int(font.getlength(label)) for label in strips) + 2 * gap
    width, height = (scale * side for side in next(iter(strips.values())).size)
    picture = Image.new("RGB", (margin + width, len(strips) * (height + gap) - gap), "white")
    pen = ImageDraw.Draw(picture)
    for index, (label, strip) in enumerate(strips.items()):
        top = index * (height + gap)
        pen.text((gap, top + height // 2), label, fill="black", font=font, anchor="lm")
        picture.paste(strip.convert("RGB").resize((width, height), Image.NEAREST), (margin, top))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    write_atomic(path, buffer.getvalue())
