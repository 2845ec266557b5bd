"""`run`: fit and score priors on a bundle and write the leaderboard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.options import (
    BundleBackboneOption,
    BundleDatasetOption,
    BundleOption,
    DataRootOption,
    DeviceOption,
    ExtractorOption,
    GroupsOption,
    PerGpuOption,
    PluginOption,
    ResultsOption,
    SharedOption,
    WeightsOption,
    WorkersOption,
    typed_options,
)
from benchmark.cli.stopping import giving_back
from benchmark.machine.importing import importing
from benchmark.processes.fork_server import start_server
from benchmark.progress import say, show
from benchmark.protocol import Budget, PresetName, Settings, Split


def run(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Option("--file", help="A TOML file with these options as keys; what is typed goes before."),
    ] = None,
    priors: Annotated[
        str | None,
        typer.Option(
            help="Priors, 'evalp[gp_weight=1,10],ncp'; groups (closed_form, flows, energy, many_pass, one_pass); all."
        ),
    ] = None,
    dataset: BundleDatasetOption = None,
    backbone: BundleBackboneOption = None,
    bundle: BundleOption = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 0 on.")] = 3,
    budget: Annotated[
        Budget | None, typer.Option(help="full: each prior's own recipe; quick (default): steps capped.")
    ] = None,
    protocol: Annotated[
        PresetName | None,
        typer.Option(
            help="rae (default with the full budget): 10,000 images against test; "
            "nvae: 50,000 against train; quick: 2,000."
        ),
    ] = None,
    split: Annotated[Split, typer.Option(help="Choose settings on val, report on test.")] = "test",
    groups: GroupsOption = "top",
    settings: Annotated[
        Settings, typer.Option(help="tuned: rows `prior*`, with the settings that `tune` chose, in a table apart.")
    ] = "recipe",
    extractor: ExtractorOption = None,
    inception_weights: WeightsOption = None,
    metrics: Annotated[
        str | None,
        typer.Option(help="Measure these alone: names, 'scores' (in several shells) or 'timings' (in quiet)."),
    ] = None,
    device: DeviceOption = "auto",
    results: ResultsOption = Path("results"),
    retry: Annotated[bool, typer.Option("--retry", help="Try again what is recorded as failed.")] = False,
    workers: WorkersOption = None,
    per_gpu: PerGpuOption = 1,
    job_timeout: Annotated[
        float | None,
        typer.Option(
            "--job-timeout", help="Seconds after which a fit, or a score, is ended and recorded as timed out."
        ),
    ] = None,
    executor: Annotated[
        str | None, typer.Option(help="here (default for one worker), processes, ray, 'ray[num_cpus=0.5]', or yours.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster to join, for --executor ray (default: one is started here).")
    ] = None,
    shared: SharedOption = False,
    data_root: DataRootOption = None,
    plugins: PluginOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done, and about how long it takes; do nothing.")
    ] = False,
) -> None:
    """Fit and score priors on a bundle and write the leaderboard (stage 2; what is recorded is not done again)."""
    if workers != 1 and not dry_run:
        start_server()  # it imports while this process does
    with importing():
        from benchmark import coordinator
        from benchmark.machine.devices import count_workers
        from benchmark.request import request_from, resolve, stored_reference

    request = request_from(typed_options(context), file)
    if dry_run:
        show(coordinator.dry_run(resolve(request, reference_of=stored_reference)))
        return
    if request.workers is None:
        request = request.model_copy(update={"workers": count_workers(request.device, request.per_gpu)})
    try:
        with giving_back(request.shared):
            finished = coordinator.run(resolve(request))
    except KeyboardInterrupt:
        say("interrupted: the leaderboard holds what was measured, and the same command goes on from here")
        raise typer.Exit(130) from None
    show(finished.table)
    say(finished.summary)
    raise typer.Exit(1 if finished.failed else 0)
