"""What the jobs of one run share: bundle, backbone, posteriors, references, on one device."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from backbones.api import Backbone
from benchmark.bundles.bundle import Bundle
from benchmark.bundles.reconstructions import find_reconstructions
from benchmark.bundles.reference import Reference, find_reference
from benchmark.extractors.api import Extractor, Features
from benchmark.machine.devices import choose_device
from benchmark.machine.runs import Runs
from benchmark.machine.switches import kept_switches
from benchmark.metrics.api import Metric
from benchmark.plugin_files import Plugin
from benchmark.progress import say
from benchmark.protocol import Protocol
from benchmark.registry import Registry
from benchmark.store.provenance import device_name
from benchmark.store.sealed import Damaged, content_hash
from priors.api import AggregatePosterior, Hierarchy, LatentPrior, Split


@dataclass(eq=False)
class Workspace:
    """What the jobs of one run share. Its parts are made when first needed and kept on the device.

    What is pickled of it is what it was made from; in another process it is opened once for all jobs.
    """

    bundle: Bundle
    registry: Registry
    protocol: Protocol
    extractor: Extractor
    reference: Reference | None
    metrics: list[Metric]
    device: torch.device
    machine: dict[str, Any] = field(init=False)
    decoding: dict[tuple[int, int], Runs] = field(default_factory=dict, init=False, repr=False)
    _splits: dict[str, Split] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """`machine` is what timings belong to: with as many threads as there are now."""
        self.machine = {"device": device_name(self.device), "threads": torch.get_num_threads(), "dtype": "float32"}

    def __reduce__(self) -> Any:
        reference = self.reference and Reference(self.reference.path, self.reference.card)  # without what it has read
        extractor, metrics = (self.extractor.name, self.extractor.weights), [metric.name for metric in self.metrics]
        plugins = tuple(self.registry.imported)
        return open_workspace, (self.bundle, plugins, self.protocol, extractor, reference, metrics, self.device)

    @functools.cached_property
    def backbone(self) -> Backbone:
        return self.bundle.open_backbone(self.registry, self.device)

    @property
    def hierarchy(self) -> Hierarchy | None:
        """The top-down network whose groups are the latents; None where they are its top group alone, z."""
        return cast(Hierarchy, self.backbone) if self.bundle.groups is not None else None

    def split(self, name: str) -> Split:
        """The posteriors of `train`, `val` or `test`, read once."""
        if name not in self._splits:
            self._splits[name] = self.bundle.split(name, self.device)
        return self._splits[name]

    def posterior(self, cls: type[LatentPrior]) -> AggregatePosterior:
        """What a prior of this class is fitted to."""
        backbone = self.backbone if cls.needs_backbone else None
        return AggregatePosterior(self.split("train"), self.split("val"), backbone)

    @functools.cached_property
    def train_reference(self) -> Reference | None:
        """What the extractor sees in training images, where somebody has looked."""
        try:
            return find_reference(self.bundle, self.extractor, "train")
        except Damaged as error:
            say(f"reference of training images is damaged: {error}")
            return None

    @functools.cached_property
    def reconstructions(self) -> Tensor | None:
        """What the extractor sees in full reconstructions of a hierarchy, where somebody has looked."""
        try:
            return find_reconstructions(self.bundle, self.extractor, self.protocol.split, self.device)
        except Damaged as error:
            say(f"full reconstructions are damaged: {error}")
            return None

    @functools.cached_property
    def features_of(self) -> Callable[[Tensor], Tensor]:
        features = Features(self.extractor, self.device)
        return features if self.extractor.source is None else partial(_look, features)


def _look(features: Features, images: Tensor) -> Tensor:
    """What a stranger's extractor sees: it changes neither the images nor switches."""
    with kept_switches():
        return features(images.clone())


_opened: dict[str, Workspace] = {}


def open_workspace(
    bundle: Bundle,
    plugins: tuple[Plugin, ...],
    protocol: Protocol,
    extractor: tuple[str, Path | None],
    reference: Reference | None,
    metrics: list[str],
    device: torch.device,
) -> Workspace:
    """The workspace of these parts in a process that has none; the last one that was opened is kept."""
    key = content_hash(
        [str(bundle.path), bundle.id, repr(plugins), protocol.hash, repr(extractor), metrics, str(device)]
    )
    if key not in _opened:
        _opened.clear()
        registry = Registry(plugins=list(plugins))
        name, weights = extractor
        _opened[key] = Workspace(
            bundle,
            registry,
            protocol,
            registry.get("extractor", name)(weights),
            reference,
            [registry.get("metric", metric)() for metric in metrics],
            choose_device("cuda" if device.type == "cuda" else "cpu"),
        )
    return _opened[key]
