"""With few images every count is of what there is, and what nothing can be told of is blank and says why."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from boards import Results

from benchmark.protocol import PRESETS, make_protocol

COVERED = {"latent_precision": 0.5, "latent_recall": 0.5, "latent_density": 0.5, "latent_coverage": 0.5}


@pytest.mark.parametrize("count", [2, 6, 11, 12, 13, 500])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_protocol_asks_for_no_more_than_there_is(count, preset):
    counts = {"train": 40, "val": count, "test": count}
    card = {"posterior_counts": counts, "dataset": {"counts": counts, "preparation": "none"}}
    extractor = SimpleNamespace(identity=lambda: {"name": "digit-cnn"}, score="FD")
    made = make_protocol(SimpleNamespace(card=card, counts=counts, groups=None), PRESETS[preset], "test", extractor, 64)
    assert made.grid_columns == min(12, count)
    assert max(made.generated, made.mmd_latents) <= 40
    assert made.grid_columns <= made.mmd_latents <= count


@pytest.mark.parametrize("count, k", [(2, 1), (4, 3), (5, 4), (6, 5), (500, 5)])
def test_no_more_neighbours_are_said_than_there_are(count, k, tmp_path):
    results = Results(tmp_path / "results", generated=count, reference=count, mmd_latents=count)
    results.references()
    results.add("gaussian", "latent_neighbours", COVERED | {f"{name}_pca64": of for name, of in COVERED.items()})
    results.add("gaussian", "neighbours", {name.partition("_")[2]: of for name, of in COVERED.items()})
    captions = [line for line in results.text.splitlines() if "k = " in line]
    assert len(captions) == 2
    assert all(f"k = {k}" in caption for caption in captions)
    spanned = f"the {count - 1} principal axes"
    assert [spanned in caption for caption in captions] == [False, count <= 64]


@pytest.mark.parametrize("seeds, images, told", [(1, 6, False), (1, 64, False), (1, 65, True), (5, 6, True)])
def test_one_seed_of_few_images_closes_no_gap_and_says_why(seeds, images, told, tmp_path):
    results = Results(tmp_path / "results", generated=images, reference=images, features=64)
    results.references([10.0, 10.2, 10.1, 9.9, 9.8][:seeds], [9.9, 10.0, 9.95, 9.6, 9.7][:seeds])
    results.scores("mine", [5.0, 5.1, 4.9, 5.2, 4.8][:seeds])
    text = results.text
    assert ("gap_closed" in set(results.board()["metric"])) == told
    assert ("no gap is told from noise" in text) == (seeds == 1 and not told)
    assert ("weak backbone" in text) == told
