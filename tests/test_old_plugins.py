"""Plugins written against the interfaces as they were run as they stand: `old_plugins/` is never edited for that."""

import ast
import json
from pathlib import Path

import pytest
from commands import RUN, record_files, scores_of

from benchmark.bundles.bundle import open_bundle

OLD = Path(__file__).with_name("old_plugins")
#: settings that make one epoch of a small conv_vae
TINY = [word for each in ("width=1", "nz=2", "epochs=1", "batch_size=20") for word in ("--set", each)]


def done(call, *words):
    """The command, which succeeds and finds no plugin broken."""
    outcome = call(*words)
    assert outcome.code == 0, outcome.err
    assert "broken plugin" not in outcome.err
    return outcome


def kinds_of(results, prior):
    """Kind -> status of the records of one row."""
    records = [json.loads(path.read_text()) for path in record_files(results) if path.parent.name == prior]
    return {record["kind"]: record["status"] for record in records}


@pytest.mark.parametrize("path", sorted(OLD.glob("*.py")), ids=lambda path: path.stem)
def test_they_import_an_api_and_libraries_alone(path):
    """What else a stranger could have imported was never promised."""
    tree = ast.parse(path.read_text())
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    ours = [module for module in modules if module.partition(".")[0] in ("benchmark", "priors", "backbones")]
    assert all(module.endswith(".api") for module in ours)
    assert ours


@pytest.mark.parametrize("name", ["full_gaussian", "moments"])
def test_a_prior_runs_and_is_scored(name, small_bundle, tmp_path, cli):
    words = ["--priors", name, "--seeds", 1, "--metrics", "fd,mmd,cross_entropy", "--device", "cpu"]
    done(cli, "run", "--bundle", small_bundle, *words, "--plugin", OLD / f"prior_{name}.py", "--results", tmp_path)
    assert kinds_of(tmp_path, name) == dict.fromkeys(["fit", "fd", "mmd", "cross_entropy"], "ok")
    scores = scores_of(tmp_path)
    assert scores["mmd_imq"][name] < 0.75 * scores["mmd_imq"]["gaussian"]


def test_a_metric_whose_applies_takes_a_job_and_a_workspace_is_measured_with_one_warning(small_bundle, tmp_path, cli):
    words = ["run", "--bundle", small_bundle, "--priors", "gaussian", "--seeds", 2, "--device", "cpu"]
    words += ["--metrics", "fd,latent_spread", "--plugin", OLD / "metric_latent_spread.py", "--results", tmp_path]
    outcome = done(cli, *words)
    warnings = [line for line in outcome.err.splitlines() if "older form" in line]
    assert len(warnings) == 1
    assert warnings[0].startswith("metric latent_spread: ")
    (path,) = [path for path in record_files(tmp_path) if path.name.startswith("latent_spread-")]
    record = json.loads(path.read_text())
    assert record["status"] == "ok"
    assert (record["row"]["prior"], record["row"]["seed"]) == ("gaussian", 0), "of a prior's first seed alone"
    spread = scores_of(tmp_path)["latent_spread"]["gaussian"]
    assert spread == pytest.approx(record["values"]["latent_spread"])
    assert 0.3 < spread < 3


@pytest.mark.parametrize(
    "head",
    [
        "@classmethod\n    def applies(cls, job, work)",
        "@staticmethod\n    def applies(job, work)",
        "def applies(*given)",
    ],
)
def test_an_older_applies_may_be_of_any_make(head, small_bundle, tmp_path, cli):
    source = (OLD / "metric_latent_spread.py").read_text().replace("def applies(self, job, work)", head)
    source = source.replace(
        "if job.row", "job, work = given[-2:]\n        if job.row" if "given" in head else "if job.row"
    )
    (tmp_path / "spread.py").write_text(source)
    words = ["run", "--bundle", small_bundle, "--priors", "gaussian", "--seeds", 2, "--device", "cpu"]
    words += ["--metrics", "fd,latent_spread", "--plugin", tmp_path / "spread.py", "--results", tmp_path / "r"]
    assert done(cli, *words).err.count("older form") == 1
    assert [path.name[:13] for path in record_files(tmp_path / "r") if "spread" in path.name] == ["latent_spread"]


def test_a_metric_without_applies_is_measured_of_the_rows_that_it_names_without_a_warning(small_bundle, tmp_path, cli):
    words = ["run", "--bundle", small_bundle, "--priors", "gaussian", "--seeds", 1, "--device", "cpu"]
    words += ["--metrics", "mean_norm", "--plugin", OLD / "metric_mean_norm.py", "--results", tmp_path]
    outcome = done(cli, *words)
    assert "older form" not in outcome.err
    norms = scores_of(tmp_path)["mean_norm"]
    assert set(norms.index) == {"gaussian", "aggregate_posterior"}
    assert norms["gaussian"] == pytest.approx(1.88, abs=0.06)  # E|z| of N(0, I) in 4 dimensions


def test_an_extractor_gives_a_reference_and_a_table(small_bundle, tmp_path, cli):
    images = ["--bundle", small_bundle, "--dataset", small_bundle.parent / "small.npz", "--device", "cpu"]
    words = [*images, "--extractor", "thumbnail", "--plugin", OLD / "extractor_thumbnail.py"]
    done(cli, "reference", *words, "--split", "test", "--out", tmp_path / "reference")
    assert [path.name for path in (tmp_path / "reference").glob("*.safetensors")] == ["thumbnail-test.safetensors"]
    outcome = done(cli, "run", *words, *RUN, "--results", tmp_path / "r")
    assert scores_of(tmp_path / "r")["FD thumbnail"]["gaussian"] > 0
    assert "FD thumbnail" in " ".join(outcome.out.split())


@pytest.mark.parametrize("typed, upright", [("stripes", True), ("stripes[upright=false]", False)])
def test_a_data_set_is_pretrained_on(typed, upright, tmp_path, cli):
    plugin = ["--plugin", OLD / "dataset_stripes.py", "--device", "cpu"]
    done(cli, "pretrain", "--dataset", typed, *TINY, *plugin, "--out", tmp_path / "bundle")
    card = open_bundle(tmp_path / "bundle").card["dataset"]
    assert (card["name"], card["settings"], card["image_shape"]) == ("stripes", {"upright": upright}, [1, 16, 16])
    assert card["counts"] == {"train": 60, "val": 20, "test": 40}
    assert card["terms"] == "drawn by this file, public domain"
    done(cli, "run", "--bundle", tmp_path / "bundle", "--dataset", typed, *RUN, *plugin, "--results", tmp_path / "r")
    assert scores_of(tmp_path / "r")["FD digit-cnn"]["gaussian"] > 0


def test_a_backbone_is_pretrained_and_its_bundle_runs(small_bundle, tmp_path, cli):
    images = ["--dataset", small_bundle.parent / "small.npz", "--device", "cpu"]
    plugin = ["--plugin", OLD / "backbone_linear_vae.py"]
    settings = ["--set", "epochs=3", "--set", "batch_size=32", "--set", "nz=2"]
    done(cli, "pretrain", *images, "--backbone", "linear_vae", *settings, *plugin, "--out", tmp_path / "bundle")
    bundle = open_bundle(tmp_path / "bundle")
    assert (bundle.backbone_name, bundle.latent_shape) == ("linear_vae", (2,))
    losses = bundle.card["training"]["val_loss"]
    assert losses[-1] < losses[0]
    done(cli, "run", "--bundle", tmp_path / "bundle", *images, *RUN, *plugin, "--results", tmp_path / "r")
    assert scores_of(tmp_path / "r")["FD digit-cnn"]["gaussian"] > 0
