"""A feature extractor without weights: images shrunk to 4 x 4 grey pixels."""

import hashlib

import torch.nn.functional as F
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

from benchmark.extractors.api import Extractor, OneLayerExtractor, hookimpl


class ThumbnailFeatures(OneLayerExtractor):
    features = 16
    image_shape = (1, 32, 32)

    def __init__(self, name, features_list, **_):
        super().__init__(name, features_list)

    def forward(self, x):
        return (F.adaptive_avg_pool2d(x.float() / 255, 4).flatten(1),)


class Thumbnail(Extractor):
    name = "thumbnail"
    score = "FD thumbnail"
    channels = 1
    embedded = True

    def weights_hash(self):
        return hashlib.sha256(b"no weights").hexdigest()

    def network(self):
        return ThumbnailFeatures(self.name, ["16"])


if Thumbnail.name not in FEATURE_EXTRACTORS_REGISTRY:
    register_feature_extractor(Thumbnail.name, ThumbnailFeatures)


@hookimpl
def register_extractors():
    return [Thumbnail]
