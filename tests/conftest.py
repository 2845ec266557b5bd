"""What tests share: a cache of their own, a small real bundle, the command line in this process."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from backbones.conv_vae import ConvVAE
from benchmark.bundles.pretrain import pretrain
from benchmark.bundles.reference import make_reference
from benchmark.cli.app import main
from benchmark.datasets.digits import Digits
from benchmark.datasets.path import PathDataset
from benchmark.extractors.digit_cnn import DigitCNN
from benchmark.protocol import protocol_for
from benchmark.registry import Registry

CPU = torch.device("cpu")
#: what is proved here are the CPU's bits, so `--device auto` is to find no GPU; test_cuda.py gives it back to commands
AS_IT_WAS = dict(os.environ)
os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Every test has a cache of its own and finds no image data but the embedded digits."""
    monkeypatch.setenv("LATENT_PRIOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LATENT_PRIOR_DATA", raising=False)


@pytest.fixture
def with_gpu(own_cache):
    """The environment of a command that is to see the GPU; the test is skipped where there is none."""
    if AS_IT_WAS.get("CUDA_VISIBLE_DEVICES") == "" or not Path("/proc/driver/nvidia/version").exists():
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
        bundle = pretrain(Registry(), dataset, ConvVAE, settings, 0, CPU, [], None, folder / "small-conv_vae")
    for split in ("train", "val", "test"):
        folder = bundle.path / "reference"
        make_reference(bundle, dataset.load([]), DigitCNN(), split, CPU, folder, lambda *_, **__: None)
    return bundle.path


@pytest.fixture
def cli(monkeypatch, capsys):
    """Call the command line in this process: `cli("run", ...)` -> code, out, err."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capsys.readouterr()
        return SimpleNamespace(code=stop.value.code or 0, out=printed.out, err=printed.err)

    return call


@pytest.fixture
def brief_timings(monkeypatch):
    """Timings of four samples: the shipped decoder takes seconds for those of the protocol."""
    monkeypatch.setattr(
        "benchmark.request.protocol_for",
        lambda *given: protocol_for(*given).model_copy(update={"timing_batches": (4,), "timing_seconds": 0.0}),
    )
