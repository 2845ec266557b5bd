"""A suite from its file to its page: what is missing is trained and run, and all that is recorded is not done again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmark import coordinator
from benchmark.errors import UsageError
from benchmark.jobs.forecast import total
from benchmark.machine.devices import DeviceName, choose_device
from benchmark.progress import format_seconds, say
from benchmark.request import Resolved, resolve, stored_reference
from benchmark.store.places import data_roots, sharing
from benchmark.suggestion import spell
from benchmark.suites.pages import write_pages
from benchmark.suites.places import Note, keep_note
from benchmark.suites.plan import Step, join, make_place, make_steps
from benchmark.suites.suite import Suite, shipped
from benchmark.suites.training import shared_bundles, train


def run_suite(suite: Suite, preset: str, results: Path, given: dict[str, Any]) -> int:
    """Do what is not done yet and write the pages; returns how many jobs failed, or rows were left out.

    `given`: fields of all requests that the command decides. Raises `UsageError` before anything is computed where the
    suite names what is not there.
    """
    steps = make_steps(suite, preset, {**given, "results": results})
    untrained = len({step.name for step in steps if step.bundle is None})
    if untrained:
        say(f"{untrained} bundles are trained first")
    steps = _trained(steps)
    resolved = [resolve(step.request, step.registry) for step in steps]
    _keep_note(suite, preset, results, given.get("device"), steps, resolved)
    if expected := _expected(resolved):
        say(expected)
    failed = 0
    try:
        while resolved:
            finished = coordinator.run(resolved.pop(0))
            say(finished.summary)
            failed += finished.failed
    finally:  # of an interrupted suite, too, what is known so far
        write_pages(results)
    return failed


def judge_suite(suite: Suite, preset: str, results: Path, given: dict[str, Any]) -> None:
    """Write the pages from what is recorded on the device that is asked for, which need not be here.

    Nothing is trained, fitted or measured. Raises `UsageError` where a bundle is not here that tells which rows are
    asked for.
    """
    steps = make_steps(suite, preset, {**given, "device": "cpu", "results": results}, make=False)
    untrained = list(dict.fromkeys(step.name for step in steps if step.bundle is None))
    if untrained:
        raise UsageError(
            f"suite {suite.name}, presets.{preset}: {', '.join(untrained)}: not trained here, so nobody can tell what "
            "is recorded of it; without --recorded the suite trains it"
        )
    resolved = [resolve(step.request, step.registry, reference_of=stored_reference) for step in steps]
    _keep_note(suite, preset, results, given.get("device"), steps, resolved)
    write_pages(results)


def _keep_note(
    suite: Suite, preset: str, results: Path, device: DeviceName | None, steps: list[Step], resolved: list[Resolved]
) -> None:
    """Note where the rows of the steps stand, on the device that was typed."""
    places = [
        make_place(
            suite,
            replace(step, bundle=each.work.bundle),
            each.work.protocol.hash,
            each.work.device.type if device in (None, "auto") else device,
        )
        for step, each in zip(steps, resolved, strict=True)
    ]
    typed = suite.name if suite.name in shipped() else f"{suite.name}.toml"
    command = spell("suite", typed, preset=preset, device=None if device == "auto" else device)
    keep_note(
        results, Note(name=suite.name, preset=preset, command=command, content=suite.content, places=join(places))
    )


def _trained(steps: list[Step]) -> list[Step]:
    """The steps with all their bundles, each trained once."""
    done = {}
    for number, step in enumerate(steps):
        if step.bundle is None and step.training is not None:
            if step.name not in done:
                device = choose_device(step.request.device)
                where = device, data_roots(step.request.data_root), shared_bundles(step.request)
                with sharing(step.request.results if step.request.shared else None):
                    done[step.name] = train(step.training, step.registry, *where)
            steps[number] = step.on(done[step.name])
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
            known.append(resolve(step.request, step.registry, reference_of=stored_reference))
            parts.append(f"{step.name}\n\n{coordinator.dry_run(known[-1])}")
    return "\n".join([*parts, _expected(known)])
