"""What a feature extractor is: a network, the layer read from it, and the name of its score."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import pluggy
import torch
from torch import Tensor, nn

hookimpl = pluggy.HookimplMarker("latent_prior_benchmark")


class Unavailable(Exception):
    """The extractor's weights cannot be had; the message says what to fetch and where to put it."""


class Extractor(ABC):
    """Built with the path of a weights file, or None for where the weights usually are.

    `score` is what its Fréchet distance is called: FID for the 2048 Inception features alone.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    score: ClassVar[str]
    channels: ClassVar[int] = 3  # what the network takes; images are converted
    source: ClassVar[str | None] = None  # of a plugin, the hash of its source: set where it is registered
    embedded: ClassVar[bool] = False  # its weights come with the package: it can always be used

    def __init__(self, weights: Path | None = None) -> None:
        self.weights = weights

    @abstractmethod
    def weights_hash(self) -> str:
        """SHA-256 of the weights in use: part of the protocol. Raises `Unavailable`."""

    @abstractmethod
    def network(self) -> nn.Module:
        """uint8 images (n, channels, H, W) -> a tuple of its features (n, d), as torch-fidelity's extractors give them.

        Any of those will do, asked for one layer. Raises `Unavailable`.
        """

    def identity(self) -> dict[str, Any]:
        """What decides its features: part of a protocol, and of the card of a reference."""
        identity = {"name": self.name, "version": self.version, "weights": self.weights_hash()}
        return identity if self.source is None else {**identity, "source": self.source}


def register_in_torch_fidelity(extractor: type[Extractor]) -> None:
    """Make an extractor known to torch-fidelity by its name, for `calculate_metrics(feature_extractor=...)`."""
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

    class Registered(_one_layer_extractor()):  # type: ignore[misc]  # a base that is made when it is asked for
        features = extractor.name  # its one layer has no other name
        image_shape = (extractor.channels, 32, 32)

        def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
            super().__init__(name, features_list)
            self.network = extractor().network()

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return self.network(x)

    if extractor.name not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(extractor.name, Registered)


def __getattr__(name: str) -> Any:
    """`OneLayerExtractor`, the base of a network that torch-fidelity is to take too."""
    if name == "OneLayerExtractor":
        return _one_layer_extractor()
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


@functools.cache
def _one_layer_extractor() -> type:
    """Made when it is asked for: torch-fidelity brings torchvision, which takes as long as torch to import."""
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    class OneLayerExtractor(FeatureExtractorBase):
        """What torch-fidelity asks of an extractor with one layer, of `features` numbers, that takes `image_shape`."""

        features: ClassVar[int]
        image_shape: ClassVar[tuple[int, int, int]]

        @classmethod
        def get_provided_features_list(cls) -> tuple[str, ...]:
            return (str(cls.features),)

        @classmethod
        def get_default_feature_layer_for_metric(cls, metric: str) -> str:
            return str(cls.features)

        @staticmethod
        def can_be_compiled() -> bool:
            return True

        @classmethod
        def get_dummy_input_for_compile(cls) -> Tensor:
            return torch.zeros(1, *cls.image_shape, dtype=torch.uint8)

    return OneLayerExtractor


class Features:
    """An extractor on a device: uint8 images (n, C, H, W) -> float32 features (n, d), there."""

    def __init__(self, extractor: Extractor, device: torch.device, batch_size: int | None = None) -> None:
        self._network = extractor.network().to(device).eval().requires_grad_(False)
        self._name, self._channels, self._device = extractor.name, extractor.channels, device
        self._batch_size = batch_size or (250 if device.type == "cuda" else 50)  # 50 stay in a CPU's cache

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8:
            raise TypeError(f"features are taken of uint8 images, got {images.dtype}")
        parts = (self._convert(part.to(self._device)) for part in images.split(self._batch_size))
        features = torch.cat([self._network(part)[0].float() for part in parts])
        if features.dim() != 2 or len(features) != len(images) or not features.isfinite().all():
            finite = "" if features.isfinite().all() else ", not all finite"
            raise TypeError(
                f"extractor {self._name}: {len(images)} images gave features {tuple(features.shape)}{finite}; "
                "expected a row of finite numbers each"
            )
        return features

    def _convert(self, images: Tensor) -> Tensor:
        if images.shape[1] == self._channels:
            return images
        if self._channels == 3:
            return images.expand(-1, 3, -1, -1)
        from torchvision.transforms.functional import rgb_to_grayscale  # slow to import, and seldom used

        return rgb_to_grayscale(images)
