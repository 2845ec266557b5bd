"""What a task needs beside its plain data, as bytes: bundle, references, files of plugins. So no folder is shared.

On another machine the files lie below one folder as they lay below `/`, and what names them is rebased to it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmark.bundles.bundle import SPLITS, Bundle, parts_of
from benchmark.bundles.reconstructions import name_of_reconstructions
from benchmark.bundles.reference import find_reference, look_up
from benchmark.extractors.api import Extractor
from benchmark.jobs.identity import Job
from benchmark.jobs.task import Task
from benchmark.jobs.workspace import Workspace, open_workspace
from benchmark.plugin_files import Plugin, files_of_plugin
from benchmark.store.places import cache_root, lock
from benchmark.store.sealed import Damaged, content_hash, file_hash, write_atomic


@dataclass(frozen=True)
class Parcel:
    """Files to be sent: where each is to lie, below the folder of another machine, and where it lies here."""

    files: dict[str, Path]

    @property
    def key(self) -> str:
        """The same of the same files."""
        return content_hash({place: file_hash(path) for place, path in self.files.items()})[:32]

    def read(self) -> dict[str, bytes]:
        """Place -> content."""
        return {place: path.read_bytes() for place, path in self.files.items()}


def parcel_of_run(work: Workspace) -> Parcel:
    """The files that all tasks of a run name: its bundle with what an extractor saw of it."""
    bundle = work.bundle
    paths = [bundle.path / name for name in ("bundle.json", *parts_of(bundle.card))]
    if bundle.groups is not None:
        paths.append(bundle.groups.path)
    if work.extractor.weights is not None:
        paths.append(work.extractor.weights)
    files = {_below(path): path.absolute() for path in paths}
    for path in _references(bundle, work.extractor):
        files[_below(bundle.path / "reference" / path.name)] = path.absolute()
    return Parcel(files)


def parcel_of_plugins(plugins: Iterable[Plugin]) -> Parcel:
    """The files of plugins, and of what they import of their own; of an installed package every machine has its own."""
    paths = [path for plugin in plugins if plugin.module is None for path in files_of_plugin(Path(plugin.name))]
    return Parcel({_below(path): path for path in sorted(paths)})


def plugins_of(task: Task) -> frozenset[Plugin]:
    """The plugins that a task needs: its prior's, and those of the run's metrics, extractors and backbones."""
    own = task.job.row.plugin
    return frozenset(task.work.registry.imported) | (frozenset() if own is None else {own})


def _references(bundle: Bundle, extractor: Extractor) -> list[Path]:
    """What the extractor saw in the bundle's images, and in reconstructions of them, wherever that is kept."""
    found = []
    for split in SPLITS:
        with contextlib.suppress(Damaged):
            if reference := find_reference(bundle, extractor, split):
                found.append(reference.path)
        with contextlib.suppress(Damaged):
            if reconstructed := look_up(bundle, extractor, name_of_reconstructions(bundle, extractor, split)):
                found.append(reconstructed[0])
    return [file for path in found for file in (path, path.with_suffix(".json"))]


def unpack(key: str, files: dict[str, bytes]) -> None:
    """Put a parcel's files where `sent_folder` says, once; processes that come together wait for one of them."""
    with lock(f"sent-{key}"):
        if not (done := sent_folder(key) / "whole").exists():
            for place, content in files.items():
                write_atomic(sent_folder(key) / place, content)
            write_atomic(done, b"")


def sent_folder(key: str) -> Path:
    """Where a parcel's files lie on this machine."""
    return cache_root() / "sent" / key


def is_unpacked(key: str) -> bool:
    """Whether this machine has a parcel, whole."""
    return (sent_folder(key) / "whole").exists()


@dataclass(frozen=True)
class Sent:
    """A task whose files are in a parcel, as plain data that opens nothing."""

    job: Job
    work: tuple[Any, ...]
    rest: dict[str, Any]

    @classmethod
    def of(cls, task: Task) -> Sent:
        """The task as it is sent."""
        rest = {"metrics": task.metrics, "threads": task.threads, "recorded": task.recorded, "limit": task.limit}
        return cls(task.job, task.work.__reduce__()[1], rest)

    def task(self, run: str, plugins: str) -> Task:
        """The task on this machine, of the files of two parcels; who does it opens its workspace."""
        at, at_plugins = (partial(_moved, sent_folder(key)) for key in (run, plugins))
        bundle, imported, protocol, (extractor, weights), reference, metrics, device = self.work
        groups = bundle.groups and replace(bundle.groups, path=at(bundle.groups.path))
        here = replace(bundle, path=at(bundle.path), groups=groups)
        if reference is not None:
            reference = replace(reference, path=here.path / "reference" / reference.path.name)
        moved = tuple(_plugin_at(at_plugins, each) for each in imported)
        parts = (here, moved, protocol, (extractor, weights and at(weights)), reference, metrics, device)
        row = self.job.row
        if row.plugin is not None:
            row = replace(row, plugin=_plugin_at(at_plugins, row.plugin))
        return Task(replace(self.job, row=row, bundle=here), _Unopened(parts), **self.rest)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Unopened:
    """What is a workspace where it is unpickled."""

    parts: tuple[Any, ...]

    def __reduce__(self) -> Any:
        return open_workspace, self.parts


def _below(path: Path) -> str:
    return str(path.absolute()).lstrip("/")


def _moved(root: Path, path: Path) -> Path:
    return root / _below(path)


def _plugin_at(at: Callable[[Path], Path], plugin: Plugin) -> Plugin:
    return replace(plugin, name=str(at(Path(plugin.name).resolve()))) if plugin.module is None else plugin
