"""One run as asked, whole: the command line, a TOML file, Python and `verify` build the same object.

`resolve` is the one place where its names become classes, and the classes rows and jobs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from backbones.api import Backbone
from benchmark.bundles.bundle import Bundle
from benchmark.bundles.find import name_of
from benchmark.bundles.group_draws import describe_partial, on_groups
from benchmark.bundles.groups import number_groups
from benchmark.bundles.reference import Reference, find_reference, obtain_reference
from benchmark.datasets.api import Dataset
from benchmark.errors import UsageError, words_of
from benchmark.executors.api import Executor, Terms
from benchmark.extractors.api import Extractor, Unavailable
from benchmark.jobs.claims import require_distinct
from benchmark.jobs.identity import Job, Row
from benchmark.jobs.pending import Ledger, takes_job_and_workspace
from benchmark.jobs.plan import describe_space, find_asked, make_jobs, make_prior_row, make_rows
from benchmark.jobs.reference_rows import REFERENCES
from benchmark.jobs.workspace import Workspace
from benchmark.machine.devices import DeviceName, choose_device
from benchmark.machine.switches import kept_switches
from benchmark.metrics.api import AGGREGATE_POSTERIOR, Facts, Metric
from benchmark.names import choose_bundle, choose_metrics, find_dataset_of, open_registry
from benchmark.progress import say
from benchmark.protocol import TUNING_SEED, Budget, PresetName, Protocol, Settings, Split, choose_preset, make_protocol
from benchmark.registry import Registry
from benchmark.settings import construct, parse_named, read_toml
from benchmark.store.places import data_roots, sharing
from benchmark.store.records import RecordStore
from benchmark.store.sealed import Damaged
from benchmark.suggestion import suggest

Priors = tuple[tuple[str, dict[str, Any]], ...]


class Request(BaseModel):
    """What is compared, on what, how, and where it is kept. Every field is an option of `run` and a key of its file.

    `priors`: names with settings as they are typed, `'evalp[gp_weight=1,10],ncp'`, groups of them or `'all'`, or a list
    of such words; None for a handful and those of `plugins`. `dataset`, `backbone`: None for those of `bundle`, else
    digits and conv_vae. `seeds`: how many from 0 on, or a list of them.
    `groups`: latent groups of a hierarchy, by their numbers from 0, the top one, on, or `all`; None, or `top`, for that
    alone.
    `settings`: of priors as they are named, or `tuned`: those that `tune` chose for them.
    `workers`: how many processes share the work, None for this one alone; on GPUs `per_gpu` of them a GPU at most.
    `job_timeout`: seconds. `executor`: by name, with settings where it has any, `ray[num_cpus=2]`; None for the usual
    one of so many workers. `address`: of a cluster that the executor is to join. `shared`: workers on other
    machines write to the same results folder, in which claims and fits then lie. Paths are relative to the current
    folder.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    priors: Priors | None = None
    dataset: str | None = None
    backbone: str | None = None
    bundle: str | None = None
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    budget: Budget | None = None
    protocol: PresetName | None = None
    split: Split = "test"
    groups: Literal["all"] | tuple[int, ...] | None = None
    settings: Settings = "recipe"
    extractor: str | None = None
    inception_weights: Path | None = None
    metrics: tuple[str, ...] | None = None
    device: DeviceName = "auto"
    results: Path = Path("results")
    retry: bool = False
    workers: int | None = Field(None, ge=1)
    per_gpu: int = Field(1, ge=1)
    job_timeout: float | None = Field(None, gt=0, allow_inf_nan=False)
    executor: str | None = None
    address: str | None = None
    shared: bool = False
    data_root: Path | None = None
    plugins: tuple[Path, ...] = ()

    @field_validator("dataset", "bundle", "results", "data_root", "inception_weights", mode="before")
    @classmethod
    def _expand_home(cls, given: Any) -> Any:
        return _expand_home(given)

    @field_validator("plugins", mode="before")
    @classmethod
    def _expand_homes(cls, given: Any) -> Any:
        return [_expand_home(each) for each in given] if isinstance(given, (list, tuple)) else given

    @field_validator("priors", mode="before")
    @classmethod
    def _parse_priors(cls, given: Any) -> Any:
        """Words as they are typed -> (name, settings), one for each choice of settings."""
        words = [given] if isinstance(given, (str, type)) else given
        for word in words if isinstance(words, (list, tuple)) else []:
            if isinstance(word, type):
                raise ValueError(
                    f"a prior is given by its name: put the class {word.__name__} into a file that registers it, and "
                    "name that with plugins=[FILE] (--plugin FILE)"
                )
        if not isinstance(words, (list, tuple)):
            return given
        pairs: list[Any] = []
        for word in words:
            parsed = parse_named(word, "--priors") if isinstance(word, str) else []
            pairs += [(name, settings) for name, choices in parsed for settings in choices] or [word]
        return tuple(pairs)

    @field_validator("seeds", mode="before")
    @classmethod
    def _count_seeds(cls, given: Any) -> Any:
        if isinstance(given, str):
            raise ValueError("expected how many from 0 on, or a list of them, e.g. 5 or [0, 1]")
        if type(given) is int and given > TUNING_SEED:
            raise ValueError(f"expected {TUNING_SEED} at most")
        return tuple(range(given)) if type(given) is int else given

    @field_validator("seeds")
    @classmethod
    def _refuse_seeds(cls, given: tuple[int, ...]) -> tuple[int, ...]:
        if min(given) < 0 or len(set(given)) < len(given):
            raise ValueError("seeds are different numbers from 0 on")
        return given

    @model_validator(mode="after")
    def _refuse_tuning_seeds(self) -> Request:
        if self.split == "test" and max(self.seeds) >= TUNING_SEED:
            raise ValueError(f"seeds from {TUNING_SEED} on choose settings, and are not reported on the test split")
        return self

    @field_validator("groups", mode="before")
    @classmethod
    def _number_groups(cls, given: Any) -> Any:
        words = given.split(",") if isinstance(given, str) else given
        words = [words] if isinstance(words, int) else words
        if given is None or given == "all" or words == ["top"]:
            return None if given is None or words == ["top"] else given
        numbers = [int(str(word)) if re.fullmatch(r" *[0-9]{1,6} *", str(word)) else None for word in words]
        if not numbers or None in numbers:
            raise ValueError("expected top, all, or numbers of groups from 0 (the top) on, e.g. 0,1")
        return tuple(numbers)

    @field_validator("metrics", mode="before")
    @classmethod
    def _split_metrics(cls, given: Any) -> Any:
        return tuple(word.strip() for word in given.split(",")) if isinstance(given, str) else given


