"""leaderboard.md: which prior is best where, by how much, at what cost, and how sure that is. The rest is links."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from benchmark.bundles.bundle import NO_PART
from benchmark.report.across import Across
from benchmark.report.columns import format_share, format_short, quartiles
from benchmark.report.markdown_table import Grid, as_grid
from benchmark.report.pareto import find_front, make_points, pareto_file
from benchmark.report.sample_grids import grid_file, has_samples
from benchmark.report.selection import machine_of
from benchmark.report.signatures import AUC, GOOD_IMAGES, WRONG_LATENTS, flags_of, is_deterministic
from benchmark.report.standing import Column, Standing, is_recipe
from benchmark.report.statistics import MARGIN, RANKED_FROM
from benchmark.report.tables import CEILING, FD, FIT_SECONDS, NEAR, UNTOLD, ZERO_LINE, Table
from benchmark.report.tuned import TUNING, tuned_grids, tuned_head, unfinished
from benchmark.report.tuning import Tuned
from benchmark.text import in_markdown

TITLE = "# Leaderboard"
WARNED = "⚠"
ACROSS = "boards/across.md"
NO_COLUMN = "No table of the test split has both N(0, I) and the aggregate posterior to hold its rows against."
#: sentences of one kind that the page has room for; the pages of the tables have all
MOST = 10


def first_screen(standing: Standing, across: Across, made: list[Table], left_out: list[str], tuned: list[Tuned]) -> str:
    """The page. `left_out`: what is damaged or in no table, a sentence each; `tuned`: settings that were chosen."""
    columns = standing.columns
    lines = [TITLE, ""]
    if columns:
        recipes, *settings = overview(columns, across)
        *explained, last = legend(columns, across)
        lines += [scale(columns), "", *(f"- {line}" for line in headlines(columns, across)), "", recipes.text, ""]
        lines += [*(f"{line}\\" for line in explained), last, ""]
        lines += [line for grid in settings for line in (f"{grid.caption}:", "", grid.text, "")]
        lines += _pictures(columns)
    elif any(not table.protocol.settings for table in made):
        lines += [NO_COLUMN, ""]
    lines += _tuned(made, tuned)
    lines += [*_apart(standing), *_links(standing, across, made), *_failures(made), *_capped("Left out", left_out)]
    return "\n".join([*lines, *_provenance(made), ""])


def scale(columns: list[Column]) -> str:
    """What a cell is, before the first of them."""
    counts = sorted({len(of) for column in columns for of in column.first.fd.values()})
    seeds = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    return (
        "**Gap closed, % ↑**: 0 is no better than N(0, I), 100 as good as the aggregate posterior, which decodes "
        "encodings of real images; below 0 is worse than N(0, I). By the Fréchet distance (FD) of images; ± is half a "
        f"95 % interval over {seeds} seeds of the prior's fit, and does not hold what another VAE would change."
    )


def headlines(columns: list[Column], across: Across) -> list[str]:
    """Which prior is best overall, and which where: a sentence each."""
    return [*_overall(columns, across), *map(_headline, columns)]


def overview(columns: list[Column], across: Across) -> list[Grid]:
    """Priors against data sets: each as its recipe has it, and, where there are such rows, with other settings."""
    labels = _labels(columns, across)
    recipes, settings = ([label for label in labels if is_recipe(label) == kind] for kind in (True, False))
    grids = [Grid("Gap closed by data set, % ↑, the best mean rank first", _table(columns, across, recipes))]
    other = "Other settings of these priors, in no test here: each is ranked once, as its recipe has it"
    few = [label for label in settings if not any(_is_among_the_ranked(label, column) for column in columns)]
    if few:
        settings = [label for label in settings if label not in few]
        other += f"; {len(few)} more, of fewer than {RANKED_FROM} seeds, stand on the pages of their data sets alone"
    return grids + ([Grid(other, _table(columns, across, settings))] if settings else [])


def _is_among_the_ranked(label: str, column: Column) -> bool:
    """Whether a column has the row with seeds enough, or nothing has seeds enough there."""
    return column.ranks(label) or (label in column.labels and not column.first.ranked)


def page_of(table: Table) -> str:
    """Where the page of a table lies in a results folder: what settings were chosen by is on one page."""
    return f"boards/{table.page}.md" if table.protocol.split == "test" else TUNING


def _labels(columns: list[Column], across: Across) -> list[str]:
    """Rows in order: by mean rank, then those that some data sets lack, by what they close where they stand."""
    found = list(dict.fromkeys(label for column in columns for label in column.labels))
    places = {label: place for place, label in enumerate(across.labels)}

    def order(label: str) -> tuple[int, float]:
        gaps = [gap[0] for column in columns if (gap := column.gap_closed(label))]
        return places.get(label, len(places)), -statistics.fmean(gaps) if gaps else 0.0

    return sorted(found, key=order)


def _overall(columns: list[Column], across: Across) -> list[str]:
    """The best mean rank, where there is one, and who is shown to be behind the best nowhere."""
    if not across.ranks:
        return []
    (best, (mean, low, high)), (second, (next_mean, *_)) = list(across.ranks.items())[:2]
    ranked = f"{mean:.1f} [{low:.1f}, {high:.1f}] among the {len(across.ranks)} priors that all of them have"
    second = f"`{in_markdown(second)}` {next_mean:.1f}"
    over = f"**Over these {len(across.columns)} data sets**, a VAE each, `{in_markdown(best)}` has the best mean rank"
    never = [label for label in across.ranks if all(column.first.marks.get(label) for column in columns)]
    listed = ", ".join(f"`{in_markdown(label)}`{_warning(label, columns)}" for label in never)
    return [f"{over}: {ranked}, {second}; shown to be behind the best on none of them: {listed or 'no prior'}"]


def _warning(label: str, columns: list[Column]) -> str:
    return f" {WARNED}" if any(label in flags_of(column.first) for column in columns) else ""


def _headline(column: Column) -> str:
    """Who is first, who is not told apart from it and by how many points it is behind, how many are behind for sure."""
    table, marks = column.first, column.first.marks
    best = next(iter(table.fd))
    where = f"**[{in_markdown(column.head)}]({page_of(table)})**"
    warned = f" ({WARNED} {', '.join(flags_of(table)[best])})" if best in flags_of(table) else ""
    closes = f"{where}: `{in_markdown(best)}` closes {format_share(column.gap_closed(best))}, the most{warned}"
    if not marks:
        return f"{closes} so far (fewer than {RANKED_FROM} seeds: no ranking)"
    others = [label for label in table.ranked if label != best and is_recipe(label)]
    near, untold = ([label for label in others if marks.get(label) == mark] for mark in (NEAR, UNTOLD))
    told = [f"within {100 * MARGIN:g} points: {_listed(near, best, column)}"] if near else []
    told += [f"not told apart from it: {_listed(untold, best, column)}"] if untold else []
    behind = len(others) - len(near) - len(untold)
    return "; ".join([closes, *told, *([f"the other {behind} are behind"] if behind else [])])


def _listed(labels: list[str], best: str, column: Column) -> str:
    """Each with how many points it closes less than the best, and its scatter where that is why nothing is told."""
    said = []
    for label in labels:
        gap, of_best = column.gap_closed(label), column.gap_closed(best)
        behind = f"-{100 * (of_best[0] - gap[0]):.1f}" if gap and of_best else "?"
        wide = gap and gap[2] - gap[1] > 2 * MARGIN and column.first.marks.get(label) == UNTOLD
        noisy = f", ± {50 * (gap[2] - gap[1]):.1f}" if gap and wide else ""
        said.append(f"`{in_markdown(label)}`{_warning(label, [column])} ({behind}{noisy})")
    return ", ".join(said)


def _table(columns: list[Column], across: Across, labels: list[str]) -> str:
    flags = {column.head: flags_of(column.first) for column in columns}
    timed = max(columns, key=lambda column: len(_rates(column.first)))
    rates, head = _rates(timed.first), in_markdown(f"{timed.head}, {timed.first.device}")
    body = []
    for label in labels:
        cells = ["; ".join(_cells(column, label)) for column in columns]
        rank = across.ranks.get(label)
        row = timed.first.rows.get(label)
        fit = row.numbers(FIT_SECONDS).values() if row else []
        told: dict[str, list[str]] = {}
        for column in columns:
            for flag in flags[column.head].get(label, []):
                told.setdefault(flag, []).append(column.head)
        body.append(
            [
                in_markdown(label),
                *cells,
                f"{rank[0]:.1f} [{rank[1]:.1f}, {rank[2]:.1f}]" if rank else "",
                _worst_auc(columns, label),
                rates.get(label, ""),
                format_short(statistics.fmean(fit)) if fit else "",
                in_markdown("; ".join(f"{flag} ({', '.join(where)})" for flag, where in told.items())),
            ]
        )
    header = ["prior", *(in_markdown(column.head) for column in columns)]
    header += ["mean rank ↓", "C2ST, worst ↓", f"latents / s ↑ ({head})", f"fit, s ↓ ({head})", "beware"]
    if all(map(is_recipe, labels)):
        body.append(["*FD: N(0, I) → aggregate posterior*", *map(_ends, columns), "", "", "", "", ""])
    kept = [place for place in range(len(header)) if place == 0 or any(row[place] for row in body)]
    return as_grid([header[place] for place in kept], [[row[place] for place in kept] for row in body])


def _cells(column: Column, label: str) -> Iterator[str]:
    """The share of the gap closed with half its interval, under the backbone's first seed and under others."""
    if gap := column.gap_closed(label):
        share = format_share(gap, "")
        elsewhere = column.table_of(label) is not column.first
        mark = "" if elsewhere or not is_recipe(label) else column.first.marks.get(label, "")
        cell = f"**{share}**" if mark == NEAR else f"{share} †" if elsewhere else f"{share} {mark}".strip()
        yield f"{cell}{_warning(label, [column])}"
    for table in column.repeats:
        if label in table.fd and (repeat := table.gap_closed(table.rows[label])[0]):
            yield format_share(repeat, "")


