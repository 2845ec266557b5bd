"""What a results folder shows of its experiments: a page and a figure for each suite, and findings.md over all.

All of it is made from the notes in `suites/` and the records alone, as the tables are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from benchmark.errors import UsageError
from benchmark.report.board import write_page
from benchmark.report.findings import Finding, Question, cells, decided, findings_markdown
from benchmark.report.joint import QUESTION, write_joint_page
from benchmark.report.markdown_table import as_grid
from benchmark.report.tables import Table, make_tables
from benchmark.report.verdicts import Verdict
from benchmark.store.sealed import Damaged
from benchmark.suites.claims import judge
from benchmark.suites.figures import draw_suite
from benchmark.suites.places import Note, Recorded, find_notes, find_tables, folder_apart, read_note
from benchmark.suites.quantities import Quantity, parse_quantity
from benchmark.suites.suite import Claim, Correlation, Suite
from benchmark.text import in_code, in_markdown

Judged = list[tuple[Claim, Verdict]]


def write_pages(results: Path, tables: Sequence[Table] | None = None) -> list[str]:
    """Write the page and the figure of each suite that was run here, joint.md where arms are recorded, and findings.md.

    `tables` are those of the folder, where they are at hand. Returns what is damaged of the experiments, and of their
    records, but for those of tables at hand.
    """
    paths = find_notes(results)
    made, damaged = tables or [], list[str]()
    if tables is None and paths:
        made, damaged, _ = make_tables(results)
    findings, questions, all_recorded = list[Finding](), list[Question](), list[Recorded]()
    for path in paths:
        try:
            note = read_note(path)
            suite = note.suite
            of_trained, damaged_there, _ = make_tables(folder_apart(results, note.name))
            damaged += damaged_there
            recorded = find_tables(note, [*made, *of_trained])
            judged = [(claim, judge(claim, recorded)) for claim in suite.claims]
        except (Damaged, UsageError) as error:
            damaged.append(str(error))
            continue
        picture = path.with_suffix(".png")
        drawn = draw_suite(suite, recorded, picture, _facts(note, recorded))
        write_page(
            path.with_suffix(".md"), suite_markdown(note, suite, recorded, judged, picture.name if drawn else "")
        )
        page, run = f"suites/{path.stem}.md", f"{note.preset}, {note.device}"
        findings += [
            Finding(claim.says, verdict, run, note.name, page, isinstance(claim, Correlation))
            for claim, verdict in judged
        ]
        if all((each.title, each.question) != (suite.title, suite.question) for each in questions):
            questions.append(Question(suite.title, page, suite.question))  # asked once, on however many devices
        all_recorded += recorded
    joint, damaged_arms = write_joint_page(results)
    damaged += damaged_arms
    if joint:
        findings += joint
        questions.append(QUESTION)
    if paths or joint:
        ranked = (results / "leaderboard.md").exists()  # a folder of joint training, or of VAEs of its own, has none
        write_page(results / "findings.md", findings_markdown(findings, questions, _cut_short(all_recorded), ranked))
    return damaged


def suite_markdown(note: Note, suite: Suite, recorded: Sequence[Recorded], judged: Judged, picture: str) -> str:
    """The page of a suite: question, figure, claims with their verdicts, numbers, how it was run."""
    parts = [f"[Findings](../findings.md)\n\n# {in_markdown(suite.title)}\n", f"{in_markdown(suite.question, 5_000)}\n"]
    if picture:
        parts.append(f"![{in_markdown(suite.title)}]({picture})\n")
    if cut := _cut_short(recorded):
        parts.append(f"{cut}\n")
    parts.append("## Claims\n")
    header = ["claim", "verdict", "number", "95 % interval", "seeds"]
    body = [[in_markdown(c.says), f"**{v.word}**", *decided(v, isinstance(c, Correlation))] for c, v in judged]
    parts.append(f"{as_grid(header, body)}\n")
    for claim, verdict in judged:
        parts.append(_claim_markdown(claim, verdict))
    parts.append("## Numbers\n")
    parts += [_numbers_markdown(suite, each) for each in recorded]
    parts.append(
        f"## How\n\n{_facts(note, recorded)}. Intervals are t-intervals over seeds, "
        "paired by seed where rows are compared. Command, which does only what is missing:\n\n"
        f"```sh\n{note.command}\n```\n"
    )
    return "\n".join(parts)


def _claim_markdown(claim: Claim, verdict: Verdict) -> str:
    """A claim with every comparison behind it."""
    lines = [f"### {in_markdown(claim.says)}: {verdict.word}\n", f"{_test_in_words(claim)}\n"]
    if verdict.comparisons:
        body = [
            [in_markdown(c.name), c.word, *cells(c), in_markdown("; ".join(filter(None, (c.why, c.note))))]
            for c in verdict.comparisons
        ]
        counted = "points" if isinstance(claim, Correlation) else "seeds"
        header = ["comparison", "verdict", "number", "95 % interval", counted, "note"]
        lines.append(f"{as_grid(header, body)}\n")
    if verdict.why:
        lines.append(f"What remains open: {in_markdown(verdict.why)}.\n")
    return "\n".join(lines)


def _test_in_words(claim: Claim) -> str:
    """What is tested, in a sentence."""
    if isinstance(claim, Correlation):
        return (
            f"Test: Spearman's rank correlation of {in_code(claim.x)} and {in_code(claim.y)}, claimed to be "
            f"{'positive' if claim.direction == 'rises' else 'negative'}; bundles and priors are resampled."
        )
    margin = f", margin {100 * claim.margin:g} % of the gap" if claim.margin is not None else ""
    ratio = parse_quantity(claim.metric).is_time
    difference, change = (
        ("ratio, claimed to be below 1", "factor") if ratio else ("difference, claimed to be below 0", "change")
    )
    tested = {
        "lower": f"the {difference}, after Holm's correction over these comparisons",
        "not_behind": "the difference, claimed to be no more than the margin",
        "alike": "the difference, claimed to be within the margin either way",
        "trend": f"the {change} from one value of the setting to the next, after Holm's correction over these lines",
    }[claim.test]
    direction = f", claimed to {claim.direction.removesuffix('s')}" if claim.test == "trend" else ""
    return f"Test `{claim.test}` of {in_code(claim.metric)}: {tested}{direction}{margin}."


def _numbers_markdown(suite: Suite, recorded: Recorded) -> str:
    """Every row of a place: mean and half an interval of all that the suite speaks of."""
    quantities = _quantities(suite)
    body = [
        [in_code(label), *(_mean(recorded.interval(label, quantity)) for quantity in quantities), str(len(row.seeds))]
        for label, row in recorded.place.rows.items()
    ]
    header = ["row", *(in_markdown(quantity.title) for quantity in quantities), "seeds"]
    return f"{in_markdown(recorded.place.name)} (bundle {recorded.place.bundle}):\n\n{as_grid(header, body)}\n"


def _quantities(suite: Suite) -> list[Quantity]:
    """What has one number a row and seed, of all that the suite speaks of, once each."""
    typed = [word for figure in suite.figures for word in (figure.x, figure.y)]
    for claim in suite.claims:
        typed += [claim.x, claim.y] if isinstance(claim, Correlation) else [claim.metric]
    found = [parse_quantity(word) for word in dict.fromkeys(typed)]
    return [quantity for quantity in found if quantity.kind not in ("prior", "bundle", "step", "log")]


def _cut_short(recorded: Sequence[Recorded]) -> str:
    """What is to be known of verdicts whose fits were cut short; empty where none was."""
    if all(each.table is None or each.table.protocol.budget != "quick" for each in recorded):
        return ""
    return "**Fits of the quick budget are cut short: their verdicts say nothing of the priors' own recipes.**"


def _mean(interval: tuple[float, float, float]) -> str:
    mean, low, high = interval
    if not math.isfinite(mean):
        return ""
    return f"{mean:.4g} ± {(high - low) / 2:.2g}" if math.isfinite(low) else f"{mean:.4g}"


def _facts(note: Note, recorded: Sequence[Recorded]) -> str:
    """Which preset, on which machines."""
    machines = sorted({machine for each in recorded for machine in each.machines})
    protocols = sorted({each.table.protocol.preset for each in recorded if each.table})
    named = [f"Preset {note.preset} on {note.device}", *(f"protocol {each}" for each in protocols), *machines]
    return ", ".join(named)
