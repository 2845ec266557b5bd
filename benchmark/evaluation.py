"""One fitted prior under evaluation: what it draws, decodes to and shows to the extractor, each made once.

Latents are drawn in streams that all rows share, and decoding has streams of its own, so that two rows differ
by their priors alone. Latents and features are kept in the cache, so that a metric added later draws nothing again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from typing import Protocol as Interface

import torch
from torch import Tensor

from backbones.api import Backbone
from benchmark.decoding import decoded
from benchmark.extractors.api import Features
from benchmark.kept import kept
from benchmark.protocol import Protocol
from benchmark.reference import Reference
from benchmark.streams import seeded_globals, stream
from priors.api import PosteriorSplit

PAIR = 2_000  # images of each side that metrics quadratic in n compare
PRINCIPAL_AXES = 64
DRAWS_VERSION = 1  # of streams, decoding and extraction: what is kept under another is not found


class Source(Interface):
    """Where latents come from: a fitted prior, or posterior draws."""

    def sample(self, n: int, generator: torch.Generator) -> Tensor: ...


class BadSample(RuntimeError):
    """A prior's `sample` broke its contract; the message says how."""


class ReferenceRow:
    """Posterior draws in place of a prior: one z from each of n distinct images."""

    def __init__(self, draws: PosteriorSplit) -> None:
        self._draws = draws

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return self._draws.one_each(n, generator)


class SeenBefore:
    """Reconstructions with every group of a hierarchy from its posterior: features alone, taken with images at hand."""

    def __init__(self, features: Tensor) -> None:
        self.features = features


FULL_RECONSTRUCTION = "full_reconstruction"
#: reference row -> the split whose posteriors it decodes (None: the split that is reported)
REFERENCE_ROWS: dict[str, str | None] = {
    "aggregate_posterior": "train",
    "reconstruction": None,
    FULL_RECONSTRUCTION: None,
}


@dataclass
class Evaluation:
    """`held_out` is q_agg of the reported split; `features_of` and `reference` belong to the protocol's extractor.

    `identity` decides what `source` draws: its fit, its settings of sampling, the split of a reference row.
    `train_posterior` gives mean and std of q(z|x) of training images, `train_reference` what the extractor sees in
    them, where there is such a reference.
    """

    source: Source | Any
    identity: dict[str, Any]
    backbone: Backbone
    held_out: PosteriorSplit
    features_of: Features
    reference: Reference
    protocol: Protocol
    seed: int
    device: torch.device
    train_posterior: Callable[[], tuple[Tensor, Tensor]] | None = None
    train_reference: Reference | None = None

    def stream(self, purpose: str) -> torch.Generator:
        return stream(self.device, purpose, self.seed)

    def latents(self, n: int, purpose: str) -> Tensor:
        """n checked latents (n, *latent_shape). Raises `BadSample`."""
        identity = {**self.identity, "latents": n, "purpose": purpose, "version": DRAWS_VERSION}
        return kept("latents", identity, self.device, lambda: self._drawn(n, purpose))

    @torch.no_grad()
    def _drawn(self, n: int, purpose: str) -> Tensor:
        with seeded_globals(self.device, purpose, self.seed):
            z = self.source.sample(n, self.stream(purpose))
        expected = (n, *self.backbone.latent_shape)
        if not isinstance(z, Tensor):
            raise BadSample(f"sample({n}) returned a {type(z).__name__}, expected a tensor {expected}")
        if tuple(z.shape) != expected:
            raise BadSample(f"sample({n}) returned shape {tuple(z.shape)}, expected {expected}")
        if z.dtype != torch.float32 or z.device.type != self.device.type:
            raise BadSample(f"sample({n}) returned {z.dtype} on {z.device}, expected torch.float32 on {self.device}")
        bad = int((~z.flatten(1).isfinite().all(1)).sum())
        if bad:
            raise BadSample(f"{bad} of {n} samples are not finite")
        return z

    def decoded(self, z: Tensor, purpose: str) -> Tensor:
        """Latents -> images rounded to 8 bits, uint8 (n, C, H, W), on the device."""
        return decoded(self.backbone, z, self.stream(purpose))

    @functools.cached_property
    def features(self) -> Tensor:
        """Features (n, d) of the protocol's number of generated images."""
        protocol = self.protocol
        if isinstance(self.source, SeenBefore):
            return self.source.features[: protocol.generated]
        seen = {"images": protocol.generated, "extractor": protocol.extractor, "rounding": protocol.rounding}
        return kept("features", {**self.identity, **seen, "version": DRAWS_VERSION}, self.device, self._extracted)

    def _extracted(self) -> Tensor:
        return self.features_of(self.decoded(self.latents(self.protocol.generated, "sample"), "decode"))

    @functools.cached_property
    def feature_pair(self) -> tuple[Tensor, Tensor]:
        """Features (n, d) of generated and of real images, random, equally many: 2,000, or all where one has fewer."""
        real = self.reference.subsample(self.device)
        n = min(PAIR, len(self.features), len(real))
        chosen = torch.randperm(len(self.features), generator=self.stream("feature pair"), device=self.device)[:n]
        return self.features[chosen], real[:n]

    def latent_pairs(self, purpose: str) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Latents of the source and held-out ones (n, d): as they are, then, of spatial ones, on principal axes.

        Each with a suffix for the names of values. The source's are those of all two-sample metrics, the held-out
        ones, one per image, belong to the purpose.
        """
        n = self.protocol.mmd_latents
        drawn = self.latents(n, "mmd sample").flatten(1)
        real = self.held_out.one_each(n, self.stream(f"{purpose} held-out")).flatten(1)
        yield "", drawn, real
        if len(self.backbone.latent_shape) == 3:
            yield f"_pca{PRINCIPAL_AXES}", drawn @ self.principal_axes, real @ self.principal_axes

    @functools.cached_property
    def principal_axes(self) -> Tensor:
        """The first 64 principal axes (d, 64) of held-out q_agg, of a fixed draw: all rows and seeds share them."""
        fixed = self.held_out.one_each(self.protocol.mmd_latents, stream(self.device, "principal axes")).flatten(1)
        centred = fixed.double() - fixed.double().mean(0)
        n, d = centred.shape
        if d <= n:
            return torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -PRINCIPAL_AXES:].float()
        values, vectors = torch.linalg.eigh(centred @ centred.T)  # the smaller matrix, of the same eigenvalues
        real = values > 1e-9 * values[-1]
        axes = centred.T @ (vectors[:, real] / values[real].sqrt())
        return axes[:, -PRINCIPAL_AXES:].float()
