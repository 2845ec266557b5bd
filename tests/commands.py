"""Commands in processes of their own, and what they leave behind."""

import json
import multiprocessing
import multiprocessing.forkserver
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

import benchmark
from benchmark.cli.app import main
from benchmark.processes import fork_server
from benchmark.processes.child import Child
from benchmark.protocol import make_protocol

ROOT = Path(benchmark.__file__).resolve().parent.parent
#: what commands import, some of it only when they train or draw, which takes seconds in each of them
PRELOADED = [
    *("benchmark.cli.app", "benchmark.coordinator", "benchmark.bundles.pretrain", "priors.evalp"),
    *("torch._dynamo", "seaborn"),
]
#: what to type for a run that takes a second, beside its bundle and results
RUN = ["--priors", "gaussian", "--seeds", 1, "--metrics", "fd", "--device", "cpu"]


def shorten(patch, **changes):
    """Runs have timings of four samples: those of the protocol take seconds, and the shipped decoder's some more."""
    changes = {"timing_batches": (4,), "timing_seconds": 0.0, **changes}
    shorter = lambda *given: make_protocol(*given).model_copy(update=changes)  # noqa: E731
    patch.setattr("benchmark.request.make_protocol", shorter)


def _command(words, cache, log, server):
    shorten(pytest.MonkeyPatch())
    os.environ["LATENT_PRIOR_CACHE"] = cache
    fork_server._requests = server
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = ["benchmark", *words]
    main()


def alone(words):
    """A run or a tuning with one worker, where no number of them is asked for."""
    return (*words, "--workers", 1) if words[0] in ("run", "tune") and "--workers" not in words else words


def start(words, cache, log):
    """The command line in a process of its own, forked from one that has imported the packages already."""
    forked = multiprocessing.get_context("forkserver")
    forked.set_forkserver_preload([*PRELOADED, __name__])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(Path(__file__).parent)]))
        multiprocessing.forkserver.ensure_running()
    with Child():  # so that there is a server, which all commands of the tests share
        server = fork_server._requests
    words = [str(word) for word in alone(words)]
    process = forked.Process(target=_command, args=(words, str(cache), str(log), server))
    process.start()
    return process


def finish(process, log):
    """Wait for a started command: code, output."""
    process.join(900)  # of a machine with much else to do
    assert not process.is_alive()
    return SimpleNamespace(code=process.exitcode, output=Path(log).read_text())


#: what is said of images at a path once they are read
OF_IMAGES = re.compile(r": [\d,]+ (grey|colour) images, ")


def only_line(done):
    """The one line that a refused command prints, below what it says of images that it has read."""
    assert done.code == 2
    assert done.out == ""
    assert "Traceback" not in done.err
    lines = [line for line in done.err.splitlines() if not OF_IMAGES.search(line)]
    assert len(lines) == 1, done.err
    assert lines[0].startswith("error: "), done.err
    return lines[0]


def record_files(results):
    return sorted((Path(results) / "records").rglob("*.json"))


def numbers(results):
    """Path of each record below the results -> its status and its values, but for the seconds of a fit."""
    found = {}
    for path in record_files(results):
        record = json.loads(path.read_text())
        values = {name: value for name, value in record["values"].items() if name != "fit_seconds"}
        found[path.relative_to(results)] = record["status"], values
    return found


def contents(folder):
    """Path below `folder` -> (bytes, time of the last change)."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def the_record(results, kind, prior="evalp", seed=0, **row):
    """The one record of that kind, prior and seed, with its path."""
    found = [(json.loads(path.read_text()), path) for path in record_files(results)]
    wanted = {"prior": prior, "seed": seed, **row}
    found = [(r, path) for r, path in found if r["kind"] == kind and wanted.items() <= r["row"].items()]
    assert len(found) == 1
    return found[0]


def scores_of(results):
    """The leaderboard's means: rows by metrics."""
    board = pd.read_csv(Path(results) / "leaderboard.csv")
    # pivot_table would average two lines of one name in silence; pivot refuses them
    return board.pivot(index="prior", columns="metric", values="mean")  # noqa: PD010
