"""What was asked for -> rows, and jobs seed by seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from benchmark.bundles.bundle import Bundle
from benchmark.errors import UsageError
from benchmark.jobs.failures import describe_error, in_one_line
from benchmark.jobs.identity import Job, Row, class_identity, make_reference_row
from benchmark.jobs.reference_rows import REFERENCES
from benchmark.plugin_files import Plugin
from benchmark.processes.child import Answer, Child, Died, Raised
from benchmark.progress import say
from benchmark.registry import ForeignPrior, Registry
from benchmark.settings import format_value, validate
from priors.api import LatentPrior, PriorConfig


class Unplannable(UsageError):
    """A stranger's prior that fails before it can be fitted: in its recipe, or where its settings are read."""


def resolve_config(
    cls: type[LatentPrior], settings: dict[str, Any], dataset: str, latent_shape: tuple[int, ...], budget: str
) -> tuple[PriorConfig, PriorConfig, str | None]:
    """The config that `settings` give, the default they change, and a sentence where the recipe is borrowed.

    The default is the data set's recipe, capped by the budget; what was typed overrides both.
    """
    recipe, note = cls.recipe(dataset, latent_shape)
    of = f"prior {cls.name}"
    default = validate(cls.Config, recipe, of)
    if budget == "quick":
        caps = {field: min(getattr(default, field), cap) for field, cap in cls.quick_caps(latent_shape).items()}
        default = validate(cls.Config, {**recipe, **caps}, of)
    return validate(cls.Config, {**default.model_dump(), **settings}, of), default, note


def make_prior_row(registry: Registry, name: str, settings: dict[str, Any], bundle: Bundle, budget: str) -> Row:
    """The row of a prior with the settings that were typed. Raises `UsageError` where they do not suit it."""
    cls = registry.get("prior", name)
    groups = None if bundle.groups is None else (bundle.groups.chosen, bundle.groups.from_the_top)
    if not isinstance(cls, ForeignPrior):
        return _planned(registry, cls, settings, bundle.dataset, bundle.latent_shape, budget, groups)
    row = _ask(registry, cls, _plan_there, settings, bundle.dataset, bundle.latent_shape, budget, groups)
    return Row(**row, plugin=cls.plugin)


def describe_space(registry: Registry, name: str) -> dict[str, dict[str, Any]]:
    """What `tune` tries of a prior, as JSON has it: setting -> `low` and `high`, or `values`; `why`; `sampling`.

    `sampling`: whether the setting acts on a fit that is there.
    """
    cls = registry.get("prior", name)
    if isinstance(cls, ForeignPrior):
        return _ask(registry, cls, _describe_space_there)
    sampling = cls.Config.sampling_names()
    described = {setting: {**asdict(of), "sampling": setting in sampling} for setting, of in cls.space.items()}
    return json.loads(json.dumps(described))


def find_asked(
    registry: Registry, priors: Sequence[tuple[str, dict[str, Any]]] | None
) -> list[tuple[str, dict[str, Any]]]:
    """Priors as they were typed, groups replaced by their members; those that are so by default for None."""
    asked = [(name, {}) for name in registry.find_priors(None)] if priors is None else priors
    return list(_without_groups(registry, asked))