def _ends(column: Column) -> str:
    """The two scores between which the gap lies."""
    worst, best = (column.first.rows[label].mean(FD) for label in (ZERO_LINE, CEILING))
    return f"*{format_short(worst)} → {format_short(best)}*"


def _rates(table: Table) -> dict[str, str]:
    """Label -> latents a second at the protocol's largest batch."""
    batch = table.protocol.timing_batches[-1]
    times = {label: quartiles(table.rows[label], ("sampling_time", f"prior_seconds_{batch}")) for label in table.fd}
    return {label: format_short(float(f"{1000 * batch / time[0]:.3g}")) for label, time in times.items() if time}


def _worst_auc(columns: list[Column], label: str) -> str:
    """How well a classifier tells its latents from held-out ones, on the data set where that is easiest."""
    found = [
        table.rows[label].mean(AUC)
        for column in columns
        if (table := column.table_of(label)) and table.rows[label].numbers(AUC)
    ]
    return f"{max(found):.2f}" if found else ""


def legend(columns: list[Column], across: Across) -> list[str]:
    """What marks and further columns mean, a sentence or two each."""
    devices = {column.first.device for column in columns}
    lines = [
        (
            f"**Bold**: the best, and what is shown to be within {100 * MARGIN:g} points of it. {UNTOLD}: too close or "
            "too noisy to be told apart from the best, which says less than bold: a row that scatters may have it "
            "while a steadier one above it is behind. No mark: behind (t-tests of seed 0 against seed 0 and so on, "
            "Holm's correction over all pairs of a data set)."
        )
    ]
    if any(column.repeats for column in columns):
        lines.append("Behind a semicolon: the same on another seed of the backbone, in no test here.")
    if across.labels:
        lines.append(
            f"Mean rank: among the {len(across.labels)} priors that all {len(across.columns)} data sets have, with a "
            f"95 % interval over seeds, on these data sets, not beyond them ([more]({ACROSS})); blank: not run on all."
        )
    scores: dict[str, list[str]] = {}
    for column in columns:
        scores.setdefault(column.first.protocol.score, []).append(in_markdown(column.head))
    named = "; ".join(f"{score} ({', '.join(heads)})" for score, heads in scores.items())
    if len(scores) > 1:
        lines.append(f"Scores, each of one network's features, so that no two compare: {named}.")
    if any(_worst_auc(columns, label) for column in columns for label in column.labels):
        lines.append(
            "C2ST: how well a classifier tells its latents from held-out ones, 0.5 is not at all; the worst data set."
        )
    if any(flags_of(column.first) for column in columns):
        lines.append(
            f"{WARNED} wrong latents: good images ({100 * GOOD_IMAGES:g} % closed) of latents that by C2ST or MMD² "
            f"are {WRONG_LATENTS:.0%} or more as far from the aggregate posterior as N(0, I)'s: the score is the "
            "decoder's; memorised: nearer to training data than new draws are."
        )
    if any(column.table_of(label) is not column.first for column in columns for label in column.labels):
        lines.append("†: from a table of another type of device, so in no test; a mean rank counts it all the same.")
    if points := [in_markdown(column.head) for column in columns if is_deterministic(column.first)]:
        lines.append(f"Deterministic encoder ({', '.join(points)}): N(0, I), the 0 % line, {NO_PART}.")
    if len(devices) > 1:
        lines.append(
            "Devices: " + ", ".join(f"{in_markdown(column.head)} {column.first.device}" for column in columns) + "."
        )
    submitted = dict.fromkeys(
        sentence for column in columns for table in column.tables for sentence in table.submitted.values()
    )
    return lines + [f"From elsewhere: {in_markdown(sentence)}." for sentence in submitted]


