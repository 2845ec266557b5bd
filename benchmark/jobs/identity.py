"""What a fit and a measurement are, and the ids that decide what has been done already.

| what changes                                              | what is made again                                 |
|:----------------------------------------------------------|:---------------------------------------------------|
| bundle, seed, budget, type of device                      | the fit, and all that is measured of it            |
| groups of a hierarchy other than the top one, their draws | the fit, and all that is measured of it            |
| a setting of the fit, typed or by a recipe                | the fit, and all that is measured of it            |
| a setting of sampling                                     | all that is measured; the fit is shared            |
| a built-in prior's `version`                              | its fits, and all that is measured of them         |
| `REFERENCE_VERSION`                                       | what is measured of the reference rows             |
| a metric's `version`                                      | what that metric measures                          |
| a field of the protocol (such as the extractor)           | what is measured by the metrics that `reads` it    |
| a plugin's file, or one of its own that it imports        | as for the `version` of a built-in                 |
| device, threads or dtype                                  | timings                                            |
| a metric, a later setting or a field that is None, added  | nothing                                            |
| a label, a folder, a module's place, the number of seeds  | nothing                                            |
| packages, commit, command                                 | nothing: they stand in each record                 |

Every id is a hash of what stands on the left; `docs/identity.md` tells it at length.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmark.bundles.bundle import Bundle
from benchmark.plugin_files import Plugin
from benchmark.registry import Registry
from benchmark.store.records import record_id
from benchmark.store.sealed import content_hash

#: raised when what the reference rows draw would be another
REFERENCE_VERSION = 1


@dataclass(frozen=True)
class Row:
    """One row of a leaderboard: a prior with all its settings (`config`), or, where that is None, a reference row.

    `fit_settings` and `sampling_settings` are those that decide a fit and its draws, and so its ids. `note` says where
    a recipe was borrowed from another data set. `plugin` is where a stranger's prior comes from, None of a built-in.
    A row is plain data: where it runs, its class is looked up.
    """

    label: str
    name: str
    identity: dict[str, Any]
    config: dict[str, Any] | None = None
    fit_settings: dict[str, Any] = field(default_factory=dict)
    sampling_settings: dict[str, Any] = field(default_factory=dict)
    note: str | None = None
    plugin: Plugin | None = None

    @property
    def prior(self) -> str | None:
        """The prior's name; None of a reference row."""
        return None if self.config is None else self.name


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
        """What decides a fit; of a reference row, which has none, what decides the posteriors that it draws from."""
        return {**self._shared(sampling=False), "seed": self.seed}

    @property
    def fit_id(self) -> str:
        return record_id(self.fit_identity)

    @property
    def source_identity(self) -> dict[str, Any]:
        """What decides the latents that are drawn."""
        return {"fit": self.fit_id, "sampling": self.row.sampling_settings}

    def measurement_identity(self, metric: dict[str, Any], settings: dict[str, Any], machine: Any) -> dict[str, Any]:
        """What decides a measurement: `settings` is what the metric reads of the protocol; `machine` is of timings."""
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
            "config": self.row.config or {},
            "config_hash": content_hash(self._shared(sampling=True))[:16],
            "seed": self.seed,
            "budget": self.budget if self.row.prior else None,
            "device": self.device_type,
            **({"deterministic": True} if self.bundle.is_deterministic else {}),
            **({} if self.bundle.groups is None else {"groups": self.bundle.groups.facts}),
        }

    def _shared(self, sampling: bool) -> dict[str, Any]:
        """What all seeds of the row have in common; with `sampling` its hash is the row's `config_hash`."""
        shared: dict[str, Any] = {"bundle": self.bundle.id, "prior": self.row.identity, "device": self.device_type}
        if self.bundle.groups is not None:
            shared["groups"] = self.bundle.groups.identity
        if self.row.config is None:
            return shared
        shared |= {"config": self.row.fit_settings, "budget": self.budget}
        return shared | {"sampling": self.row.sampling_settings} if sampling else shared


def make_reference_row(name: str) -> Row:
    """The row that posterior draws, and no prior, stand behind."""
    return Row(name, name, {"name": name, "version": REFERENCE_VERSION})


def class_identity(registry: Registry, cls: Any) -> dict[str, Any]:
    """What a registered class is, for hashing: its name with its version, or its source's hash if it is a plugin's."""
    source = registry.source(cls)
    return {"name": cls.name, "version": cls.version} if source is None else {"name": cls.name, "source": source}
