"""`submit` and `status`: workers on many machines that share a results folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from benchmark.cli.options import ResultsOption, typed_options
from benchmark.cli.run import run
from benchmark.errors import UsageError, unknown_name
from benchmark.machine.importing import importing
from benchmark.progress import format_seconds, say, show
from benchmark.suggestion import spell

if TYPE_CHECKING:
    from benchmark.request import Request

#: commands that workers can share
SHARED = ("run",)


def submit(
    words: Annotated[list[str], typer.Argument(metavar="-- run ...", help="What is to be run, as it is typed.")],
    slurm: Annotated[Path, typer.Option(help="A TOML file: workers, partition, time, cpus, gpus of each, and more.")],
    out: Annotated[
        Path | None, typer.Option(help="The script to write (default: slurm/submit.sh in the results folder).")
    ] = None,
    send_: Annotated[bool, typer.Option("--send", help="Hand it to sbatch too.")] = False,
) -> None:
    """Write the script of a Slurm array whose workers share the jobs of a run, and send it."""
    with importing():
        from benchmark.request import request_from, resolve, stored_reference
        from benchmark.slurm import read_slurm, script_of, send
        from benchmark.store.sealed import write_atomic

    asked = read_slurm(slurm)
    command, *rest = words
    if command not in SHARED:
        raise unknown_name("command that workers can share", command, SHARED)
    with typer.main.get_command(_only_run()).make_context("run", list(rest)) as context:
        for option, why in (("dry_run", "does nothing"), ("executor", "has other workers than the array's")):
            if context.params[option]:
                raise UsageError(f"submit: a run with --{option.replace('_', '-')} {why}: leave it out")
        request = request_from(typed_options(cast(typer.Context, context)), context.params["file"])
    resolved = resolve(_as_here(request), reference_of=stored_reference)
    extra = [] if request.shared else ["--shared"]
    if request.workers is None and not asked.gpus:
        extra += ["--workers", str(asked.cpus)]  # how many cores a node has says nothing of how many are this job's
    script = out or request.results / "slurm" / "submit.sh"
    logs = request.results.absolute() / "slurm"
    logs.mkdir(parents=True, exist_ok=True)  # Slurm makes no folder, and a job without its log is none
    write_atomic(script, script_of(asked, [*words, *extra], logs, Path.cwd()).encode())
    each = f"{asked.cpus} cores, {asked.gpus} GPUs, {asked.time}"
    say(f"written: {script}: {asked.workers} workers ({each} each) for {len(resolved.jobs)} jobs")
    if asked.workers > 1 and any(metric.machine_bound for metric in resolved.work.metrics):
        say("timings of workers on one node disturb each other: --metrics scores leaves them out, for one worker alone")
    sent = f"sent: array {send(script)}" if send_ else f"next: sbatch {shlex.quote(str(script))}"
    show(f"{sent}\nwho is at what: {spell('status', results=request.results)}")


def _only_run() -> typer.Typer:
    app = typer.Typer()
    app.command()(run)
    return app


def _as_here(request: Request) -> Request:
    """The same as far as names can be looked up where it is submitted, which may have no GPU."""
    import torch

    if request.device != "cuda" or torch.cuda.is_available():
        return request
    return request.model_copy(update={"device": "cpu", "settings": "recipe"})


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
