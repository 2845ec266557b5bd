"""Stage 2: bundle -> jobs -> records -> leaderboard."""

from __future__ import annotations

import collections
import shlex
import time
from pathlib import Path

import torch

from benchmark.bundles.bundle import Bundle
from benchmark.bundles.reference import Reference, find_reference, make_reference
from benchmark.datasets.api import Dataset
from benchmark.errors import UsageError
from benchmark.extractors.api import Extractor, Unavailable
from benchmark.jobs.identity import Row
from benchmark.jobs.measure import Outcome, run_job
from benchmark.jobs.plan import jobs
from benchmark.jobs.reference_rows import REFERENCES
from benchmark.jobs.workspace import Workspace
from benchmark.metrics.api import Metric
from benchmark.progress import say, track
from benchmark.protocol import Preset, Split, protocol_for
from benchmark.registry import Registry
from benchmark.report.board import table_text, write_pictures, write_tables
from benchmark.store.in_force import note_in_force
from benchmark.store.provenance import provenance
from benchmark.store.records import RecordStore
from benchmark.store.sealed import Damaged


def obtain_reference(
    bundle: Bundle, dataset: Dataset | None, extractor: Extractor, split: str, device: torch.device, roots: list[Path]
) -> Reference:
    """The bundle's reference, computed where it is missing and the images can be had. Raises `UsageError`."""
    try:
        reference = find_reference(bundle, extractor, split)
    except Damaged as error:
        say(f"reference is damaged and will be made again: {error}")
        reference = None
    if reference is not None:
        return reference
    command = (
        f"python -m benchmark reference --dataset {bundle.dataset} --bundle {shlex.quote(str(bundle.path))} "
        f"--extractor {extractor.name} --split {split}"
    )
    if dataset is None:
        raise UsageError(f"no {extractor.name} reference of {bundle.path.name}; make it with: {command}")
    try:
        images = dataset.load(roots)
    except UsageError as error:
        raise UsageError(
            f"no {extractor.name} reference of {bundle.path.name}; make it with: {command} ({error})"
        ) from error
    say(f"computing the {extractor.name} reference of {bundle.path.name}, {split} split, once")
    with track(f"{extractor.name} reference") as progress:
        return make_reference(bundle, images, extractor, split, device, None, progress)


def choose_extractor(
    registry: Registry,
    bundle: Bundle,
    dataset: Dataset | None,
    name: str | None,
    weights: Path | None,
    split: str,
    device: torch.device,
    roots: list[Path],
) -> tuple[Extractor, Reference]:
    """The extractor asked for with its reference; the data set's own, said in one line, where that cannot be had."""
    usual = bundle.card["dataset"]["extractor"]
    for each in dict.fromkeys([name or usual, usual]):
        extractor = registry.get("extractor", each)(weights if each == (name or usual) else None)
        try:
            return extractor, obtain_reference(bundle, dataset, extractor, split, device, roots)
        except (Unavailable, UsageError) as error:
            if extractor.embedded or each == usual:
                raise UsageError(str(error)) from error
            say(f"{each} cannot be used: {error}; scoring with {usual} instead")


def run(
    registry: Registry,
    bundle: Bundle,
    asked: list[Row],
    seeds: int,
    preset: Preset,
    split: Split,
    extractor: Extractor,
    reference: Reference,
    metrics: list[type[Metric]],
    device: torch.device,
    results: Path,
    retry: bool,
) -> int:
    """Run every job that is not recorded, rewriting the tables after each, and print the run's own table.

    `asked`: rows of `plan.rows`; that of full reconstructions is left out where there are none.
    Returns how many jobs failed.
    """
    started = time.perf_counter()
    features = len(reference.statistics(device).mean)
    protocol = protocol_for(bundle, preset, split, extractor, features)
    store = RecordStore(results / "records")
    measured = [metric() for metric in metrics]
    work = Workspace(bundle, registry, protocol, extractor, reference, measured, store, device, retry)
    made = [row for row in asked if row.prior or not REFERENCES[row.name].from_images or work.reconstructions is not None]
    for note in dict.fromkeys(row.note for row in made if row.note):
        say(note)
    protocol.save(results, bundle.id[:16])
    todo = jobs(made, bundle, seeds, preset.budget, device.type)
    note_in_force(results, preset.budget, [job.facts() for job in todo])
    provenance(device)  # the state of the code is read once, and belongs to the start of the run
    say(
        f"{len(todo)} jobs: {len(made)} rows, {seeds} seeds, on {bundle.path.name}, {preset.name} protocol, {device.type}"
    )
    failed = 0
    queue = collections.deque((number, job, False) for number, job in enumerate(todo, 1))
    while queue:
        number, job, wait = queue.popleft()
        start = time.perf_counter()
        outcome = run_job(job, work, wait)
        if outcome is None:  # another process is at it: do the others first
            queue.append((number, job, True))
            continue
        failed += bool(outcome.failures)
        if outcome.measured or outcome.failures:
            seconds = time.perf_counter() - start
            say(f"[{number}/{len(todo)}] {job.row.label} seed {job.seed}: {_told(outcome)}, {seconds:.1f} s")
            write_tables(results)
    write_tables(results)
    write_pictures(results)
    seconds = time.perf_counter() - started
    print(table_text(results, bundle.id[:16], protocol.hash))
    say(f"{len(todo) - failed} jobs fine, {failed} failed, {seconds:.1f} s: {results / 'leaderboard.md'}")
    return failed


def _told(outcome: Outcome) -> str:
    parts = [f"measured {', '.join(outcome.measured)}"] if outcome.measured else []
    return "; ".join(parts + [f"FAILED {failure}" for failure in outcome.failures])
