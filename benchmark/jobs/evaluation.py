"""What a metric is given: draws, images and features of one row with one seed, each made once and kept in the cache.

Latents are drawn in streams that all rows share, and decoding has streams of its own, so that two rows differ
by their priors alone. A metric that is added later finds latents and features here and draws nothing again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from typing import Protocol as Interface

import torch
from torch import Tensor

from backbones.api import Backbone
from benchmark.bundles.decoding import decode_images
from benchmark.bundles.reference import Reference
from benchmark.jobs.contract import BadSample, check_sample
from benchmark.jobs.failures import call_theirs
from benchmark.jobs.foreign import ForeignSource
from benchmark.machine.runs import Runs, measure_runs
from benchmark.metrics import api
from benchmark.metrics.api import PAIR, PRINCIPAL_AXES
from benchmark.protocol import Protocol
from benchmark.store.cache import load, load_or_make
from benchmark.streams import drawing, stream
from priors.api import Split

MMD_DRAWS = "mmd sample"  # the purpose of the latents of all two-sample metrics
DRAWS_VERSION = 1  # of streams, decoding and extraction: what is kept under another is not found


def find_latents(source_identity: dict[str, Any], n: int, purpose: str) -> Tensor | None:
    """n latents (n, *latent_shape), on the CPU, that a prior drew when it was measured, where the cache has them still.

    `source_identity`: what decides its draws, its fit's id and its settings of sampling.
    """
    identity = _identity_of_latents({**source_identity, "split": None}, n, purpose)
    return load("latents", identity, torch.device("cpu"))


def _identity_of_latents(of: dict[str, Any], n: int, purpose: str) -> dict[str, Any]:
    return {**of, "latents": n, "purpose": purpose, "version": DRAWS_VERSION}


class Source(Interface):
    """Where latents come from: a fitted prior, or posterior draws."""

    def sample(self, n: int, generator: torch.Generator) -> Tensor: ...


@dataclass
class Evaluation(api.Evaluation):
    """Fills in what `metrics/api.py` promises.

    `identity` decides what `source` draws: its fit, its settings of sampling, the split of a reference row.
    `seen`: features (n, d) of a row that has images but no latents of its own, in random order.
    `decoding`: what decoding costs by seed and count, which all rows of a run share.
    """

    source: Source | None
    identity: dict[str, Any]
    backbone: Backbone
    held_out: Split
    features_of: Callable[[Tensor], Tensor]
    reference: Reference
    protocol: Protocol
    seed: int
    device: torch.device
    train_posterior: Callable[[], tuple[Tensor, Tensor]]
    train_reference: Reference | None = None
    seen: Tensor | None = None
    decoding: dict[tuple[int, int], Runs] = field(default_factory=dict)

    def stream(self, purpose: str) -> torch.Generator:
        return stream(self.device, purpose, self.seed)

    def shared_stream(self, purpose: str) -> torch.Generator:
        return stream(self.device, purpose)

    def latents(self, n: int, purpose: str) -> Tensor:
        """n checked latents (n, *latent_shape). Raises `BadSample`."""
        identity = _identity_of_latents(self.identity, n, purpose)
        return load_or_make("latents", identity, self.device, lambda: self._drawn(n, purpose))

    @torch.no_grad()
    def _drawn(self, n: int, purpose: str) -> Tensor:
        if self.source is None:
            raise BadSample("this row has images, but no latents of its own")
        with drawing(self.device, purpose, self.seed) as generator:
            z = call_theirs(self.source.sample, n, generator)
        return check_sample(z, n, self.backbone.latent_shape, self.device)

    def measure_draws(self, n: int, generator: torch.Generator) -> Runs:
        assert self.source is not None, "a row that has no latents of its own is not timed"
        repeats, seconds = self.protocol.timing_repeats, self.protocol.timing_seconds
        if isinstance(self.source, ForeignSource):
            return self.source.measure_draws(n, generator, repeats, seconds)
        replay = generator if getattr(self.source, "replayable", False) else None
        return measure_runs(partial(self.source.sample, n, generator), self.device, repeats, seconds, replay)

    @torch.no_grad()
    def measure_decoding(self, n: int) -> Runs:
        if (self.seed, n) not in self.decoding:
            generator = self.stream("timing decode")
            z = self.held_out.sample(n, generator)  # any latents: a slow prior is not asked for them
            run = partial(self.backbone.decode, z, generator)
            repeats, seconds = self.protocol.timing_repeats, self.protocol.timing_seconds
            self.decoding[self.seed, n] = measure_runs(run, self.device, repeats, seconds)
        return self.decoding[self.seed, n]

    def decoded(self, z: Tensor, purpose: str) -> Tensor:
        try:
            return decode_images(self.backbone, z, self.stream(purpose))
        except ArithmeticError as error:  # of latents beyond all bounds
            raise BadSample(str(error)) from error

    @functools.cached_property
    def features(self) -> Tensor:
        protocol = self.protocol
        if self.seen is not None:
            return self.seen[: protocol.generated]
        seen = {"images": protocol.generated, "extractor": protocol.extractor, "rounding": protocol.rounding}
        return load_or_make(
            "features", {**self.identity, **seen, "version": DRAWS_VERSION}, self.device, self._extracted
        )

    def _extracted(self) -> Tensor:
        return self.features_of(self.decoded(self.latents(self.protocol.generated, "sample"), "decode"))

    @functools.cached_property
    def feature_pair(self) -> tuple[Tensor, Tensor]:
        real = self.reference.subsample(self.device)
        n = min(PAIR, len(self.features), len(real))
        chosen = torch.randperm(len(self.features), generator=self.stream("feature pair"), device=self.device)[:n]
        return self.features[chosen], real[:n]

    def latent_pairs(self, purpose: str) -> Iterator[tuple[str, Tensor, Tensor]]:
        n = self.protocol.mmd_latents
        drawn = self.latents(n, MMD_DRAWS).flatten(1)
        real = self.held_out.one_each(n, self.stream(f"{purpose} held-out")).flatten(1)
        yield "", drawn, real
        if len(self.backbone.latent_shape) == 3:
            yield f"_pca{PRINCIPAL_AXES}", drawn @ self.principal_axes, real @ self.principal_axes

    @functools.cached_property
    def principal_axes(self) -> Tensor:
        fixed = self.held_out.one_each(self.protocol.mmd_latents, self.shared_stream("principal axes")).flatten(1)
        centred = fixed.double() - fixed.double().mean(0)
        n, d = centred.shape
        if d <= n:
            return torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -PRINCIPAL_AXES:].float()
        values, vectors = torch.linalg.eigh(centred @ centred.T)  # the smaller matrix, of the same eigenvalues
        real = values > 1e-9 * values[-1]
        axes = centred.T @ (vectors[:, real] / values[real].sqrt())
        return axes[:, -PRINCIPAL_AXES:].float()
