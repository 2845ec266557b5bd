"""A suite from its file to its page: what is missing is trained and run, and all that is recorded is not done again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmark import coordinator
from benchmark.bundles.bundle import Bundle
from benchmark.bundles.reference import Reference, find_reference, reference_command
from benchmark.datasets.api import Dataset
from benchmark.errors import UsageError
from benchmark.extractors.api import Extractor
from benchmark.jobs.forecast import total
from benchmark.jobs.workspace import Workspace
from benchmark.machine.devices import choose_device
from benchmark.progress import format_seconds, say
from benchmark.protocol import CAPPED, Protocol
from benchmark.report.tables import Table, make_tables
from benchmark.request import Resolved, resolve, stored_reference
from benchmark.store.places import data_roots, sharing
from benchmark.suggestion import spell
from benchmark.suites.pages import write_pages
from benchmark.suites.places import Note, find_tables, folder_apart, keep_note, require_largest
from benchmark.suites.plan import Step, join, make_place, make_steps
from benchmark.suites.suite import Suite, shipped
from benchmark.suites.training import shared_bundles, train


def run_suite(suite: Suite, preset: str, results: Path, given: dict[str, Any]) -> tuple[Path, int]:
    """Do what is not done yet and write the pages; returns its own, and how many jobs failed, or rows were left out.

    `given`: fields of all requests that the command decides. Raises `UsageError` before anything is computed where the
    suite names what is not there, and where its page is of a larger preset.
    """
    require_largest(results, suite.name, preset, _device_type(given))
    steps = make_steps(suite, preset, {**given, "results": results})
    untrained = {step.training.id for step in steps if step.bundle is None and step.training is not None}
    if untrained:
        say(f"bundles that are trained first: {len(untrained)}")
    steps = _trained(steps)
    resolved = [resolve(step.request, step.registry) for step in steps]
    protocols = [each.work.protocol for each in resolved]
    device = resolved[0].work.device.type
    page = keep_note(results, _note(suite, preset, device, steps, resolved, protocols)).with_suffix(".md")
    if expected := _expected(resolved):
        say(expected)
    failed = 0
    try:
        while resolved:
            finished = coordinator.run(resolved.pop(0))
            say(finished.summary)
            failed += finished.failed
    finally:  # of an interrupted suite, too, what is known so far
        _tell(write_pages(results))
    return page, failed


def judge_suite(suite: Suite, preset: str, results: Path, given: dict[str, Any]) -> tuple[Path, int]:
    """Write the pages from what is recorded on a device, which need not be here.

    Returns the suite's own page, and how many files are damaged.

    Nothing is trained, fitted or measured. Raises `UsageError`, before a page is touched, where a bundle or a reference
    is not here that tells which records are asked for, where there are none, and where its page is of a larger preset.
    """
    device = _device_type(given)
    require_largest(results, suite.name, preset, device)
    steps = make_steps(suite, preset, {**given, "device": "cpu", "results": results}, make=False)
    of = f"suite {suite.name}, presets.{preset}"
    untrained = list(dict.fromkeys(step.name for step in steps if step.bundle is None))
    if untrained:
        raise UsageError(
            f"{of}: {'; '.join(untrained)}: not trained here, so nobody can tell what is recorded of it; without "
            "--recorded the suite trains it"
        )
    resolved = [resolve(step.request, step.registry, reference_of=_require_reference) for step in steps]
    made, damaged, _ = make_tables(results)
    apart, *_ = make_tables(folder_apart(results, suite.name))
    protocols = [_as_recorded(each.work, [*made, *apart]) for each in resolved]
    note = _note(suite, preset, device, steps, resolved, protocols)
    missing = [each.place.name for each in find_tables(note, [*made, *apart]) if each.table is None]
    if len(missing) == len(note.places):
        raise UsageError(f"{of}: nothing is recorded of it on {device} in {results}: {'; '.join(missing)}")
    for name in missing:
        say(f"nothing is recorded of {name} on {device}")
    page = keep_note(results, note).with_suffix(".md")
    return page, _tell(damaged + write_pages(results, made))


def _device_type(given: dict[str, Any]) -> str:
    """What is typed, which need not be here; of `auto` what is here."""
    typed: str = given.get("device") or "auto"
    return choose_device("auto").type if typed == "auto" else typed


def _tell(damaged: list[str]) -> int:
    """Say what is in no page since it is damaged; returns how many files that are."""
    for sentence in damaged:
        say(f"left out: {sentence}")
    return len(damaged)


def _require_reference(bundle: Bundle, dataset: Dataset | None, extractor: Extractor, split: str) -> Reference:
    """The reference that is here. Raises `UsageError`: without it nobody knows under which protocol records stand."""
    reference = find_reference(bundle, extractor, split)
    if reference is None:
        raise UsageError(
            f"{bundle.path.name} has no {extractor.name} reference of the {split} split here: "
            f"{reference_command(bundle, extractor, split)} makes it"
        )
    return reference


def _as_recorded(work: Workspace, tables: Sequence[Table]) -> Protocol:
    """The protocol under which records stand: of latent groups that with draws of the most images.

    Draws are made where a suite is run, and need not be here.
    """
    if work.protocol.groups is None:
        return work.protocol

    def but_draws(protocol: Protocol) -> tuple[dict[str, Any], Any]:
        return protocol.model_dump(exclude={"groups", *CAPPED}), (protocol.groups or {}).get("chosen")

    there = [table.protocol for table in tables if table.bundle == work.bundle.id[:16]]
    alike = [protocol for protocol in there if but_draws(protocol) == but_draws(work.protocol)]
    return max([*alike, work.protocol], key=lambda protocol: (protocol.groups or {})["train"])


def _note(
    suite: Suite,
    preset: str,
    device: str,
    steps: list[Step],
    resolved: list[Resolved],
    protocols: list[Protocol],
) -> Note:
    """Where the rows of the steps stand, under `protocols`."""
    places = [
        make_place(suite, replace(step, bundle=each.work.bundle), protocol.hash, device)
        for step, each, protocol in zip(steps, resolved, protocols, strict=True)
    ]
    name = suite.name if suite.name in shipped() else f"{suite.name}.toml"
    command = spell("suite", name, preset=preset, device=device)
    return Note(name=suite.name, preset=preset, command=command, content=suite.content, places=join(places))


def _trained(steps: list[Step]) -> list[Step]:
    """The steps with all their bundles, each trained once."""
    done = {}
    for number, step in enumerate(steps):
        if step.bundle is None and step.training is not None:
            key = step.training.id
            if key not in done:
                device = choose_device(step.request.device)
                where = device, data_roots(step.request.data_root), shared_bundles(step.request)
                with sharing(step.request.results if step.request.shared else None):
                    done[key] = train(step.training, step.registry, *where)
            steps[number] = step.on(done[key])
    return steps


def _expected(resolved: list[Resolved]) -> str:
    """About how much core time all of it takes, in a sentence; empty where everything is recorded."""
    seconds, unknown = total(row for each in resolved for row in coordinator.forecast_of(each))
    if not (seconds or unknown):
        return ""
    more = f"{unknown:,} fits and scores of which no time is recorded" if unknown else ""
    known = f"about {format_seconds(seconds)} of core time by the recorded seconds" if seconds else ""
    return f"expected: {', and '.join(filter(None, (known, more)))}"


def dry_run(suite: Suite, preset: str, results: Path, given: dict[str, Any]) -> str:
    """What `run_suite` would do, as text: bundles to be trained, and each request's jobs with about how long."""
    parts, known = [], []
    for step in make_steps(suite, preset, {**given, "results": results}, make=False):
        if step.bundle is None and step.training is not None:
            of = step.training
            images = f" on {of.images:,} images" if of.images else ""
            parts.append(
                f"{step.name}: {of.backbone} of {of.dataset} would be trained first{images}, and then each of "
                f"{len(step.request.priors or ())} priors fitted with {len(step.request.seeds)} seeds\n"
            )
        else:
            try:
                known.append(resolve(step.request, step.registry, reference_of=stored_reference))
            except UsageError as error:
                if step.training is None:
                    raise
                parts.append(f"{step.name}: would go on from its bundle: {error}\n")
                continue
            parts.append(f"{step.name}\n\n{coordinator.dry_run(known[-1])}")
    return "\n".join([*parts, _expected(known)])