def _expand_home(given: Any) -> Any:
    """`~` is the home folder; a path where a name may stand is given by its text."""
    return os.path.expanduser(given) if isinstance(given, (str, Path)) else given


def request_from(given: dict[str, Any], file: Path | None = None) -> Request:
    """A request of these fields, over those of a TOML file where one is named. Raises `UsageError`."""
    if file is None:
        return construct(Request, given, "run")
    read = read_toml(file, f"--file {file}")
    construct(Request, read, str(file))  # what the file says is to be right, also where something else is typed
    return construct(Request, {**read, **given}, str(file))


@dataclass(frozen=True)
class Resolved:
    """A request whose names have become classes: jobs in order, what they share, and what is to be said beforehand.

    `ledger`: what is recorded of them. `left_out`: why priors that were asked for have no job; `broken`: why
    plugins that were named were left out. `executor` has the jobs done, on `terms`. `limits`: label -> seconds that a
    fit of that row, or a measurement, may take. `shared`: as of the request.
    """

    jobs: list[Job]
    work: Workspace
    ledger: Ledger
    results: Path
    notes: list[str]
    left_out: list[str]
    broken: list[str]
    executor: type[Executor]
    terms: Terms
    limits: dict[str, float] = field(default_factory=dict)
    shared: bool = False


#: finds what an extractor sees in the images of a split, or makes it: (bundle, its data set, extractor, split)
ReferenceOf = Callable[[Bundle, Dataset | None, Extractor, str], Reference | None]


