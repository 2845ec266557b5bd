"""The embedded digits: all of scikit-learn's, in random splits that are the same every time."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from images import SPLITS, check_images
from sklearn.datasets import load_digits

from benchmark.bundles.bundle import open_bundle
from benchmark.bundles.find import SHIPPED
from benchmark.datasets.digits import Digits


def test_digits_are_all_of_scikit_learn_s_in_three_disjoint_splits():
    images = Digits().load([])
    check_images(images)
    assert [len(getattr(images, split)) for split in SPLITS] == [1097, 200, 500] == list(Digits.counts)
    assert images.shape == (1, 32, 32)
    everything = torch.cat([images.train, images.val, images.test])
    assert everything[:, :, 6:26, 6:26].amax() == 255
    border = everything.clone()
    border[:, :, 6:26, 6:26] = 0
    assert not border.any()
    assert sorted(places_in_source(everything)) == list(range(1797))


def places_in_source(images):
    """Where each image stands in scikit-learn's order."""
    originals = torch.from_numpy(load_digits().images).float()[:, None] * (255 / 16)
    enlarged = F.interpolate(originals, size=20, mode="bicubic").round().clamp(0, 255).flatten(1)
    distances = torch.cdist(images[:, :, 6:26, 6:26].float().flatten(1), enlarged)
    assert distances.amin(1).max() < 1
    return distances.argmin(1).tolist()


def test_digits_are_the_same_every_time_and_those_of_the_shipped_bundle():
    first, second = Digits().load([]), Digits().load([])
    torch.manual_seed(5)
    assert first.content_hash() == second.content_hash() == Digits().load([]).content_hash()
    card = open_bundle(SHIPPED / "digits-conv_vae").card["dataset"]
    assert card["sha256"] == first.content_hash()
    assert card["preparation"] == first.preparation


def test_the_splits_of_digits_are_random():
    """The source's writers come one after another: every split draws from all of it, in no order."""
    images = Digits().load([])
    for split in SPLITS:
        positions = places_in_source(getattr(images, split)[:200])
        assert np.mean(positions) == pytest.approx(898, abs=150)  # 4 standard errors of 200 draws
        assert np.corrcoef(positions, range(len(positions)))[0, 1] == pytest.approx(0, abs=0.3)
