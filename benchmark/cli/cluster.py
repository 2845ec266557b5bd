"""`submit` and `status`: workers on many machines that share a results folder."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer.core import TyperCommand

from benchmark.cli.options import ResultsOption, typed_options
from benchmark.cli.run import run
from benchmark.cli.suite import results_of, suite
from benchmark.cli.tune import tune
from benchmark.errors import UsageError, unknown_name
from benchmark.machine.importing import importing
from benchmark.progress import format_seconds, say, show
from benchmark.suggestion import spell

if TYPE_CHECKING:
    from benchmark.slurm import Slurm

#: commands that workers can share
SHARED: dict[str, Callable[..., None]] = {"run": run, "tune": tune, "suite": suite}
#: options with which a command is none that an array can share, and why
UNSHARED = {
    "dry_run": "does nothing",
    "recorded": "runs nothing",
    "executor": "has other workers than the array's",
}


@dataclass(frozen=True)
class _Asked:
    """A command whose names were looked up. `of`: what its workers share, in words; `timed`: whether they time it."""

    of: str
    results: Path
    shared: bool
    workers: int | None
    timed: bool = False


def submit(
    words: Annotated[
        list[str], typer.Argument(metavar="-- run ...", help="What is to be run, tuned, or a suite, as it is typed.")
    ],
    slurm: Annotated[Path, typer.Option(help="A TOML file: workers, partition, time, cpus, gpus of each, and more.")],
    out: Annotated[
        Path | None, typer.Option(help="The script to write (default: slurm/submit.sh in the results folder).")
    ] = None,
    send_: Annotated[bool, typer.Option("--send", help="Hand it to sbatch too.")] = False,
) -> None:
    """Write the script of a Slurm array whose workers share a run, a tuning or a suite, and send it."""
    with importing():
        from benchmark.slurm import read_slurm, script_of, send
        from benchmark.store.sealed import write_atomic

    array = read_slurm(slurm)
    command, *rest = words
    if command not in SHARED:
        raise unknown_name("command that workers can share", command, SHARED)
    with _alone(command).make_context(spell(command), list(rest)) as context:
        look_up = _look_up_suite if command == "suite" else _look_up
        asked = look_up(command, cast(typer.Context, context), array)
    extra = [] if asked.shared else ["--shared"]
    if asked.workers is None and not array.has_gpu:
        extra += ["--workers", str(array.cpus)]  # how many cores a node has says nothing of how many are this job's
    script = out or asked.results / "slurm" / "submit.sh"
    logs = asked.results.absolute() / "slurm"
    logs.mkdir(parents=True, exist_ok=True)  # Slurm makes no folder, and a job without its log is none
    write_atomic(script, script_of(array, [*words, *extra], logs, Path.cwd()).encode())
    each = f"{array.cpus} cores, {array.gpus} GPUs, {array.time}"
    say(f"written: {script}: {array.workers} workers ({each} each) for {asked.of}")
    if array.workers > 1 and asked.timed:
        of_run = ": --metrics scores leaves them out, for one worker alone" if command == "run" else ""
        say(f"timings of workers on one node disturb each other{of_run}")
    sent = f"sent: array {send(script)}" if send_ else f"next: sbatch {shlex.quote(str(script))}"
    show(f"{sent}\nwho is at what: {spell('status', results=asked.results)}")


def _alone(name: str) -> TyperCommand:
    """One of the commands, to read its words without the others."""
    app = typer.Typer()
    app.command()(SHARED[name])
    return cast(TyperCommand, typer.main.get_command(app))


def _refuse(command: str, given: Mapping[str, Any]) -> None:
    """Raise `UsageError` for an option with which workers share nothing."""
    for option, why in UNSHARED.items():
        if given.get(option):
            raise UsageError(f"submit: a {command} with --{option.replace('_', '-')} {why}: leave it out")


def _look_up(command: str, context: typer.Context, array: Slurm) -> _Asked:
    """What a run, or a tuning, asks for. Raises `UsageError`: now, and not after it has waited in a queue."""
    from benchmark.request import request_from, resolve, stored_reference
    from benchmark.tuning.tune import show_plan

    given = context.params
    request = request_from(typed_options(context), given.get("file"))
    _refuse(command, {**given, "executor": request.executor})  # which a file may say
    here = request.model_copy(update={"device": "cpu"})  # where it is submitted there may be no GPU
    there = _device_type(request.device, array)
    if command == "tune":
        show_plan(here, given["trials"], given["seed"])
        return _Asked("a tuning", request.results, request.shared, request.workers)
    resolved = resolve(here, reference_of=stored_reference, device_type=there)
    timed = any(metric.machine_bound for metric in resolved.work.metrics)
    return _Asked(f"{len(resolved.jobs)} jobs", request.results, request.shared, request.workers, timed)


def _look_up_suite(command: str, context: typer.Context, array: Slurm) -> _Asked:
    """What a suite asks for, but of the VAEs that it trains first, of which less is known. Raises `UsageError`."""
    from benchmark.names import choose_metrics
    from benchmark.request import resolve, stored_reference
    from benchmark.store.places import expand_home
    from benchmark.suites.plan import make_steps
    from benchmark.suites.suite import find_suite

    given = context.params
    _refuse(command, given)
    asked, preset = find_suite(given["name"]), given["preset"]
    results = expand_home(results_of(preset, given["results"]))
    common = {"device": "cpu", "results": results, "data_root": given["data_root"], "shared": True}
    steps = make_steps(asked, preset, common, make=False)
    there = _device_type(given["device"], array)
    for step in steps:
        if step.bundle is not None:
            resolve(step.request, step.registry, reference_of=stored_reference, device_type=there)
    timed = any(cls.machine_bound for step in steps for cls in choose_metrics(step.registry, step.request.metrics))
    return _Asked(f"suite {asked.name}, {preset}", results, given["shared"], given["workers"], timed)


def _device_type(device: str, array: Slurm) -> str:
    """That of a worker: what is asked for, or what it has. Raises `UsageError` for a GPU that no worker will have."""
    if device == "cuda" and not array.has_gpu:
        raise UsageError("--device cuda, but the workers have no GPU: gpus = 1 in the file of --slurm asks for one")
    return ("cuda" if array.has_gpu else "cpu") if device == "auto" else device


def status(results: ResultsOption = Path("results")) -> None:
    """Show who is at what in a results folder that workers share, and since when nobody heard of them."""
    with importing():
        from tabulate import tabulate

        from benchmark.store.held import STALE, read_claims
        from benchmark.store.places import claims_folder

    # records of the VAEs that a suite trains lie in a folder apart
    shared = [folder for folder in (results, *sorted((results / "suites").glob("*"))) if claims_folder(folder).is_dir()]
    if not shared:
        raise UsageError(f"{results}: no workers share this folder (expected a folder 'claims', of run --shared)")
    claims = [each for folder in shared for each in read_claims(claims_folder(folder))]
    found = [(claim, age) for claim, age in claims if claim.what]
    body = [
        [claim.what, claim.doing, claim.job or "", claim.machine, claim.process, claim.since, f"{age:.0f} s ago"]
        for claim, age in found
    ]
    if body:
        header = ["job", "at", "Slurm", "machine", "process", "since", "heard of"]
        show(tabulate(body, header, "simple", disable_numparse=True))
    lost = sum(age > STALE for _, age in found)
    silent = f", {lost} of them not heard of for {format_seconds(STALE)}: others take their jobs over" if lost else ""
    recorded = sum(1 for folder in {results, *shared} for _ in (folder / "records").rglob("*.json"))
    show(f"{len({claim.holder for claim, _ in found})} workers at {len(found)} jobs{silent}; {recorded:,} records")
