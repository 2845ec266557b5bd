"""What the jobs of one run share: bundle, backbone, posteriors, references, on one device."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from backbones.api import Backbone
from benchmark.bundles.bundle import Bundle
from benchmark.bundles.reconstructions import find_reconstructions
from benchmark.bundles.reference import Reference, find_reference
from benchmark.extractors.api import Extractor, Features
from benchmark.metrics.api import Metric
from benchmark.progress import say
from benchmark.protocol import Protocol
from benchmark.registry import Registry
from benchmark.store.provenance import device_name
from benchmark.store.records import RecordStore
from benchmark.store.sealed import Damaged
from priors.api import AggregatePosterior, PosteriorSplit


@dataclass(eq=False)
class Workspace:
    """What the jobs of one run share. Its parts are made when first needed and kept on the device."""

    bundle: Bundle
    registry: Registry
    protocol: Protocol
    extractor: Extractor
    reference: Reference | None
    metrics: list[Metric]
    store: RecordStore
    device: torch.device
    retry: bool = False
    _splits: dict[str, PosteriorSplit] = field(default_factory=dict, init=False, repr=False)

    @functools.cached_property
    def backbone(self) -> Backbone:
        return self.bundle.backbone(self.registry.get("backbone", self.bundle.backbone_name), self.device)

    def split(self, name: str) -> PosteriorSplit:
        """The posteriors of `train`, `val` or `test`, read once."""
        if name not in self._splits:
            self._splits[name] = PosteriorSplit(*self.bundle.posterior(name, self.device))
        return self._splits[name]

    @functools.cached_property
    def posterior(self) -> AggregatePosterior:
        return AggregatePosterior(self.split("train"), self.split("val"))

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
    def features_of(self) -> Features:
        return Features(self.extractor, self.device)

    @functools.cached_property
    def machine(self) -> dict[str, Any]:
        return {"device": device_name(self.device), "threads": torch.get_num_threads(), "dtype": "float32"}