def _pictures(columns: list[Column]) -> list[str]:
    table = max(columns, key=lambda column: len(make_points(column.first))).first
    lines = []
    points = make_points(table)
    if points:
        front = find_front([point.time[0] for point in points], [point.quality[0] for point in points])
        flags = flags_of(table)
        labels = [points[index].label for index in front]
        named = ", ".join(f"`{in_markdown(label)}`{f' {WARNED}' if label in flags else ''}" for label in labels)
        lines += [
            f"The front, {named}: no other prior is both faster and better than any ({in_markdown(table.page)}):",
            "",
        ]
        lines += [f"![quality against sampling time, {in_markdown(table.page)}]({pareto_file(table)})", ""]
    if has_samples(table):
        lines += [f"![samples of every row from the same noise, {in_markdown(table.page)}]({grid_file(table)})", ""]
    return lines


def _tuned(made: list[Table], tuned: list[Tuned]) -> list[str]:
    """What tuning changed on each VAE, a table each, and the boards of tuned rows."""
    boards = [table for table in made if table.protocol.settings and table.fd]
    if not boards and not tuned:
        return []
    lines = [tuned_head(tuned), ""]
    lines += [line for grid in tuned_grids(tuned, made) for line in (f"{grid.caption}:", "", grid.text, "")]
    lines += [f"Tuned rows: {', '.join(map(_link, boards))}.", ""] if boards else []
    return [*lines, *(line for sentence in unfinished(tuned) for line in (sentence, ""))]


