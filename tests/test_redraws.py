"""Repeat draws from one fit."""

from types import SimpleNamespace

import numpy as np
import pytest
from draws import CPU

from backbones.conv_vae import ConvVAE
from benchmark.bundles.bundle import open_bundle
from benchmark.bundles.decoding import decode_images
from benchmark.bundles.reference import find_reference
from benchmark.extractors.api import Features
from benchmark.extractors.digit_cnn import DigitCNN
from benchmark.jobs.evaluation import Evaluation
from benchmark.metrics.api import Facts
from benchmark.metrics.frechet import Frechet
from benchmark.metrics.redraws import Redraws
from benchmark.protocol import PRESETS, make_protocol
from benchmark.scores.frechet import feature_statistics, frechet_distance
from benchmark.store.places import fresh_cache
from benchmark.streams import seeded_globals, stream
from priors.api import PosteriorSplit
from priors.gaussian import Gaussian


class Wide(Gaussian):
    def sample(self, n, generator):
        return 1.5 * super().sample(n, generator)


def test_redraws_are_scores_of_new_draws_of_one_fit(small_bundle):
    bundle, extractor = open_bundle(small_bundle), DigitCNN()
    protocol = make_protocol(bundle, PRESETS["rae"], "test", extractor, features=64)
    source, held_out = Wide(bundle.latent_shape, Gaussian.Config()), PosteriorSplit(*bundle.posterior("test", CPU))
    backbone, features = bundle.backbone(ConvVAE, CPU), Features(extractor, CPU)
    reference = find_reference(bundle, extractor, "test")
    asked = Evaluation(source, {"fit": "wide"}, backbone, held_out, features, reference, protocol, 3, CPU, None)
    values = Redraws().measure(asked)
    assert {name: len(scores) for name, scores in values.items()} == dict.fromkeys(
        ("fd_redraws", "mmd_imq_redraws", "mmd_rbf_redraws"), 4
    )
    for scores in values.values():
        assert len(set(scores)) == 4, "each is another draw"
    assert Frechet().measure(asked)["fd"] not in values["fd_redraws"]
    with fresh_cache():
        assert values == Redraws().measure(asked), "streams decide them"
    with seeded_globals(CPU, "redraw 2", 3):
        z = source.sample(protocol.generated, stream(CPU, "redraw 2", 3))
    images = decode_images(backbone, z, stream(CPU, "redraw 2 decode", 3))
    by_hand = frechet_distance(feature_statistics(features(images)), reference.statistics(CPU))
    assert values["fd_redraws"][1] == pytest.approx(by_hand, rel=1e-9)
    spread, apart = np.std(values["fd_redraws"]), abs(np.mean(values["fd_redraws"]) - Frechet().measure(asked)["fd"])
    assert apart < 5 * spread, "the first draw is one of them"


def test_redraws_belong_to_the_first_seed_under_a_protocol_that_asks_for_them():
    for seed, redraws, applies in ((0, 4, True), (1, 4, False), (0, 0, False)):
        facts = Facts("evalp", False, seed, (16,), SimpleNamespace(redraws=redraws), False)
        assert Redraws().applies(facts) is applies
