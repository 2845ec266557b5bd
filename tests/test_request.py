"""One run as asked: what builds the same request, what is refused in one line, and what a dry run says."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from commands import only_line, record_files
from joblib import cpu_count

import benchmark.jobs.fit
import benchmark.request
from benchmark.bundles.bundle import open_bundle
from benchmark.errors import UsageError
from benchmark.jobs.identity import Row
from benchmark.registry import Registry
from benchmark.request import Request, _notes, request_from, resolve
from benchmark.verify import _request

RESULTS = Path(__file__).resolve().parent.parent / "results"
WORDS = ["--priors", "evalp[steps=20,30],gaussian", "--seeds", "2", "--metrics", "fd,mmd", "--split", "val"]
TOML = """
priors = ["evalp[steps=20,30]", "gaussian"]
seeds = 2
metrics = ["fd", "mmd"]
split = "val"
"""


@pytest.fixture
def asked(cli, monkeypatch):
    """The request that a command line builds."""

    def request(*words):
        built = []

        def keep(request, *_, **__):
            built.append(request)
            raise UsageError("kept")

        monkeypatch.setattr("benchmark.request.resolve", keep)
        done = cli("run", *words)
        assert built, done.err
        return built[0]

    return request


def test_the_command_line_a_file_and_python_build_the_same_request(asked, tmp_path):
    (tmp_path / "run.toml").write_text(TOML)
    in_python = Request(
        priors=[("evalp", {"steps": 20}), ("evalp", {"steps": 30}), ("gaussian", {})],
        seeds=(0, 1),
        metrics=("fd", "mmd"),
        split="val",
    )
    for words in (WORDS, ["--file", tmp_path / "run.toml"]):
        assert asked(*words, "--workers", 3) == in_python.model_copy(update={"workers": 3})


def test_a_command_has_a_worker_a_core_and_python_one(asked, monkeypatch):
    monkeypatch.setattr("conftest.alone", lambda words: words)
    assert asked("--device", "cpu").workers == cpu_count()
    assert Request().workers is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert asked().workers == 3
    assert asked("--per-gpu", 2).workers == 6
    assert asked("--device", "cpu", "--per-gpu", 2).workers == cpu_count()


def test_what_is_typed_goes_before_what_the_file_says(asked, tmp_path):
    (tmp_path / "run.toml").write_text(TOML)
    request = asked("--file", tmp_path / "run.toml", "--seeds", "3", "--split", "test")
    assert request.seeds == (0, 1, 2)
    assert request.split == "test"
    assert request.metrics == ("fd", "mmd")


def test_seeds_are_a_count_or_a_list():
    assert Request(seeds=3).seeds == (0, 1, 2)
    assert Request(seeds=[7, 9]).seeds == (7, 9)


def test_a_slip_of_the_finger_starts_no_run_of_a_million_seeds():
    with pytest.raises(UsageError, match=r"seeds=1000000: .*expected 1000 at most"):
        request_from({"seeds": 1_000_000})


@pytest.mark.parametrize("field", ["results", "bundle", "dataset", "data_root", "inception_weights", "plugins"])
@pytest.mark.parametrize("kind", [str, Path])
def test_a_tilde_is_the_home_folder(field, kind, monkeypatch):
    """No shell stands between a file's or a script's words and the request."""
    monkeypatch.setenv("HOME", "/home/someone")
    given, expected = kind("~/a/b"), "/home/someone/a/b"
    request = request_from({field: [given] if field == "plugins" else given})
    assert [str(each) for each in ([getattr(request, field)] if field != "plugins" else request.plugins)] == [expected]


@pytest.mark.parametrize(
    "text, parts",
    [
        ('prior = "evalp"', ["'prior'", "did you mean 'priors'"]),
        ("seeds = 0", ["seeds"]),
        ('seeds = "three"', ["seeds='three'", "expected how many from 0 on, or a list of them, e.g. 5 or [0, 1]"]),
        ("seeds = [1, 1]", ["seeds are different numbers"]),
        ("seeds = [-1]", ["seeds are different numbers"]),
        ('split = "tset"', ["split='tset'", "'val' or 'test'"]),
        ('device = "gpu"', ["device='gpu'", "'cuda'"]),
        ("priors = 3", ["priors"]),
        ("priors = [3]", ["priors"]),
        ('priors = "evalp[steps=20"', ["--priors evalp[steps=20"]),
        ("seeds = [", ["not readable as TOML"]),
    ],
)
def test_a_bad_file_is_one_line_that_names_it(text, parts, tmp_path, cli):
    (tmp_path / "bad.toml").write_text(text)
    done = cli("run", "--file", tmp_path / "bad.toml", "--results", tmp_path / "r")
    assert done.code == 2
    assert done.err.count("\n") == 1
    for part in parts:
        assert part in done.err
    assert not (tmp_path / "r").exists()


def test_a_file_that_is_not_there_is_one_line(tmp_path, cli):
    done = cli("run", "--file", tmp_path / "no.toml")
    assert done.code == 2
    assert "no.toml: no such file" in done.err


def test_names_become_classes_rows_and_jobs(small_bundle, tmp_path):
    request = request_from({"bundle": str(small_bundle), "priors": "evalp[steps=20]", "seeds": 2, "metrics": "fd,mmd"})
    resolved = resolve(request)
    labels = [job.row.label for job in resolved.jobs if job.seed == 0]
    assert labels == ["aggregate_posterior", "reconstruction", "gaussian", "evalp[steps=20]"]
    assert {job.seed for job in resolved.jobs} == {0, 1}
    assert [metric.name for metric in resolved.work.metrics] == ["fd", "mmd"]
    assert resolved.work.protocol.features == 64


def test_the_protocol_of_a_record_can_be_repeated_whatever_its_preset_says_today(small_bundle):
    request = Request(bundle=small_bundle)
    protocol = resolve(request, settings={"mmd_permutations": 20, "generated": 30}).work.protocol
    assert protocol.mmd_permutations == 20
    assert protocol.generated == 30
    with pytest.raises(UsageError, match=r"generatd.*did you mean 'generated'"):
        resolve(request, settings={"generatd": 30})


def test_a_record_names_the_request_that_made_it(small_bundle, tmp_path, cli):
    """`verify` rebuilds the whole of a request from a record; its job then has the record's ids."""
    words = ["run", "--bundle", small_bundle, "--priors", "latent_flow[steps=5]", "--seeds", 1, "--metrics", "fd,mmd"]
    assert cli(*words, "--results", tmp_path).code == 0
    records = [json.loads(path.read_text()) for path in record_files(tmp_path)]
    measured = [record for record in records if record["kind"] != "fit" and record["row"]["prior"] == "latent_flow"]
    assert len(measured) == 2
    for record in measured:
        resolved = resolve(_request(record, open_bundle(small_bundle), Registry()))
        (job,) = [job for job in resolved.jobs if job.row.name == "latent_flow"]
        assert job.fit_id == record["identity"]["fit"]
        assert job.facts() == record["row"]


