"""One job from bundle to measurements: fit the prior or find its fit, then measure what is not yet recorded."""

from __future__ import annotations

import functools
import math
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors.torch import load_file, save
from torch import Tensor

from backbones.api import Backbone
from backbones.bundle import Bundle
from backbones.hashing import Damaged, content_hash, file_hash, read_sealed, write_atomic, write_sealed
from benchmark.errors import NO_SPACE
from benchmark.evaluation import FULL_RECONSTRUCTION, REFERENCE_ROWS, Evaluation, ReferenceRow, SeenBefore, Source
from benchmark.extractors.api import Extractor, Features
from benchmark.metrics.api import Metric
from benchmark.places import cache_root, lock_path
from benchmark.plan import Job
from benchmark.plugins import Registry
from benchmark.progress import say, track
from benchmark.protocol import Protocol
from benchmark.provenance import device_name, provenance
from benchmark.records import RecordStore, record_id
from benchmark.reference import Reference, find_reconstructions, find_reference
from benchmark.streams import seeded_globals, stream
from priors.api import AggregatePosterior, Diverged, LatentPrior, PosteriorSplit

LOG_POINTS = 60


#: errors that say nothing of a row, as those of a GPU that several processes share
_FAULTS = (MemoryError, torch.OutOfMemoryError, getattr(torch, "AcceleratorError", torch.OutOfMemoryError))


class Failed(Exception):
    """A job that cannot go on; the reason is recorded already, where it is the row's."""


@dataclass(eq=False)
class Workspace:
    """What the jobs of one run share. Its parts are made when first needed and kept on the device."""

    bundle: Bundle
    registry: Registry
    protocol: Protocol
    extractor: Extractor
    reference: Reference
    metrics: list[Metric]
    store: RecordStore
    device: torch.device
    retry: bool = False

    @functools.cached_property
    def backbone(self) -> Backbone:
        return self.bundle.backbone(self.registry.get("backbone", self.bundle.backbone_name), self.device)

    @functools.cache
    def split(self, name: str) -> PosteriorSplit:
        return PosteriorSplit(*self.bundle.posterior(name, self.device))

    @functools.cached_property
    def posterior(self) -> AggregatePosterior:
        return AggregatePosterior(self.split("train"), self.split("val"))

    @functools.cached_property
    def train_reference(self) -> Reference | None:
        """What the extractor sees in training images, where somebody has looked."""
        try:
            return find_reference(self.bundle, self.extractor, "train")
        except Damaged as error:
            say(f"reference of training images is damaged: {error}")
            return None

    @functools.cached_property
    def reconstructions(self) -> Tensor | None:
        """What the extractor sees in full reconstructions of a hierarchy, where somebody has looked."""
        try:
            return find_reconstructions(self.bundle, self.extractor, self.protocol.split, self.device)
        except Damaged as error:
            say(f"full reconstructions are damaged: {error}")
            return None

    @functools.cached_property
    def features_of(self) -> Features:
        return Features(self.extractor, self.device)

    @functools.cached_property
    def machine(self) -> dict[str, Any]:
        return {"device": device_name(self.device), "threads": torch.get_num_threads(), "dtype": "float32"}


@dataclass
class Outcome:
    """What became of a job: metrics measured now, and reasons of failures."""

    measured: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def run_job(job: Job, work: Workspace, wait: bool = True) -> Outcome | None:
    """Do what is not recorded of a job and record it. A failure is recorded with its reason and raised to nobody.

    Where another process is at the same job: wait for it and find it done, or (`wait=False`) return None at once.
    """
    rows_metrics = [metric for metric in work.metrics if job.row.prior or job.row.name in metric.reference_rows]
    metrics = [metric for metric in rows_metrics if metric.applies(job, work)]
    outcome = Outcome()
    if job.row.name == FULL_RECONSTRUCTION and work.reconstructions is None:
        return outcome
    if not any(_missing(job, metrics, work, outcome)):
        return outcome
    try:
        held = FileLock(lock_path(job.fit_id)).acquire(timeout=-1 if wait else 0)
    except Timeout:
        return None
    with held:
        outcome = Outcome()
        unrecorded_fit, missing = _missing(job, metrics, work, outcome)  # again: the other process may be done
        if not (unrecorded_fit or missing):
            return outcome
        split = None if job.row.prior else REFERENCE_ROWS[job.row.name] or work.protocol.split
        try:
            source = _source(job, work, split)
        except Failed as failure:
            outcome.failures.append(str(failure))
            return outcome
        evaluation = Evaluation(
            source,
            {**job.source_identity, "split": split},
            work.backbone,
            work.split(work.protocol.split),
            work.features_of,
            work.reference,
            work.protocol,
            job.seed,
            work.device,
            functools.partial(work.bundle.posterior, "train", work.device),
            work.train_reference,
        )
        for metric in missing:
            _measure(job, metric, evaluation, work, outcome)
    return outcome


