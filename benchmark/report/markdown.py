"""One table as markdown: what was compared, how, what came of it, and what to beware of."""

from __future__ import annotations

import statistics
import urllib.parse
from typing import Any

from benchmark.metrics.api import FULL_RECONSTRUCTION, PAIR, PRINCIPAL_AXES
from benchmark.metrics.neighbours import K
from benchmark.protocol import PRESETS, Protocol
from benchmark.report.columns import ORDER, Shown, columns_of, count_decimals, format_short
from benchmark.report.frame import is_number
from benchmark.report.improvement import improvement_of
from benchmark.report.markdown_table import Grid, as_grid
from benchmark.report.names import name_groups
from benchmark.report.pareto import make_points, pareto_file
from benchmark.report.sample_grids import grid_file, has_samples
from benchmark.report.selection import machine_of
from benchmark.report.signatures import AUC, IMQ, REPLAY, find_signatures
from benchmark.report.statistics import MARGIN, RANKED_FROM, share_seeds
from benchmark.report.tables import CEILING, FD, FIT_SECONDS, NEAR, RECONSTRUCTION, UNTOLD, ZERO_LINE, Table, TableRow
from benchmark.suggestion import spell
from benchmark.text import in_code, in_markdown, one_line

#: of the columns of a table what a run prints
SUMMARY = {FD, REPLAY, IMQ, AUC, FIT_SECONDS}


def table_markdown(table: Table, all_tables: list[Table], heading: str, root: str) -> str:
    """All of one table: quality first, then what else was measured, and folded how it was made.

    Other seeds of the backbone and other scores are looked for in `all_tables`. `heading` is its mark, `root` the
    results folder from where the page lies.
    """
    grids = ["\n".join([f"{grid.caption}:", "", grid.text, ""]) for grid in grids_of(table)]
    first = 2 if table.priors else 1  # with the reference rows
    lines = [f"{heading} {in_markdown(title_of(table))}", "", *grids[:first]]
    lines += [f"- {remark}" for remark in remarks_of(table, all_tables)] + [""]
    lines += grids[first:]
    if has_samples(table):
        lines += [_picture(f"samples of {table.page}", f"{root}/{grid_file(table)}"), ""]
    if make_points(table):
        lines += [_picture(f"quality against sampling time of {table.page}", f"{root}/{pareto_file(table)}"), ""]
    lines += ["<details><summary>Protocol, machines, commands</summary>", ""]
    return "\n".join([*lines, *(f"- {fact}" for fact in facts_of(table)), "", "</details>", ""])


def summary_markdown(table: Table, all_tables: list[Table]) -> str:
    """What a run prints of its table: how good, how sure, at what cost, and what to beware of."""
    columns = columns_of(table)
    by_key = {(shown.key, shown.head): shown for group in ("main", "latents") for shown in columns[group]}
    shown = [each for (key, head), each in by_key.items() if key in SUMMARY and head != "p"]
    lines = [
        f"## {in_markdown(title_of(table))}",
        "",
        _grid([*table.priors, *_references(table)], shown, table.marks),
        "",
    ]
    return "\n".join([*lines, *(f"- {remark}" for remark in remarks_of(table, all_tables)), ""])


def grids_of(table: Table) -> list[Grid]:
    """Priors, reference rows, differences to the best, who beats whom, and what else was measured, where it was."""
    columns = columns_of(table)
    apart = "Reference rows, apart from the ranking (see docs/reading-a-table.md)"
    grids = [Grid(apart, _grid(_references(table), columns["main"], {}))]
    if table.priors:
        grids.insert(0, Grid("Priors, the best first", _grid(table.priors, columns["main"], table.marks)))
    if table.above_best:
        grids.append(_above_best(table))
    if beaten := improvement_of(table):
        grids.append(beaten)
    beside = [_beside(caption, table, shown) for caption, shown in _further(table, columns)]
    return grids + [grid for grid in beside if grid]


