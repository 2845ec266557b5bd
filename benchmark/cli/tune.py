"""`tune`: choose settings on the validation split, the same number of trials for every prior."""

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
from benchmark.protocol import Budget
from benchmark.suggestion import suggest


def tune(
    context: typer.Context,
    priors: Annotated[
        str | None,
        typer.Option(help="Priors, 'evalp,ncp[proposals=500]'; what is set stays so; groups; all."),
    ] = None,
    dataset: BundleDatasetOption = None,
    backbone: BundleBackboneOption = None,
    bundle: BundleOption = None,
    groups: GroupsOption = "top",
    trials: Annotated[
        int, typer.Option(min=1, max=1_000, help="Trials of each prior beside its recipe; fewer are the first of more.")
    ] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Decides which points of a search space are tried.")] = 0,
    budget: Annotated[
        Budget | None, typer.Option(help="full: each prior's own recipe; quick (default): steps capped.")
    ] = None,
    extractor: ExtractorOption = None,
    inception_weights: WeightsOption = None,
    device: DeviceOption = "auto",
    results: ResultsOption = Path("results"),
    workers: WorkersOption = None,
    per_gpu: PerGpuOption = 1,
    shared: SharedOption = False,
    data_root: DataRootOption = None,
    plugins: PluginOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be tried first, and about how long it takes; do nothing.")
    ] = False,
) -> None:
    """Try settings of priors on the validation split; `run --settings tuned` scores the best ones on test."""
    if not dry_run:
        start_server()  # it imports while this process does
    with importing():
        from benchmark.machine.devices import count_workers
        from benchmark.report.tuning import summary_of
        from benchmark.request import request_from
        from benchmark.tuning.tune import show_plan, tune

    request = request_from(typed_options(context))
    if dry_run:
        show(show_plan(request, trials, seed))
        return
    if request.workers is None:
        request = request.model_copy(update={"workers": count_workers(request.device, request.per_gpu)})
    with giving_back(shared):
        judged = tune(request, trials, seed)
    show(summary_of(judged))
    through = [each for each in judged if each.chosen is not None]
    if through:
        of = through[0].tuning
        run = suggest("run", bundle=bundle, budget=budget, results=results, settings="tuned")
        say(f"{len(through)} of {len(judged)} priors tuned on {of.dataset}; {run} scores them on test")
    raise typer.Exit(0 if len(through) == len(judged) else 1)
