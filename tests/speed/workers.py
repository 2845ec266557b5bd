"""Jobs per second of the scores alone, with one worker and with several, and whether the numbers are the same.

Fits are made first and copied, so that what is timed is drawing, decoding, features and scores: each run has a cache of
its own with the same fits and nothing else. Seconds are from the first task to the last, as the run counts them; what
it takes to start Python is not in them, what it takes to start workers is.

    PYTHONPATH=. python tests/speed/workers.py -- --dataset mnist --budget full --priors gaussian --seeds 4
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tabulate import tabulate


def call(code: str, cache: Path, *words: str) -> str:
    """Python with this code, in a process of its own: what it says on its standard error."""
    environment = {**os.environ, "LATENT_PRIOR_CACHE": str(cache), "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, *([code] if code == "-m" else ["-c", code]), *words],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stderr


#: the command `run` with no metric at all, which fits
FIT = """
import sys
import benchmark.request
benchmark.request.choose_metrics = lambda registry, words: []
from benchmark.cli.app import main
sys.argv = ["benchmark", "run", *sys.argv[1:]]
main()
"""


def numbers(results: Path) -> dict[str, Any]:
    """Values of every score by its record's name."""
    found = {}
    for path in (results / "records").rglob("*.json"):
        record = json.loads(path.read_text())
        if record["kind"] != "fit":
            found[path.name] = record["status"], record.get("values")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="default: %(default)s")
    parser.add_argument("words", nargs="*", help="what is run, behind --: --dataset mnist --priors gaussian ...")
    options = parser.parse_args()
    rows, found = [], []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        call(FIT, folder / "fitted", *options.words, "--results", str(folder / "fits"))
        for workers in options.workers:
            cache, results = folder / f"cache{workers}", folder / f"results{workers}"
            shutil.copytree(folder / "fitted", cache)
            words = ["benchmark", "run", *options.words, "--metrics", "scores", "--workers", str(workers)]
            said = call("-m", cache, *words, "--results", str(results))
            jobs = len(re.findall(r"^\[\d+/\d+\] .*measured", said, re.MULTILINE))
            seconds = float(re.findall(r"failed, ([\d.]+) s:", said)[-1])
            found.append(numbers(results))
            rows.append([workers, jobs, f"{seconds:.1f}", jobs / seconds, found[-1] == found[0]])
    rows = [[*row[:3], f"{row[3]:.2f}", f"{row[3] / rows[0][3]:.2f}", "yes" if row[4] else "NO"] for row in rows]
    header = ["workers", "jobs", "seconds", "jobs/s", "times as many", "same numbers"]
    print(f"{' '.join(options.words)}, {len(found[0])} scores\n")
    print(tabulate(rows, header, disable_numparse=True, colalign=["right"] * 5 + ["left"]))


if __name__ == "__main__":
    main()
