"""Inception: torch-fidelity's features from a file of weights, and files that hold none."""

import pickle
import warnings

import pytest
import torch
from draws import CPU
from fidelity import of_torch_fidelity
from images import noise
from torch import nn
from torch_fidelity import feature_extractor_inceptionv3
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from benchmark.extractors.api import Extractor, Features, Unavailable
from benchmark.extractors.inception import Inception, Inception768
from benchmark.scores.frechet import feature_statistics, frechet_distance
from benchmark.store.sealed import file_hash

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


@pytest.fixture
def any_weights(monkeypatch):
    """Random weights pass for those of the published FID."""
    monkeypatch.setattr(Inception, "sha256", "")


@both
@pytest.mark.usefixtures("any_weights")
def test_inception_features_are_those_of_torch_fidelity(cls, inception):
    network, path = inception
    features_of = Features(cls(path), CPU, batch_size=2)
    images = noise(3, channels=3)
    expected = dict(zip(["768", "2048"], network(images)))[cls.layer]
    features = features_of(images)
    assert features.shape == (3, int(cls.layer))
    assert features.std() > 1e-3
    assert torch.allclose(features, expected, rtol=1e-4, atol=1e-5 * expected.abs().max())
    grey = noise(2)
    assert torch.allclose(features_of(grey), features_of(grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)
    assert cls(path).weights_hash() == file_hash(path)


def test_other_weights_than_the_published_ones_give_no_fid(inception, tmp_path, cli):
    _, path = inception
    with pytest.raises(Unavailable, match=r"SHA-256 begins with .* 6726825d"):
        Inception(path).weights_hash()
    assert Inception768(path).weights_hash() == file_hash(path)
    words = ["run", "--extractor", "inception", "--weights", path, "--priors", "gaussian", "--device", "cpu"]
    done = cli(*words, "--results", tmp_path / "r")
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert "would not be FID" in done.err


@pytest.mark.slow  # half a minute of convolutions
@pytest.mark.usefixtures("any_weights")
def test_a_whole_run_by_these_weights_gives_a_table_called_fid(inception, small_bundle, tmp_path, cli):
    words = ["--bundle", small_bundle, "--dataset", small_bundle.parent / "small.npz", "--metrics", "fd"]
    words += ["--priors", "gaussian", "--seeds", 2, "--device", "cpu"]
    given = ["--extractor", "inception", "--weights", inception[1]]
    done = cli("run", *words, *given, "--results", tmp_path / "r")
    assert done.code == 0, done.err
    page = (tmp_path / "r" / "boards" / "small-conv_vae-quick.md").read_text()
    assert "test split, quick protocol, FID\n" in page
    header = next(line for line in page.splitlines() if line.startswith("| prior"))
    assert "FID ↓" in header
    assert "rank-deficient covariance" in page
    board = (tmp_path / "r" / "leaderboard.csv").read_text()
    assert ",FID,fd," in board
    assert "FD digit-cnn" not in board


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
    torch.save(dict(list(state.items())[:20]), path)
    path.write_bytes(path.read_bytes()[:5000])


def a_number(path, state):
    torch.save(3.0, path)


def a_list(path, state):
    torch.save([torch.zeros(3)], path)


def another_networks(path, state):
    torch.save(nn.Linear(2, 2).state_dict(), path)


def text_for_a_tensor(path, state):
    torch.save(dict.fromkeys(state, "text"), path)


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
