"""A preset of a suite -> its steps, one request on one bundle each; and whether what the suite names is there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from benchmark.bundles.bundle import Bundle
from benchmark.errors import UsageError, unknown_name
from benchmark.jobs.plan import Unplannable, make_prior_row, make_rows
from benchmark.jobs.reference_rows import REFERENCES
from benchmark.machine.devices import choose_device
from benchmark.metrics.api import Metric
from benchmark.names import choose_bundle, choose_metrics, find_dataset, find_dataset_of, open_registry
from benchmark.protocol import choose_preset
from benchmark.registry import Registry
from benchmark.report.names import name_chosen
from benchmark.request import Request, choose_groups, request_from
from benchmark.settings import parse_named
from benchmark.store.places import data_roots
from benchmark.store.sealed import content_hash
from benchmark.suites.places import Place, PlacedRow, folder_apart, is_open, split_open
from benchmark.suites.quantities import OF_CLAIMS, SETTINGS, Quantity, parse_quantity, require_measured
from benchmark.suites.suite import (
    Alike,
    Claim,
    Correlation,
    Suite,
    Training,
    Trend,
    name_of_training,
)
from benchmark.suites.training import expected_shape, find_trained, shared_bundles


@dataclass(frozen=True)
class Step:
    """One request on one bundle. `name`: what pages call the bundle. `bundle`: None where it is to be trained first."""

    name: str
    request: Request
    registry: Registry
    training: Training | None
    bundle: Bundle | None

    @property
    def bundle_id(self) -> str:
        """What tells its bundle from others, whether it is trained yet or not."""
        return self.bundle.id if self.bundle is not None else cast(Training, self.training).id

    def on(self, bundle: Bundle) -> Step:
        """The step with its bundle, once that is trained."""
        request = self.request.model_copy(update={"bundle": str(bundle.path)})
        return replace(self, bundle=bundle, request=request)


@dataclass(frozen=True)
class _Untrained:
    """What rows ask of a bundle, of one that is not there yet."""

    dataset: str
    latent_shape: tuple[int, ...]
    groups: None = None


def make_steps(suite: Suite, preset: str, given: dict[str, Any], make: bool = True) -> list[Step]:
    """The steps of a preset in the order of its file; `given`: fields of all requests that the command decides.

    What runs on VAEs that the suite trains is recorded in a folder apart (`folder_apart`). `make`: missing draws of
    latent groups are made, for a full budget of all training images: a verdict on a part of them would be on that part.
    Raises `UsageError` for whatever the suite names and nobody knows: nothing else is computed.
    """
    asked = suite.preset(preset)
    steps: list[Step] = []
    opened: dict[Any, Registry] = {}

    def registry_of(request: Request) -> Registry:
        key = request.plugins, request.job_timeout
        if key not in opened:
            opened[key] = open_registry(request.plugins, apart=True, patience=request.job_timeout)
        return opened[key]

    for said in asked.requests:
        of = f"suite {suite.name}, presets.{preset}"
        name = said.get("bundle")
        if name in asked.bundles:
            trainings = asked.bundles[name].each()
            grid = asked.bundles[name].grid
            rest = {key: value for key, value in said.items() if key != "bundle"}
            request = request_from({**rest, **given, "results": folder_apart(Path(given["results"]), suite.name)})
            registry = registry_of(request)
            where = choose_device(request.device), data_roots(request.data_root), shared_bundles(request)
            for training in trainings:
                try:
                    found = find_trained(training, registry, *where)
                    if found is not None and make:
                        found = _with_groups(found, request, registry)
                except UsageError as error:
                    raise UsageError(f"{of}, bundles.{name}: {error}") from error
                step = Step(
                    name_of_training(name, training, grid) + _of_groups(request), request, registry, training, None
                )
                steps.append(step if found is None else step.on(found))
        else:
            request = request_from({**said, **given})
            registry = registry_of(request)
            try:
                bundle = choose_bundle(registry, request.dataset, request.backbone, request.bundle)
                bundle = _with_groups(bundle, request, registry, make)
            except UsageError as error:
                more = f"; trained by this preset: {', '.join(asked.bundles)}" if asked.bundles else ""
                raise UsageError(f"{of}: {error}{more}") from error
            steps.append(Step(bundle.path.name + _of_groups(request), request, registry, None, bundle))
    _require_names(suite, preset, steps)
    return steps


def _with_groups(bundle: Bundle, request: Request, registry: Registry, make: bool = True) -> Bundle:
    """The bundle with the latent groups that a request asks for. Raises `UsageError`."""
    dataset = find_dataset_of(registry, request.dataset, bundle)
    whole = choose_preset(request.protocol, request.budget, request.split).budget == "full"
    return choose_groups(request, registry, bundle, dataset, make, whole)


def _of_groups(request: Request) -> str:
    """What tells two places of one bundle apart, of whose latent groups some requests take more than the top one."""
    return "" if request.groups is None else f", {name_chosen(request.groups)}"


def make_place(suite: Suite, step: Step, protocol: str, device: str) -> Place:
    """The place of a step. `protocol`: its hash."""
    return Place(
        name=step.name,
        bundle=step.bundle_id[:16],
        protocol=protocol[:16],
        device=device,
        settings=_settings(step),
        rows=_rows(step),
        words=_labels(suite, step),
    )


def join(places: Sequence[Place]) -> list[Place]:
    """One place where several requests are on one bundle under one protocol, with the rows of all of them."""
    joined: dict[tuple[str, str, str], Place] = {}
    for place in places:
        key = place.bundle, place.protocol, place.device
        if key not in joined:
            joined[key] = place
            continue
        rows = dict(joined[key].rows)
        for label, row in place.rows.items():
            seeds = sorted({*row.seeds, *(rows[label].seeds if label in rows else [])})
            rows[label] = row.model_copy(update={"seeds": seeds})
        joined[key] = joined[key].model_copy(update={"rows": rows, "words": {**joined[key].words, **place.words}})
    return list(joined.values())


def _protocol_of(request: Request) -> str:
    """What tells the protocols of requests on one bundle apart."""
    preset = choose_preset(request.protocol, request.budget, request.split)
    return content_hash([preset.name, request.split, request.extractor, request.groups])


def _settings(step: Step) -> dict[str, Any]:
    """Those of the bundle's backbone; of one that is to be trained, those that are asked for."""
    if step.bundle is not None:
        return step.bundle.card["backbone"].get("config") or {}
    return step.training.settings if step.training else {}


