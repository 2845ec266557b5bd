"""What is not recorded of a job: what a run would do."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from benchmark.jobs.claims import BUILT_IN
from benchmark.jobs.failures import describe_error
from benchmark.jobs.identity import Job, class_identity
from benchmark.jobs.workspace import Workspace
from benchmark.machine.switches import kept_switches
from benchmark.metrics.api import Facts, Metric
from benchmark.progress import say
from benchmark.store.records import RecordStore, record_id
from benchmark.store.sealed import Damaged


@dataclass
class Pending:
    """What is not recorded of a job: its fit, and metrics.

    `recorded` counts the measurements that are; `failures`: reasons of recorded failures that are not tried again.
    `again`: its fit is recorded, and is to be made once more for what comes later.
    """

    fit: bool = False
    again: bool = False
    metrics: list[Metric] = field(default_factory=list)
    recorded: int = 0
    failures: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return self.fit or self.again or bool(self.metrics)


@dataclass(frozen=True)
class Ledger:
    """What is recorded: the store, and whether recorded failures are to be tried again."""

    store: RecordStore
    retry: bool = False

    def find_pending(self, job: Job, work: Workspace, metrics: Iterable[Metric]) -> Pending:
        """What is to be done of a job for these metrics to be recorded."""
        row, found = job.facts(), Pending()
        if job.row.prior:
            fit = self._recorded(row, "fit", job.fit_identity)
            if fit is not None and fit["status"] != "ok" and not self.retry:
                found.failures.append(f"fit {fit['status']} earlier: {fit['reason']}")
                return found
            found.fit = fit is None or fit["status"] != "ok"
        for metric in metrics:
            try:
                with kept_switches() if work.registry.origin(type(metric)) != BUILT_IN else nullcontext():
                    asked = _is_asked(metric, job, work)
                if not asked:
                    continue
            except (Exception, SystemExit) as error:
                found.failures.append(f"{metric.name}: applies: {describe_error(error)}")
                continue
            record = self._recorded(row, metric.name, identity_of(job, metric, work))
            if record is None or (record["status"] != "ok" and self.retry):
                found.metrics.append(metric)
                continue
            found.recorded += 1
            if record["status"] != "ok":
                found.failures.append(f"{metric.name} {record['status']} earlier: {record['reason']}")
        return found

    def _recorded(self, row: dict[str, Any], kind: str, identity: dict[str, Any]) -> dict[str, Any] | None:
        try:
            return self.store.get(row, kind, record_id(identity))
        except Damaged as error:
            say(f"record is damaged and will be made again: {error}")
            return None


def identity_of(job: Job, metric: Metric, work: Workspace) -> dict[str, Any]:
    """What decides a measurement."""
    machine = work.machine if metric.machine_bound else None
    settings = work.protocol.part(metric.reads)
    return job.measurement_identity(class_identity(work.registry, type(metric)), settings, machine)


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
