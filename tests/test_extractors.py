"""Feature extractors: their features, agreement with torch-fidelity, and weights files that hold no weights."""

import pickle
import warnings

import pytest
import torch
import torch_fidelity
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import Dataset
from torch_fidelity import feature_extractor_inceptionv3
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from benchmark.datasets.api import random_split
from benchmark.datasets.digits import Digits
from benchmark.extractors.api import Extractor, Features, Unavailable
from benchmark.extractors.digit_cnn import WEIGHTS, DigitCNN, DigitCNNFeatures
from benchmark.extractors.inception import Inception, Inception768
from benchmark.registry import Registry
from benchmark.scores.frechet import feature_statistics, frechet_distance
from benchmark.store.sealed import file_hash

CPU = torch.device("cpu")


def noise(n: int, channels: int = 1, side: int = 32, seed: int = 0) -> torch.Tensor:
    shape = (n, channels, side, side)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.fixture(scope="module")
def digits():
    return Digits().load([])


@pytest.fixture(scope="module")
def digit_features() -> Features:
    return Features(DigitCNN(), CPU)


def test_built_in_extractors_and_the_names_of_their_scores():
    scores = {name: cls.score for name, cls in Registry().all("extractor").items()}
    assert scores["inception"] == "FID" and scores["inception-768"] == "FID-768"
    assert scores["digit-cnn"] == "FD digit-cnn"
    assert [name for name, score in scores.items() if score == "FID"] == ["inception"]


# digit-cnn


def test_digit_features_are_those_of_the_classifier_on_the_unit_interval(digits, digit_features):
    classifier = DigitCNN().network().classifier.eval()
    with torch.no_grad():
        expected = classifier.features(digits.test[:20].float() / 255)
    assert torch.allclose(digit_features(digits.test[:20]), expected, atol=1e-5)


def test_digit_features_do_not_depend_on_the_batch(digits, digit_features):
    images = digits.test[:60]
    features = digit_features(images)
    assert features.shape == (60, 64) and features.dtype == torch.float32 and not features.requires_grad
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
    with pytest.raises(TypeError, match="uint8.*torch"):
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
    assert digit_features(images).shape == (3, 64) and digit_features(images).isfinite().all()


def test_a_resized_picture_keeps_its_features(digits, digit_features):
    """Each pixel doubled, then taken back to 32 x 32: nearly the same picture, and nearer than any other."""
    images = digits.test[:50]
    doubled = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    nearest = torch.cdist(digit_features(doubled), digit_features(images)).argmin(1)
    assert (nearest == torch.arange(50)).float().mean() > 0.9


def test_digit_weights_are_embedded_and_hashed():
    assert DigitCNN.embedded and WEIGHTS.stat().st_size < 1e6
    assert DigitCNN().weights_hash() == file_hash(WEIGHTS)
    identity = DigitCNN().identity()
    assert identity["name"] == "digit-cnn" and identity["weights"] == file_hash(WEIGHTS)


class InMemory(Dataset):
    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.images[index]


def of_torch_fidelity(extractor: str, generated: torch.Tensor, reference: torch.Tensor, **options) -> float:
    metrics = torch_fidelity.calculate_metrics(
        input1=InMemory(generated),
        input2=InMemory(reference),
        fid=True,
        feature_extractor=extractor,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
        **options,
    )
    return metrics["frechet_inception_distance"]


def test_digit_cnn_in_torch_fidelity_gives_our_distance(digits, digit_features):
    assert FEATURE_EXTRACTORS_REGISTRY["digit-cnn"] is DigitCNNFeatures
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
    assert distances == sorted(distances) and distances[1] > 2 * distances[0]


# Inception