def rows_of(table):
    body = [line for line in table.splitlines() if line.startswith("|")][2:]
    return {cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.strip("|").split("|")] for line in body)}


def test_a_dry_run_says_what_is_to_do_and_does_nothing(small_bundle, tmp_path, cli):
    words = ["run", "--bundle", small_bundle, "--priors", "latent_flow[steps=5]", "--metrics", "fd,mmd"]
    words += ["--results", tmp_path / "r"]
    done = cli(*words, "--seeds", 2, "--dry-run")
    assert done.code == 0
    assert not (tmp_path / "r").exists()
    assert rows_of(done.out)["latent_flow[steps=5]"] == ["2", "2", "4", "0", "6 of unknown time"]
    assert cli(*words, "--seeds", 1).code == 0
    before = {path: path.read_bytes() for path in Path(tmp_path / "r").rglob("*") if path.is_file()}
    done = cli(*words, "--seeds", 2, "--dry-run")
    rows = rows_of(done.out)
    assert rows["latent_flow[steps=5]"][:4] == ["2", "1", "2", "2"]
    assert rows["reconstruction"][:4] == ["2", "0", "1", "1"]  # which has no mmd
    assert re.fullmatch(r"\d+s", rows["latent_flow[steps=5]"][4]), "by the recorded times of seed 0"
    assert {path: path.read_bytes() for path in Path(tmp_path / "r").rglob("*") if path.is_file()} == before


def test_a_forecast_counts_the_fits_that_the_run_makes(small_bundle, tmp_path, cli, monkeypatch):
    """A score needs its fit: one that is recorded but no longer kept is made again. Rows may share one."""
    words = ["run", "--bundle", small_bundle, "--seeds", 1, "--priors", "gaussian,ncp[steps=5,proposals=2,4]"]
    made, fit = [], benchmark.jobs.fit.fit_prior
    monkeypatch.setattr("benchmark.jobs.fit.fit_prior", lambda *of: made.append(of) or fit(*of))

    def forecast_and_run(results, *more):
        asked = [*words, "--results", tmp_path / results, *more]
        rows = rows_of(cli(*asked, "--dry-run").out)
        made.clear()
        assert cli(*asked).code == 0
        assert int(rows["all"][1]) == len(made)
        return len(made), rows

    assert forecast_and_run("r", "--metrics", "fd")[0] == 2
    assert forecast_and_run("r", "--metrics", "fd")[0] == 0
    assert forecast_and_run("other", "--metrics", "fd")[0] == 0, "they are kept, if not recorded there"
    assert forecast_and_run("r", "--metrics", "fd,mmd")[0] == 0
    shutil.rmtree(tmp_path / "cache" / "fits")
    assert forecast_and_run("r", "--metrics", "fd,mmd")[0] == 0, "nothing needs them"
    fits, rows = forecast_and_run("r", "--metrics", "samples")
    assert fits == 2
    assert "unknown" in rows["all"][4]
    shutil.rmtree(tmp_path / "cache" / "fits")
    said = cli(*words, "--results", tmp_path / "r", "--metrics", "kid", "--dry-run").out
    assert "2 fits are recorded and no longer in the cache" in said


