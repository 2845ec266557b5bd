"""What a Python script calls: `benchmark.run`, `wrap`, `load_results`, `load_prior`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import BaseModel, Field
from torch import Tensor

from backbones.trained import TrainedVAE
from backbones.wrapped import Channels, Likelihood, Spread
from benchmark import coordinator
from benchmark.bundles.bundle import Bundle
from benchmark.bundles.group_draws import describe_partial
from benchmark.datasets.objects import as_dataset
from benchmark.errors import UNUSABLE_PATH, UsageError
from benchmark.fitted import FittedPrior
from benchmark.jobs.failures import Failed
from benchmark.jobs.fit import find_or_fit, load_fit
from benchmark.machine.devices import DeviceName, choose_device
from benchmark.machine.threads import limit_threads
from benchmark.names import find_dataset, open_registry, set_apart
from benchmark.progress import say
from benchmark.report.frame import results_frame
from benchmark.request import Request, request_from, resolve
from benchmark.settings import construct
from benchmark.store.places import data_roots, expand_home

#: posteriors of a split that are kept
Kept = Annotated[int, Field(ge=2)]


def run(request: Request | None = None, **fields: Any) -> pd.DataFrame:
    """Fit and score priors and write the leaderboard, as the command `run` does; returns `load_results` of its table.

    Give a `Request`, or its fields: `run(priors="evalp,ncp", dataset="digits", seeds=2, results="results")`.
    Everything is done in this process, but for priors and metrics of plugins, which have processes of their own.
    `workers=4` shares the work among processes, with the same numbers. Rows that fail are recorded and said, and are
    missing from what is returned.
    Raises `UsageError` for what does not exist or does not fit together.
    """
    if request is not None and fields:
        raise UsageError("run: a request is whole: give it, or fields, not both")
    resolved = resolve(request or request_from(fields))
    try:
        coordinator.run(resolved)
    except UNUSABLE_PATH as error:
        raise UsageError(f"cannot use {error.filename}: {error.strerror} (results and caches are folders)") from error
    work = resolved.work
    found = results_frame(resolved.results, resolved.ledger.store)
    table = {"bundle": work.bundle.id[:16], "protocol": work.protocol.hash[:16], "device": work.device.type}
    return found[(found[list(table)] == pd.Series(table)).all(axis=1)]


def load_results(path: str | Path = "results") -> pd.DataFrame:
    """All numbers of a results folder, one a line: see `benchmark.report.frame.results_frame` for the columns."""
    if not (Path(path) / "records").is_dir():
        raise UsageError(f"{path}: no records here (expected a folder 'records')")
    return results_frame(Path(path))


def wrap(
    *,
    encode: Callable[[Tensor], Any],
    decode: Callable[[Tensor], Any],
    images: Any,
    name: str,
    value_range: tuple[float, float],
    spread: Spread,
    channels: Channels = "first",
    likelihood: Likelihood | None = None,
    std: float = 0.0,
    seed: int = 0,
    keep: Sequence[int] | None = None,
    out: str | Path | None = None,
    device: DeviceName = "cpu",
    data_root: str | Path | None = None,
) -> Bundle:
    """The bundle of a VAE that was trained elsewhere: `run(bundle=str(bundle.path))` goes on with it.

    encode: images -> (mean, spread) of q(z|x), or z of a deterministic encoder; decode: z -> images. Both in evaluation
    mode, with any batch size. They are kept as programs of `torch.export`, so that nobody needs their source.
    images: those that it was trained and is tested on: a data set's name or a path, as for `--dataset`, or Python
    objects, as `as_dataset` takes them: by split, tensors, arrays or data sets whose items are images.
    value_range, spread, channels, likelihood, std: how the functions are to be read, as in `WrappedVAE`.
    seed: which of several trainings this is, for tables. keep: posteriors kept of train, val and test images.
    device: where the functions' weights are.
    Raises `UsageError`, before anything is written, where the functions are not what they are said to be.
    """
    from benchmark.bundles.making import Asked
    from benchmark.bundles.wrap import wrap_trained

    given = construct(_Wrapping, {"name": name, "seed": seed, "keep": keep, "out": out, "device": device}, "wrap")
    registry = open_registry([])
    if isinstance(images, str | Path):
        dataset = find_dataset(registry, str(images))
    else:
        dataset = as_dataset(images, name)
        set_apart(registry, dataset)
    trained = TrainedVAE(encode, decode, name, value_range, spread, channels, likelihood, std)
    try:
        return wrap_trained(
            Asked(
                registry,
                dataset,
                given.seed,
                choose_device(given.device),
                data_roots(None if data_root is None else Path(data_root)),
                None if given.keep is None else list(given.keep),
                None if given.out is None else expand_home(given.out),
            ),
            trained,
        )
    except OSError as error:
        raise UsageError(f"cannot use {error.filename or out}: {error.strerror or error}") from error


class _Wrapping(BaseModel):
    """What `wrap` is asked for beside the VAE."""

    name: str
    seed: int = Field(ge=0, strict=True)
    keep: tuple[Kept, Kept, Kept] | None
    out: Path | None
    device: DeviceName


def load_prior(prior: str, seed: int = 0, **fields: Any) -> FittedPrior:
    """A prior with settings as they are typed, e.g. `"evalp[gp_weight=1]"`, fitted with a seed: found, or fitted now.

    `fields` are those of a `Request`: `load_prior("ncp", dataset="mnist", budget="full")`. The fit is the one that a
    run of the same fields makes and shares; it is kept in the cache, and nothing is written to a results folder.
    Raises `UsageError`, with the reason where the fit fails.
    """
    taken = [name for name in ("priors", "seeds", "metrics") if name in fields]
    if taken:
        raise UsageError(f"load_prior takes no {taken[0]}: one prior with one seed, load_prior('evalp', seed=0)")
    request = request_from({**fields, "priors": prior, "seeds": (seed,), "metrics": ()})
    if len(request.priors or ()) != 1:
        raise UsageError(f"prior {prior}: expected one prior with one value for each setting")
    resolved = resolve(request, open_registry(request.plugins), reference_of=lambda *_: None)
    if draws := describe_partial(resolved.work.bundle):
        say(draws)
    ((name, settings),) = request.priors or ()
    jobs = [job for job in resolved.jobs if job.row.name == name]
    if not jobs:
        known = name in resolved.work.registry.at_hand("prior")
        raise UsageError("; ".join(resolved.left_out) if known else f"prior {prior}: expected one prior, not a group")
    job = jobs[-1 if settings else 0]  # the companions of a bare name stand behind it
    try:
        with limit_threads(1):
            made = find_or_fit(job, resolved.work)
    except Failed as failure:
        raise UsageError(f"prior {prior}: {failure}") from failure
    if made["status"] != "ok":
        raise UsageError(f"prior {prior}: fit {made['status']}: {made['reason']}")
    work = resolved.work
    groups = None if work.bundle.groups is None else work.bundle.groups.identity
    return FittedPrior(load_fit(job, work), work.backbone, work.device, work.bundle.id, seed, groups)
