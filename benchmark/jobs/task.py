"""A task: what is asked of one job, as plain data that any process can take up, and `execute`, which does it.

It may be done in any order and more than once: what it makes is decided by what it says. It writes no record. Whoever
owns the records is given their contents as they come.
"""

from __future__ import annotations

import functools
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from benchmark.jobs.claims import BUILT_IN, find_owner
from benchmark.jobs.contract import check_length, check_values
from benchmark.jobs.evaluation import MMD_DRAWS, Evaluation, Source
from benchmark.jobs.failures import Failed, call_theirs, describe_error, in_one_line, is_machine_fault, told_of
from benchmark.jobs.fit import find_or_fit, open_source
from benchmark.jobs.foreign import ForeignSource
from benchmark.jobs.identity import Job
from benchmark.jobs.reference_rows import REFERENCES, PosteriorDraws
from benchmark.jobs.workspace import Workspace
from benchmark.machine.allocator import give_back_freed_memory
from benchmark.machine.arithmetic import require_float32
from benchmark.machine.switches import kept_switches
from benchmark.machine.threads import limit_threads
from benchmark.metrics.api import FIT, Metric
from benchmark.processes.child import Answer, Child, Died, Raised
from benchmark.progress import say
from benchmark.store.cache import keep_nothing
from benchmark.store.provenance import provenance
from benchmark.store.sealed import content_hash


@dataclass(frozen=True)
class Task:
    """What is asked of a job: its fit, and the metrics of these names.

    `recorded`: its fit is recorded as fine, and so is not handed in again. `threads`: how many its arithmetic takes.
    `limit`: seconds that its fit, or a measurement, may take, in place of the run's own limit.
    """

    job: Job
    work: Workspace
    metrics: tuple[str, ...]
    threads: int
    recorded: bool = False
    limit: float | None = None


@dataclass
class Outcome:
    """What became of a task: metrics measured now, and reasons of failures. `unfit`: there is no fit to measure."""

    measured: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    unfit: bool = False


class Listener:
    """Whoever has a task executed."""

    def began(self, kind: str) -> None:
        """The fit, or a metric, is being worked at."""

    def made(self, kind: str, content: dict[str, Any]) -> None:
        """The content of its record is there."""


def execute(task: Task, listener: Listener) -> Outcome:
    """Do what a task asks; a failure is a record with its reason, or one of the reasons of the outcome."""
    job, work, outcome = task.job, task.work, Outcome()
    with limit_threads(task.threads), ExitStack() as closing:
        closing.callback(give_back_freed_memory, work.device)  # of one that ran out of it above all
        try:
            source = _source(task, listener)
            if isinstance(source, ForeignSource):
                closing.callback(source.close)
            with told_of("what it is measured on cannot be read"):
                evaluation = make_evaluation(job, work, source) if task.metrics else None
        except Failed as failure:
            return Outcome(failures=[str(failure)], unfit=True)
        wanted = {metric.name: metric for metric in work.metrics}
        for name in task.metrics:
            assert evaluation is not None
            listener.began(name)
            give_back_freed_memory(work.device)  # of the fit, or of the metric before
            start = time.perf_counter()
            if work.registry.origin(type(wanted[name])) == BUILT_IN:
                content = _owned(work, wanted[name], _measured(wanted[name], evaluation))
            else:
                content = _measured_apart(task, wanted[name], evaluation)
            content |= {"seconds": time.perf_counter() - start, "provenance": provenance(work.device)}
            reason = f"{name}: {content.get('reason')}"
            if content["status"] == "fault":
                outcome.failures.append(f"{reason}; not recorded, so the next run tries again")
                continue
            listener.made(name, content)
            if content["status"] == "ok":
                outcome.measured.append(name)
            else:
                outcome.failures.append(reason)
    return outcome


def _source(task: Task, listener: Listener) -> Source | None:
    """What a job draws from; None where it has nothing but images. Raises `Failed`."""
    job, work = task.job, task.work
    if job.row.prior is None:
        return _open(job, work)
    listener.began(FIT)
    made = find_or_fit(job, work)
    if not task.recorded:
        listener.made(FIT, made)
    if made["status"] != "ok":
        here = " here, though it is recorded as fine" if task.recorded else ""
        raise Failed(f"fit {made['status']}{here}: {made['reason']}")
    return _open(job, work)


def _open(job: Job, work: Workspace) -> Source | None:
    """The same where its fit is in the cache."""
    with told_of("what it draws from cannot be read"):
        if job.row.prior:
            return open_source(job, work)
        reference = REFERENCES[job.row.name]
        draws = None if reference.from_images else work.split(reference.decodes(work.protocol.split))
        return None if draws is None else PosteriorDraws(draws)


