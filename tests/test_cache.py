"""Tensors kept in the cache: made once, never taken where damaged, never shared between identities."""

from pathlib import Path

import pytest
import torch
from draws import CPU
from safetensors.torch import save_file

from benchmark.jobs.evaluation import Evaluation
from benchmark.store.cache import load_or_make
from benchmark.store.places import cache_root
from priors.gaussian import Gaussian


def never() -> torch.Tensor:
    raise AssertionError("made again")


def test_a_tensor_is_made_once_and_comes_back_bit_for_bit():
    value = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).T  # not contiguous
    assert load_or_make("latents", {"fit": 1}, CPU, lambda: value) is value
    assert torch.equal(load_or_make("latents", {"fit": 1}, CPU, never), value)


@pytest.mark.parametrize("kind, identity", [("latents", {"fit": 2}), ("features", {"fit": 1})])
def test_another_identity_or_kind_is_another_tensor(kind, identity):
    load_or_make("latents", {"fit": 1}, CPU, lambda: torch.zeros(2))
    assert torch.equal(load_or_make(kind, identity, CPU, lambda: torch.ones(2)), torch.ones(2))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "cut": _cut,
    "one bit": _flip,
    "empty": lambda path: path.write_bytes(b""),
    "another tensor": lambda path: save_file({"other": torch.zeros(1)}, path),
    "no hash": lambda path: save_file({"value": torch.zeros(4)}, path),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named_and_made_again(damage, capsys):
    load_or_make("latents", {"fit": 1}, CPU, lambda: torch.ones(4))
    (path,) = (cache_root() / "latents").iterdir()
    DAMAGE[damage](path)
    assert torch.equal(load_or_make("latents", {"fit": 1}, CPU, lambda: torch.ones(4)), torch.ones(4))
    assert str(path) in capsys.readouterr().err
    assert torch.equal(load_or_make("latents", {"fit": 1}, CPU, never), torch.ones(4))


def test_a_metric_measured_again_draws_and_decodes_nothing_again(small_bundle, tmp_path, cli, monkeypatch):
    words = ["run", "--bundle", small_bundle, "--priors", "gaussian", "--seeds", 1, "--metrics", "fd,mmd,samples"]
    assert cli(*words, "--results", tmp_path / "first").code == 0
    monkeypatch.setattr(Gaussian, "sample", lambda *_: never())
    monkeypatch.setattr(Evaluation, "_extracted", lambda *_: never())
    assert cli(*words[:-1], "fd,mmd", "--results", tmp_path / "second").code == 0
    boards = [(tmp_path / name / "leaderboard.csv").read_text().splitlines() for name in ("first", "second")]
    scores = [[line for line in board if ",mmd_" in line or ",FD " in line] for board in boards]
    assert scores[0] == scores[1]
    assert len(scores[0]) == 11  # 5 of 2 rows with latents, FD of the reconstruction


def test_a_sample_that_breaks_the_contract_is_not_kept(small_bundle, tmp_path, cli, monkeypatch):
    words = ["run", "--bundle", small_bundle, "--priors", "gaussian", "--seeds", 1, "--metrics", "mmd"]
    with monkeypatch.context() as patch:
        patch.setattr(Gaussian, "sample", lambda self, n, generator: torch.full((n, *self.latent_shape), torch.nan))
        assert cli(*words, "--results", tmp_path / "bad").code == 1
    assert cli(*words, "--results", tmp_path / "good").code == 0