def title_of(table: Table) -> str:
    """Data set, backbone, split, protocol, score and device."""
    p, device = table.protocol, "" if table.device == "cpu" else f", {table.device}"
    backbone = f"{table.backbone} seed {table.backbone_seed}"
    settings = ", tuned settings" if p.settings else ""
    settings += f", {name_groups(p.groups)}" if p.groups else ""
    return f"{table.dataset}, {backbone}, {p.split} split, {p.preset} protocol{settings}, {p.score}{device}"


def _references(table: Table) -> list[TableRow]:
    labels = (CEILING, ZERO_LINE, RECONSTRUCTION, FULL_RECONSTRUCTION)
    return [row for label in labels if (row := table.rows.get(label))]


def _picture(shown: str, file: str) -> str:
    return f"![{in_markdown(shown)}]({urllib.parse.quote(file)})"


def _further(table: Table, columns: dict[str, list[Shown]]) -> list[tuple[str, list[Shown]]]:
    """The tables beside the main one: what stands above each, and its columns."""
    p = table.protocol
    pair = min(PAIR, p.generated, p.reference)
    return [
        (
            (
                f"Images beside {in_markdown(p.score)}: {pair:,} generated against {pair:,} {p.images} images "
                f"(at ∞: all), k = {_neighbours(pair)}"
            ),
            columns["images"],
        ),
        (
            (
                f"Latents against held-out q_agg: {p.mmd_latents:,} against as many draws, "
                f"k = {_neighbours(p.mmd_latents)}{_axes(columns, p.mmd_latents)}"
            ),
            columns["latents"] + columns["projected"],
        ),
        (
            (
                f"Standard deviations over seeds, and over the {p.redraws + 1} draws of one fit (seed 0), "
                "which are sampling noise"
            ),
            columns["spread"],
        ),
        ("Time and memory, apart", columns["time"]),
        *((in_markdown(group), shown) for group, shown in columns.items() if group not in ORDER),
    ]


def _neighbours(n: int) -> int:
    """How many neighbours the scores of n items count."""
    return max(min(K, n - 1), 0)


def _axes(columns: dict[str, list[Shown]], n: int) -> str:
    """Where so many latents span fewer axes than the columns are named by, how many."""
    few = n <= PRINCIPAL_AXES and any("_pca" in column.key[1] for column in columns["projected"])
    return f"; PCA-{PRINCIPAL_AXES}: the {n - 1} principal axes that they span" if few else ""


def remarks_of(table: Table, all_tables: list[Table]) -> list[str]:
    """What to beware of, a sentence each."""
    remarks = []
    few = [label for label in table.fd if label not in table.ranked]
    if table.ranked:
        remarks.append(
            f"**Bold**: the best, and what is shown to lie within {100 * MARGIN:g} % of the gap above it; {UNTOLD}: "
            f"not told apart from the best ({_test(table)}, Holm's correction over all pairs, 5 %)."
        )
        remarks += [f"Fewer than {RANKED_FROM} seeds, so last and not ranked: {_listed(few)}."] if few else []
    elif few:
        remarks.append(f"Fewer than {RANKED_FROM} seeds: ordered by mean, but this table does not rank.")
    if table.fd:
        remarks.append(f"All of this holds for this one backbone (bundle {in_code(table.bundle)}) and its decoder.")
        remarks += [_order(table, other, by) for other in all_tables if (by := _other_judge(table, other))]
    remarks += _without_training_images(table)
    remarks += [f"From elsewhere: {in_markdown(sentence)}." for sentence in dict.fromkeys(table.submitted.values())]
    remarks += [f"Note: {in_markdown(sentence)}" for sentence in find_signatures(table)]
    remarks += [f"Failed: {in_markdown(failure)}" for failure in table.failures]
    remarks += _without_number(table)
    return remarks + ([f"Left out: {in_markdown('; '.join(table.left_out))}."] if table.left_out else [])


def _without_number(table: Table) -> list[str]:
    """For each row with a blank cell whose value is there, but is no number, which it is."""
    keys = dict.fromkeys(column.key for of_group in columns_of(table).values() for column in of_group)
    odd = [
        f"{row.label} seed {seed}: {name} of {source} is {one_line(repr(value), 40)}, which is no number to average"
        for source, name in keys
        for row in table.rows.values()
        for seed, value in sorted(row.values.get((source, name), {}).items())
        if not (isinstance(value, list) or is_number(value))
    ]
    return [f"Left out: {in_markdown(sentence)}." for sentence in odd]


