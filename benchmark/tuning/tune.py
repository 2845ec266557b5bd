"""Tuning: the same number of trials for every prior, each an ordinary record on the validation split.

In stages, each of which any number of shells may share, and which a further call finds done:

1. the recipe of every prior, by whose time the others' is limited;
2. the points of its search space, all with one tuning seed;
3. the best few with two more tuning seeds; the lowest mean wins;
4. the winner's fits with other settings of sampling, four of which cost one trial.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

from benchmark.bundles.group_draws import describe_partial
from benchmark.coordinator import do_jobs, dry_run
from benchmark.errors import UsageError
from benchmark.jobs.identity import Job, Row
from benchmark.jobs.pending import identity_of
from benchmark.jobs.plan import Unplannable, describe_space, find_asked, make_jobs, make_prior_row
from benchmark.metrics.api import AGGREGATE_POSTERIOR
from benchmark.names import open_registry
from benchmark.progress import say
from benchmark.registry import Registry
from benchmark.report.board import Board
from benchmark.report.choice import SEEDS, Judged, judge, longest_fit
from benchmark.request import ReferenceOf, Request, Resolved, resolve, stored_reference
from benchmark.store.places import lock, sharing
from benchmark.store.tunings import Try, Tuning, read_tunings
from benchmark.tuning.points import Space, alternatives, trial_settings

#: so many choices of sampling settings cost one trial, for they need no fit
SAMPLED_PER_TRIAL = 4


@dataclass
class _Entrant:
    """A prior that is tuned: its plan, and the row of each trial."""

    tuning: Tuning
    rows: list[Row]
    judged: Judged | None = None

    @property
    def found(self) -> Judged:
        assert self.judged is not None, "it is judged after each stage"
        return self.judged


def tune(request: Request, trials: int, seed: int) -> list[Judged]:
    """Do every trial that is not recorded; what came of each prior, in the order in which they were asked for.

    `request.priors`: names with settings that stay as they are; None for all that have a search space. Raises
    `UsageError` for a prior that has none. The settings that win are noted in the results folder.
    """
    resolved, entrants = _plan(request, trials, seed)
    with sharing(resolved.results if resolved.shared else None):
        return _tuned(resolved, entrants)


def _tuned(resolved: Resolved, entrants: list[_Entrant]) -> list[Judged]:
    """The stages, one after the other. Each ends when all of its jobs are done, whoever is at them."""
    _note(resolved, [entrant.tuning for entrant in entrants])
    stages = _Stages(resolved, entrants)
    stages.run("recipes", [([entrant.rows[0]], SEEDS[:1], math.inf) for entrant in entrants])
    stages.run("trials", [(entrant.rows, SEEDS[:1], _limit(entrant)) for entrant in entrants])
    finals = [[entrant.rows[trial.number] for trial in entrant.found.finalists] for entrant in entrants]
    stages.run("finalists", [(rows, SEEDS, math.inf) for rows in finals])
    for place, entrant in enumerate(entrants):
        entrants[place] = _with_alternatives(resolved, entrant)
    _note(resolved, [entrant.tuning for entrant in entrants])
    sampled = [entrant.rows[len(entrant.tuning.trials) :] for entrant in entrants]
    stages.run("sampling", [(rows, SEEDS, math.inf) for rows in sampled])
    stages.board.write()
    stages.board.draw()
    return [entrant.found for entrant in entrants]


def show_plan(request: Request, trials: int, seed: int) -> str:
    """What `tune` would try first, and about how long that takes by what is recorded; finalists come after it."""
    resolved, entrants = _plan(request, trials, seed, stored_reference)
    rows = [row for entrant in entrants for row in entrant.rows]
    return dry_run(_with_jobs(resolved, [(rows, SEEDS[:1], math.inf)]))


def _plan(
    request: Request, trials: int, seed: int, reference_of: ReferenceOf | None = None
) -> tuple[Resolved, list[_Entrant]]:
    """What all trials share, and who is tuned."""
    registry = open_registry(request.plugins, apart=True)
    fixed: dict[str, Any] = {"priors": (), "seeds": SEEDS[:1], "split": "val", "metrics": ("fd",), "settings": "recipe"}
    executor = request.executor or "processes"  # which can end a trial that takes too long
    resolved = resolve(request.model_copy(update={**fixed, "executor": executor}), registry, reference_of)
    always = [job for job in resolved.jobs if job.row.prior or job.row.name == AGGREGATE_POSTERIOR]
    if draws := describe_partial(resolved.work.bundle):
        say(draws)
    resolved = replace(resolved, jobs=always, notes=[])
    entrants = []
    for name, base, space in _choose(registry, request):
        try:
            entrants.append(_enter(resolved, name, base, space, trials, seed))
        except Unplannable as error:
            if _is_named(name, request):
                raise
            say(f"left out: {error}")
    if not entrants:
        raise UsageError("no prior here has settings to be tuned on these latents: name one with --priors")
    return resolved, entrants


def _choose(registry: Registry, request: Request) -> list[tuple[str, dict[str, Any], Space]]:
    """The priors with the settings that stay, and what is left of their search spaces."""
    chosen = []
    for name, base in find_asked(registry, request.priors):
        space = {setting: of for setting, of in describe_space(registry, name).items() if setting not in base}
        if space:
            chosen.append((name, base, space))
        elif _is_named(name, request):
            left = " but for what is set already" if base else ""
            raise UsageError(f"prior {name} has no search space{left}: nothing to tune (`space` of its class)")
    if not chosen:
        raise UsageError("none of these priors has a search space: there is nothing to tune")
    return chosen


def _is_named(name: str, request: Request) -> bool:
    """Whether a prior was asked for by its own name, and not as one of several."""
    return request.priors is not None and any(name == asked for asked, _ in request.priors)


def _enter(resolved: Resolved, name: str, base: dict[str, Any], space: Space, trials: int, seed: int) -> _Entrant:
    """The plan of one prior."""
    work = resolved.work
    recipe = _row(resolved, name, base)
    assert recipe.config is not None, "a prior's row"
    of_fit, of_sampling = ({s: of for s, of in space.items() if of["sampling"] == kind} for kind in (False, True))
    others = alternatives(of_sampling, recipe.config)
    points = max(trials - math.ceil(len(others) / SAMPLED_PER_TRIAL), 1) if of_fit else 0
    settings = [trial_settings(of_fit, seed, number) for number in range(points + 1)]
    rows = [_row(resolved, name, {**base, **each}) for each in settings]
    job = _job(resolved, recipe)
    measured = identity_of(job, resolved.work.metrics[0], work)
    facts = job.facts()
    identity = {
        "bundle": work.bundle.id,
        "prior": recipe.identity,
        "base": base,
        "space": space,
        "seed": seed,
        "budget": work.protocol.budget,
        "device": work.device.type,
        "fd": {"metric": measured["metric"], "settings": measured["settings"]},
    }
    if work.protocol.groups is not None:
        identity["groups"] = work.protocol.groups
    tuning = Tuning(
        identity=identity,
        dataset=facts["dataset"],
        backbone=facts["backbone"],
        backbone_seed=facts["backbone_seed"],
        protocol=work.protocol.hash[:16],
        score=work.protocol.score,
        label=recipe.label,
        prior=name,
        allowed=trials,
        trials=[_try(resolved, each, row) for each, row in zip(settings, rows, strict=True)],
        alternatives=others,
        sampled=[],
        time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    return _Entrant(tuning, rows)


def _with_alternatives(resolved: Resolved, entrant: _Entrant) -> _Entrant:
    """The plan with the winner's other settings of sampling, where there are any and a winner."""
    tuning, winner = entrant.tuning, entrant.found.winner
    if winner is None or not tuning.alternatives:
        return entrant
    settings = [{**winner.settings, **other} for other in tuning.alternatives]
    rows = [_row(resolved, tuning.prior, {**tuning.base, **each}) for each in settings]
    sampled = [_try(resolved, each, row) for each, row in zip(settings, rows, strict=True)]
    tried = entrant.rows[: len(tuning.trials)]
    return replace(entrant, tuning=tuning.model_copy(update={"sampled": sampled}), rows=tried + rows)


