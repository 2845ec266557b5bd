"""What tuning shows: what was chosen, what trials bring and cost, which settings matter, and whether orders changed."""

from __future__ import annotations

import math
import re
import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from benchmark.report.best_of import expected_best
from benchmark.report.choice import FINALISTS, GRACE, LONGEST, SEEDS, Judged, Trial
from benchmark.report.columns import format_share, format_short
from benchmark.report.markdown_table import as_grid
from benchmark.report.names import name_groups
from benchmark.report.statistics import RANKED_FROM, Gap, Interval, paired_difference, spearman
from benchmark.report.tables import Table
from benchmark.settings import format_value
from benchmark.store.tunings import STAR
from benchmark.text import in_code, in_markdown

#: numbers of trials at which priors are ranked
AT = (1, 4, 16)
RULE = (
    f"A prior's budget is a number of trials, the same for each: points of its search space, by a scrambled Sobol "
    f"sequence, beside its recipe (trial 0). Each is fitted with tuning seed {SEEDS[0]} and scored by its FD on the "
    f"validation split; the best {FINALISTS} are fitted with two more, and the lowest mean of the three is chosen. "
    "Settings of sampling are tried on the winner's fits, and four of them cost a trial. A trial that fails, diverges "
    f"or is ended after {LONGEST:g} times the seconds of the recipe's fit and {GRACE:g} more is spent. Nothing here is "
    "measured on test; what is chosen is fitted anew with seeds from 0 on, and stands in tables of its own as `prior*`."
)


@dataclass(frozen=True)
class Tuned:
    """The tunings of one bundle's latent groups by one score on one type of device, the best on val first."""

    name: str
    judged: list[Judged]

    @property
    def vae(self) -> str:
        """The VAE and those of its groups that are latents, with the budget where it is not the full one."""
        plan = self.judged[0].tuning
        groups = f", {name_groups(plan.groups)}" if plan.groups else ""
        budget = "" if plan.identity["budget"] == "full" else f", {plan.identity['budget']} budget"
        return f"{plan.dataset}, {plan.backbone} seed {plan.backbone_seed}{groups}{budget}"

    @property
    def title(self) -> str:
        plan = self.judged[0].tuning
        device = "" if plan.device == "cpu" else f", {plan.device}"
        return f"{self.vae}, val split, {plan.score}{device}"


def group_tunings(judged: list[Judged]) -> list[Tuned]:
    """By what they can be compared in."""
    groups: dict[tuple[str, ...], list[Judged]] = defaultdict(list)
    for each in judged:
        plan = each.tuning
        latents = name_groups(plan.groups).replace(" ", "") if plan.groups else ""
        groups[plan.dataset, plan.backbone, latents, plan.device, plan.bundle, plan.protocol].append(each)
    found = []
    for key, members in sorted(groups.items()):
        dataset, backbone, latents, device, bundle, protocol = key
        alike = [other for other in groups if other[:4] == key[:4]]
        words = [dataset, backbone, *([latents] if latents else [])]
        words += [bundle[:8], protocol[:8]] if len(alike) > 1 else []
        words += [] if device == "cpu" else [device]
        members.sort(key=lambda each: (_best(each), each.tuning.label))
        found.append(Tuned(re.sub(r"[^\w.-]+", "_", "-".join(words), flags=re.ASCII), members))
    return found


def scores_of(judged: Judged) -> list[float]:
    """FD of every trial with the first seed; one that is spent leaves N(0, I), which needs none."""
    scores = [trial.score for trial in judged.trials if trial.score is not None]
    worst = judged.ends[0] if judged.ends else max(filter(math.isfinite, scores), default=math.nan)
    return [score if math.isfinite(score) else worst for score in scores]


def minutes_of(judged: Judged) -> float:
    """Core-minutes of a trial, on average."""
    return statistics.fmean(trial.seconds / max(len(trial.scores), 1) for trial in judged.trials) / 60


def curves_file(tuned: Tuned) -> str:
    """The picture of what trials bring and cost, in a results folder."""
    return f"tuning/{tuned.name}-trials.png"


def settings_file(tuned: Tuned) -> str:
    """The picture of FD against each setting."""
    return f"tuning/{tuned.name}-settings.png"


def tuning_markdown(groups: list[Tuned], tables: list[Table]) -> str:
    """The sections of all groups."""
    lines = [RULE, ""]
    for tuned in groups:
        lines += [f"## {in_markdown(tuned.title)}", ""]
        lines += _changes(tuned, tables)
        lines += ["What was chosen, % of the gap on val closed, and what it cost:", "", _chosen(tuned), ""]
        lines += [f"- {in_markdown(sentence)}" for sentence in _spent(tuned)]
        lines += ["", "Best of k trials, expected, % of the gap on val closed, and the priors' ranks by it:", ""]
        lines += [_expected(tuned), "", f"![what trials bring and cost]({curves_file(tuned)})", ""]
        lines += ["How FD goes with each setting over all trials (Spearman's rho; of few trials a small one is noise):"]
        lines += ["", _sensitivity(tuned), "", f"![FD against each setting]({settings_file(tuned)})", ""]
    return "\n".join(lines)


