"""A mark of the job that is under way in the process of a run, which whatever ends that process leaves behind.

A crash of a library, a kill and a hang that somebody ends leave no record: without a mark the same command would come
to the same job again, and never to those behind it.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
from pathlib import Path

from benchmark.jobs.identity import Job
from benchmark.store.places import cache_root
from benchmark.store.sealed import content_hash, is_alive


class Marks:
    """The marks of runs into one results folder. A mark that cannot be written or read is none."""

    def __init__(self, results: Path) -> None:
        self._folder = cache_root() / "under_way" / content_hash(str(results.resolve()))[:16]

    def set(self, job: Job, doing: str) -> None:
        """The job is begun, or goes on with a metric of that name."""
        mark = {"doing": doing, "process": os.getpid(), "machine": platform.node()}
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._path(job).write_text(json.dumps(mark))

    def remove(self, job: Job) -> None:
        """The job is through, whatever became of it."""
        with contextlib.suppress(OSError):
            self._path(job).unlink(missing_ok=True)

    def find(self, job: Job) -> str | None:
        """What an earlier run, which is no more, was at when it ended; None where none was at this job."""
        try:
            mark = json.loads(self._path(job).read_text())
            if mark["machine"] != platform.node() or is_alive(mark["process"]):
                return None  # it may go on there
            return f"an earlier run ended at its {mark['doing']} (a crash, a kill or Ctrl-C)"
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def _path(self, job: Job) -> Path:
        return self._folder / f"{job.fit_id}.json"
