"""One table as markdown: what was compared, how, what came of it, and what to beware of."""

from __future__ import annotations

import statistics
from typing import Any

from tabulate import tabulate

from benchmark.metrics.api import FULL_RECONSTRUCTION, PAIR
from benchmark.metrics.neighbours import K
from benchmark.protocol import PRESETS, Protocol
from benchmark.report.columns import ORDER, Shown, columns_of, count_decimals, format_short
from benchmark.report.grids import grid_file
from benchmark.report.pareto import make_points, pareto_file
from benchmark.report.selection import machine_of
from benchmark.report.signatures import find_signatures
from benchmark.report.statistics import RANKED_FROM, Difference, above_best, not_worse_than_best, share_seeds
from benchmark.report.tables import CEILING, FD, RECONSTRUCTION, ZERO_LINE, Table, TableRow
from benchmark.suggestion import spell


def table_markdown(table: Table, all_tables: list[Table]) -> str:
    """A section of leaderboard.md. Other seeds of the backbone and other scores are looked for in `all_tables`."""
    p, priors = table.protocol, table.priors
    references = [
        row for label in (CEILING, ZERO_LINE, RECONSTRUCTION, FULL_RECONSTRUCTION) if (row := table.rows.get(label))
    ]
    backbone = f"{table.backbone} seed {table.backbone_seed}"
    device = "" if table.device == "cpu" else f", {table.device}"
    lines = [f"## {table.dataset}, {backbone}, {p.split} split, {p.preset} protocol, {p.score}{device}", ""]
    lines += [f"- {fact}" for fact in _facts(table)] + [""]
    columns, differences = columns_of(table), above_best(table.fd)
    best = not_worse_than_best(table.fd, differences)
    lines += [_grid(priors, columns["main"], best), ""] if priors else []
    lines += [
        "Reference rows, apart from the ranking (see docs/reading-a-table.md):",
        "",
        _grid(references, columns["main"], set()),
        "",
    ]
    lines += _above_best(table, differences)
    for caption, shown in _further(table, columns):
        lines += _beside(caption, [*priors, *references], shown)
    lines += [f"- {remark}" for remark in _remarks(table, all_tables)] + [""]
    lines += [f"![samples of {table.name}]({grid_file(table)})", ""]
    if make_points(table):
        lines += [f"![quality against sampling time of {table.name}]({pareto_file(table)})", ""]
    return "\n".join(lines)


def _further(table: Table, columns: dict[str, list[Shown]]) -> list[tuple[str, list[Shown]]]:
    """The tables beside the main one: what stands above each, and its columns."""
    p = table.protocol
    pair = min(PAIR, p.generated, p.reference)
    return [
        (
            f"Images beside {p.score}: {pair:,} generated against {pair:,} {p.images} images (at ∞: all), k = {K}:",
            columns["images"],
        ),
        (
            f"Latents against held-out q_agg: {p.mmd_latents:,} against as many draws, k = {K}:",
            columns["latents"] + columns["projected"],
        ),
        (
            (
                f"Standard deviations over seeds, and over the {p.redraws + 1} draws of one fit (seed 0), "
                "which are sampling noise:"
            ),
            columns["spread"],
        ),
        ("Time and memory, apart:", columns["time"]),
        *((f"{_escaped(group)}:", shown) for group, shown in columns.items() if group not in ORDER),
    ]


def _remarks(table: Table, all_tables: list[Table]) -> list[str]:
    remarks = []
    few = [label for label in table.fd if label not in table.ranked]
    if table.ranked:
        remarks.append(
            f"**Bold**: not significantly worse than the best ({_test(table)}, Holm's correction over all pairs, 5 %)."
        )
        remarks += [f"Fewer than {RANKED_FROM} seeds, so last and not ranked: {', '.join(few)}."] if few else []
    elif few:
        remarks.append(f"Fewer than {RANKED_FROM} seeds: ordered by mean, but this table does not rank.")
    if table.fd:
        remarks.append(f"All of this holds for this one backbone (bundle `{table.bundle}`) and its decoder.")
        remarks += [_order(table, other, by) for other in all_tables if (by := _other_judge(table, other))]
    remarks += _without_training_images(table)
    remarks += [f"Note: {sentence}" for sentence in find_signatures(table)]
    remarks += [f"Failed: {failure}" for failure in table.failures]
    return remarks + ([f"Left out: {', '.join(table.left_out)}."] if table.left_out else [])


def _test(table: Table) -> str:
    return "t-tests paired by seed" if share_seeds(table.ranked) else "Welch's t-tests"


def _other_judge(table: Table, other: Table) -> str | None:
    """What orders the priors of `other`, where that is all in which it differs: a backbone's seed, or an extractor."""
    alike = all(getattr(table, of) == getattr(other, of) for of in ("dataset", "backbone", "device"))
    if not alike or len(set(table.fd) & set(other.fd)) < 2:
        return None
    if table.backbone_seed != other.backbone_seed and table.protocol == other.protocol:
        return f"Backbone seed {other.backbone_seed} (bundle `{other.bundle}`)"
    mine, others = (of.protocol.model_dump(exclude={"extractor", "score", "features"}) for of in (table, other))
    if table.bundle == other.bundle and table.protocol.score != other.protocol.score and mine == others:
        return other.protocol.score
    return None


def _order(table: Table, other: Table, judge: str) -> str:
    from scipy import stats  # which takes half a second to import, and few tables have another to be held against

    shared = sorted(set(table.fd) & set(other.fd), key=lambda label: other.rows[label].mean(FD))
    tau = stats.kendalltau(*([made.rows[label].mean(FD) for label in shared] for made in (table, other))).statistic
    few = f" (rows of fewer than {RANKED_FROM} seeds among them)" if set(shared) - set(other.ranked) else ""
    return (
        f"{judge} orders them {', '.join(shared)}{few}: "
        f"Kendall's τ between the two orders of {len(shared)} priors is {tau:.2f}."
    )