def test_the_fits_of_shared_results_are_those_beside_them(small_bundle, tmp_path, cli):
    words = ["run", "--bundle", small_bundle, "--seeds", 1, "--priors", "gaussian", "--results", tmp_path / "r"]
    assert cli(*words, "--metrics", "fd").code == 0
    words += ["--metrics", "mmd", "--dry-run"]
    assert [rows_of(cli(*words, *more).out)["all"][1] for more in ([], ["--shared"])] == ["0", "1"]


def test_a_data_set_is_looked_for_once(small_bundle, monkeypatch):
    looked, find = [], benchmark.request.find_dataset_of
    monkeypatch.setattr("benchmark.request.find_dataset_of", lambda *of: looked.append(of) or find(*of))
    resolve(request_from({"bundle": str(small_bundle), "priors": "gaussian"}))
    assert len(looked) == 1


def test_a_dry_run_computes_no_reference(small_bundle, tmp_path, cli):
    shutil.copytree(small_bundle, tmp_path / "small")
    shutil.rmtree(tmp_path / "small" / "reference")
    done = cli("run", "--bundle", tmp_path / "small", "--priors", "gaussian", "--dry-run", "--results", tmp_path / "r")
    assert done.code == 0
    assert "would be computed first" in done.err


def test_a_forecast_reads_every_record_that_there_is(tmp_path, cli):
    """Those that come with the suite hold failures too."""
    done = cli(
        "run", "--dataset", "mnist", "--priors", "evalp,ncp", "--dry-run", "--results", RESULTS, "--budget", "full"
    )
    assert done.code == 0
    assert rows_of(done.out)["ncp"][:2] == ["3", "3"], "its fits are recorded, and not kept here"
    assert int(rows_of(done.out)["ncp"][3]) > 30


def test_what_a_file_says_is_to_be_right_also_where_something_else_is_typed(tmp_path, cli):
    (tmp_path / "bad.toml").write_text('seeds = "three"')
    done = cli("run", "--file", tmp_path / "bad.toml", "--seeds", 1, "--results", tmp_path / "r")
    assert done.code == 2
    assert "seeds='three': expected how many from 0 on" in done.err


def test_what_is_said_of_several_rows_is_one_line_that_names_them_all():
    def row(name, note):
        return Row(name, name, {}, {}, note=note)

    borrowed = "{} has no recipe for digits: using that of mnist"
    rows = [row(name, borrowed.format(name)) for name in ("evalp", "gmm", "evalp")]
    rows += [row("ncp", "ncp has no recipe for digits: using that of fashion"), row("mine", "slow"), row("kde", None)]
    assert _notes(rows) == [
        "evalp, gmm have no recipe for digits: using that of mnist",
        "ncp has no recipe for digits: using that of fashion",
        "slow",
    ]


@pytest.mark.parametrize("there", [True, False])
def test_a_metric_of_training_images_that_is_named_has_them_looked_at(there, small_bundle, tmp_path, cli, monkeypatch):
    """Else a run that was asked for it ends well, and without it."""
    shutil.copytree(small_bundle, tmp_path / "small")
    for path in (tmp_path / "small" / "reference").glob("*-train.*"):
        path.unlink()
    monkeypatch.setenv("LATENT_PRIOR_CACHE", str(tmp_path / "cache"))
    words = ("--bundle", tmp_path / "small", *(("--dataset", small_bundle.parent / "small.npz") if there else ()))
    words = (*words, "--priors", "gaussian", "--seeds", 1, "--device", "cpu", "--metrics", "fd,memorisation")
    done = cli("run", *words, "--results", tmp_path / "r")
    assert done.code == 0, done.err
    assert any(path.name.startswith("memorisation-") for path in record_files(tmp_path / "r")) == there
    assert ("memorisation: not measured, since nobody has looked at training images" in done.err) != there


def test_advice_to_tune_names_a_bundle_as_it_is_found(small_bundle, tmp_path, cli, monkeypatch):
    """By its folder, where its name alone is found from nowhere."""
    shutil.copytree(small_bundle, tmp_path / "small")
    monkeypatch.setenv("LATENT_PRIOR_CACHE", str(tmp_path / "cache"))
    words = ("--bundle", tmp_path / "small", "--settings", "tuned", "--device", "cpu", "--results", tmp_path / "r")
    for more in ((), ("--priors", "gmm")):
        assert f"--bundle {tmp_path / 'small'} " in only_line(cli("run", *words, *more))
