"""digit-cnn: features of its classifier, agreement with torch-fidelity, and a distance that grows with damage."""

import pytest
import torch
from draws import CPU
from fidelity import of_torch_fidelity
from images import noise
from sklearn.datasets import load_digits

from benchmark.datasets.api import random_split
from benchmark.datasets.digits import Digits
from benchmark.extractors.api import Features, register_in_torch_fidelity
from benchmark.extractors.digit_cnn import WEIGHTS, DigitCNN
from benchmark.scores.frechet import feature_statistics, frechet_distance
from benchmark.store.sealed import file_hash


@pytest.fixture(scope="module")
def digits():
    return Digits().load([])


@pytest.fixture(scope="module")
def digit_features() -> Features:
    return Features(DigitCNN(), CPU)


def test_digit_features_are_those_of_the_classifier_on_the_unit_interval(digits, digit_features):
    classifier = DigitCNN().network().classifier.eval()
    with torch.no_grad():
        expected = classifier.features(digits.test[:20].float() / 255)
    assert torch.allclose(digit_features(digits.test[:20]), expected, atol=1e-5)


def test_digit_features_do_not_depend_on_the_batch(digits, digit_features):
    images = digits.test[:60]
    features = digit_features(images)
    assert features.shape == (60, 64)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert features.std(0).gt(0).float().mean() > 0.9
    for batch_size in (1, 7):
        apart = Features(DigitCNN(), CPU, batch_size)(images)
        assert torch.allclose(apart, features, atol=1e-5)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(digit_features(images[order]), features[order], atol=1e-5)


def test_digit_cnn_reads_the_embedded_digits(digits, digit_features):
    """Its own logits on images prepared as the data set `digits` is: features of a network that is lost say little."""
    images = digits.test
    labels = random_split(torch.from_numpy(load_digits().target), 1097, 200, 500)[2]
    with torch.no_grad():
        guessed = DigitCNN().network().classifier.logits(digit_features(images)).argmax(1)
    assert (guessed == labels).float().mean() > 0.9


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_images_must_be_bytes(digit_features, dtype):
    with pytest.raises(TypeError, match=r"uint8.*torch"):
        digit_features(torch.zeros(2, 1, 32, 32, dtype=dtype))


def test_colour_is_turned_grey(digits, digit_features):
    """Grey stored as colour is the same picture but for rounding; red has its 29.9 % of brightness."""
    grey = digits.test[:40]
    direct, by_colour = digit_features(grey), digit_features(grey.expand(-1, 3, -1, -1))
    assert by_colour.shape == (40, 64)
    assert (by_colour - direct).abs().max() < 0.1 * direct.std()
    red = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    red[:, 0, 8:24, 8:24] = 200
    as_grey = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    as_grey[:, :, 8:24, 8:24] = round(0.299 * 200)
    assert (digit_features(red) - digit_features(as_grey)).abs().max() < 0.1 * direct.std()


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 64, 64), (3, 48, 40)])
def test_other_sizes_are_accepted(digit_features, shape):
    images = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    assert digit_features(images).shape == (3, 64)
    assert digit_features(images).isfinite().all()


def test_a_resized_picture_keeps_its_features(digits, digit_features):
    """Each pixel doubled, then taken back to 32 x 32: nearly the same picture, and nearer than any other."""
    images = digits.test[:50]
    doubled = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    nearest = torch.cdist(digit_features(doubled), digit_features(images)).argmin(1)
    assert (nearest == torch.arange(50)).float().mean() > 0.9


def test_digit_weights_are_embedded_and_hashed():
    assert DigitCNN.embedded
    assert WEIGHTS.stat().st_size < 1e6
    assert DigitCNN().weights_hash() == file_hash(WEIGHTS)
    identity = DigitCNN().identity()
    assert identity["name"] == "digit-cnn"
    assert identity["weights"] == file_hash(WEIGHTS)


def test_digit_cnn_in_torch_fidelity_gives_our_distance(digits, digit_features):
    register_in_torch_fidelity(DigitCNN)
    generated = digits.val.roll(3, dims=3)
    statistics = [feature_statistics(digit_features(images)) for images in (generated, digits.test)]
    ours = frechet_distance(*statistics)
    assert ours > 0.1
    assert ours == pytest.approx(of_torch_fidelity("digit-cnn", generated, digits.test), rel=1e-4)


def test_distance_grows_with_damage(digits, digit_features):
    """More noise, a larger distance; another half of the same images, the smallest."""
    reference = feature_statistics(digit_features(digits.train))
    damage = noise(500).float() - 127.5
    distances = []
    for strength in (0.0, 0.2, 0.4, 0.8):
        damaged = (digits.test + strength * damage).clamp(0, 255).to(torch.uint8)
        distances.append(frechet_distance(feature_statistics(digit_features(damaged)), reference))
    assert distances == sorted(distances)
    assert distances[1] > 2 * distances[0]
