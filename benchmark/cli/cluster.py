"""`status`: workers on many machines that share a results folder."""

from __future__ import annotations

from pathlib import Path

from benchmark.cli.options import ResultsOption
from benchmark.errors import UsageError
from benchmark.machine.importing import importing
from benchmark.progress import format_seconds, show


def status(results: ResultsOption = Path("results")) -> None:
    """Show who is at what in a results folder that workers share, and since when nobody heard of them."""
    with importing():
        from tabulate import tabulate

        from benchmark.store.held import STALE, read_claims
        from benchmark.store.places import claims_folder

    folder = claims_folder(results)
    if not folder.is_dir():
        raise UsageError(f"{results}: no workers share this folder (expected a folder 'claims', of run --shared)")
    found = [(claim, age) for claim, age in read_claims(folder) if claim.what]
    body = [
        [claim.what, claim.doing, claim.job or "", claim.machine, claim.process, claim.since, f"{age:.0f} s ago"]
        for claim, age in found
    ]
    if body:
        header = ["job", "at", "Slurm", "machine", "process", "since", "heard of"]
        show(tabulate(body, header, "simple", disable_numparse=True))
    lost = sum(age > STALE for _, age in found)
    silent = f", {lost} of them not heard of for {format_seconds(STALE)}: others take their jobs over" if lost else ""
    recorded = sum(1 for _ in (results / "records").rglob("*.json"))
    show(f"{len({claim.holder for claim, _ in found})} workers at {len(found)} jobs{silent}; {recorded:,} records")
