"""One job from bundle to records: its prior fitted or found, then measured by what is not yet recorded."""

from __future__ import annotations

import functools
import inspect
import json
import math
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from filelock import FileLock, Timeout

from benchmark.jobs.evaluation import Evaluation, Source
from benchmark.jobs.failures import Failed, describe_error, is_machine_fault
from benchmark.jobs.fit import obtain_fit
from benchmark.jobs.identity import Job, class_identity
from benchmark.jobs.reference_rows import REFERENCES, PosteriorDraws, ReferenceRow
from benchmark.jobs.workspace import Workspace
from benchmark.metrics.api import Facts, Metric
from benchmark.progress import say
from benchmark.store.places import lock_path
from benchmark.store.provenance import provenance
from benchmark.store.records import record_id
from benchmark.store.sealed import Damaged, content_hash


class Busy(Exception):
    """Another process is at the same job."""


@dataclass
class Outcome:
    """What became of a job: metrics measured now, and reasons of failures."""

    measured: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def run_job(job: Job, work: Workspace, wait: bool = True) -> Outcome:
    """Do what is not recorded of a job and record it. A failure is recorded with its reason and raised to nobody.

    Where another process is at the same job: wait for it and find it done, or (`wait=False`) raise `Busy` at once.
    """
    reference = None if job.row.prior else REFERENCES[job.row.name]
    if reference and reference.from_images and work.reconstructions is None:
        return Outcome()
    before = find_pending(job, work)
    if not (before.fit or before.metrics):
        return Outcome(failures=before.failures)
    try:
        held = FileLock(lock_path(job.fit_id)).acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise Busy(f"another process is at {job.row.label} seed {job.seed}") from None
    with held:
        now = find_pending(job, work)  # again: the other process may be done
        outcome = Outcome(failures=now.failures)
        if not (now.fit or now.metrics):
            return outcome
        try:
            evaluation = _evaluation(job, work, reference)
        except Failed as failure:
            outcome.failures.append(str(failure))
            return outcome
        for metric in now.metrics:
            _measure(job, metric, evaluation, work, outcome)
    return outcome


@dataclass
class Pending:
    """What is not recorded of a job: its fit, and metrics.

    `recorded` counts the measurements that are; `failures`: reasons of recorded failures that are not tried again.
    """

    fit: bool = False
    metrics: list[Metric] = field(default_factory=list)
    recorded: int = 0
    failures: list[str] = field(default_factory=list)


def find_pending(job: Job, work: Workspace) -> Pending:
    """What `run_job` would do."""
    row, found = job.facts(), Pending()
    if job.row.prior:
        fit = _recorded(work, row, "fit", job.fit_identity)
        if fit is not None and fit["status"] != "ok" and not work.retry:
            found.failures.append(f"fit {fit['status']} earlier: {fit['reason']}")
            return found
        found.fit = fit is None
    for metric in work.metrics:
        try:
            if not _is_asked(metric, job, work):
                continue
        except (Exception, SystemExit) as error:
            found.failures.append(f"{metric.name}: applies: {describe_error(error)}")
            continue
        record = _recorded(work, row, metric.name, _identity(job, metric, work))
        if record is None or (record["status"] != "ok" and work.retry):
            found.metrics.append(metric)
            continue
        found.recorded += 1
        if record["status"] != "ok":
            found.failures.append(f"{metric.name} failed earlier: {record['reason']}")
    return found


def _is_asked(metric: Metric, job: Job, work: Workspace) -> bool:
    """Whether a row is to have a metric."""
    if job.row.prior is None and job.row.name not in metric.reference_rows:
        return False
    if takes_job_and_workspace(metric):
        return metric.applies(job, work)  # type: ignore[call-arg, arg-type]  # the older form
    has_train_reference = work.train_reference is not None
    is_reference = job.row.prior is None
    return metric.applies(
        Facts(job.row.name, is_reference, job.seed, work.bundle.latent_shape, work.protocol, has_train_reference)
    )