def summary_of(judged: list[Judged]) -> str:
    """What `tune` prints at its end."""
    lines = []
    for tuned in group_tunings(judged):
        lines += [f"## {in_markdown(tuned.title)}", "", _chosen(tuned), "", *(f"- {s}" for s in _spent(tuned)), ""]
    return "\n".join(lines)


def _chosen(tuned: Tuned) -> str:
    header = [
        "prior",
        "recipe",
        "chosen",
        f"gain, seed {SEEDS[0]}",
        "quartiles of trials",
        "spent",
        "trials",
        "core-min",
    ]
    header += ["settings chosen"]
    body = []
    for each in tuned.judged:
        best, closed = each.chosen, [each.closed(score) for score in scores_of(each)]
        values = [100 * share for share in closed if not math.isnan(share)]  # nan, all of them, where there is no gap
        through = [trial for trial in each.trials if trial.score is not None]
        first = each.recipe.score
        gained = math.nan
        if best is not None and best.score is not None and first is not None and math.isfinite(first):
            gained = 100 * (each.closed(best.score) - each.closed(first))
        quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else []
        body.append(
            [
                in_markdown(each.tuning.label),
                _share(each, each.recipe),
                _share(each, best) if best else "none fits" if each.spent else "not through",
                "" if math.isnan(gained) else f"{gained:.1f}",
                " / ".join(f"{value:.1f}" for value in quartiles),
                str(sum(not _is_fit(trial) for trial in through)),
                f"{sum(trial.number > 0 for trial in through)} of {len(each.trials) - 1}",
                format_short(each.seconds / 60),
                in_markdown(describe_settings(best.settings)) if best else "",
            ]
        )
    return as_grid(header, body)


def _share(judged: Judged, trial: Trial) -> str:
    """Of the gap: the mean over the tuning seeds that a trial has, and how many where not all."""
    scores = [score for score in trial.scores.values() if math.isfinite(score)]
    if not scores or len(scores) < len(trial.scores):
        return "spent" if trial.scores else ""
    seeds = "" if len(scores) == len(SEEDS) else f" ({len(scores)} seed{'s' if len(scores) > 1 else ''})"
    closed = judged.closed(statistics.fmean(scores))
    return "no gap" if math.isnan(closed) else f"{100 * closed:.1f}{seeds}"


def _spent(tuned: Tuned) -> list[str]:
    """Why trials failed, a sentence each."""
    return [
        f"{each.tuning.label}, trial {trial.number} ({describe_settings(trial.settings)}): {trial.failures[SEEDS[0]]}"
        for each in tuned.judged
        for trial in each.trials
        if SEEDS[0] in trial.failures
    ]


def _expected(tuned: Tuned) -> str:
    scores = {each.tuning.label: scores_of(each) for each in tuned.judged}
    steps = sorted({min(k, max(map(len, scores.values()))) for k in AT})
    ranks = {k: _ranks({label: expected_best(values, k) for label, values in scores.items()}) for k in steps}
    body = []
    for each in tuned.judged:
        label, cost = each.tuning.label, minutes_of(each)
        cells = [100 * each.closed(expected_best(scores[label], k)) for k in steps]
        body.append(
            [
                in_markdown(label),
                *("" if math.isnan(cell) else f"{cell:.1f}" for cell in cells),
                *(str(ranks[k].get(label, "")) for k in steps),
                *(format_short(k * cost) for k in steps),
            ]
        )
    header = ["prior", *(f"best of {k}" for k in steps), *(f"rank at {k}" for k in steps)]
    return as_grid([*header, *(f"core-min for {k}" for k in steps)], body)


def _ranks(values: dict[str, float]) -> dict[str, int]:
    there = sorted((value, label) for label, value in values.items() if not math.isnan(value))
    return {label: place for place, (_, label) in enumerate(there, 1)}


def _sensitivity(tuned: Tuned) -> str:
    body = []
    for each in tuned.judged:
        fit = [trial for trial in each.trials[1:] if _is_fit(trial)]
        for name, of in each.tuning.identity["space"].items():
            if of["sampling"]:
                continue
            values = [trial.settings[name] for trial in fit]
            told = len(values) > 2 and all(map(_is_number, values))
            rho = spearman(values, [trial.score for trial in fit if trial.score is not None]) if told else math.nan
            best = each.chosen.settings.get(name) if each.chosen else None
            body.append(
                [
                    f"{in_markdown(each.tuning.label)}: {in_code(name)}",
                    in_markdown(describe_range(of)),
                    "" if math.isnan(rho) else f"{rho:+.2f}",
                    "" if each.chosen is None else "the recipe's" if best is None else in_markdown(format_value(best)),
                    in_markdown(of["why"]),
                ]
            )
    return as_grid(["prior: setting", "tried", "rho with FD", "chosen", "why this range"], body)