def resolve(
    request: Request,
    registry: Registry | None = None,
    reference_of: ReferenceOf | None = None,
    settings: dict[str, Any] | None = None,
    device_type: str | None = None,
) -> Resolved:
    """Names -> classes, rows and jobs. Raises `UsageError` for whatever does not exist or does not fit together.

    `reference_of` stands in for what finds a reference or makes a missing one. `settings`: fields of the protocol as a
    record has them, whatever the preset says today. `device_type`: that of the machines on which the jobs will be done,
    where names are looked up on another one.
    """
    preset = choose_preset(request.protocol, request.budget, request.split)
    registry = registry or open_registry(request.plugins, apart=True, patience=request.job_timeout)
    device = choose_device(request.device)
    metrics = [_made(cls) for cls in choose_metrics(registry, request.metrics)]
    bundle = choose_bundle(registry, request.dataset, request.backbone, request.bundle)
    dataset = find_dataset_of(registry, request.dataset, bundle)
    make = reference_of is None
    bundle = choose_groups(request, registry, bundle, dataset, make)
    roots = data_roots(request.data_root)
    fixed = settings or {}
    left_out: list[str] = []
    notes: list[str] = []
    reference_split = fixed.get("reference_split", preset.reference_split)
    priors = () if request.settings == "tuned" else request.priors
    made = make_rows(registry, priors, bundle, preset.budget, reference_split, left_out)
    reference_of = reference_of or partial(obtain_reference, device=device, roots=roots)

    def protocol_of(extractor: Extractor) -> Protocol:
        usual = make_protocol(bundle, preset, request.split, extractor, 0)
        given = {**usual.model_dump(), **fixed, "extractor": extractor.identity()}
        return construct(Protocol, given, "protocol") if fixed else usual

    extractor, protocol, reference = _choose_extractor(request, registry, bundle, dataset, protocol_of, reference_of)
    if reference is not None:
        protocol = protocol.model_copy(update={"features": len(reference.statistics(torch.device("cpu")).mean)})
    unseen = _see_training_images(request, metrics, bundle, protocol, extractor, dataset, reference_of) if make else []
    for metric in metrics:
        protocol.part(metric.reads)  # raises where one reads what no protocol has
    require_distinct(registry, metrics, protocol)
    if request.settings == "tuned":
        protocol = protocol.model_copy(update={"settings": "tuned"})
        rows, unfinished = _tuned_rows(request, registry, bundle, protocol, device_type or device.type)
        made += rows
        notes += unfinished
    work = Workspace(bundle, registry, protocol, extractor, reference, metrics, device)
    made = [
        row for row in made if row.prior or not REFERENCES[row.name].from_images or work.reconstructions is not None
    ]
    named = {str(path): registry.broken.get(str(path)) for path in request.plugins}
    broken = [f"broken plugin {path}: {why}" for path, why in named.items() if why is not None]
    executor, of_executor = _choose_executor(request, registry, extractor, bundle)
    return Resolved(
        make_jobs(made, bundle, request.seeds, preset.budget, device_type or device.type),
        work,
        Ledger(RecordStore(request.results / "records"), request.retry),
        request.results,
        [*filter(None, [describe_partial(bundle)]), *_notes(made), *unseen, *notes],
        left_out,
        broken,
        executor,
        Terms(request.workers or 1, device, request.per_gpu, request.job_timeout, of_executor),
        shared=request.shared,
    )


def choose_groups(
    request: Request, registry: Registry, bundle: Bundle, dataset: Dataset | None, make: bool, whole: bool = False
) -> Bundle:
    """The bundle with those of its latent groups as latents that are asked for.

    `make`: what is missing is drawn, of images of `dataset`; `whole`: and draws of a part of them are not enough.
    Raises `UsageError` where its backbone is not here, has no such groups, or where there are no draws of them.
    """
    backbone = _require_backbone(registry, bundle)
    chosen = number_groups(request.groups, backbone, bundle.path.name)
    with sharing(request.results if request.shared else None):  # of machines that share results one draws
        return on_groups(bundle, chosen, backbone, dataset, data_roots(request.data_root) if make else None, whole)


