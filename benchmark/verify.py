"""A random share of the recorded scores computed again from scratch, and held against the records.

What is drawn is a fit, with every score that was measured of it (a seed of a reference row counts as one): a tenth of
the fits costs about a tenth of the time that they took, where a tenth of the scores would refit nearly everything.
Of the cache nothing but bundles is used, whose hash is part of every record's identity, and of references those that
lie beside a bundle. Timings belong to a moment and are not verified.

A value agrees where it is the same up to `EXACT`. Fit and score repeat bit for bit where packages, processor and
threads are those of the records, and there anything else is a disagreement; so the threads are set to those of the
record. Elsewhere, and on a GPU, whose sums have no fixed order and whose noise is another model's another, training
amplifies the last digit, and at worst the same seed gives what another would. There a value agrees where it moved no
further than two seeds of its row lie apart:
    |recorded - here| <= t sqrt(2) s,    s the standard deviation of the row's n other seeds,
t the two-sided quantile at `CONFIDENCE` of Student's distribution with n - 1 degrees of freedom. (Three deviations
would flag every eighth honest value of five seeds.) Where n < 2 or s = 0, and for pictures, nothing can be said.
"""

from __future__ import annotations

import math
import os
import random
import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from benchmark.bundles.bundle import Bundle
from benchmark.bundles.find import all_bundles
from benchmark.bundles.reference import Reference, find_reference, reference_command
from benchmark.datasets.api import Dataset
from benchmark.errors import UsageError
from benchmark.extractors.api import Extractor, Unavailable
from benchmark.jobs.identity import Job, class_identity
from benchmark.jobs.pending import Ledger, identity_of
from benchmark.jobs.plan import complete_settings
from benchmark.jobs.reference_rows import REFERENCES
from benchmark.jobs.task import Listener, Outcome, Task, execute
from benchmark.jobs.workspace import Workspace
from benchmark.machine.arithmetic import require_float32
from benchmark.metrics.api import FIT, Metric
from benchmark.metrics.samples import from_png
from benchmark.progress import say
from benchmark.registry import Registry
from benchmark.request import ReferenceOf, Request, resolve
from benchmark.settings import construct
from benchmark.store.places import fresh_cache
from benchmark.store.records import RecordStore, record_id
from benchmark.store.sealed import Damaged, content_hash

EXACT = 1e-6  # relative
CONFIDENCE = 0.99  # of the interval in which two seeds of a row differ

#: verdicts, from the best to the worst, with their words in the summary
VERDICTS = {
    "equal": "equal",
    "within": "within tolerance",
    "unknown": "cannot be verified",
    "DISAGREES": "disagree",
}


class Unverifiable(Exception):
    """A record that cannot be computed again here, or by this version of the code; the message says why."""


@dataclass(frozen=True)
class Finding:
    """What became of one record: one of `VERDICTS`, and a sentence where there is more to say."""

    record: dict[str, Any]
    verdict: str
    detail: str

    @property
    def said(self) -> tuple[str, str, str]:
        """Verdict, what of, and the sentence: one line for neighbours that have them in common."""
        row = self.record["row"]
        return self.verdict, f"{row['dataset']} {row['backbone']} {row['label']} seed {row['seed']}", self.detail


def describe(findings: list[Finding]) -> str:
    """One line of findings of which the same is said."""
    verdict, subject, detail = findings[0].said
    kinds = ", ".join(finding.record["kind"] for finding in findings)
    return f"{verdict:9} {subject}: {kinds}{detail and ': '}{detail}"


@dataclass(frozen=True)
class Recipe:
    """What computes a record again: its job, the metric, and what jobs share."""

    record: dict[str, Any]
    job: Job
    metric: Metric
    work: Workspace