INCEPTIONS: list[type[Extractor]] = [Inception, Inception768]
both = pytest.mark.parametrize("cls", INCEPTIONS, ids=[cls.name for cls in INCEPTIONS])


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """torch-fidelity's network with random weights of a size that keeps features alive, and a file of them."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(feature_extractor_inceptionv3, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["768", "2048"])
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, generator=generator)
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(network.state_dict(), path)
    return network, path


@both
def test_inception_features_are_those_of_torch_fidelity(cls, inception):
    network, path = inception
    features_of = Features(cls(path), CPU, batch_size=2)
    images = noise(3, channels=3)
    expected = dict(zip(["768", "2048"], network(images)))[cls.layer]
    features = features_of(images)
    assert features.shape == (3, int(cls.layer)) and features.std() > 1e-3
    assert torch.allclose(features, expected, rtol=1e-4, atol=1e-5 * expected.abs().max())
    grey = noise(2)
    assert torch.allclose(features_of(grey), features_of(grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)
    assert cls(path).weights_hash() == file_hash(path)


def test_inception_768_gives_the_distance_of_torch_fidelity(inception):
    """From images to a number, with their own reading of the same file."""
    _, path = inception
    generated, reference = noise(6, channels=3), noise(8, channels=3, seed=1) // 2
    features_of = Features(Inception768(path), CPU)
    ours = frechet_distance(*[feature_statistics(features_of(images)) for images in (generated, reference)])
    theirs = of_torch_fidelity(
        "inception-v3-compat", generated, reference, feature_layer_fid="768", feature_extractor_weights_path=str(path)
    )
    assert ours == pytest.approx(theirs, rel=1e-3), "more features than images: rounding is larger"


@pytest.fixture(scope="module")
def without_last_layers(inception, tmp_path_factory):
    """A file as it is made where only the weights up to Mixed_6e were at hand: the rest is NaN."""
    state = {name: value.clone() for name, value in inception[0].state_dict().items()}
    for name, value in state.items():
        if name.startswith(("Mixed_7", "fc.")) and value.is_floating_point():
            value.fill_(torch.nan)
    path = tmp_path_factory.mktemp("weights") / "first-layers.pth"
    torch.save(state, path)
    return path


def test_weights_without_the_last_layers_serve_the_earlier_layer_alone(inception, without_last_layers):
    images = noise(2, channels=3)
    features = Features(Inception768(without_last_layers), CPU)(images)
    assert torch.allclose(features, Features(Inception768(inception[1]), CPU)(images))
    with pytest.raises(Unavailable, match=r"first-layers\.pth.*2048"):
        Inception(without_last_layers).network()


@both
def test_missing_weights_are_named(cls, tmp_path):
    for ask in (cls.network, cls.weights_hash, cls.identity):
        with pytest.raises(Unavailable, match=r"nowhere\.pth.*no such file"):
            ask(cls(tmp_path / "nowhere.pth"))


@both
def test_a_folder_is_no_weights_file(cls, tmp_path):
    with pytest.raises(Unavailable, match=tmp_path.name):
        cls(tmp_path).weights_hash()


def garbage(path, state):
    path.write_bytes(bytes(range(256)) * 20)


def nothing(path, state):
    path.write_bytes(b"")


def truncated(path, state):
    torch.save({name: value for name, value in list(state.items())[:20]}, path)
    path.write_bytes(path.read_bytes()[:5000])


def a_number(path, state):
    torch.save(3.0, path)


def a_list(path, state):
    torch.save([torch.zeros(3)], path)


def another_networks(path, state):
    torch.save(nn.Linear(2, 2).state_dict(), path)


def text_for_a_tensor(path, state):
    torch.save({name: "text" for name in state}, path)


def incomplete(path, state):
    """The tensors that are looked at first are there, others are not: as in torchvision's file, which shares names."""
    torch.save({name: value for name, value in state.items() if name.startswith(("Mixed_6e", "Mixed_7c"))}, path)


def of_another_shape(path, state):
    torch.save({**state, "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}, path)


@both
@pytest.mark.parametrize(
    "write",
    [garbage, nothing, truncated, a_number, a_list, another_networks, text_for_a_tensor, incomplete, of_another_shape],
)
def test_a_file_that_is_no_inception_state_dict_is_named(cls, write, inception, tmp_path):
    path = tmp_path / "weights.pth"
    write(path, inception[0].state_dict())
    with pytest.raises(Unavailable, match=r"weights\.pth"):
        cls(path).network()


class RunsCode:
    """Opens (and so creates) a file when it is unpickled."""

    def __init__(self, marker) -> None:
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


@both
@pytest.mark.parametrize("how", ["torch.save", "in a state dict", "pickle"])
def test_a_file_that_would_run_code_is_refused_without_running_it(cls, how, tmp_path):
    path, marker = tmp_path / "weights.pth", tmp_path / "code-ran"
    if how == "torch.save":
        torch.save(RunsCode(marker), path)
    elif how == "in a state dict":
        torch.save({cls.probe: torch.zeros(1), "more": RunsCode(marker)}, path)
    else:
        path.write_bytes(pickle.dumps(RunsCode(marker), protocol=2))
    with pytest.raises(Unavailable, match=r"weights\.pth"):
        cls(path).network()
    assert not marker.exists()
    if how == "torch.save":
        torch.load(path, weights_only=False).close()
        assert marker.exists(), "the file is as dangerous as it is meant to be"


@both
def test_without_a_network_it_says_what_to_fetch_and_where_to_put_it(cls, tmp_path, monkeypatch):
    def offline(url, path, **_):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(Unavailable, match=r"no network.*https://\S+\.pth.*--inception-weights.*checkpoints"):
        cls().network()