def _tuned_rows(
    request: Request, registry: Registry, bundle: Bundle, protocol: Protocol, device_type: str
) -> tuple[list[Row], list[str]]:
    """The rows of priors with the settings that were chosen for them; of all that have any, where none is named.

    Returns what is not through, or damaged, too, a sentence each. Raises `UsageError` where one that is named has none,
    and where nobody has any.
    """
    from benchmark.report.choice import Judged, judge_all  # which no other run needs

    results = request.results
    judged, damaged = judge_all(results, lambda: RecordStore(results / "records").all()[0])
    chosen: dict[str, Row] = {}
    begun: dict[str, Judged] = {}
    for each in judged:
        plan, best = each.tuning, each.chosen
        there = plan.identity["bundle"], plan.groups, plan.identity["budget"], plan.device, plan.extractor
        here = bundle.id, protocol.groups, protocol.budget, device_type, protocol.extractor
        if there != here:
            continue
        if best is None:
            begun[plan.label] = each
            continue
        row = make_prior_row(registry, plan.prior, {**plan.base, **best.settings}, bundle, protocol.budget)
        if row.identity == plan.identity["prior"]:  # else it is of another version of the prior
            chosen[plan.label] = replace(row, label=plan.starred)
    typed: dict[str, Any] = {"bundle": name_of(bundle), "groups": _typed_groups(request.groups)}
    typed |= {"plugin": [str(path) for path in request.plugins], "extractor": request.extractor}
    typed |= {"budget": protocol.budget, "device": device_type, "results": results}
    damaged = [f"{sentence}; put it back, or remove it and tune again" for sentence in damaged]

    def unfinished(label: str, name: str) -> str:
        known = begun.get(label)
        if known is not None and known.spent:
            return f"{label}: every trial of its tuning on {bundle.path.name} failed, so nothing was chosen"
        if known is None and not describe_space(registry, name):
            return f"{label} has no search space, so nothing of it is ever tuned: leave it out"
        trials = {"trials": known.tuning.allowed, "seed": known.tuning.identity["seed"]} if known else {}
        tune = suggest("tune", **{**typed, "priors": label, **trials})
        does = "goes on with it" if known else "does it"
        return f"{label}: no tuning of it on {bundle.path.name} is through; {tune} {does}"

    if request.priors is not None:
        asked = find_asked(registry, request.priors)
        named = {make_prior_row(registry, *each, bundle, protocol.budget).label: each[0] for each in asked}
        for label, name in named.items():
            if label not in chosen:
                raise UsageError("; ".join([unfinished(label, name), *damaged]))
        return [chosen[label] for label in named], [f"left out: {sentence}" for sentence in damaged]
    waiting = [unfinished(label, each.tuning.prior) for label, each in begun.items() if label not in chosen]
    if not chosen:
        none = f"no prior is tuned on {bundle.path.name}: {suggest('tune', **typed)} does it"
        raise UsageError("; ".join([*(waiting or [none]), *damaged]))
    return list(chosen.values()), [f"left out: {sentence}" for sentence in (*waiting, *damaged)]


def _typed_groups(groups: Literal["all"] | tuple[int, ...] | None) -> str | None:
    return groups if groups is None or groups == "all" else ",".join(map(str, groups))


def _notes(rows: list[Row]) -> list[str]:
    """What is said of rows beforehand; what is said of several of them is one line, which names them all."""
    named: dict[str, list[str]] = {}
    for row in rows:
        if row.note:
            subjects = named.setdefault(row.note.removeprefix(f"{row.name} "), [])
            if row.note.startswith(f"{row.name} ") and row.name not in subjects:
                subjects.append(row.name)
    return [
        f"{', '.join(names)} {said.replace('has ', 'have ', 1) if len(names) > 1 else said}".strip()
        for said, names in named.items()
    ]


def _require_backbone(registry: Registry, bundle: Bundle) -> Backbone:
    """The bundle's, frozen. Raises `UsageError` where what its card names is not here, or its weights are another's."""
    try:
        return bundle.build(registry.get("backbone", bundle.backbone_class)).eval().requires_grad_(False)
    except (UsageError, Damaged) as error:
        file = bundle.card["backbone"].get("file")
        missing = file and bundle.backbone_class not in registry.all("backbone")
        hint = f"; its class is in a file '{file}': name that with --plugin" if missing else ""
        raise UsageError(f"{bundle.path.name}: {error}{hint}") from error


