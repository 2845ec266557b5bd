"""What a Python script calls: a run, its results as a frame, a fitted prior to draw from."""

import re
import subprocess
import sys

import pandas as pd
import pytest
import torch
from boards import Results
from commands import record_files

import benchmark
from benchmark.bundles.bundle import open_bundle
from benchmark.bundles.decoding import decode_images
from benchmark.errors import UsageError
from benchmark.metrics.api import IMAGE_SETTINGS
from benchmark.protocol import read_protocols
from benchmark.streams import stream
from priors.evalp import EVaLP

CPU = torch.device("cpu")


@pytest.fixture
def fields(small_bundle, tmp_path):
    return {"bundle": small_bundle, "device": "cpu", "results": tmp_path / "results", "metrics": "fd,mmd"}


def test_a_run_returns_its_table_as_a_frame(fields):
    frame = benchmark.run(priors="latent_flow[steps=5]", seeds=2, **fields)
    of = frame[(frame["row"] == "latent_flow[steps=5]") & (frame["metric"] == "fd")]
    assert sorted(of["seed"]) == [0, 1]
    assert frame["value"].dtype == float
    assert (fields["results"] / "leaderboard.md").exists()


def test_it_is_what_the_command_line_makes(fields, cli, tmp_path):
    made = benchmark.run(priors="latent_flow[steps=5]", seeds=1, **fields)
    words = ["--bundle", fields["bundle"], "--priors", "latent_flow[steps=5]", "--seeds", 1, "--metrics", "fd,mmd"]
    assert cli("run", *words, "--device", "cpu", "--results", tmp_path / "typed").code == 0
    typed = benchmark.load_results(tmp_path / "typed")
    clock = made["metric"] != "fit_seconds"
    pd.testing.assert_frame_equal(made[clock], typed[typed["metric"] != "fit_seconds"])


def test_a_request_can_be_given_whole_but_not_with_fields(fields):
    request = benchmark.Request(priors="gaussian", seeds=1, **fields)
    assert set(benchmark.run(request)["row"]) == {"aggregate_posterior", "gaussian", "reconstruction"}
    with pytest.raises(UsageError, match="not both"):
        benchmark.run(request, seeds=2)


@pytest.mark.parametrize(
    "given, parts",
    [
        ({"prior": "evalp"}, "'prior'; did you mean 'priors'"),
        ({"priors": "evlap"}, "unknown prior 'evlap'; did you mean 'evalp'"),
        ({"priors": "evalp[steps=0]"}, "steps=0"),
        ({"seeds": "two"}, "seeds='two'"),
    ],
)
def test_bad_fields_are_one_line(given, parts, fields):
    with pytest.raises(UsageError, match=parts.replace("[", r"\[")) as error:
        benchmark.run(**{**fields, **given})
    assert "\n" not in str(error.value)


def test_a_file_in_the_place_of_results_is_one_line(fields, tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UsageError, match=r"cannot use .*file.*: (Not a directory|File exists)"):
        benchmark.run(**fields | {"results": tmp_path / "file", "priors": "gaussian", "seeds": 1})
    assert (tmp_path / "file").read_text() == "kept"


def test_a_run_returns_the_rows_of_its_own_device_alone(fields):
    asked = fields | {"priors": "gaussian", "seeds": 1}
    before = benchmark.run(**asked)
    bundle, (_, protocol) = open_bundle(fields["bundle"]), read_protocols(fields["results"])[0][0]
    other = Results(fields["results"])
    other.add("gaussian", "fd", {"fd": 5.0}, protocol=protocol, reads=IMAGE_SETTINGS, bundle=bundle.id[:16],
              device="cuda", dataset=bundle.dataset, backbone=bundle.backbone_name)  # fmt: skip
    assert set(benchmark.load_results(fields["results"])["device"]) == {"cpu", "cuda"}
    assert set(benchmark.run(**asked)["device"]) == {"cpu"}
    assert len(benchmark.run(**asked)) == len(before)


def test_results_of_a_folder_without_records_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no records here"):
        benchmark.load_results(tmp_path)


def test_a_loaded_prior_is_the_fit_of_the_run(fields):
    benchmark.run(priors="latent_flow[steps=5]", seeds=2, **fields)
    files = {path: path.read_bytes() for path in record_files(fields["results"])}
    loaded = benchmark.load_prior("latent_flow[steps=5]", seed=1, bundle=fields["bundle"], device="cpu")
    other = benchmark.load_prior("latent_flow[steps=5]", seed=0, bundle=fields["bundle"], device="cpu")
    z = loaded.sample(7, seed=3)
    assert z.shape == (7, *open_bundle(fields["bundle"]).latent_shape)
    assert torch.equal(z, loaded.sample(7, seed=3))
    assert not torch.equal(z, loaded.sample(7, seed=4))
    assert not torch.equal(z, other.sample(7, seed=3))
    images = loaded.images(7, seed=3)
    assert torch.equal(images, decode_images(loaded.backbone, z, stream(CPU, "loaded prior decode", 3)))
    assert images.dtype == torch.uint8
    assert {path: path.read_bytes() for path in record_files(fields["results"])} == files


def test_loading_a_prior_writes_no_results(small_bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    benchmark.load_prior("gaussian", bundle=small_bundle, device="cpu")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    "prior, said",
    [
        ("evalp,ncp", "expected one prior with one value for each setting"),
        ("evalp[steps=5,6]", "expected one prior with one value for each setting"),
        ("evalp[step=5]", "did you mean 'steps'?"),
        ("flows", "prior flows: expected one prior, not a group"),
        ("all", "prior all: expected one prior, not a group"),
    ],
)
def test_what_is_not_one_prior_is_refused(prior, said, small_bundle):
    with pytest.raises(UsageError, match=re.escape(said)):
        benchmark.load_prior(prior, bundle=small_bundle)


def test_a_bare_name_loads_the_prior_and_none_of_its_companions(small_bundle, monkeypatch):
    """`evalp` is shown beside `evalp[kl_weight=1]`, which comes behind it."""
    monkeypatch.setattr(EVaLP, "quick", {"steps": 5})
    assert EVaLP.companions
    loaded = benchmark.load_prior("evalp", bundle=small_bundle, device="cpu")
    assert loaded.prior.config.kl_weight == EVaLP.Config().kl_weight
    other = benchmark.load_prior("evalp[kl_weight=1]", bundle=small_bundle, device="cpu")
    assert other.prior.config.kl_weight == 1


@pytest.mark.parametrize("given", [{"priors": "evalp"}, {"seeds": 3}, {"metrics": "fd"}])
def test_a_loaded_prior_has_no_fields_that_a_table_has(given, small_bundle):
    with pytest.raises(UsageError, match=f"load_prior takes no {next(iter(given))}: one prior with one seed"):
        benchmark.load_prior("gaussian", bundle=small_bundle, **given)


def test_importing_the_package_imports_no_torch():
    code = "import sys, benchmark; benchmark.__version__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="has no attribute 'rnu'"):
        benchmark.rnu  # noqa: B018