def make_evaluation(job: Job, work: Workspace, source: Source | None) -> Evaluation:
    """What the job's metrics look at."""
    reference = None if job.row.prior else REFERENCES[job.row.name]
    return Evaluation(
        source=source,
        identity={
            **job.source_identity,
            "split": None if reference is None else reference.decodes(work.protocol.split),
        },
        backbone=work.backbone,
        held_out=work.split(work.protocol.split),
        features_of=work.features_of,
        reference=work.reference,  # type: ignore[arg-type]  # None where no metric of the run reads an extractor
        protocol=work.protocol,
        seed=job.seed,
        device=work.device,
        train_posterior=functools.partial(work.bundle.posterior, "train", work.device),
        train_reference=work.train_reference,
        seen=work.reconstructions if reference is not None and reference.from_images else None,
        decoding=work.decoding,
    )


def _measured(metric: Metric, evaluation: Evaluation) -> dict[str, Any]:
    """The content of a measurement's record. A prior whose process dies is given one more chance."""
    try:
        try:
            values = call_theirs(metric.measure, evaluation)
        except Died as death:
            say(f"{metric.name}: {describe_error(death)}; tried once more")
            values = call_theirs(metric.measure, evaluation)
        return {"status": "ok", "values": call_theirs(check_values, values)}
    except Died as death:
        return {"status": "crashed", "reason": f"{describe_error(death)}, twice", "output": death.output}
    except (Exception, SystemExit) as error:
        return {"status": "fault" if is_machine_fault(error) else "failed", "reason": describe_error(error)}


def _measured_apart(task: Task, metric: Metric, evaluation: Evaluation) -> dict[str, Any]:
    """The same of a stranger's metric, in a process of its own: what it changes there is no other measurement's.

    What it is likely to look at is made here first, and found there; what else it asks for is not kept.
    """
    _make_ready(metric, evaluation)
    for attempt in (1, 2):
        try:
            with Child(lambda line: say(f"{metric.name}: {line}")) as child:
                content = child.call(_measure_there, replace(task, metrics=(metric.name,))).value
            break
        except Died as death:
            if attempt == 2:
                return {"status": "crashed", "reason": f"{describe_error(death)}, twice", "output": death.output}
            say(f"{metric.name}: {describe_error(death)}; tried once more")
        except (Raised, OSError) as error:
            return {"status": "fault", "reason": in_one_line(str(error).splitlines()[-1])}
    content = _owned(task.work, metric, _believed(content))
    return content | _columns(metric, task.work) if content["status"] == "ok" else content


def _believed(content: dict[str, Any]) -> dict[str, Any]:
    """What a record is to say, checked here once more: nobody knows what became of the code there."""
    try:
        if content["status"] == "ok":
            content = {"status": "ok", "values": check_values(content["values"])}
        else:
            content = {**content, "reason": in_one_line(content["reason"])}
        check_length(content)
    except Exception as error:
        return {"status": "failed", "reason": describe_error(error)}
    return content


def _owned(work: Workspace, metric: Metric, content: dict[str, Any]) -> dict[str, Any]:
    """The same content, or the failure of one that has another metric's values."""
    taken = find_owner(work.registry, type(metric), content.get("values", {}), work.protocol)
    if taken is None:
        return content
    reason = f"it returned '{taken[0]}', which is a value of {taken[1]}: it is to have another name"
    return {"status": "failed", "reason": reason}


def _make_ready(metric: Metric, evaluation: Evaluation) -> None:
    """Draws and features that a metric of these settings is likely to look at, in the cache; what fails fails there."""
    with suppress(Exception):
        if "extractor" in metric.reads and "generated" in metric.reads:
            _ = evaluation.features
    with suppress(Exception):
        if "mmd_latents" in metric.reads:
            evaluation.latents(evaluation.protocol.mmd_latents, MMD_DRAWS)


def _measure_there(task: Task) -> Answer:
    """In the child: one metric of a job whose fit is in the cache."""
    job, work = task.job, task.work
    keep_nothing()
    if work.device.type == "cuda":
        require_float32()
    (metric,) = (each for each in work.metrics if each.name in task.metrics)
    with limit_threads(task.threads), ExitStack() as closing:
        try:
            source = _open(job, work)
            if isinstance(source, ForeignSource):
                closing.callback(source.close)
            return _measured(metric, make_evaluation(job, work, source)), {}
        except (Exception, SystemExit) as error:
            return {"status": "fault", "reason": describe_error(error)}, {}


def _columns(metric: Metric, work: Workspace) -> dict[str, Any]:
    """The columns that a stranger's metric declares, for its record: tables are made where its class is not at hand."""
    if work.registry.origin(type(metric)) == BUILT_IN:
        return {}
    try:
        with kept_switches():
            declared = type(metric).columns(work.protocol)
        columns = None if declared is None else [asdict(column) for column in declared]
        content_hash(columns)  # raises where JSON cannot hold them
    except (Exception, SystemExit) as error:
        say(f"metric {metric.name}: its columns cannot be read ({describe_error(error)}); its values go by their names")
        columns = None
    return {} if columns is None else {"columns": columns}
