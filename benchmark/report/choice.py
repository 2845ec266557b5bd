"""What came of a tuning: each trial's score, and the settings that are chosen. A function of plan and records alone.

Every trial is fitted with one tuning seed and scored on the validation split. The best `FINALISTS` are fitted with two
more, and the lowest mean is chosen, so that a lucky fit is not. Tuning seeds are no reported ones, and the test split
is not looked at: trials are measured on `val` alone, and what is chosen is fitted anew with the seeds of a table.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.protocol import TUNING_SEED
from benchmark.store.tunings import Try, Tuning, read_tunings

SEEDS = (TUNING_SEED, TUNING_SEED + 1, TUNING_SEED + 2)
FINALISTS = 3
#: a trial is ended after so many times the seconds of the recipe's fit, and so many more, which are the machine's
LONGEST, GRACE = 3.0, 120.0

Record = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """Settings that were tried. `scores`: tuning seed -> FD, infinite where the fit failed or was ended.

    `seconds`: of all its fits and scores. `failures`: why a score is infinite, by seed.
    """

    number: int
    settings: dict[str, Any]
    config_hash: str
    scores: dict[int, float]
    seconds: float
    failures: dict[int, str] = field(default_factory=dict)

    @property
    def score(self) -> float | None:
        """With the first seed, which all trials share; None where it is not there yet."""
        return self.scores.get(SEEDS[0])

    @property
    def mean(self) -> float | None:
        """Over all tuning seeds; None where one is missing."""
        return statistics.fmean(self.scores.values()) if len(self.scores) == len(SEEDS) else None


@dataclass(frozen=True)
class Judged:
    """A tuning with what its trials came to.

    `ends`: FD of N(0, I) and of the aggregate posterior, mean over tuning seeds; None where one is missing.
    """

    tuning: Tuning
    trials: list[Trial]
    sampled: list[Trial]
    ends: tuple[float, float] | None

    @property
    def recipe(self) -> Trial:
        return self.trials[0]

    @property
    def finalists(self) -> list[Trial]:
        """The best few different settings by their first seed; none before every trial is through."""
        if any(trial.score is None for trial in self.trials):
            return []
        different = list({trial.config_hash: trial for trial in reversed(self.trials)}.values())[::-1]
        fit = [trial for trial in different if trial.score is not None and math.isfinite(trial.score)]
        return sorted(fit, key=lambda trial: (trial.score, trial.number))[:FINALISTS]

    @property
    def winner(self) -> Trial | None:
        """The finalist of the lowest mean; None before all have theirs, and where each failed with some seed."""
        return _lowest(self.finalists)

    @property
    def spent(self) -> bool:
        """Whether every trial is through, and none of them fits with all tuning seeds: nothing is left to choose."""
        through = all(trial.score is not None for trial in self.trials)
        return through and all(trial.mean is not None for trial in self.finalists) and self.winner is None

    @property
    def chosen(self) -> Trial | None:
        """The winner, or it with other settings of sampling, where that is better still; None before that is known."""
        winner = self.winner
        if winner is None:
            return None
        asked = [{**winner.settings, **other} for other in self.tuning.alternatives]
        if [trial.settings for trial in self.sampled] != asked:
            return None  # of another winner, before there were more trials
        return _lowest([winner, *self.sampled])

    @property
    def seconds(self) -> float:
        """Of all that was fitted and scored for it."""
        each = {trial.config_hash: trial.seconds for trial in (*self.trials, *self.sampled)}
        return sum(each.values())

    def closed(self, score: float) -> float:
        """The share of the gap from N(0, I) to the aggregate posterior on val that a score closes; nan without one."""
        if self.ends is None or self.ends[0] <= self.ends[1]:
            return math.nan
        return (self.ends[0] - score) / (self.ends[0] - self.ends[1])


def _lowest(trials: list[Trial]) -> Trial | None:
    """Of trials that all have their mean the one where it is lowest and finite."""
    means = [trial.mean for trial in trials]
    if not trials or any(mean is None for mean in means):
        return None
    best = min(trials, key=lambda trial: trial.mean or math.inf)  # of equal ones the first
    return best if best.mean is not None and math.isfinite(best.mean) else None


def judge_all(results: Path, records: Callable[[], Iterable[Record]]) -> tuple[list[Judged], list[str]]:
    """Every tuning of a results folder that is in force, and what is damaged. `records` are asked for where one is."""
    tunings, damaged = read_tunings(results)
    if not tunings:
        return [], damaged
    found = _Found(records())
    return [found.judge(tuning) for tuning in tunings], damaged


def judge(tuning: Tuning, records: Iterable[Record]) -> Judged:
    """One tuning."""
    return _Found(records).judge(tuning)


def choices(judged: Iterable[Judged], extractor: dict[str, Any]) -> dict[str, list[str]]:
    """Hash of a configuration that was chosen by this extractor's FD -> the labels of the rows that it is."""
    labels: dict[str, list[str]] = defaultdict(list)
    for each in judged:
        if each.chosen is not None and each.tuning.extractor == extractor:
            labels[each.chosen.config_hash].append(each.tuning.starred)
    return labels