def _row(resolved: Resolved, name: str, settings: dict[str, Any]) -> Row:
    work = resolved.work
    return make_prior_row(work.registry, name, settings, work.bundle, work.protocol.budget)


def _job(resolved: Resolved, row: Row) -> Job:
    work = resolved.work
    return Job(row, work.bundle, SEEDS[0], work.protocol.budget, work.device.type)


def _try(resolved: Resolved, settings: dict[str, Any], row: Row) -> Try:
    return Try(settings=settings, config_hash=_job(resolved, row).facts()["config_hash"])


def _note(resolved: Resolved, tunings: list[Tuning]) -> None:
    """Write the plans; one that is there as it would be written stays as it is."""
    with lock(f"tunings-{resolved.work.bundle.id[:16]}"):  # nobody's plan is written over
        present = {plan.id: plan for plan in read_tunings(resolved.results)[0]}
        for tuning in tunings:
            known = present.get(tuning.id)
            kept = known and known.sampled and not tuning.sampled and known.trials == tuning.trials
            if known and kept:  # another shell, or this one earlier, is ahead
                tuning = tuning.model_copy(update={"sampled": known.sampled})
            if known is None or known.model_copy(update={"time": tuning.time}) != tuning:
                tuning.save(resolved.results)


def _limit(entrant: _Entrant) -> float:
    """Seconds that a trial may take, by those of the recipe; any where the recipe itself failed."""
    seconds = entrant.found.recipe.seconds
    return longest_fit(seconds) if seconds else math.inf


Rows = tuple[list[Row], tuple[int, ...], float]


def _with_jobs(resolved: Resolved, asked: list[Rows]) -> Resolved:
    """The same with the jobs of these rows and seeds, beside those of the rows that are always there."""
    work = resolved.work
    jobs: list[Job] = []
    for seed in sorted({seed for rows, seeds, _ in asked for seed in seeds if rows}):
        rows = [job.row for job in resolved.jobs] + [row for of, seeds, _ in asked if seed in seeds for row in of]
        unique = {row.label: row for row in rows}
        jobs += make_jobs(list(unique.values()), work.bundle, (seed,), work.protocol.budget, work.device.type)
    limits = {row.label: limit for rows, _, limit in asked for row in rows if math.isfinite(limit)}
    return replace(resolved, jobs=jobs, limits=limits)


class _Stages:
    """Runs the stages, and judges the entrants after each."""

    def __init__(self, resolved: Resolved, entrants: list[_Entrant]) -> None:
        self._resolved, self._entrants = resolved, entrants
        self.board = Board(resolved.results, resolved.ledger.store)

    def run(self, what: str, asked: list[Rows]) -> None:
        """Do the jobs of a stage, if it has any."""
        if any(rows for rows, _, _ in asked):
            say(f"tuning, {what}:")
            do_jobs(_with_jobs(self._resolved, asked), self.board)
        records, _ = self._resolved.ledger.store.all()
        for entrant in self._entrants:
            entrant.judged = judge(entrant.tuning, records)