_told_as_older: set[type[Metric]] = set()


def takes_job_and_workspace(metric: Metric) -> bool:
    """Whether a metric has the older `applies(job, workspace)`, which goes on working for one release; says so once."""
    parameters = inspect.signature(metric.applies).parameters.values()
    places = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    older = len(places) == 2 or any(each.kind == each.VAR_POSITIONAL for each in parameters)
    if older and type(metric) not in _told_as_older:
        _told_as_older.add(type(metric))
        say(f"metric {metric.name}: applies(job, workspace) is an older form; write applies(facts), see metrics/api.py")
    return older


def _evaluation(job: Job, work: Workspace, reference: ReferenceRow | None) -> Evaluation:
    """What the job's metrics look at. Raises `Failed` where there is nothing to look at."""
    source: Source | None = None
    split = seen = None
    if reference is None:
        source = obtain_fit(job, work)
    else:
        split = reference.decodes(work.protocol.split)
        if reference.from_images:
            seen = work.reconstructions
        else:
            source = PosteriorDraws(work.split(split))
    return Evaluation(
        source=source,
        identity={**job.source_identity, "split": split},
        backbone=work.backbone,
        held_out=work.split(work.protocol.split),
        features_of=work.features_of,
        reference=work.reference,  # type: ignore[arg-type]  # None where no metric of the run reads an extractor
        protocol=work.protocol,
        seed=job.seed,
        device=work.device,
        train_posterior=functools.partial(work.bundle.posterior, "train", work.device),
        train_reference=work.train_reference,
        seen=seen,
    )


def _measure(job: Job, metric: Metric, evaluation: Evaluation, work: Workspace, outcome: Outcome) -> None:
    start = time.perf_counter()
    try:
        values = metric.measure(evaluation)
        bad = [name for name, value in values.items() if isinstance(value, float) and not math.isfinite(value)]
        if bad:
            raise ValueError(f"{', '.join(bad)} not finite")
        if not all(isinstance(name, str) for name in values):
            raise TypeError("names of values are strings")
        values = json.loads(json.dumps(values, allow_nan=False))  # as they will be read; raises where JSON has no such
        content = {"status": "ok", "values": values, **_columns(metric, work)}
    except (Exception, SystemExit) as error:
        if is_machine_fault(error):
            outcome.failures.append(
                f"{metric.name}: {describe_error(error)}; not recorded, so the next run tries again"
            )
            return
        content = {"status": "failed", "reason": describe_error(error)}
        outcome.failures.append(f"{metric.name}: {content['reason']}")
    else:
        outcome.measured.append(metric.name)
    content |= {"seconds": time.perf_counter() - start, "provenance": provenance(work.device)}
    work.store.put(job.facts(), metric.name, _identity(job, metric, work), content)


def _columns(metric: Metric, work: Workspace) -> dict[str, Any]:
    """The columns that a stranger's metric declares, for its record: tables are made where its class is not at hand."""
    if work.registry.origin(type(metric)) == "built-in":
        return {}
    try:
        declared = type(metric).columns(work.protocol)
        columns = None if declared is None else [asdict(column) for column in declared]
        content_hash(columns)  # raises where JSON cannot hold them
    except (Exception, SystemExit) as error:
        say(f"metric {metric.name}: its columns cannot be read ({describe_error(error)}); its values go by their names")
        columns = None
    return {} if columns is None else {"columns": columns}


def _recorded(work: Workspace, row: dict[str, Any], kind: str, identity: dict[str, Any]) -> dict[str, Any] | None:
    try:
        return work.store.get(row, kind, record_id(identity))
    except Damaged as error:
        say(f"record is damaged and will be made again: {error}")
        return None


def _identity(job: Job, metric: Metric, work: Workspace) -> dict[str, Any]:
    machine = work.machine if metric.machine_bound else None
    settings = work.protocol.part(metric.reads)
    return job.measurement_identity(class_identity(work.registry, type(metric)), settings, machine)
