"""What tests share: a cache of their own, a small real bundle, the command line in this process.

Where a test belongs: in the file named after the module whose behaviour it proves (`test_mmd.py`: the MMD of `metrics`
and of `scores`), or after the package where it proves what all of its members share (`test_metrics.py`).
"""

import functools
import os
import subprocess
import sys
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from commands import alone, shorten
from devices import AS_IT_WAS
from draws import seeded
from faces import PARTITION, jpeg
from vaes import words_of_squares, write_squares

from backbones.conv_vae import ConvVAE
from benchmark.bundles.bundle import open_bundle
from benchmark.bundles.making import Asked
from benchmark.bundles.pretrain import pretrain
from benchmark.bundles.reference import make_reference
from benchmark.check import contract
from benchmark.cli.app import main
from benchmark.datasets.celeba64 import CelebA64Preview
from benchmark.datasets.digits import Digits
from benchmark.datasets.path import PathDataset
from benchmark.extractors.digit_cnn import DigitCNN
from benchmark.jobs.evaluation import Evaluation
from benchmark.protocol import PRESETS, make_protocol
from benchmark.registry import Registry
from benchmark.store.sealed import read_sealed
from priors.api import PosteriorSplit

CPU = torch.device("cpu")
#: the workers of pytest-xdist share the cores: threads that outnumber these wait for each other
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
#: what a prior has learnt is judged on half the draws, at a quarter of the cost; what it must learn is as much
contract.DRAWS = 1_000


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Every test has a cache of its own and finds no image data but the embedded digits."""
    monkeypatch.setenv("LATENT_PRIOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LATENT_PRIOR_DATA", raising=False)


@functools.cache
def has_gpu():
    """Asked in a process of its own: in this one there is none."""
    asked = "import torch; raise SystemExit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", asked], env=AS_IT_WAS).returncode == 0


@pytest.fixture
def with_gpu(own_cache):
    """The environment of a command that is to see the GPU; the test is skipped where there is none."""
    if AS_IT_WAS.get("CUDA_VISIBLE_DEVICES") == "" or not has_gpu():
        pytest.skip("no CUDA device here")
    return AS_IT_WAS | {"LATENT_PRIOR_CACHE": os.environ["LATENT_PRIOR_CACHE"]}


@pytest.fixture
def seeded_modules():
    """Modules of this test are initialised alike in every run; the global generator is put back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory):
    """A whole bundle with its reference, of 260 digits of 16x16 pixels, whose decoder takes next to no time."""
    folder = tmp_path_factory.mktemp("small")
    digits = Digits().load([])
    parts = {"train": digits.train[:160], "val": digits.val[:40], "test": digits.test[:60]}
    np.savez(folder / "small.npz", **{name: images[:, 0, ::2, ::2].numpy() for name, images in parts.items()})
    dataset = PathDataset(folder / "small.npz")
    settings = {"width": 1, "nz": 4, "epochs": 20, "batch_size": 32}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENT_PRIOR_CACHE", str(folder / "cache"))
        bundle = pretrain(Asked(Registry(), dataset, 0, CPU, [], None, folder / "small-conv_vae"), ConvVAE, settings)
    for split in ("train", "val", "test"):
        folder = bundle.path / "reference"
        make_reference(bundle, dataset.load([]), DigitCNN(), split, CPU, folder, lambda *_, **__: None)
    return bundle.path


@pytest.fixture
def cli(monkeypatch, capsys):
    """Call the command line in this process: `cli("run", ...)` -> code, out, err.

    A run has one worker, this process, if no other number is asked for: what a test patches is in force. Its timings
    are brief.
    """
    shorten(monkeypatch)

    def call(*words):
        words = alone(words)
        monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capsys.readouterr()
        return SimpleNamespace(code=stop.value.code or 0, out=printed.out, err=printed.err)

    return call


@pytest.fixture
def brief(cli, monkeypatch):
    """Scores of 30 latents and images for each row, where a test is not about what they come to."""
    shorten(monkeypatch, generated=30, mmd_latents=30)


@pytest.fixture
def nothing_shipped(tmp_path, monkeypatch):
    """Which bundles there are is each test's own affair, whatever the package ships."""
    monkeypatch.setattr("benchmark.bundles.find.SHIPPED", tmp_path / "shipped")


@pytest.fixture
def small_preview(monkeypatch):
    """The preview of CelebA has as few images as a test makes."""
    monkeypatch.setattr(CelebA64Preview, "counts", (6, 4, 5))


@pytest.fixture(scope="session")
def faces():
    """Nine images of 178x218 as JPEG: random blocks, so that a pixel's shift or another image is seen at once."""
    blocks = [np.random.default_rng(number).integers(0, 256, (37, 30, 3), np.uint8) for number in range(len(PARTITION))]
    arrays = [block.repeat(6, 0).repeat(6, 1)[:218, :178] for block in blocks]
    return {name: jpeg(array) for name, array in zip(PARTITION, arrays)}


@pytest.fixture
def squares(tmp_path, cli):
    """`squares(name, setting=value, ...)` trains a tiny hierarchy on 200 images of 4 x 4 squares -> card, stderr."""
    write_squares(tmp_path / "squares.npz")

    def train(name, **settings):
        done = cli(*words_of_squares(tmp_path / "squares.npz", tmp_path / name, **settings))
        assert done.code == 0, done.err
        return read_sealed(tmp_path / name / "bundle.json"), done.err

    return train


@pytest.fixture
def held_out() -> PosteriorSplit:
    """Posteriors of 60 images that nobody encoded, of 2 x 3 latents."""
    return PosteriorSplit(torch.randn(60, 2, 3, generator=seeded(0)), torch.full((60, 2, 3), 0.3))


@pytest.fixture
def given(small_bundle):
    """An evaluation whose features are given: `given(features, real)`."""

    def make(features, real, seed=0):
        bundle, extractor = open_bundle(small_bundle), DigitCNN()
        protocol = make_protocol(bundle, PRESETS["quick"], "test", extractor, features=64)
        reference = SimpleNamespace(subsample=lambda device: real)
        made = Evaluation(None, {}, None, None, None, reference, protocol, seed, CPU, None)
        made.features = features
        return made

    return make


@pytest.fixture
def no_inception(tmp_path, monkeypatch):
    """No Inception weights and no network; the list of what was to be downloaded."""
    asked = []

    def refuse(url, *_, **__):
        asked.append(url)
        raise URLError("no network here")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    return asked
