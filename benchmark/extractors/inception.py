"""torch-fidelity's Inception-v3 (the network of the original FID code), at its last and at an earlier layer.

`inception` reads the 2048 pooled features: its distance alone is called FID. `inception-768` reads the 768
features after Mixed_6e: its distance is called FID-768 and compares with nothing else.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import ClassVar
from urllib.error import URLError

import torch
from torch import nn

from benchmark.extractors.api import Extractor, Unavailable, hookimpl
from benchmark.store.sealed import file_hash


class Inception(Extractor):
    name = "inception"
    score = "FID"
    layer: ClassVar[str] = "2048"
    probe: ClassVar[str] = "Mixed_7c.branch_pool.conv.weight"  # of the last block that the layer needs
    #: how the SHA-256 of the weights begins that published FIDs are of; empty: any that have the layer
    sha256: ClassVar[str] = "6726825d"

    @functools.cached_property
    def _path(self) -> Path:
        """The weights file: the one named, else torch.hub's copy, downloaded where there is a network."""
        if self.weights is not None:
            if not self.weights.is_file():
                raise Unavailable(f"--inception-weights {self.weights}: no such file")
            return self.weights
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

        path = Path(torch.hub.get_dir()) / "checkpoints" / Path(URL_INCEPTION_V3).name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), hash_prefix="6726825d", progress=False)
            except (URLError, OSError, RuntimeError) as error:
                raise Unavailable(
                    f"the Inception weights could not be downloaded ({error}); fetch {URL_INCEPTION_V3} "
                    f"and name it with --inception-weights, or put it at {path}"
                ) from error
        return path

    def weights_hash(self) -> str:
        found = file_hash(self._path)
        if not found.startswith(self.sha256):
            raise Unavailable(
                f"{self._path}: its SHA-256 begins with {found[:8]}, that of the network that defines {self.score} "
                f"with {self.sha256}; by another the distance would not be {self.score}"
            )
        return found

    def network(self) -> nn.Module:
        # imported here: it brings torchvision, which takes as long as torch, and a command may need no network
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        # torch-fidelity unpickles without restriction, so the file is first read in the mode that cannot run code
        path = self._path
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            finite = bool(state[self.probe].isfinite().all())
            network = FeatureExtractorInceptionV3(
                "inception-v3-compat", [self.layer], feature_extractor_weights_path=str(path)
            )
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error).partition('. ')[0]}"
            raise Unavailable(f"{path}: not a file of Inception weights ({reason})") from error
        if not finite:
            raise Unavailable(f"{path}: has no weights for the layer {self.layer} that {self.name} reads")
        return network.to(memory_format=torch.channels_last)  # 1.6 times as fast on a CPU


class Inception768(Inception):
    name = "inception-768"
    score = "FID-768"
    layer = "768"
    probe = "Mixed_6e.branch_pool.conv.weight"
    sha256 = ""  # copies that hold no later layers serve as well


@hookimpl
def register_extractors() -> list[type[Extractor]]:
    return [Inception, Inception768]
