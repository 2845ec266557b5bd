"""findings.md: every claim that was put to a test, with its verdict, whichever kind of experiment it is of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.report.markdown_table import as_grid
from benchmark.report.verdicts import Comparison, Verdict
from benchmark.text import in_markdown


@dataclass(frozen=True)
class Finding:
    """A claim, its verdict, how it was run, and the experiment with its page. `points`: they are what is counted."""

    says: str
    verdict: Verdict
    run: str
    name: str
    page: str
    points: bool = False


@dataclass(frozen=True)
class Question:
    """What an experiment asks, with its page."""

    title: str
    page: str
    question: str


def findings_markdown(
    findings: Sequence[Finding], questions: Sequence[Question], note: str = "", ranked: bool = True
) -> str:
    """The page of all of them, the experiments' questions below.

    `note`: what is to be known before. `ranked`: whether the folder has a leaderboard to lead to.
    """
    header = ["claim", "verdict", "number", "95 % interval", "seeds", "of", "experiment"]
    body = [
        [
            in_markdown(each.says),
            f"**{each.verdict.word}**",
            *decided(each.verdict, each.points),
            in_markdown(each.run),
            f"[{in_markdown(each.name)}]({each.page})",
        ]
        for each in findings
    ]
    asked = "\n".join(
        f"- [{in_markdown(each.title)}]({each.page}): {in_markdown(each.question, 5_000)}" for each in questions
    )
    return (
        "# Findings\n\n"
        + ("[Leaderboard](leaderboard.md)\n\n" if ranked else "")
        + "Each claim with the verdict of the test that its experiment states, from what is recorded: *held*, *did not "
        "hold*, or *undecided*, with the comparison that decides, or, of several, the one that is least sure. "
        "`0.05 x` is a ratio of times.\n\n" + (f"{note}\n\n" if note else "") + f"{as_grid(header, body)}\n\n{asked}\n"
    )


def decided(verdict: Verdict, points: bool) -> list[str]:
    """Number, interval and count of the comparison that decides."""
    if verdict.deciding is None:
        return ["", "", ""]
    number, interval, count = cells(verdict.deciding)
    return [number, interval, f"{count} points" if points else count]


def cells(comparison: Comparison) -> list[str]:
    """Number, interval and count, as text; what there is not is blank."""
    number, low, high = (
        math.exp(each) if comparison.ratio else each for each in (comparison.number, comparison.low, comparison.high)
    )
    factor = " x" if comparison.ratio else ""
    interval = f"[{low:.3g}, {high:.3g}]" if math.isfinite(low) else ""
    return [f"{number:.3g}{factor}" if math.isfinite(number) else "", interval, str(comparison.seeds)]