def _choose_executor(
    request: Request, registry: Registry, extractor: Extractor, bundle: Bundle
) -> tuple[type[Executor], BaseModel]:
    """The one that is named, and its settings; else this process, which cannot share work, nor end a job that hangs.

    A stranger's extractor or backbone, whose code may end its process, is not called in this one, nor is a job that is
    to be given back at once.
    """
    strangers = extractor.source or registry.get("backbone", bundle.backbone_class).source
    alone = (request.workers or 1) == 1 and request.job_timeout is None and not (strangers or request.shared)
    asked = parse_named(request.executor or ("here" if alone else "processes"), "--executor")
    if len(asked) != 1 or len(asked[0][1]) != 1:
        raise UsageError(f"--executor {request.executor}: expected one, with one value for each setting")
    name, (settings,) = asked[0]
    executor = registry.get("executor", name)
    if request.address is not None:
        settings = {**settings, "address": request.address}
    return executor, construct(executor.Config, settings, f"executor {name}")


def _made(cls: type[Metric]) -> Metric:
    try:
        return cls()
    except (Exception, SystemExit) as error:
        raise UsageError(f"metric {cls.name} cannot be made: {type(error).__name__}: {words_of(error)}") from error


def _choose_extractor(
    request: Request,
    registry: Registry,
    bundle: Bundle,
    dataset: Dataset | None,
    protocol_of: Callable[[Extractor], Protocol],
    reference_of: ReferenceOf,
) -> tuple[Extractor, Protocol, Reference | None]:
    """The extractor asked for, else the data set's own, with its reference.

    Raises `UsageError` where it is not to be had: the score of another one is not what was asked for.
    """
    name = bundle.card["dataset"]["extractor"] if request.extractor is None else request.extractor
    try:
        extractor = registry.get("extractor", name)(request.inception_weights)
    except UsageError as error:
        asked = "" if request.extractor else f"{bundle.path.name}: "
        raise UsageError(f"{asked}{error}") from error
    try:
        protocol = protocol_of(extractor)
        return extractor, protocol, reference_of(bundle, dataset, extractor, protocol.images)
    except Unavailable as error:
        raise UsageError(f"{name} cannot be used: {error}") from error


def _see_training_images(
    request: Request,
    metrics: list[Metric],
    bundle: Bundle,
    protocol: Protocol,
    extractor: Extractor,
    dataset: Dataset | None,
    reference_of: ReferenceOf,
) -> list[str]:
    """Make the reference of training images where metrics that are named ask for it; what is to be said where it fails.

    Without it they apply to no row, so that a run that was asked for them would end without a word of them.
    """

    def applies(metric: Metric, seen: bool) -> bool:
        facts = Facts(
            AGGREGATE_POSTERIOR, True, request.seeds[0], bundle.latent_shape, protocol, has_train_reference=seen
        )
        with suppress(Exception, SystemExit), kept_switches():  # a stranger's code, whose failure is told of its jobs
            return metric.applies(facts)
        return False

    named = [each for each in metrics if each.name in (request.metrics or ()) and not takes_job_and_workspace(each)]
    asking = [each.name for each in named if applies(each, True) and not applies(each, False)]
    if not asking:
        return []
    try:
        reference_of(bundle, dataset, extractor, "train")
    except (UsageError, Unavailable) as error:
        return [f"{', '.join(asking)}: not measured, since nobody has looked at training images: {error}"]
    return []


def stored_reference(bundle: Bundle, dataset: Dataset | None, extractor: Extractor, split: str) -> Reference | None:
    """The reference where there is one; else None, and a line that says so. Nothing is made."""
    try:
        reference = find_reference(bundle, extractor, split)
    except Damaged as error:
        say(f"reference is damaged and would be made again: {error}")
        return None
    if reference is None:
        say(f"the {extractor.name} reference of {bundle.path.name}, {split} split, would be computed first")
    return reference