def _listed(words: list[str]) -> str:
    return ", ".join(map(in_markdown, words))


def _test(table: Table) -> str:
    return "t-tests paired by seed" if share_seeds(table.ranked) else "Welch's t-tests"


def _other_judge(table: Table, other: Table) -> str | None:
    """What orders the priors of `other`, where that is all in which it differs: a backbone's seed, or an extractor."""
    alike = all(getattr(table, of) == getattr(other, of) for of in ("dataset", "backbone", "device"))
    if not alike or len(set(table.fd) & set(other.fd)) < 2:
        return None
    if table.backbone_seed != other.backbone_seed and table.protocol == other.protocol:
        return f"Backbone seed {other.backbone_seed} (bundle {in_code(other.bundle)})"
    mine, others = (of.protocol.model_dump(exclude={"extractor", "score", "features"}) for of in (table, other))
    if table.bundle == other.bundle and table.protocol.score != other.protocol.score and mine == others:
        return in_markdown(other.protocol.score)
    return None


def _order(table: Table, other: Table, judge: str) -> str:
    from scipy import stats  # which takes half a second to import, and few tables have another to be held against

    shared = sorted(set(table.fd) & set(other.fd), key=lambda label: other.rows[label].mean(FD))
    tau = stats.kendalltau(*([made.rows[label].mean(FD) for label in shared] for made in (table, other))).statistic
    few = f" (rows of fewer than {RANKED_FROM} seeds among them)" if set(shared) - set(other.ranked) else ""
    return (
        f"{judge} orders them {_listed(shared)}{few}: "
        f"Kendall's τ between the two orders of {len(shared)} priors is {tau:.2f}."
    )


def _without_training_images(table: Table) -> list[str]:
    """The command that makes a reference of training images, where memorisation is measured of latents alone."""
    p, measured = table.protocol, {source for row in table.rows.values() for source, _ in row.values}
    if p.reference_split or "latent_memorisation" not in measured or measured & {"memorisation", "fld"}:
        return []
    made = in_code(spell("reference", bundle=table.bundle, extractor=p.extractor.get("name"), split="train"))
    return [f"Memorisation among images needs a reference of training images; where there is none, {made} makes it."]


def _above_best(table: Table) -> Grid:
    """A table of how far rows lie above the best, with the one test that decides what is bold; nothing unranked."""
    body = []
    for label, above in table.above_best.items():
        digits = count_decimals(above.mean)
        ends = f"{above.mean:.{digits}f}", f"[{above.low:.{digits}f}, {above.high:.{digits}f}]"
        body.append([in_markdown(label), *ends, "< 0.001" if above.p < 0.001 else f"{above.p:.3g}"])
    score, best = table.protocol.score, next(iter(table.ranked))
    caption = (
        f"{in_markdown(score)} above that of {in_markdown(best)} ({_test(table)}; intervals of 95 % or the more that "
        "Holm's correction asks, so that one excludes 0 where p < 0.05)"
    )
    return Grid(caption, _pipes(["prior", f"{score} above the best", "interval", "p, Holm"], body))


def facts_of(table: Table) -> list[str]:
    """What was compared and how, a line each."""
    p = table.protocol
    measured = [record for record in table.records if record["kind"] != "fit"]
    versions = measured[-1]["provenance"]["packages"]
    packages = ", ".join(
        f"{name} {versions[name]}" for name in ("torch", "torch-fidelity", "nflows") if name in versions
    )
    machines = sorted({machine_of(record) for record in measured})
    fitted = f"; fits on {table.fitted_on}" if table.fitted_on else ""
    code = sorted({_code(record["provenance"]["code"]) for record in table.records})
    bandwidths = ", ".join(f"{factor:g}" for factor in p.mmd_bandwidths)
    return [
        (
            f"bundle {in_code(table.bundle)}; protocol {in_markdown(p.preset)}, version {p.version}, "
            f"{p.budget} budget, `{p.hash[:16]}`"
        ),
        (
            f"{in_markdown(p.score)}: {p.generated:,} generated images against {p.reference:,} {p.images} images"
            f"{_capped(p)}, {in_markdown(p.rounding)} rounding; images: {in_markdown(p.preparation)}"
        ),
        *([_of_groups(p)] if p.groups else []),
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
            f"{in_markdown(f'time{_timed_on(table)}')}: median [quartiles] of up to {p.timing_repeats} repeats or "
            f"{p.timing_seconds:g} s at batch {p.timing_batches[-1]:,}{_extraction(table)}{in_markdown(fitted)}"
        ),
        in_markdown(f"device: {table.device} ({'; '.join(machines)}); {packages}; code {', '.join(code)}"),
        *(
            f"command: {in_code(command)}"
            for command in sorted({record["provenance"]["command"] for record in measured})
        ),
        "± is half a 95 % t-interval over seeds; p is the median over seeds",
    ]


