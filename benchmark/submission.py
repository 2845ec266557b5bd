"""A prior with its records, packed into one folder that somebody else can verify and show.

The folder is a results folder of its own: the records of the prior's rows and of the reference rows beside them, their
protocols, the tables made from these; with the plugin file and the sealed note of who packed it with what.
"""

from __future__ import annotations

import os
import shutil
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmark.errors import UsageError
from benchmark.jobs.reference_rows import REFERENCES
from benchmark.metrics.api import FIT
from benchmark.plugin_files import files_of_plugin
from benchmark.registry import Registry
from benchmark.report.board import Board
from benchmark.report.tables import ZERO_LINE
from benchmark.store.records import RecordStore
from benchmark.store.sealed import content_hash, file_hash, write_sealed
from benchmark.store.submissions import SUBMISSION, VERIFIED, Packed, Submission, Verified, read_submission

Record = dict[str, Any]


def pack(plugin: Path, results: Path, out: Path, author: str) -> Submission:
    """Collect a plugin's priors with their records of a results folder into a new folder. Raises `UsageError`."""
    priors = _sources(plugin)
    _require_one_file(plugin)
    records, _ = RecordStore(results / "records").all()
    ours = [record for record in records if record["row"]["prior"] in priors]
    if not ours:
        named = ", ".join(priors)
        raise UsageError(f"{results}: no records of {named}: run --plugin {plugin} --priors {named} first")
    _require_source(ours, priors, plugin)
    if out.exists():
        raise UsageError(f"{out} exists already: name another folder with --out")
    places = {_place(record) for record in ours}
    beside = {ZERO_LINE, *REFERENCES}
    kept = [*ours, *(r for r in records if r["row"]["prior"] in beside and _place(r) in places)]
    source, target = RecordStore(results / "records"), RecordStore(out / "records")
    for record in kept:
        of = record["row"], record["kind"], record["id"]
        path = target.path(*of)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.path(*of), path)
    for kind in ("protocols", "in_force"):
        for bundle in sorted({bundle for bundle, _ in places}):
            if (results / kind / bundle).is_dir():
                shutil.copytree(results / kind / bundle, out / kind / bundle)
    shutil.copyfile(plugin, out / plugin.name)
    packed = Packed(
        author=author,
        plugin=plugin.name,
        sha256=file_hash(plugin),
        priors=sorted(priors),
        records=len(kept),
        ids=_hash_of(kept),
        environment={each.name: each.version for each in metadata.distributions()},
        time=_now(),
    )
    write_sealed(out / SUBMISSION, packed.model_dump())
    Board(out).write()
    return read_submission(out)


def open_submission(folder: Path) -> Submission:
    """A packed folder whose plugin and records are those that were packed. Raises `UsageError` or `Damaged`."""
    if not (folder / SUBMISSION).exists():
        raise UsageError(f"{folder}: not a packed folder (expected {SUBMISSION}); a results folder is --results FOLDER")
    submission = read_submission(folder)
    plugin = folder / submission.packed.plugin
    if not plugin.is_file() or file_hash(plugin) != submission.packed.sha256:
        raise UsageError(f"{plugin}: not the file that was packed")
    records, damaged = RecordStore(folder / "records").all()
    if damaged:
        raise UsageError(damaged[0])
    if _hash_of(records) != submission.packed.ids:
        raise UsageError(
            f"{folder / 'records'}: these are not the {submission.packed.records} records that were packed"
        )
    return submission


def note_verified(folder: Path, submission: Submission, share: float, seed: int, counts: dict[str, int]) -> Submission:
    """Write down what came of verifying a packed folder. `counts`: verdict -> how many values have it."""
    verified = Verified(
        share=share,
        seed=seed,
        values=sum(counts.values()),
        agree=counts["equal"] + counts["within"],
        disagree=counts["DISAGREES"],
        ids=submission.packed.ids,
        time=_now(),
    )
    write_sealed(folder / VERIFIED, verified.model_dump())
    return read_submission(folder)


def _sources(plugin: Path) -> dict[str, str | None]:
    """The priors that a plugin file registers, each with the hash of its source."""
    registry = Registry([plugin], apart=True)
    found = {name: cls for name, cls in registry.all("prior").items() if registry.origin(cls) == str(plugin)}
    if registry.broken:
        raise UsageError("; ".join(f"broken plugin {origin}: {why}" for origin, why in registry.broken.items()))
    if not found:
        raise UsageError(f"--plugin {plugin}: it registers no prior")
    return {name: registry.source(cls) for name, cls in found.items()}


def _require_one_file(plugin: Path) -> None:
    """Raise `UsageError` where a plugin imports files of its own: nobody could run the packed one without them."""
    own = plugin.resolve()
    others = sorted({os.path.relpath(file, own.parent) for file in files_of_plugin(plugin) if file != own})
    if others:
        raise UsageError(f"{plugin}: it imports {', '.join(others)}, and only one file is packed: put all of it there")


def _require_source(records: list[Record], sources: dict[str, str | None], plugin: Path) -> None:
    """Raise `UsageError` where records are of another version of the plugin: nobody could make them again with this."""
    for record in records:
        made_by = record["identity"].get("prior", {}).get("source")
        if record["kind"] == FIT and made_by != sources[record["row"]["prior"]]:
            raise UsageError(
                f"{record['row']['label']} seed {record['row']['seed']} was fitted by another version of {plugin}: "
                "pack that one, or run this one into a results folder of its own"
            )


def _place(record: Record) -> tuple[str, str]:
    """What a row must share with another to stand in a table beside it."""
    return record["row"]["bundle"], record["row"]["device"]


def _hash_of(records: list[Record]) -> str:
    """Of what records say: their ids and values, whatever their order."""
    return content_hash(sorted(record["seal"] for record in records))


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
