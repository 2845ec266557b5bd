"""What was asked for -> rows and jobs, with the identities that decide what has been done already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backbones.bundle import Bundle
from backbones.hashing import content_hash
from benchmark.errors import UsageError
from benchmark.evaluation import FULL_RECONSTRUCTION, REFERENCE_ROWS
from benchmark.plugins import Registry
from benchmark.records import record_id
from benchmark.settings import parse_named, shown, validated
from priors.api import LatentPrior, PriorConfig

REFERENCE_VERSION = 1


@dataclass(frozen=True)
class Row:
    """One row of a leaderboard: a prior class with its config, or (both None) a reference row.

    `note` says where a recipe was borrowed from another data set.
    """

    label: str
    name: str
    identity: dict[str, Any]
    prior: type[LatentPrior] | None = None
    config: PriorConfig | None = None
    note: str | None = None


@dataclass(frozen=True)
class Job:
    """One row with one seed on one bundle."""

    row: Row
    bundle: Bundle
    seed: int
    budget: str
    device_type: str

    @property
    def fit_identity(self) -> dict[str, Any]:
        return {**self._shared(sampling=False), "seed": self.seed}

    @property
    def fit_id(self) -> str:
        return record_id(self.fit_identity)

    @property
    def source_identity(self) -> dict[str, Any]:
        """What decides the latents that are drawn."""
        sampling = self.row.config.sampling_settings() if self.row.config else {}
        return {"fit": self.fit_id, "sampling": sampling}

    def measurement_identity(self, metric: dict[str, Any], settings: dict[str, Any], machine: Any) -> dict[str, Any]:
        """`machine` is None but for timings."""
        identity = {**self.source_identity, "metric": metric, "settings": settings}
        return identity if machine is None else {**identity, "machine": machine}

    def facts(self) -> dict[str, Any]:
        """What a record says of the row that it belongs to."""
        return {
            "dataset": self.bundle.dataset,
            "backbone": self.bundle.backbone_name,
            "backbone_seed": self.bundle.card["training"]["seed"],
            "bundle": self.bundle.id[:16],
            "prior": self.row.name,
            "label": self.row.label,
            "config": self.row.config.model_dump(mode="json") if self.row.config else {},
            "config_hash": content_hash(self._shared(sampling=True))[:16],
            "seed": self.seed,
            "budget": self.budget if self.row.prior else None,
            "device": self.device_type,
        }

    def _shared(self, sampling: bool) -> dict[str, Any]:
        """What all seeds of the row have in common."""
        shared = {"bundle": self.bundle.id, "prior": self.row.identity, "device": self.device_type}
        if self.row.config is None:
            return shared
        shared |= {"config": self.row.config.fit_settings(), "budget": self.budget}
        return shared | {"sampling": self.row.config.sampling_settings()} if sampling else shared


def resolved(
    cls: type[LatentPrior], settings: dict[str, Any], dataset: str, latent_shape: tuple[int, ...], budget: str
) -> tuple[PriorConfig, PriorConfig, str | None]:
    """The config that `settings` give, the default they change, and a sentence where the recipe is borrowed.

    The default is the data set's recipe, capped by the budget; what was typed overrides both.
    """
    recipe, note = cls.recipe(dataset, latent_shape)
    of = f"prior {cls.name}"
    default = validated(cls.Config, recipe, of)
    if budget == "quick":
        caps = {field: min(getattr(default, field), cap) for field, cap in cls.quick_caps(latent_shape).items()}
        default = validated(cls.Config, {**recipe, **caps}, of)
    return validated(cls.Config, {**default.model_dump(), **settings}, of), default, note


def prior_row(registry: Registry, name: str, settings: dict[str, Any], bundle: Bundle, budget: str) -> Row:
    """The row of a prior with the settings that were typed."""
    cls: type[LatentPrior] = registry.get("prior", name)
    config, default, note = resolved(cls, settings, bundle.dataset, bundle.latent_shape, budget)
    changed = [field for field in cls.Config.model_fields if getattr(config, field) != getattr(default, field)]
    given = ",".join(f"{field}={shown(getattr(config, field))}" for field in changed)
    label = f"{name}[{given}]" if changed else name
    return Row(label, name, registry.identity(cls), cls, config, note)


def reference_row(name: str) -> Row:
    return Row(name, name, {"name": name, "version": REFERENCE_VERSION})


def rows(
    registry: Registry,
    priors: str | None,
    bundle: Bundle,
    budget: str,
    reference_split: str | None = None,
) -> list[Row]:
    """The reference rows, the Gaussian, then what was asked for (default: every prior but installed plugins').

    Where images are compared with training images, the aggregate posterior is their reconstruction: no second row.
    """
    asked = parse_named(priors, "--priors") if priors else [(name, [{}]) for name in registry.at_hand("prior")]
    wanted = [("gaussian", {})]
    for name, choices in asked:
        if name in REFERENCE_ROWS:
            raise UsageError(f"'{name}' is a reference row: it is always shown, and is not a prior to ask for")
        for settings in choices:
            wanted.append((name, settings))
            if not settings:
                wanted += [(name, companion) for companion in registry.get("prior", name).companions]
    references = [name for name, split in REFERENCE_ROWS.items() if split or reference_split is None]
    made = [reference_row(name) for name in references]
    made += [prior_row(registry, name, settings, bundle, budget) for name, settings in wanted]
    return list({row.label: row for row in made}.values())


def jobs(made: list[Row], bundle: Bundle, seeds: int, budget: str, device_type: str) -> list[Job]:
    """Seed by seed, so that an interrupted run has every row; full reconstructions were drawn once."""
    return [
        Job(row, bundle, seed, budget, device_type)
        for seed in range(seeds)
        for row in made
        if seed == 0 or row.name != FULL_RECONSTRUCTION
    ]
