"""Records of arms -> `joint.md`: a table for each comparison, and differences from the two stages, paired by seed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from benchmark.report.board import write_page
from benchmark.report.findings import Finding, Question
from benchmark.report.markdown_table import as_grid
from benchmark.report.statistics import mean_interval, paired_difference
from benchmark.report.verdicts import Sample, Verdict, lower
from benchmark.store.arms import ARMS, JOINT, THEN_JOINT, TWO_STAGE, Arm, records_in
from benchmark.store.schema import read_model
from benchmark.store.sealed import Damaged, content_hash


@dataclass(frozen=True)
class Column:
    """A value of the records; `differs`: its difference from the two stages is shown too."""

    name: str
    heading: str
    digits: int
    scale: float = 1.0
    differs: bool = False


COLUMNS = (
    Column("bound", "bound ↑", 2, differs=True),
    Column("bound_energy", "bound of the energy", 2, differs=True),
    Column("log_z_ess", "its log Z, ESS %", 0, 100),
    Column("bound_normal", "bound under N(0, I)", 2),
    Column("fd", "FD ↓", 3, differs=True),
    Column("fd_normal", "FD of N(0, I)", 3),
    Column("fd_aggregate", "FD of q_agg", 3),
    Column("mmd_imq", "hole left, MMD² imq ×10³ ↓", 2, 1_000, differs=True),
    Column("rate", "rate, nats", 2, differs=True),
    Column("kl", "rate under N(0, I)", 2),
    Column("distortion", "distortion", 2, differs=True),
    Column("active_units", "active units", 1),
    Column("std", "std of q", 3),
)

HEAD = """[Findings](findings.md)

# A prior trained with its VAE

Not a leaderboard: every arm has a VAE of its own, so that rows differ in more than their prior. All arms of a table
take equally many steps of the VAE and of the prior, with the same networks, images and seeds; *two-stage* and
*two-stage, then joint* begin with one and the same training.