def _source(job: Job, work: Workspace, split: str | None) -> Source | SeenBefore:
    if split is None:
        return fitted(job, work)
    return SeenBefore(work.reconstructions) if job.row.name == FULL_RECONSTRUCTION else ReferenceRow(work.split(split))


def fitted(job: Job, work: Workspace) -> LatentPrior:
    """The job's prior, fitted now or found in the cache; its fit is recorded either way. Raises `Failed`."""
    made = _cached_fit(job) or _fit(job, work)
    recorded = work.store.put(job.facts(), "fit", job.fit_identity, made)
    if made["status"] != "ok":
        here = " here, though it is recorded as fine" if recorded["status"] == "ok" else ""
        raise Failed(f"fit {made['status']}{here}: {made['reason']}")
    prior = _constructed(job, work)
    prior.load_state_dict(load_file(_fit_path(job)))
    return prior.to(work.device).eval().requires_grad_(False)


def _fit(job: Job, work: Workspace) -> dict[str, Any]:
    """Fit from scratch; a fit that succeeds is put into the cache. Returns the content of its record."""
    log, posterior = FitLog(), work.posterior  # which is read before the clock starts
    start = time.perf_counter()
    try:
        with seeded_globals(work.device, "fit", job.seed), track(f"{job.row.label} seed {job.seed}") as show:
            prior = _constructed(job, work).to(work.device).train()
            log.show = show
            facts = prior.fit(posterior, stream(work.device, "fit", job.seed), log)
        if work.device.type == "cuda":
            torch.cuda.synchronize(work.device)
        seconds = time.perf_counter() - start
        facts = _checked_facts(facts)
        state = state_of(prior)
        bad = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
        if bad:
            raise Diverged(f"{bad[0]} is not finite after the fit")
        _require_loadable(state, _constructed(job, work))
        path = _fit_path(job)
        write_atomic(path, save(state))
    except (Exception, SystemExit) as error:
        if _of_the_machine(error):
            raise Failed(f"fit: {_reason(error)}; not recorded, so the next run tries again") from error
        status = "diverged" if isinstance(error, Diverged) else "failed"
        return {"status": status, "reason": _reason(error), "log": log.points, "provenance": provenance(work.device)}
    record = {
        "status": "ok",
        "values": {"fit_seconds": seconds, **facts},
        "parameters": sum(parameter.numel() for parameter in prior.parameters()),
        "note": job.row.note,
        "log": log.points,
        "provenance": provenance(work.device),
    }
    write_sealed(path.with_suffix(".json"), {"state": file_hash(path), "record": record})
    return record


def _cached_fit(job: Job) -> dict[str, Any] | None:
    """The record of a fit whose state is in the cache, whole; a damaged one is named and made again."""
    path = _fit_path(job)
    if not path.with_suffix(".json").exists():
        return None
    try:
        entry = read_sealed(path.with_suffix(".json"))
        if not path.exists() or file_hash(path) != entry["state"]:
            raise Damaged(f"{path}: missing, or does not match its hash")
    except Damaged as error:
        say(f"fitted state is damaged and will be made again: {error}")
        return None
    return entry["record"]


def _measure(job: Job, metric: Metric, evaluation: Evaluation, work: Workspace, outcome: Outcome) -> None:
    start = time.perf_counter()
    try:
        values = metric.measure(evaluation)
        bad = [name for name, value in values.items() if isinstance(value, float) and not math.isfinite(value)]
        if bad:
            raise ValueError(f"{', '.join(bad)} not finite")
        content_hash(values)  # raises where JSON cannot hold them: tensors, NaN within a list
        content = {"status": "ok", "values": values}
    except (Exception, SystemExit) as error:
        if _of_the_machine(error):
            outcome.failures.append(f"{metric.name}: {_reason(error)}; not recorded, so the next run tries again")
            return
        content = {"status": "failed", "reason": _reason(error)}
        outcome.failures.append(f"{metric.name}: {content['reason']}")
    else:
        outcome.measured.append(metric.name)
    content |= {"seconds": time.perf_counter() - start, "provenance": provenance(work.device)}
    work.store.put(job.facts(), metric.name, _identity(job, metric, work), content)


