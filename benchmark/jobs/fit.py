"""A job's prior, fitted now or found in the cache, and what is recorded of its fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save

from benchmark.jobs.failures import Failed, told_of
from benchmark.jobs.fitting import Specimen, fit_prior
from benchmark.jobs.foreign import Foreign, ForeignSource, fit_apart
from benchmark.jobs.identity import Job
from benchmark.jobs.workspace import Workspace
from benchmark.progress import say, track
from benchmark.store.places import made_root
from benchmark.store.provenance import provenance
from benchmark.store.sealed import Damaged, file_hash, read_sealed, write_atomic, write_sealed
from priors.api import LatentPrior

#: of a fit's files: its state, and what is recorded of it, which is written when the state is there
SUFFIXES = (".safetensors", ".json")


def find_or_fit(job: Job, work: Workspace) -> dict[str, Any]:
    """The content of a fit's record, its state being in the cache where it succeeded. Raises `Failed`."""
    with told_of("fit"):
        return _cached_fit(job) or _fit(job, work)


def open_source(job: Job, work: Workspace) -> LatentPrior | ForeignSource:
    """The fitted prior of a job whose fit is in the cache: frozen, on the device, or in a process of its own."""
    of, foreign = _specimen(job, work), _foreign(job)
    if foreign is not None:
        return ForeignSource(foreign, of, _fit_path(job), work.bundle)
    return load_fit(job, work)


def load_fit(job: Job, work: Workspace) -> LatentPrior:
    """The same in this process, whoever wrote its class."""
    cls = work.registry.get("prior", job.row.name)
    return _with_hierarchy(_specimen(job, work), cls, work).load(cls, load_file(_fit_path(job)))


def is_kept(job: Job) -> bool:
    """Whether the fit of a job is in the cache, as far as its files' names say: a damaged one shows when it is read."""
    return all(_fit_path(job).with_suffix(suffix).exists() for suffix in SUFFIXES)


def fit_files(job: Job) -> dict[str, bytes] | None:
    """A fit that is in the cache, as its files, for another machine's; None where it is not there."""
    path = _fit_path(job)
    try:
        return {suffix: path.with_suffix(suffix).read_bytes() for suffix in SUFFIXES}
    except FileNotFoundError:
        return None


def keep_fit_files(job: Job, files: dict[str, bytes]) -> None:
    """Put a fit into the cache that was made on another machine."""
    for suffix in SUFFIXES:
        write_atomic(_fit_path(job).with_suffix(suffix), files[suffix])


def _fit(job: Job, work: Workspace) -> dict[str, Any]:
    """Fit from scratch; a fit that succeeds is put into the cache. Returns the content of its record."""
    of, foreign = _specimen(job, work), _foreign(job)
    with track(f"{job.row.label} seed {job.seed}") as show:
        if foreign is not None:
            made, state = fit_apart(foreign, of, work.bundle, show)
        else:
            cls = work.registry.get("prior", job.row.name)
            made, state = fit_prior(cls, _with_hierarchy(of, cls, work), work.posterior(cls), show)
    if made["status"] == "fault":
        raise Failed(f"fit: {made['reason']}; not recorded, so the next run tries again")
    if made["status"] != "ok":
        return {**made, "provenance": provenance(work.device)}
    record = {**made, "note": job.row.note, "provenance": provenance(work.device)}
    path = _fit_path(job)
    write_atomic(path, save(state))
    write_sealed(path.with_suffix(".json"), {"state": file_hash(path), "record": record})
    return record


def _specimen(job: Job, work: Workspace) -> Specimen:
    """Without what its class alone may need: that is for the process which imports it."""
    assert job.row.config is not None, "a reference row has no fit"
    return Specimen(job.row.config, work.bundle.latent_shape, job.seed, work.device)


def _with_hierarchy(of: Specimen, cls: type[LatentPrior], work: Workspace) -> Specimen:
    return replace(of, hierarchy=work.hierarchy) if cls.needs_hierarchy else of


def _foreign(job: Job) -> Foreign | None:
    row = job.row
    return None if row.plugin is None else Foreign(row.plugin, row.name, row.identity["source"])


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


def _fit_path(job: Job) -> Path:
    return made_root() / "fits" / f"{job.fit_id}.safetensors"