def verify(registry: Registry, results: Path, share: float, seed: int) -> Iterator[Finding]:
    """Compute a share of the recorded scores again, in the order of the draw: what is interrupted is a share too.

    `share`: above 0; of the smallest one fit, or a seed of a reference row, is drawn.
    """
    require_float32()
    records, damaged = RecordStore(results / "records").all()
    for sentence in damaged:
        say(f"left out: {sentence}")
    groups = group_by_fit(records)
    if not groups:
        raise UsageError(f"{results}: no scores here to verify")
    fits = {record["id"]: record for record in records if record["kind"] == "fit"}
    values = group_by_row(records)
    bundles = {bundle.id[:16]: bundle for bundle in all_bundles()[0].values()}
    chosen, plans = draw_share(groups, share, seed), []
    with fresh_cache():
        for fit in chosen:
            recipes, findings = [], []
            for record in groups[fit]:
                try:
                    recipes.append(make_recipe(record, fits.get(fit), registry, bundles))
                except (Unverifiable, UsageError, Unavailable, Damaged) as error:
                    findings.append(Finding(record, "unknown", str(error)))
            plans.append((fit, recipes, findings))
    again = [fit for fit, recipes, _ in plans if recipes and recipes[0].job.row.prior]
    seconds = [fits[fit]["values"]["fit_seconds"] for fit in again if fit in fits and fits[fit]["status"] == "ok"]
    count = sum(len(groups[fit]) for fit in chosen)
    say(f"{count} scores of {len(chosen)} drawn from {len(groups)} fits and reference rows; {len(again)} to fit again")
    if seconds:
        say(f"these fits took {sum(seconds):,.0f} s when they were recorded")
    for fit, recipes, findings in plans:
        yield from findings
        if recipes:
            yield from _compared(recipes, fits.get(fit), values)