def complete_settings(registry: Registry, name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """All settings of a prior, those that are not given being the class's defaults, and no recipe's."""
    cls = registry.get("prior", name)
    if isinstance(cls, ForeignPrior):
        return _ask(registry, cls, _complete_there, settings)
    return validate(cls.Config, settings, f"prior {name}").model_dump(mode="json")


def _ask(
    registry: Registry, cls: ForeignPrior, function: Callable[..., dict[str, Any]], *arguments: Any
) -> dict[str, Any]:
    """What a function of the class says in a process of its own. Raises `UsageError`."""
    try:
        with Child(say) as child:
            said = child.call(_refused, function, cls.plugin, cls.name, *arguments, limit=registry.patience).value
    except (Died, Raised) as end:
        why = str(end).splitlines()[-1]
        raise Unplannable(f"prior {cls.name} ({cls.plugin.origin}): when its settings were read, {why}") from end
    if "refused" in said:
        raise UsageError(said["refused"])
    if "failed" in said:
        raise Unplannable(said["failed"])
    return said


def _refused(function: Callable[..., dict[str, Any]], plugin: Plugin, name: str, *arguments: Any) -> Answer:
    """In the child: what a function says, or in its place the sentence that says why it does not."""
    try:
        registry = Registry(plugins=[plugin])
        return function(registry, registry.get("prior", name), *arguments), {}
    except UsageError as error:
        return {"refused": str(error)}, {}
    except (Exception, SystemExit) as error:
        return {"failed": f"prior {name} ({plugin.origin}): {describe_error(error)}"}, {}


def _complete_there(registry: Registry, cls: type[LatentPrior], settings: dict[str, Any]) -> dict[str, Any]:
    return complete_settings(registry, cls.name, settings)


def _describe_space_there(registry: Registry, cls: type[LatentPrior]) -> dict[str, Any]:
    return describe_space(registry, cls.name)


def _plan_there(registry: Registry, cls: type[LatentPrior], *arguments: Any) -> dict[str, Any]:
    row = asdict(_planned(registry, cls, *arguments))
    del row["plugin"]
    return row


def _planned(
    registry: Registry,
    cls: type[LatentPrior],
    settings: dict[str, Any],
    dataset: str,
    latent_shape: tuple[int, ...],
    budget: str,
    groups: tuple[tuple[int, ...], bool] | None = None,
) -> Row:
    if groups is not None:
        _require_groups(cls, *groups)
    config, default, note = resolve_config(cls, settings, dataset, latent_shape, budget)
    changed = [field for field in cls.Config.model_fields if getattr(config, field) != getattr(default, field)]
    given = ",".join(f"{field}={format_value(getattr(config, field))}" for field in changed)
    label = f"{cls.name}[{given}]" if changed else cls.name
    dumped, note = config.model_dump(mode="json"), note and in_one_line(note)
    if validate(cls.Config, dumped, f"prior {cls.name}") != config:
        raise UsageError(f"prior {cls.name}: its settings are other ones when they are read from a record: {dumped}")
    return Row(
        label,
        cls.name,
        class_identity(registry, cls),
        dumped,
        config.fit_settings(),
        config.sampling_settings(),
        note,
    )


def _require_groups(cls: type[LatentPrior], chosen: tuple[int, ...], from_the_top: bool) -> None:
    """Raise `Unplannable` where a prior cannot have these latent groups of a hierarchy as its latents."""
    typed = f"--groups {','.join(map(str, chosen))}"
    if cls.needs_backbone:
        raise Unplannable(f"prior {cls.name} needs q(z|x) as one Gaussian, which {typed} has not: take --groups top")
    if cls.needs_hierarchy and not from_the_top:
        lowest = ",".join(map(str, range(chosen[-1] + 1)))
        raise Unplannable(f"prior {cls.name} asks what is above a group, and {typed} leaves out groups: take {lowest}")


def make_rows(
    registry: Registry,
    priors: Sequence[tuple[str, dict[str, Any]]] | None,
    bundle: Bundle,
    budget: str,
    reference_split: str | None = None,
    left_out: list[str] | None = None,
) -> list[Row]:
    """The reference rows, the Gaussian, then what was asked for: priors, `all` or groups (None: what is so by default).

    Priors of installed plugins are asked for by their names alone.
    `left_out` is given the reason of each that is `Unplannable`, which raises where it is None.
    """
    wanted: list[tuple[str, dict[str, Any]]] = [("gaussian", {})]
    for name, settings in find_asked(registry, priors):
        if name in REFERENCES:
            raise UsageError(f"'{name}' is a reference row: it is always shown, and is not a prior to ask for")
        wanted.append((name, settings))
        if not settings:
            wanted += [(name, companion) for companion in registry.get("prior", name).companions]
    made = [make_reference_row(name) for name, of in REFERENCES.items() if of.stands_beside(reference_split)]
    for name, settings in wanted:
        try:
            made.append(make_prior_row(registry, name, settings, bundle, budget))
        except Unplannable as error:
            if left_out is None:
                raise
            left_out.append(str(error))
    return list({row.label: row for row in made}.values())


def _without_groups(
    registry: Registry, asked: Sequence[tuple[str, dict[str, Any]]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The members in place of a group."""
    for word, settings in asked:
        members = [] if word in registry.at_hand("prior") else registry.find_priors(word)
        if members and settings:
            raise UsageError(f"'{word}' is a group: it takes no settings; its priors are {', '.join(members)}")
        if not members and word not in REFERENCES:
            _require_prior(registry, word)
        yield from [(name, {}) for name in members] or [(word, settings)]


def _require_prior(registry: Registry, word: str) -> None:
    """Raises `UsageError`, which names the groups too, where there is no such prior."""
    try:
        registry.get("prior", word)
    except UsageError as error:
        raise UsageError(f"{error}; groups: {', '.join(registry.groups())}") from error


def make_jobs(made: list[Row], bundle: Bundle, seeds: Sequence[int], budget: str, device_type: str) -> list[Job]:
    """Seed by seed, so that an interrupted run has every row; what was drawn once has the first seed alone."""
    return [
        Job(row, bundle, seed, budget, device_type)
        for seed in seeds
        for row in made
        if seed == seeds[0] or row.prior or not REFERENCES[row.name].from_images
    ]
