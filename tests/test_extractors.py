"""Feature extractors: the names of their scores, and what scores a bundle where one cannot be had."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
from commands import RUN, only_line
from images import splits_of
from vaes import write_untrained

from benchmark.datasets.path import PathDataset
from benchmark.extractors.efficientnet_lite0 import (
    PACKAGE,
    EfficientNetLite0Extractor,
)
from benchmark.registry import Registry


def test_built_in_extractors_and_the_names_of_their_scores():
    scores = {name: cls.score for name, cls in Registry().all("extractor").items()}
    assert scores["inception"] == "FID"
    assert scores["inception-768"] == "FID-768"
    assert scores["digit-cnn"] == "FD digit-cnn"
    assert [name for name, score in scores.items() if score == "FID"] == ["inception"]


@pytest.fixture
def colour_bundle(tmp_path):
    """An untrained bundle of colour images, and the data set that they come from."""
    np.savez(tmp_path / "blocks.npz", **splits_of(8, 4, 6, side=32))
    dataset = PathDataset(tmp_path / "blocks.npz")
    return write_untrained(tmp_path / "bundle", dataset, dataset.load([])), dataset


def test_a_colour_bundle_is_scored_with_its_own_extractor_and_called_so(colour_bundle, no_inception, tmp_path, cli):
    bundle, dataset = colour_bundle
    done = cli("run", "--bundle", bundle.path, "--dataset", dataset.path, *RUN, "--results", tmp_path / "r")
    assert done.code == 0, done.err
    metrics = set(pd.read_csv(tmp_path / "r" / "leaderboard.csv")["metric"])
    assert "FD efficientnet-lite0" in metrics
    assert not any("FID" in metric for metric in metrics)
    assert "FD efficientnet-lite0" in " ".join(done.out.split())
    assert "FID" not in done.out
    cards = [json.loads(path.read_text()) for path in (tmp_path / "cache" / "references").rglob("*.json")]
    assert cards
    assert all(card["extractor"] == EfficientNetLite0Extractor().identity() for card in cards)


@pytest.mark.parametrize("name", ["inception", "inception-768"])
def test_an_extractor_asked_for_by_name_is_never_replaced(name, colour_bundle, no_inception, tmp_path, cli):
    bundle, dataset = colour_bundle
    words = ["--bundle", bundle.path, "--dataset", dataset.path, *RUN, "--results", tmp_path / "r"]
    assert f"{name} cannot be used" in only_line(cli("run", "--extractor", name, *words))
    assert not (tmp_path / "r").exists()


def test_a_colour_bundle_that_nothing_can_score_is_one_line(colour_bundle, no_inception, tmp_path, cli, monkeypatch):
    bundle, dataset = colour_bundle
    monkeypatch.setitem(sys.modules, PACKAGE.replace("-", "_"), None)
    done = cli("run", "--bundle", bundle.path, "--dataset", dataset.path, *RUN, "--results", tmp_path / "r")
    assert done.code == 2
    assert "Traceback" not in done.err
    assert not (tmp_path / "r").exists()
    last = done.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert f"pip install {PACKAGE}" in last