def _missing(job: Job, metrics: list[Metric], work: Workspace, outcome: Outcome) -> tuple[bool, list[Metric]]:
    """Whether the fit has no record, and the metrics to measure.

    Recorded failures go into `outcome`, unless they are retried.
    """
    row, fit = job.facts(), None
    if job.row.prior:
        fit = _recorded(work, row, "fit", job.fit_identity)
        if fit is not None and fit["status"] != "ok" and not work.retry:
            outcome.failures.append(f"fit {fit['status']} earlier: {fit['reason']}")
            return False, []
    missing = []
    for metric in metrics:
        record = _recorded(work, row, metric.name, _identity(job, metric, work))
        if record is None or (record["status"] != "ok" and work.retry):
            missing.append(metric)
        elif record["status"] != "ok":
            outcome.failures.append(f"{metric.name} failed earlier: {record['reason']}")
    return job.row.prior is not None and fit is None, missing


def _recorded(work: Workspace, row: dict[str, Any], kind: str, identity: dict[str, Any]) -> dict[str, Any] | None:
    try:
        return work.store.get(row, kind, record_id(identity))
    except Damaged as error:
        say(f"record is damaged and will be made again: {error}")
        return None


def _identity(job: Job, metric: Metric, work: Workspace) -> dict[str, Any]:
    machine = work.machine if metric.machine_bound else None
    settings = work.protocol.part(metric.reads)
    return job.measurement_identity(work.registry.identity(type(metric)), settings, machine)


def _constructed(job: Job, work: Workspace) -> LatentPrior:
    with seeded_globals(work.device, "initialisation", job.seed):
        return job.row.prior(work.bundle.latent_shape, job.row.config)


def _fit_path(job: Job) -> Path:
    return cache_root() / "fits" / f"{job.fit_id}.safetensors"


def _checked_facts(facts: Any) -> dict[str, Any]:
    if facts is None:
        return {}
    if not isinstance(facts, dict):
        raise TypeError(f"fit returned {type(facts).__name__}; expected None or a dict of numbers and sentences")
    facts = {name: value.item() if hasattr(value, "item") else value for name, value in facts.items()}
    for name, value in facts.items():
        if not isinstance(value, (int, float, str)):
            raise TypeError(f"fit returned {name} of type {type(value).__name__}; expected a number or a sentence")
    bad = [name for name, value in facts.items() if not isinstance(value, str) and not math.isfinite(value)]
    if bad:
        raise Diverged(f"fit returned {bad[0]}={facts[bad[0]]}")
    return facts


def state_of(prior: LatentPrior) -> dict[str, Tensor]:
    """What a file keeps of a prior: clones on the CPU, for weights that a prior ties share memory, which a file cannot."""
    return {
        name: value.cpu().clone(memory_format=torch.contiguous_format) for name, value in prior.state_dict().items()
    }


def _require_loadable(state: dict[str, Tensor], fresh: LatentPrior) -> None:
    """Whoever finds a fit in the cache loads it into a prior that was not fitted. Raises `TypeError` where that fails."""
    try:
        fresh.load_state_dict(state)
    except RuntimeError as error:
        raise TypeError(f"the fitted state needs every parameter and buffer from __init__ on: {error}") from error


def _of_the_machine(error: BaseException) -> bool:
    """Whether an error is no word on the row, so that it is not recorded."""
    full = isinstance(error, OSError) and error.errno in NO_SPACE
    # the CPU's allocator raises a plain RuntimeError
    return full or isinstance(error, _FAULTS) or "DefaultCPUAllocator" in str(error)


def _reason(error: BaseException) -> str:
    """The error in one line; for one that nobody raised on purpose, with the place in the code."""
    text = f"{type(error).__name__}: {error}" if not isinstance(error, Diverged) else str(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = (
        f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames and not isinstance(error, Diverged) else ""
    )
    return " ".join(text.split()) + where


@dataclass
class FitLog:
    """The `progress` handed to a fit: shows it, and keeps an even selection of what it was told."""

    points: list[dict[str, float]] = field(default_factory=list)
    show: Callable[..., None] = lambda *_, **__: None

    def __call__(self, step: int, total: int, **values: float) -> None:
        values = {name: float(value) for name, value in values.items()}
        self.show(step, total, **values)
        due = not self.points or step - self.points[-1]["step"] >= total / LOG_POINTS or step == total
        if values and due and all(math.isfinite(value) for value in values.values()):
            self.points.append({"step": step, **values})
