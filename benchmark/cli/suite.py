"""`suite`: run an experiment from its file, and say which of its claims held."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from benchmark.cli.options import DataRootOption, DeviceOption, PerGpuOption, SharedOption
from benchmark.cli.stopping import giving_back
from benchmark.errors import UsageError
from benchmark.machine.importing import importing
from benchmark.processes.fork_server import start_server
from benchmark.progress import say, show

#: where a preset's records go when nothing is named: quick ones are no results, and stay out of the boards
RESULTS = {"quick": Path("results-quick")}


def results_of(preset: str, named: Path | None) -> Path:
    """The results folder of a preset, where none is named."""
    return named or RESULTS.get(preset, Path("results"))


def suite(
    name: Annotated[str, typer.Argument(help="A shipped suite by name, or a TOML file of your own.")],
    preset: Annotated[
        str, typer.Option(help="quick: minutes, seldom a verdict; default: hours on a CPU; full: for a GPU.")
    ] = "default",
    results: Annotated[
        Path | None,
        typer.Option("--results", help="Folder of records and pages (default: results; results-quick for quick)."),
    ] = None,
    device: DeviceOption = "auto",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="How many processes share the work (default: the cores, or --per-gpu on each GPU)."),
    ] = None,
    per_gpu: PerGpuOption = 1,
    shared: SharedOption = False,
    data_root: DataRootOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done, and about how long it takes; do nothing.")
    ] = False,
    recorded: Annotated[
        bool,
        typer.Option("--recorded", help="Test the claims on what is recorded of --device; run nothing."),
    ] = False,
) -> None:
    """Run an experiment and test its claims (trains what is missing; what is recorded is not done again)."""
    if workers != 1 and not (dry_run or recorded):
        start_server()  # it imports while this process does
    with importing():
        from benchmark.machine.devices import count_workers
        from benchmark.suites.running import dry_run as dry_run_suite
        from benchmark.suites.running import judge_suite, run_suite
        from benchmark.suites.suite import find_suite

    if dry_run and recorded:
        raise UsageError("--dry-run and --recorded: take one of them, neither runs anything")
    asked = find_suite(name)
    asked.preset(preset)
    folder = results_of(preset, results)
    given: dict[str, Any] = {"device": device, "per_gpu": per_gpu, "data_root": data_root, "shared": shared}
    if dry_run:
        show(dry_run_suite(asked, preset, folder, given))
        return
    if recorded:
        page, failed = judge_suite(asked, preset, folder, given)
    else:
        given["workers"] = workers or count_workers(device, per_gpu)
        with giving_back(shared):
            page, failed = run_suite(asked, preset, folder, given)
    show(page.read_text())
    say(f"written: {page}, {folder / 'findings.md'}")
    raise typer.Exit(1 if failed else 0)