def group_by_fit(records: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Fit id -> the scores measured of it: records that are fine and bound to no machine."""
    groups = defaultdict(list)
    for record in records:
        if record["kind"] != "fit" and record["status"] == "ok" and "machine" not in record["identity"]:
            groups[record["identity"]["fit"]].append(record)
    return dict(groups)


def draw_share(groups: dict[str, Any], share: float, seed: int) -> list[str]:
    """A share of the keys, at least one, in random order; the seed and the keys decide which."""
    return random.Random(seed).sample(sorted(groups), max(1, round(share * len(groups))))


def group_by_row(records: list[dict[str, Any]]) -> dict[str, dict[int, dict[str, Any]]]:
    """What seeds of one row have in common (see `_row`) -> seed -> facts."""
    values: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for record in records:
        if record["status"] == "ok":
            values[_row(record)][record["row"]["seed"]] = _facts(record)
    return values


def _row(record: dict[str, Any]) -> str:
    """What all seeds of a measurement (or a fit) share; `config_hash` is of bundle, prior, settings and device."""
    identity = record["identity"]
    shared = {name: value for name, value in identity.items() if name not in ("fit", "seed")}
    return content_hash([shared, None if record["kind"] == "fit" else record["row"]["config_hash"]])


def _facts(record: dict[str, Any]) -> dict[str, Any]:
    """Values of a record that are to come out again: a clock's are not."""
    facts = {name: value for name, value in record["values"].items() if name != "fit_seconds"}
    return facts | ({"parameters": record["parameters"]} if record["kind"] == "fit" else {})


def make_recipe(
    record: dict[str, Any], fit: dict[str, Any] | None, registry: Registry, bundles: dict[str, Bundle]
) -> Recipe:
    """From a record alone. Raises `Unverifiable`, or what its parts raise, where the code's id is not the record's."""
    row, identity = record["row"], record["identity"]
    if row["bundle"] not in bundles:
        raise Unverifiable(f"bundle {row['bundle']} is not here")
    if row["device"] == "cuda" and not torch.cuda.is_available():
        raise Unverifiable("made on cuda, which this machine does not have")
    if "extractor" in identity["settings"]:  # raises where its weights are not here, so that no other stands in
        registry.get("extractor", identity["settings"]["extractor"]["name"])().identity()
    resolved = resolve(
        _request(record, bundles[row["bundle"]], registry),
        registry,
        _stored_reference(identity),
        {name: value for name, value in identity["settings"].items() if name != "extractor"},
    )
    job = next((job for job in reversed(resolved.jobs) if job.row.name == row["prior"]), None)
    if job is None:
        unseen = "what the extractor saw in full reconstructions is not beside the bundle"
        raise Unverifiable("; ".join(resolved.left_out) or unseen)
    (metric,) = resolved.work.metrics
    settings = resolved.work.protocol.part(metric.reads)
    here = job.measurement_identity(class_identity(registry, type(metric)), settings, None)
    if record_id(here) != record["id"]:
        if fit is not None and identity["fit"] != job.fit_id:
            identity, here = {**identity, "fit": fit["identity"]}, {**here, "fit": job.fit_identity}
        raise Unverifiable(find_difference(identity, here))
    return Recipe(record, job, metric, resolved.work)


def _request(record: dict[str, Any], bundle: Bundle, registry: Registry) -> Request:
    """What would have made a record."""
    row, settings = record["row"], record["identity"]["settings"]
    priors: tuple[tuple[str, dict[str, Any]], ...] = ()
    if row["prior"] not in REFERENCES:
        # a setting that the record does not name had its default
        priors = ((row["prior"], complete_settings(registry, row["prior"], row["config"])),)
    given = {
        "priors": priors,
        "backbone": bundle.backbone_name,
        "bundle": str(bundle.path),
        "seeds": (row["seed"],),
        "budget": row["budget"],
        "split": settings.get("split", "test"),
        "groups": row["groups"]["chosen"] if "groups" in row else None,
        "extractor": settings.get("extractor", {}).get("name"),
        "metrics": (record["kind"],),
        "device": row["device"],
    }
    return construct(Request, given, "record")


def _stored_reference(identity: dict[str, Any]) -> ReferenceOf:
    """What finds the reference that lies beside a bundle, for a score that needs one. Raises `Unverifiable`."""

    def reference_of(bundle: Bundle, dataset: Dataset | None, extractor: Extractor, split: str) -> Reference | None:
        if "extractor" not in identity["settings"]:
            return None
        reference = find_reference(bundle, extractor, split)
        if reference is None:
            raise Unverifiable(
                f"no {extractor.name} reference of the {split} split beside the bundle; make it with: "
                f"{reference_command(bundle, extractor, split, bundle.path / 'reference')}"
            )
        return reference

    return reference_of


def find_difference(recorded: dict[str, Any], here: dict[str, Any], at: str = "") -> str:
    """The first entry in which two identities differ."""
    key = next(key for key in sorted({*recorded, *here}) if recorded.get(key) != here.get(key))
    one, other = recorded.get(key), here.get(key)
    if isinstance(one, dict) and isinstance(other, dict):
        return find_difference(one, other, f"{at}{key}.")
    return f"its {at}{key} is {one}, and {other} here"


def _compared(
    recipes: list[Recipe],
    fit: dict[str, Any] | None,
    values: dict[str, dict[int, dict[str, Any]]],
) -> Iterator[Finding]:
    """Fit once, measure all, and hold each record against what came out."""
    job, same, fits_here = recipes[0].job, True, True
    with fresh_cache() as cache:
        store = RecordStore(cache / "records")
        if job.row.prior:
            threads = (fit or recipes[0].record)["provenance"]["threads"]
            outcome = _compute(recipes[0], [], store, threads)
            made = store.get(job.facts(), "fit", job.fit_id)
            if made is None:  # a fault of this machine, which is no word on the record
                said = "; ".join(outcome.failures)
                yield from (Finding(each, "unknown", said) for each in [fit, *(r.record for r in recipes)] if each)
                return
            fits_here = made["status"] == "ok"
            same = fit is not None and _same_machine(fit, made)
            if fit is not None:
                yield _judged(fit, made, same, values)
        for each in recipes:
            record = each.record
            outcome = _compute(each, [each.metric], store, record["provenance"]["threads"])
            made = store.get(each.job.facts(), each.metric.name, record["id"])
            if outcome.failures:
                fault = made is None and fits_here
                verdict = "unknown" if fault else "DISAGREES"
                yield Finding(record, verdict, f"fails here: {'; '.join(outcome.failures)}")
            elif made is None:
                lacking = "what this metric needs, such as the reference of training images, is not beside the bundle"
                gone = f"{cache} was emptied meanwhile: name another temporary folder with TMPDIR"
                yield Finding(record, "unknown", gone if outcome.measured else lacking)
            else:
                yield _judged(record, made, same and _same_machine(record, made), values)


class _Recording(Listener):
    """Records what a task makes."""

    def __init__(self, recipe: Recipe, store: RecordStore) -> None:
        self._recipe, self._store = recipe, store

    def made(self, kind: str, content: dict[str, Any]) -> None:
        job, metric, work = self._recipe.job, self._recipe.metric, self._recipe.work
        identity = job.fit_identity if kind == FIT else identity_of(job, metric, work)
        self._store.put(job.facts(), kind, identity, content)


def _compute(recipe: Recipe, metrics: list[Metric], store: RecordStore, threads: int) -> Outcome:
    """Fit, unless that is done, and measure, with as many threads as there were, where the processor has as many."""
    pending = Ledger(store).find_pending(recipe.job, recipe.work, metrics)
    names = tuple(metric.name for metric in pending.metrics)
    task = Task(recipe.job, recipe.work, names, min(threads, os.cpu_count() or 1))
    return execute(task, _Recording(recipe, store))


def _same_machine(record: dict[str, Any], made: dict[str, Any]) -> bool:
    """Whether the two are to be equal to the last digit."""
    was, now = record["provenance"], made["provenance"]
    alike = all(was.get(of, now[of]) == now[of] for of in ("packages", "device", "instructions", "threads"))
    return alike and record["row"]["device"] == "cpu"


def _judged(
    record: dict[str, Any], made: dict[str, Any], same: bool, values: dict[str, dict[int, dict[str, Any]]]
) -> Finding:
    """The worst of a record's values, and what is to be said of it."""
    if made["status"] != record["status"]:
        return Finding(record, "DISAGREES", f"{record['status']} recorded, {made['status']} here: {made.get('reason')}")
    if record["status"] != "ok":
        return Finding(record, "equal", "")
    recorded, here = _facts(record), _facts(made)
    if set(recorded) != set(here):
        return Finding(record, "DISAGREES", f"{', '.join(recorded)} recorded, {', '.join(here)} here")
    others = [facts for seed, facts in values[_row(record)].items() if seed != record["row"]["seed"]]
    found = [
        judge_value(name, recorded[name], here[name], same, [facts.get(name) for facts in others]) for name in here
    ]
    worst = max((verdict for verdict, _ in found), key=list(VERDICTS).index, default="equal")
    return Finding(record, worst, "; ".join(detail for verdict, detail in found if verdict == worst and detail))


def judge_value(name: str, recorded: Any, here: Any, same: bool, others: list[Any]) -> tuple[str, str]:
    """One value's verdict and what is to be said of it; `others` are the row's values of other seeds."""
    if recorded == here:
        return "equal", ""
    if name == "png":
        return "DISAGREES" if same else "unknown", f"{differing_pixels(recorded, here):.2%} of the pixels differ"
    if isinstance(recorded, list) and isinstance(here, list) and len(recorded) == len(here):
        verdicts = [judge_value(name, *pair, same, []) for pair in zip(recorded, here)]
        return max(verdicts, key=lambda found: list(VERDICTS).index(found[0]), default=("equal", ""))
    said = f"{name} {recorded} recorded, {here} here"
    numbers = [value for value in (recorded, here, *others) if isinstance(value, (int, float))]
    if len(numbers) == 2 + len(others):
        relative = abs(recorded - here) / max(abs(recorded), abs(here))
        said = f"{name} {recorded:.6g} recorded, {here:.6g} here, relative difference {relative:.1g}"
        if relative <= EXACT:
            return "within", said
        if not same and len(others) > 1 and (deviation := statistics.stdev(others)) > 0:
            moved, limit = abs(recorded - here) / deviation, difference_limit(len(others))
            told = f"{said}, {moved:.2g} standard deviations of {len(others)} other seeds (at most {limit:.1f})"
            return "within" if moved <= limit else "DISAGREES", told
    return "DISAGREES" if same else "unknown", said


def difference_limit(n: int) -> float:
    """How far two seeds of a row lie apart at most, in standard deviations estimated from n more: t sqrt(2)."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * math.sqrt(2)


def differing_pixels(one: str, other: str) -> float:
    """Share of the pixels in which two pictures (base64 of a PNG) differ; 1 where their sizes do."""
    first, second = (np.asarray(from_png(text).convert("RGB")) for text in (one, other))
    return float((first != second).any(2).mean()) if first.shape == second.shape else 1.0