class _Found:
    """Records of tuning seeds, by what they are of."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._fits: dict[str, Record] = {}
        self._unfit: dict[tuple[str, int], Record] = {}
        self._scores: dict[tuple[str, int], list[Record]] = defaultdict(list)
        self._ends: dict[tuple[str, str], list[Record]] = defaultdict(list)
        for record in records:
            row = record["row"]
            if row["seed"] not in SEEDS:
                continue
            key = row["config_hash"], row["seed"]
            if record["kind"] == "fit":
                self._fits[record["id"]] = record
                if record["status"] != "ok":
                    self._unfit[key] = record
            elif record["kind"] == "fd":
                self._scores[key].append(record)
                self._ends[row["bundle"], row["prior"]].append(record)

    def judge(self, tuning: Tuning) -> Judged:
        trials, sampled = (
            [self._trial(tuning, number, each) for number, each in enumerate(tries)]
            for tries in (tuning.trials, tuning.sampled)
        )
        return Judged(tuning, trials, sampled, self._find_ends(tuning))

    def _trial(self, tuning: Tuning, number: int, tried: Try) -> Trial:
        """A fit that came to its end counts, however long it took: whether a machine was busy is to choose nothing."""
        scores: dict[int, float] = {}
        failures: dict[int, str] = {}
        seconds = 0.0
        for seed in SEEDS:
            unfit = self._unfit.get((tried.config_hash, seed))
            record = self._score(tuning, tried.config_hash, seed)
            if record is not None:
                fit = self._fits.get(record["identity"]["fit"])
                took = fit["values"].get("fit_seconds", 0.0) if fit and fit["status"] == "ok" else 0.0
                seconds += took + record.get("seconds", 0.0)
                value = record["values"].get("fd", math.inf) if record["status"] == "ok" else math.inf
                scores[seed] = float(value) if math.isfinite(value) else math.inf
                if scores[seed] == math.inf:
                    failures[seed] = str(record.get("reason", "no number"))
            elif unfit is not None:
                scores[seed], failures[seed] = math.inf, f"{unfit['status']}: {unfit['reason']}"
        return Trial(number, tried.settings, tried.config_hash, scores, seconds, failures)

    def _score(self, tuning: Tuning, config_hash: str, seed: int) -> Record | None:
        return next((r for r in self._scores.get((config_hash, seed), []) if _is_of(r, tuning)), None)

    def _find_ends(self, tuning: Tuning) -> tuple[float, float] | None:
        found = []
        for name in ("gaussian", "aggregate_posterior"):
            values = [
                record["values"]["fd"]
                for record in self._ends.get((tuning.bundle, name), [])
                if record["status"] == "ok"
                and record["row"]["device"] == tuning.device
                and record["row"].get("groups") == tuning.groups
                and _is_of(record, tuning)
            ]
            found.append(statistics.fmean(values) if values else math.nan)
        worst, best = found
        return (worst, best) if math.isfinite(worst) and math.isfinite(best) else None


def longest_fit(recipe: float) -> float:
    """Seconds after which a trial's fit is ended, where the recipe's took so many."""
    return LONGEST * recipe + GRACE


def _is_of(record: Record, tuning: Tuning) -> bool:
    """Whether an FD was measured as this tuning's are."""
    identity, asked = record["identity"], tuning.identity["fd"]
    return bool(identity["metric"] == asked["metric"] and identity["settings"] == asked["settings"])
