"""A job's prior, fitted now or found in the cache, and the record of its fit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from benchmark.jobs.failures import Failed, describe_error, is_machine_fault
from benchmark.jobs.identity import Job
from benchmark.jobs.workspace import Workspace
from benchmark.progress import say, track
from benchmark.store.places import cache_root
from benchmark.store.provenance import provenance
from benchmark.store.sealed import Damaged, file_hash, read_sealed, write_atomic, write_sealed
from benchmark.streams import seeded_globals, stream
from priors.api import Diverged, LatentPrior

LOG_POINTS = 60


def obtain_fit(job: Job, work: Workspace) -> LatentPrior:
    """The job's prior, fitted now or found in the cache; its fit is recorded either way. Raises `Failed`."""
    made = find_or_fit(job, work)
    recorded = work.store.put(job.facts(), "fit", job.fit_identity, made)
    here = " here, though it is recorded as fine" if recorded["status"] == "ok" else ""
    return load_fit(job, work, made, here)


def find_or_fit(job: Job, work: Workspace) -> dict[str, Any]:
    """The content of a fit's record, its state being in the cache where it succeeded. Raises `Failed`."""
    return _cached_fit(job) or _fit(job, work)


def load_fit(job: Job, work: Workspace, made: dict[str, Any], remark: str = "") -> LatentPrior:
    """The fitted prior, frozen, on the device. Raises `Failed` where `made`, the content of its record, says so."""
    if made["status"] != "ok":
        raise Failed(f"fit {made['status']}{remark}: {made['reason']}")
    prior = _constructed(job, work)
    prior.load_state_dict(load_file(_fit_path(job)))
    return prior.to(work.device).eval().requires_grad_(False)


def _fit(job: Job, work: Workspace) -> dict[str, Any]:
    """Fit from scratch; a fit that succeeds is put into the cache. Returns the content of its record."""
    import torch._dynamo  # before the clock starts: a process's first optimiser imports it, which takes a second

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
        if is_machine_fault(error):
            raise Failed(f"fit: {describe_error(error)}; not recorded, so the next run tries again") from error
        status = "diverged" if isinstance(error, Diverged) else "failed"
        return {
            "status": status,
            "reason": describe_error(error),
            "log": log.points,
            "provenance": provenance(work.device),
        }
    record = {
        "status": "ok",
        "values": {**facts, "fit_seconds": seconds},
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


def _constructed(job: Job, work: Workspace) -> LatentPrior:
    with seeded_globals(work.device, "initialisation", job.seed):
        assert job.row.prior is not None, "a reference row has no fit"
        assert job.row.config is not None, "a prior has a config"
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
    """What a file keeps of a prior: clones on the CPU, for tied weights share memory, which a file cannot."""
    return {
        name: value.cpu().clone(memory_format=torch.contiguous_format) for name, value in prior.state_dict().items()
    }


def _require_loadable(state: dict[str, Tensor], fresh: LatentPrior) -> None:
    """Whoever finds a fit in the cache loads it into a fresh prior. Raises `TypeError` where that fails."""
    try:
        fresh.load_state_dict(state)
    except RuntimeError as error:
        raise TypeError(f"the fitted state needs every parameter and buffer from __init__ on: {error}") from error


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