def _subject(step: Step) -> Bundle | _Untrained | None:
    """The bundle, or what is known of one that is to be trained; None where its latents' shape is not known."""
    if step.bundle is not None or step.training is None:
        return step.bundle
    shape = expected_shape(step.training, step.registry)
    return None if shape is None else _Untrained(find_dataset(step.registry, step.training.dataset).name, shape)


def _rows(step: Step) -> dict[str, PlacedRow]:
    """Label -> row, of all that a step's request asks for; empty where the bundle's latents are not known yet."""
    subject = _subject(step)
    if subject is None:
        return {}
    request = step.request
    preset = choose_preset(request.protocol, request.budget, request.split)
    made = make_rows(step.registry, request.priors, cast(Bundle, subject), preset.budget, preset.reference_split)
    return {
        row.label: PlacedRow(prior=row.name, config=row.config, seeds=list(request.seeds))
        for row in made
        if row.prior or not REFERENCES[row.name].from_images
    }


def _labels(suite: Suite, step: Step) -> dict[str, str]:
    """What the claims type of single rows -> the label that it has on this step's bundle.

    A row that these latents cannot have, as `vamp` of several groups, has none: the claim is of other places.
    """
    subject = _subject(step)
    if subject is None:
        return {}
    budget = choose_preset(step.request.protocol, step.request.budget, step.request.split).budget
    labels = {}
    for word in dict.fromkeys(word for claim in suite.claims for word in words_of(claim) if not is_open(word)):
        parsed = parse_named(word, "row")
        if len(parsed) != 1 or len(parsed[0][1]) != 1:
            raise UsageError(f"row '{word}': expected one row; all of a prior's are, for example, 'evalp[*]'")
        ((name, (settings,)),) = parsed
        if name in REFERENCES:
            labels[word] = name
            continue
        with suppress(Unplannable):
            labels[word] = make_prior_row(step.registry, name, settings, cast(Bundle, subject), budget).label
    return labels


def words_of(claim: Claim) -> tuple[str, ...]:
    """The rows that a claim names."""
    return claim.rows if isinstance(claim, Alike | Trend | Correlation) else (claim.row, *claim.than)


def _require_names(suite: Suite, preset: str, steps: Sequence[Step]) -> None:
    """Raise `UsageError` where a claim or a figure names a row that no request makes, or what nothing measures."""
    if any(_subject(step) is None for step in steps):  # too little is known of a bundle before it is trained
        return
    places = join([make_place(suite, step, _protocol_of(step.request), "") for step in steps])
    known = sorted({label for place in places for label in place.rows})
    measured = [cls for step in steps for cls in choose_metrics(step.registry, step.request.metrics)]
    for number, figure in enumerate(suite.figures, 1):
        of = f"suite {suite.name}, presets.{preset}, figure {number}"
        for typed in (figure.x, figure.y):
            _require_quantity(typed, measured, places, of)
    for number, claim in enumerate(suite.claims, 1):
        of = f"suite {suite.name}, presets.{preset}, claim {number}"
        for word in words_of(claim):
            if not any(place.find([word]) for place in places):
                label = next((place.words[word] for place in places if word in place.words), word)
                if is_open(word):
                    label = split_open(word)[0]
                raise UsageError(f"{of}: no request makes this row: {unknown_name('row', label, known)}")
        for typed in [claim.x, claim.y] if isinstance(claim, Correlation) else [claim.metric]:
            quantity = _require_quantity(typed, measured, places, of)
            if quantity.kind not in OF_CLAIMS:
                raise UsageError(f"{of}: '{typed}' has no number a seed: claims are about metrics, gains and times")
            if quantity.is_time and not isinstance(claim, Correlation) and claim.margin is not None:
                raise UsageError(
                    f"{of}: a margin is a share of the gap, and '{typed}' has none: take test = 'lower' or 'trend', "
                    "without margin"
                )
        if isinstance(claim, Trend) and _require_quantity(claim.along, measured, places, of).kind not in SETTINGS:
            raise UsageError(f"{of}: along = '{claim.along}': expected prior.NAME or bundle.NAME")
        if not isinstance(claim, Alike | Trend | Correlation) and not any(
            place.find([claim.row]) and place.find(claim.than) for place in places
        ):
            raise UsageError(f"{of}: {claim.row} and {', '.join(claim.than)} are on no bundle together")


def _require_quantity(typed: str, measured: list[type[Metric]], places: Sequence[Place], of: str) -> Quantity:
    """The quantity of a word, if it is measured, or a setting of some row or bundle. Raises `UsageError`."""
    try:
        quantity = parse_quantity(typed)
        require_measured(quantity, measured)
        settings = {
            "prior": {name for place in places for row in place.rows.values() for name in row.config or {}},
            "bundle": {name for place in places for name in place.settings},
        }
        if quantity.kind in SETTINGS and quantity.name not in settings[quantity.kind]:
            raise unknown_name(f"setting of a {quantity.kind}", quantity.name, settings[quantity.kind])
    except UsageError as error:
        raise UsageError(f"{of}: {error}") from error
    return quantity
