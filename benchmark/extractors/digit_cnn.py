"""`digit-cnn`: a small classifier of MNIST digits whose 64 last features are the embedded extractor.

Four 3x3 convolutions with batch norm and ReLU, pooled; made by `python -m tools.train_digit_cnn`
and shipped beside this file. Its Fréchet distance is called "FD digit-cnn", never FID.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmark.extractors.api import Extractor, hookimpl
from benchmark.store.sealed import file_hash

WEIGHTS = Path(__file__).with_name("digit_cnn.safetensors")
SIDE, FEATURES = 32, 64


class DigitClassifier(nn.Module):
    """Grey images (n, 1, 32, 32) in [0, 1] -> 64 features -> 10 logits."""

    def __init__(self) -> None:
        super().__init__()
        widths = [1, 32, 48, 64, FEATURES]
        blocks = [
            nn.Sequential(
                nn.Conv2d(i, o, 3, stride=1 if i == 1 else 2, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU()
            )
            for i, o in pairwise(widths)
        ]
        self.features = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.logits = nn.Linear(FEATURES, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.features(x))


class DigitCNNFeatures(nn.Module):
    """Images, uint8 (n, 1, H, W) -> ((n, 64),). Other sizes than 32 are resized (bilinear)."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = DigitClassifier()
        self.classifier.load_state_dict(load_file(WEIGHTS))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = x.float() / 255
        if x.shape[2:] != (SIDE, SIDE):
            x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True)
        return (self.classifier.features(x.to(memory_format=torch.channels_last)),)


class DigitCNN(Extractor):
    name = "digit-cnn"
    score = "FD digit-cnn"
    channels = 1
    embedded = True

    def weights_hash(self) -> str:
        return file_hash(WEIGHTS)

    def network(self) -> nn.Module:
        return DigitCNNFeatures()


@hookimpl
def register_extractors() -> list[type[Extractor]]:
    return [DigitCNN]