def _without_training_images(table: Table) -> list[str]:
    """The command that makes a reference of training images, where memorisation is measured of latents alone."""
    p, measured = table.protocol, {source for row in table.rows.values() for source, _ in row.values}
    if p.reference_split or "latent_memorisation" not in measured or measured & {"memorisation", "fld"}:
        return []
    made = f"`{spell('reference', bundle=table.bundle, extractor=p.extractor.get('name'), split='train')}`"
    return [f"Memorisation among images needs a reference of training images; where there is none, {made} makes it."]


def _above_best(table: Table, found: dict[str, Difference]) -> list[str]:
    """A table of how far rows lie above the best, with the one test that decides what is bold; nothing unranked."""
    if not found:
        return []
    body = []
    for label, above in found.items():
        digits = count_decimals(above.mean)
        ends = f"{above.mean:.{digits}f}", f"[{above.low:.{digits}f}, {above.high:.{digits}f}]"
        body.append([label, *ends, "< 0.001" if above.p < 0.001 else f"{above.p:.3g}"])
    score, best = table.protocol.score, next(iter(table.ranked))
    caption = (
        f"{score} above that of {best} ({_test(table)}; intervals of 95 % or the more that Holm's correction asks, "
        "so that one excludes 0 where p < 0.05):"
    )
    return [caption, "", _pipes(["prior", f"{score} above the best", "interval", "p, Holm"], body), ""]


def _facts(table: Table) -> list[str]:
    p = table.protocol
    measured = [record for record in table.records if record["kind"] != "fit"]
    packages = ", ".join(
        f"{name} {measured[-1]['provenance']['packages'][name]}" for name in ("torch", "torch-fidelity", "nflows")
    )
    machines = sorted({machine_of(record) for record in measured})
    fitted = f"; fits on {table.fitted_on}" if table.fitted_on else ""
    code = sorted({_code(record["provenance"]["code"]) for record in table.records})
    bandwidths = ", ".join(f"{factor:g}" for factor in p.mmd_bandwidths)
    return [
        f"bundle `{table.bundle}`; protocol {p.preset}, version {p.version}, {p.budget} budget, `{p.hash[:16]}`",
        (
            f"{p.score}: {p.generated:,} generated images against {p.reference:,} {p.images} images{_capped(p)}, "
            f"{p.rounding} rounding; images: {p.preparation}"
        ),
        *(
            ["the aggregate posterior decodes the very images that it is compared with: a line that no prior reaches"]
            if p.reference_split
            else []
        ),
        (
            f"MMD: unbiased MMD² of {p.mmd_latents:,} latents against as many held-out draws, bandwidths {bandwidths} "
            f"x median squared distance, {p.mmd_permutations} permutations"
        ),
        (
            f"time{_timed_on(table)}: median [quartiles] of up to {p.timing_repeats} repeats or {p.timing_seconds:g} s "
            f"at batch {p.timing_batches[-1]:,}{_extraction(table)}{fitted}"
        ),
        f"device: {table.device} ({'; '.join(machines)}); {packages}; code {', '.join(code)}",
        *(f"command: `{command}`" for command in sorted({record["provenance"]["command"] for record in measured})),
        "± is half a 95 % t-interval over seeds; p is the median over seeds",
    ]


def _timed_on(table: Table) -> str:
    machines = [record["identity"]["machine"] for record in table.records if "machine" in record["identity"]]
    return " ({device}, {threads} threads, {dtype})".format(**machines[-1]) if machines else ""


def _extraction(table: Table) -> str:
    row = table.rows.get(CEILING, TableRow(CEILING))
    times = row.over_seeds(("extraction_time", "extraction_seconds"))
    if not times:
        return ""
    images = row.over_seeds(("extraction_time", "extraction_images"))[0]
    return f"; features of {images} images: {format_short(1000 * statistics.fmean(times))} ms"


def _capped(p: Protocol) -> str:
    preset = PRESETS.get(p.preset)
    if preset is None or preset.version != p.version or p.generated >= preset.generated:
        return ""
    return f" (the protocol's {preset.generated:,} are more than this bundle has posteriors for)"


def _code(code: dict[str, Any]) -> str:
    return (code["commit"] or f"version {code['version']}")[:10] + (" (modified)" if code["dirty"] else "")


def _grid(rows: list[TableRow], columns: list[Shown], best: set[str]) -> str:
    body = [
        [f"**{row.label}**" if row.label in best else row.label, *(column.cell(row) for column in columns)]
        for row in rows
    ]
    return _pipes(["prior", *(column.head for column in columns)], body)


def _beside(caption: str, rows: list[TableRow], columns: list[Shown]) -> list[str]:
    """A further table, reference rows in italics, of the rows and columns that have a value; nothing where none has."""
    columns = [column for column in columns if any(map(column.cell, rows))]
    if not columns:
        return []
    body = [
        [f"*{row.label}*" if row.is_reference else row.label, *(column.cell(row) for column in columns)]
        for row in rows
        if any(row.values.get(column.key) for column in columns)
    ]
    return [caption, "", _pipes(["prior", *(column.head for column in columns)], body), ""]


def _pipes(header: list[str], body: list[list[str]]) -> str:
    alignment = ["left"] + ["right"] * (len(header) - 1)
    header, *body = (list(map(_escaped, line)) for line in (header, *body))
    return tabulate(body, header, tablefmt="pipe", disable_numparse=True, colalign=alignment)


def _escaped(text: str) -> str:
    """Names and headings may be anybody's: a bar would begin another cell, and a line break end the table."""
    return " ".join(text.split()).replace("|", "\\|")