def _of_groups(p: Protocol) -> str:
    """Which latent groups, in which coordinates, of how many draws; where the line of a perfect prior is copying."""
    assert p.groups is not None
    counts = ", ".join(f"{p.groups[split]:,} {split}" for split in ("train", "val", "test"))
    said = (
        f"latents: {name_groups(p.groups)} of {p.groups['of']}, 0 being the top, each in standard deviations from its "
        f"mean given those above it; the others are drawn from their conditionals. {p.groups['each']} draw(s) of each "
        f"of {counts} images (`{p.groups['draws']}`)"
    )
    copies = (
        "; the aggregate posterior decodes to reconstructions of training images, so that its line is one of copies: "
        "memorisation tells whether a row came near it so, `reconstruction` what held-out images come to"
    )
    return said + (copies if len(p.groups["chosen"]) == p.groups["of"] else "")


def _timed_on(table: Table) -> str:
    machines = [record["identity"]["machine"] for record in table.records if "machine" in record["identity"]]
    return " ({device}, {threads} threads, {dtype})".format(**machines[-1]) if machines else ""


def _extraction(table: Table) -> str:
    row = table.rows.get(CEILING, TableRow(CEILING))
    times = row.over_seeds(("extraction_time", "extraction_seconds"))
    images = row.over_seeds(("extraction_time", "extraction_images"))
    if not (times and images and all(map(is_number, times))):
        return ""
    return f"; features of {in_markdown(images[0])} images: {format_short(1000 * statistics.fmean(times))} ms"


def _capped(p: Protocol) -> str:
    preset = PRESETS.get(p.preset)
    if preset is None or preset.version != p.version or p.generated >= preset.generated:
        return ""
    return f" (the protocol's {preset.generated:,} are more than this bundle has posteriors for)"


def _code(code: dict[str, Any]) -> str:
    named = code["commit"][:10] if code["commit"] else f"version {code['version']}"
    return named + (" (modified)" if code["dirty"] else "")


def _grid(rows: list[TableRow], columns: list[Shown], marks: dict[str, str]) -> str:
    body = [[_marked(row, marks), *(column.cell(row) for column in columns)] for row in rows]
    return _pipes(["prior", *(column.head for column in columns)], body)


def _marked(row: TableRow, marks: dict[str, str]) -> str:
    mark = marks.get(row.label)
    label = in_markdown(row.label)
    return f"**{label}**" if mark == NEAR else f"{label} {mark}" if mark else label


def _named(row: TableRow) -> str:
    return f"*{in_markdown(row.label)}*" if row.is_reference else in_markdown(row.label)


def _beside(caption: str, table: Table, columns: list[Shown]) -> Grid | None:
    """A further table, reference rows in italics, of the rows and columns that have a value; None where none has."""
    rows = [*table.priors, *_references(table)]
    columns = [column for column in columns if any(map(column.cell, rows))]
    if not columns:
        return None
    body = [
        [_named(row), *(column.cell(row) for column in columns)]
        for row in rows
        if any(row.values.get(column.key) for column in columns)
    ]
    return Grid(caption, _pipes(["prior", *(column.head for column in columns)], body))


def _pipes(header: list[str], body: list[list[str]]) -> str:
    return as_grid(list(map(in_markdown, header)), body)