@dataclass(frozen=True)
class Change:
    """A prior on test by its recipe and by the settings that were chosen, with the same seeds.

    `recipe`, `tuned`: shares of the gap closed; None of a recipe that is not scored. `difference`: of FD, tuned less
    recipe, with its 95 % interval, paired by seed; None of fewer than two. `values`: means of the two FDs, by which
    orders are told.
    """

    label: str
    recipe: Gap | None
    tuned: Gap | None
    difference: Interval | None
    seeds: int
    values: tuple[float, float]


def changes_of(tuned: Tuned, tables: list[Table]) -> list[Change]:
    """What tuning changed, the best tuned row first; none where tuned rows, or no recipes, are scored on test."""
    device = tuned.judged[0].tuning.device
    alike = [table for table in _of_same(tuned, tables) if table.device == device]
    recipes, of_tuned = ([table for table in alike if bool(table.protocol.settings) == kind] for kind in (False, True))
    pairs = [(one, other) for one in recipes for other in of_tuned if _same(one, other)]
    changes = [_change(label, *pairs[-1]) for label in pairs[-1][1].fd] if pairs else []
    return sorted(changes, key=lambda each: each.values[1])


def find_recipe_elsewhere(label: str, tuned: Tuned, tables: list[Table]) -> Gap | None:
    """The share of the gap that a recipe closes on another type of device; None where it is scored on none."""
    device = tuned.judged[0].tuning.device
    for table in _of_same(tuned, tables):
        if table.device != device and not table.protocol.settings and label in table.fd:
            return table.gap_closed(table.rows[label])[0]
    return None


def _of_same(tuned: Tuned, tables: list[Table]) -> list[Table]:
    """The tables of the test split that tell, on whatever device, of what was tuned, by the same score."""
    plan = tuned.judged[0].tuning
    return [
        table
        for table in tables
        if (table.bundle, table.protocol.split) == (plan.bundle, "test")
        and table.protocol.groups == plan.groups
        and table.protocol.extractor == plan.extractor
        and table.protocol.budget == plan.identity["budget"]
    ]


def _change(starred: str, before: Table, after: Table) -> Change:
    label = starred.removesuffix(STAR)
    of_tuned, of_recipe = after.fd[starred], before.fd.get(label, {})
    seeds = sorted(set(of_recipe) & set(of_tuned))
    return Change(
        label,
        before.gap_closed(before.rows[label])[0] if of_recipe else None,
        after.gap_closed(after.rows[starred])[0],
        paired_difference(*([of[seed] for seed in seeds] for of in (of_tuned, of_recipe))) if len(seeds) > 1 else None,
        len(seeds),
        (statistics.fmean(of_recipe.values()) if of_recipe else math.nan, statistics.fmean(of_tuned.values())),
    )


def _changes(tuned: Tuned, tables: list[Table]) -> list[str]:
    """The board of tuned rows beside that of recipes, where there are both."""
    changes = changes_of(tuned, tables)
    if not changes:
        return []
    from scipy import stats

    body = [
        [
            in_markdown(each.label),
            format_share(each.recipe, ""),
            format_share(each.tuned, ""),
            format_change(each),
            str(each.seeds),
        ]
        for each in changes
    ]
    score = tuned.judged[0].tuning.score
    header = ["prior", "recipe, gap closed %", "tuned, gap closed %", f"{score}, tuned - recipe", "seeds"]
    lines = ["On test, with seeds that chose nothing:", "", as_grid(header, body), ""]
    paired = [each for each in changes if each.seeds >= RANKED_FROM]
    if len(paired) > 2:
        order = [each.label for each in paired]
        ranked = [each.label for each in sorted(paired, key=lambda each: each.values[0])]
        tau = stats.kendalltau([ranked.index(label) for label in order], range(len(order))).statistic
        lines += [f"Order by recipes: {_listed(ranked)}.\\", f"Order when tuned: {_listed(order)}.\\"]
        lines += [f"Kendall's τ between the two: {tau:.2f}.", ""]
    return lines


def format_change(change: Change) -> str:
    """The difference of FD with its interval; blank of a single seed."""
    if change.difference is None:
        return ""
    mean, low, high = change.difference
    return f"{mean:+.3g} [{low:+.3g}, {high:+.3g}]"


def _same(one: Table, other: Table) -> bool:
    """Whether two tables differ in nothing but whether settings were tuned."""
    return one.protocol.model_dump(exclude={"settings"}) == other.protocol.model_dump(exclude={"settings"})


def _listed(labels: list[str]) -> str:
    return ", ".join(map(in_markdown, labels))


def _best(judged: Judged) -> float:
    if judged.chosen is not None and judged.chosen.mean is not None:
        return judged.chosen.mean
    return min(scores_of(judged), default=math.inf)


def _is_fit(trial: Trial) -> bool:
    return trial.score is not None and math.isfinite(trial.score)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def describe_settings(settings: dict[str, Any]) -> str:
    """As one would type them; `the recipe` where there are none."""
    return ", ".join(f"{name}={format_value(value)}" for name, value in settings.items()) or "the recipe"


def describe_range(of: dict[str, Any]) -> str:
    """A range of a search space in words."""
    if "values" in of:
        return ", ".join(map(format_value, of["values"]))
    return f"{format_value(of['low'])} to {format_value(of['high'])}"