*bound*: importance-weighted lower bound on log p(x) of test images in nats, under the likelihood of the VAE's loss (of
squared errors: Gaussian pixels), the same for all arms, with the density of what the prior draws. *bound of the
energy*: the same with exp(-energy) / Z; its log Z is an estimate that is too low on the mean, so that this number
bounds neither side, and says little where the effective sample size is small. *rate* is KL(q(z|x) || p) under the
density of what the prior draws; *distortion* the other part of the VAE's loss. Posteriors that shrink to where the
prior is easy show as fewer active units, a lower rate and a higher distortion. Mean ± 95 % t-interval over seeds.
"""


#: what is claimed of an arm beside the two stages: in words, the arm, the value, and whether less of it is better
CLAIMS: tuple[tuple[str, Arm, str, bool], ...] = (
    ("trained with its VAE from the start has a higher bound than in two stages", JOINT, "bound", False),
    ("trained with its VAE from the start has a lower FD than in two stages", JOINT, "fd", True),
    ("trained with its VAE after two stages has a higher bound than without", THEN_JOINT, "bound", False),
    ("trained with its VAE after two stages has a lower FD than without", THEN_JOINT, "fd", True),
)

QUESTION = Question(
    "A prior trained with its VAE",
    "joint.md",
    "EVaLP's authors fit their prior to a frozen VAE, and ask whether both can be trained in one stage. With equally "
    "many steps of the VAE and of the prior, does that gain likelihood, or better samples?",
)


def joint_page(results: Path) -> Path:
    """Where the page of a results folder lies."""
    return results / "joint.md"


def write_joint_page(results: Path) -> tuple[list[Finding], list[str]]:
    """Write `joint.md` from the records of a results folder, unless there are none.

    Returns the claims of each of its tables with their verdicts, and what is damaged, which is in none.
    """
    tables, damaged = _read_tables(results)
    if tables:
        write_page(joint_page(results), "\n".join([HEAD, *map(_table, tables)]))
    return [finding for records in tables for finding in _judge_all(records)], damaged


def _judge_all(records: list[_Record]) -> list[Finding]:
    return [
        Finding(
            f"{records[0].experiment.prior.label} {says}",
            _judge(records, arm, value, less),
            _subject(records[0]),
            "joint",
            "joint.md",
        )
        for says, arm, value, less in CLAIMS
    ]


def _judge(records: list[_Record], arm: Arm, value: str, less: bool) -> Verdict:
    """Whether an arm has less, or more, of a value than the two stages, by seed; nan where one failed.

    Numbers are the arm less the two stages either way, as in the page's table.
    """
    mine, theirs = _by_seed(records, arm, value), _by_seed(records, TWO_STAGE, value)
    name = f"{value}, {arm} - {TWO_STAGE}"
    if less:
        return lower([Sample(name, mine, theirs)])
    verdict = lower([Sample(name, theirs, mine)])
    turned = (replace(each, number=-each.number, low=-each.high, high=-each.low) for each in verdict.comparisons)
    return replace(verdict, comparisons=tuple(turned))


def _by_seed(records: list[_Record], arm: Arm, value: str) -> dict[int, float]:
    return {r.seed: math.nan if r.reason else r.values.get(value, math.nan) for r in records if r.arm == arm}


def _read_tables(results: Path) -> tuple[list[list[_Record]], list[str]]:
    """The records of each comparison, in the order of their titles; and what is damaged."""
    tables: dict[str, list[_Record]] = {}
    damaged = []
    for path in sorted(records_in(results).glob("*.json")):
        try:
            record = read_model(path, _Record)
        except Damaged as error:
            damaged.append(str(error))
            continue
        tables.setdefault(content_hash(record.experiment.model_dump()), []).append(record)
    return [records for _, records in sorted(tables.items(), key=lambda item: _title(item[1][0]))], damaged


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Named(_Part):
    name: str
    config: dict[str, Any]


class _Labelled(_Part):
    label: str


class _Experiment(_Part):
    dataset: str
    backbone: _Named
    images: int
    epochs: int
    prior: _Labelled
    score: str
    device: str


class _Record(_Part):
    """What the page takes from a record: a seal tells that one is as it was written, not that it is of an arm."""

    arm: Arm
    seed: Annotated[int, Field(ge=0)]
    values: dict[str, FiniteFloat]
    experiment: _Experiment
    reason: str | None = None


def _title(record: _Record) -> str:
    of = record.experiment
    return f"{of.prior.label} on {_subject(record)}, {of.epochs} epochs, {of.score}, {of.device}"


def _subject(record: _Record) -> str:
    """The images and the VAE."""
    of = record.experiment
    config = of.backbone.config
    size = ", ".join(f"{name} {config[name]}" for name in ("width", "nz", "kl_weight") if name in config)
    return f"{of.dataset}, {of.backbone.name} ({size}), {of.images:,} images"


def _table(records: list[_Record]) -> str:
    by_arm: dict[Arm, dict[int, dict[str, float]]] = {arm: {} for arm in ARMS}
    failures = []
    for record in records:
        if record.reason is None:
            by_arm[record.arm][record.seed] = record.values
        else:
            failures.append(f"- {record.arm}, seed {record.seed}: {record.reason}\n")
    shown = [column for column in COLUMNS if any(column.name in record.values for record in records)]
    body = [
        [
            arm,
            str(len(seeds)),
            *(_cell(column, [seeds[seed].get(column.name) for seed in sorted(seeds)]) for column in shown),
        ]
        for arm, seeds in by_arm.items()
        if seeds
    ]
    grid = as_grid(["arm", "seeds", *(column.heading for column in shown)], body)
    differing = [column for column in shown if column.differs]
    paired = [
        [arm, *(_difference(column, by_arm[arm], by_arm[TWO_STAGE]) for column in differing)]
        for arm in ARMS
        if arm != TWO_STAGE and by_arm[arm]
    ]
    differences = as_grid([f"less {TWO_STAGE}", *(column.heading for column in differing)], paired)
    failed = "".join(["\nFailed, and in no mean above:\n\n", *sorted(failures)]) if failures else ""
    return f"## {_title(records[0])}\n\n{grid}\n\n{differences}\n{failed}"


def _cell(column: Column, values: list[float | None]) -> str:
    known = [value * column.scale for value in values if value is not None]
    return _shown(column, mean_interval(known)) if known else ""


def _difference(column: Column, arm: dict[int, dict[str, float]], stages: dict[int, dict[str, float]]) -> str:
    pairs = [
        (arm[seed][column.name] * column.scale, stages[seed][column.name] * column.scale)
        for seed in sorted(arm.keys() & stages.keys())
        if column.name in arm[seed] and column.name in stages[seed]
    ]
    if not pairs:
        return ""
    return _shown(column, paired_difference([one for one, _ in pairs], [other for _, other in pairs]), sign="+")


def _shown(column: Column, interval: tuple[float, float, float], sign: str = "") -> str:
    mean, low, high = interval
    text = f"{mean:{sign}.{column.digits}f}"
    return text if math.isnan(low) else f"{text} ± {(high - low) / 2:.{column.digits}f}"