def _apart(standing: Standing) -> list[str]:
    if not standing.apart:
        return []
    lines = [f"- {_link(table)}: {in_markdown(why)}" for table, why in standing.apart]
    return ["Not ranked here:", "", *lines, ""]


def _link(table: Table) -> str:
    return f"[{in_markdown(table.page)}]({page_of(table)})"


def _links(standing: Standing, across: Across, made: list[Table]) -> list[str]:
    tables = [table for column in standing.columns for table in (*column.tables, *column.repeats)]
    pages = list(map(_link, tables))
    further = [f"[across data sets]({ACROSS})"] if across.labels else []
    if any(table.protocol.split != "test" for table in made):
        further.append(f"[settings chosen on the validation split]({TUNING})")
    lines = [f"Every number of a data set, with what to beware of: {', '.join(pages)}."] if pages else []
    lines += [f"Further: {', '.join(further)}."] if further else []
    return [*lines, *([""] if lines else [])]


def _failures(made: list[Table]) -> list[str]:
    """Of the tables of the test split; those of settings that were tried are on their page."""
    tests = [table for table in made if table.protocol.split == "test"] or made
    return _capped("Failed", [f"{failure} ({table.page})" for table in tests for failure in table.failures])


def _capped(head: str, sentences: list[str]) -> list[str]:
    shown = [f"- {head}: {in_markdown(sentence)}" for sentence in sentences[:MOST]]
    more = len(sentences) - MOST
    return [*shown, *([f"- {head}: {more} more, on the pages"] if more > 0 else []), *([""] if shown else [])]


def _provenance(made: list[Table]) -> list[str]:
    records = {record["id"]: record for table in made for record in table.records}.values()
    if not records:
        return []
    code = {str(record["provenance"]["code"]) for record in records}
    machines = sorted({machine_of(record) for record in records})
    times = sorted(record["provenance"]["time"][:10] for record in records)
    return [
        "<details><summary>Where these numbers come from</summary>",
        "",
        (
            f"Made by `python -m benchmark leaderboard` from {len(records):,} sealed records in `records/`, measured "
            f"from {times[0]} to {times[-1]} on {in_markdown('; '.join(machines))}, by {len(code)} states of the code. "
            "Commits, commands, packages and protocol stand on each page; all numbers in `leaderboard.csv`."
        ),
        "",
        "</details>",
    ]
