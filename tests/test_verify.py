"""Records computed again: what agrees, what was tampered with, what cannot be told, and nothing of the cache."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import contents, record_files, the_record
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from benchmark.metrics.frechet import Frechet
from benchmark.metrics.samples import as_png
from benchmark.recount import find_differences
from benchmark.report.board import Board
from benchmark.report.tables import make_tables
from benchmark.store.cache import _sha256
from benchmark.store.places import cache_root, fresh_cache
from benchmark.store.records import RecordStore
from benchmark.store.sealed import file_hash, read_sealed, write_sealed
from benchmark.verify import difference_limit, differing_pixels, draw_share, group_by_fit, judge_value
from priors.latent_flow import LatentFlow

PRIOR = "latent_flow[steps=20]"
SCORES = "fd,mmd,samples,memorisation"
OF_A_SEED = 4 + 4 + 4 + 3  # scores of gaussian, PRIOR, aggregate_posterior and, without mmd, reconstruction
RECORDS = 2 * (OF_A_SEED + 2)  # of both seeds, with the fits


@pytest.fixture(scope="session")
def undisturbed(small_bundle, tmp_path_factory):
    """A folder `results` and the `cache` of its run, with the bundle in it."""
    from benchmark.cli.app import main

    folder = tmp_path_factory.mktemp("recorded")
    shutil.copytree(small_bundle, folder / "cache" / "bundles" / "small")
    words = ["run", "--bundle", "small", "--priors", PRIOR, "--seeds", "2", "--metrics", SCORES, "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENT_PRIOR_CACHE", str(folder / "cache"))
        patch.setattr("sys.argv", ["benchmark", *words, "--results", str(folder / "results")])
        with pytest.raises(SystemExit) as stop:
            main()
    assert not stop.value.code
    return folder


@pytest.fixture
def results(undisturbed, tmp_path):
    """A copy of the recorded results; of the cache the bundle alone is there."""
    shutil.copytree(undisturbed / "results", tmp_path / "results")
    shutil.copytree(undisturbed / "cache" / "bundles", cache_root() / "bundles")
    return tmp_path / "results"


def change(results, kind, edit, **of):
    """Edit one record and seal it again; its file."""
    record, path = the_record(results, kind, **{"prior": "latent_flow", "seed": 1, **of})
    edit(record)
    write_sealed(path, record)
    return path


def summary(done):
    """equal, within, unknown, disagreeing: the numbers of the last line."""
    return [int(number) for number in re.findall(r"\d+(?= [a-z])", done.out.splitlines()[-1])]


def test_every_record_of_a_run_comes_out_again_to_the_last_digit(results, cli, monkeypatch):
    fits, fit = [], LatentFlow.fit
    monkeypatch.setattr(LatentFlow, "fit", lambda self, *given: fits.append(self) or fit(self, *given))
    before = contents(results)
    done = cli("verify", "--share", 1, "--results", results)
    assert done.code == 0, done.out + done.err
    assert summary(done) == [RECORDS, 0, 0, 0]
    assert len(fits) == 2  # one for each seed, whatever is measured of it
    assert "4 to fit again" in done.err
    assert f"equal     small conv_vae {PRIOR} seed 1: fit, fd, memorisation, mmd, samples" in done.out
    assert contents(results) == before


def _poison(cache):
    """Put wrong but whole fits and draws in place of the cache's own."""
    for path in (cache / "fits").glob("*.safetensors"):
        save_file({name: torch.zeros_like(value) for name, value in load_file(path).items()}, path)
        entry = read_sealed(path.with_suffix(".json"))
        write_sealed(path.with_suffix(".json"), {**entry, "state": file_hash(path)})
    for path in [*(cache / "latents").iterdir(), *(cache / "features").iterdir()]:
        with safe_open(path, "pt") as file:
            wrong = torch.zeros_like(file.get_tensor("value"))
        save_file({"value": wrong}, path, metadata={"sha256": _sha256(wrong)})


def test_nothing_of_the_cache_but_bundles_is_read_and_nothing_written(undisturbed, results, cli, tmp_path):
    shutil.copytree(undisturbed / "cache", cache_root(), dirs_exist_ok=True)
    _poison(cache_root())
    words = ["run", "--bundle", "small", "--priors", PRIOR, "--seeds", 1, "--metrics", "fd", "--device", "cpu"]
    cli(*words, "--results", tmp_path / "poisoned")
    first, second = (the_record(folder, "fd", "gaussian")[0]["values"] for folder in (results, tmp_path / "poisoned"))
    assert first != second, "the poison itself must work"
    before = contents(cache_root())
    done = cli("verify", "--share", 1, "--results", results)
    assert done.code == 0
    assert summary(done) == [RECORDS, 0, 0, 0]
    assert contents(cache_root()) == before
    assert os.environ["LATENT_PRIOR_CACHE"] == str(cache_root())


def _png(record):
    record["values"]["png"] = as_png(torch.zeros(12, 1, 32, 32, dtype=torch.uint8))


TAMPERED = {
    "fd": lambda record: record["values"].update(fd=record["values"]["fd"] * (1 + 1e-5)),
    "mmd": lambda record: record["values"].pop("mmd_rbf"),
    "samples": _png,
    "fit": lambda record: record["values"].update(held_out_nll=record["values"]["held_out_nll"] - 0.01),
}


def test_a_value_that_was_tampered_with_and_sealed_again_is_found(results, cli):
    for kind, edit in TAMPERED.items():
        change(results, kind, edit)
    done = cli("verify", "--share", 1, "--results", results)
    assert done.code == 1
    assert summary(done) == [RECORDS - 4, 0, 0, 4]
    for kind in TAMPERED:
        assert re.search(rf"^DISAGREES .*{re.escape(PRIOR)} seed 1: {kind}: ", done.out, re.MULTILINE)


def _edit(page, old, new, count=1):
    def edit(results):
        text = (results / page).read_text()
        assert re.search(old, text, re.MULTILINE)
        (results / page).write_text(re.sub(old, new, text, count=count, flags=re.MULTILINE))

    return edit


PAGE = "boards/small-conv_vae-quick.md"
SCORE = r"\| (\*\*)?latent_flow\[steps=20\](\*\*)? +\| +\d"
PAGES = {
    "a mean": (_edit("leaderboard.csv", r"(latent_flow\[steps=20\],.*,fd),\d", r"\1,9"), "FD digit-cnn by fd: 9"),
    "an interval": (_edit("leaderboard.csv", r",[\d.]+,2$", ",0.5,2"), "of 2 seeds there"),
    "a count of seeds": (_edit("leaderboard.csv", ",2$", ",5"), "of 5 seeds there"),
    "a line too many": (
        _edit("leaderboard.csv", r"\Z", "small,conv_vae,0,b,mine,False,p,cpu,fd,fd,0,0,0,5\n"),
        "mine, fd",
    ),
    "a line twice": (_edit("leaderboard.csv", r"^(small.*)$", r"\1\n\1"), "twice"),
    "a line too few": (_edit("leaderboard.csv", r"^small.*\n", ""), "is missing"),
    "no page": (lambda results: (results / "leaderboard.csv").unlink(), "leaderboard.csv: it is not there"),
    "no text": (
        lambda results: (results / "leaderboard.md").write_bytes(b"\xff\xfe"),
        "leaderboard.md: it cannot be read",
    ),
    "a score": (_edit(PAGE, SCORE, "| latent_flow[steps=20] | 9"), "FD digit-cnn ↓: 9"),
    "another cell": (_edit(PAGE, r"(gaussian.*)0\.\d\d\d", r"\g<1>0.999"), "0.999"),
    "a row": (_edit(PAGE, r"^(\| gaussian)", r"| mine | 1 |\n\1"), "no row mine | 1"),
    "a number in a sentence": (_edit("leaderboard.md", r"from \d+ sealed", "from 9,999 sealed"), "other numbers than"),
    "emphasis": (_edit(PAGE, r"^\| gaussian ", "| **gaussian** "), "**gaussian**"),
}


@pytest.mark.parametrize("what", PAGES)
def test_a_table_that_was_tampered_with_is_found(what, results, cli):
    edit, said = PAGES[what]
    edit(results)
    differences, _, compared = find_differences(results, RecordStore(results / "records"))
    assert any(said in sentence for sentence in differences), differences
    assert compared > 20


def test_tables_that_are_not_the_records_are_told_with_what_makes_them_again(results, cli):
    change(results, "fd", lambda record: record["values"].update(fd=0.01))
    done = cli("verify", "--share", 0, "--results", results)
    assert done.code == 1
    assert re.search(r"^DISAGREES leaderboard.csv, line \d+: .*latent_flow.* by fd: ", done.out, re.MULTILINE)
    assert f"python -m benchmark leaderboard --results {results} makes them" in done.err
    cli("leaderboard", "--results", results)
    again = cli("verify", "--share", 0, "--results", results)
    assert "the tables are the records'" in again.err
    assert not re.search("^DISAGREES leaderboard", again.out, re.MULTILINE)


def test_a_share_of_nothing_is_the_tables_alone(results, cli, monkeypatch):
    monkeypatch.setattr("benchmark.verify.execute", lambda *_: pytest.fail("something is computed"))
    done = cli("verify", "--share", 0, "--results", results)
    assert done.code == 0, done.err
    assert done.out == ""
    assert re.fullmatch(r"the tables are the records' \(\d+ numbers .* worked out again\)\n", done.err)
    change(results, "fd", lambda record: record["values"].update(fd=0.01))
    assert cli("verify", "--share", 0, "--results", results).code == 1


def test_words_beside_a_table_are_told_and_are_no_disagreement(results, cli):
    _edit("leaderboard.md", r"\Z", "- Note: mine is the best.\n")(results)
    done = cli("verify", "--share", 0, "--results", results)
    assert done.code == 0
    assert "leaderboard.md: this version does not write: - Note: mine is the best." in done.out


def test_the_shipped_tables_are_worked_out_again():
    shipped = Path(__file__).parents[1] / "results"
    differences, words, compared = find_differences(shipped, RecordStore(shipped / "records"))
    assert (differences, words) == ([], [])
    assert compared > 4_000


def test_rounding_is_no_disagreement(results, cli):
    change(results, "fd", lambda record: record["values"].update(fd=record["values"]["fd"] * (1 + 1e-8)))
    done = cli("verify", "--share", 1, "--results", results)
    assert done.code == 0
    assert summary(done) == [RECORDS - 1, 1, 0, 0]


def test_a_damaged_record_is_named_and_left_out(results, cli):
    record, path = the_record(results, "fd", "latent_flow", 1)
    path.write_text(json.dumps({**record, "values": {"fd": 0.0}}))
    Board(results).write()
    done = cli("verify", "--share", 1, "--results", results)
    assert done.code == 0
    assert summary(done) == [RECORDS - 1, 0, 0, 0]
    assert str(path) in done.err
    assert "seal" in done.err


def _row(**facts):
    return lambda record: record["row"].update(facts)


def _setting(**settings):
    return lambda record: record["row"]["config"].update(settings)


UNKNOWN = [  # kind, seed, what is changed, what is said of it
    ("fd", 0, _row(prior="latent_folw"), "did you mean 'latent_flow'"),
    ("fd", 1, _row(bundle="0" * 16), "bundle 0000000000000000 is not here"),
    ("mmd", 0, _setting(deepness=3), "'deepness'"),
    ("mmd", 1, _setting(steps=0), "steps=0"),
    ("samples", 0, _setting(steps=21), "its fit.config.steps is 20, and 21 here"),
    ("samples", 1, _row(seed=5), "its fit.seed is 1, and 5 here"),
    ("memorisation", 0, _row(prior="full_reconstruction"), "full reconstructions is not beside the bundle"),
]
if not torch.cuda.is_available():
    UNKNOWN.append(("memorisation", 1, _row(device="cuda"), "made on cuda"))


def test_a_record_that_cannot_be_computed_again_is_named_with_the_reason(results, cli):
    for kind, seed, edit, _ in UNKNOWN:
        change(results, kind, edit, seed=seed)
    Board(results).write()
    done = cli("verify", "--share", 1, "--results", results)
    unfitted = len({seed for _, seed, *_ in UNKNOWN if [of for _, of, *_ in UNKNOWN].count(seed) == 4})
    assert done.code == 0
    assert summary(done) == [RECORDS - len(UNKNOWN) - unfitted, 0, len(UNKNOWN), 0]
    for kind, _, _, reason in UNKNOWN:
        assert re.search(rf"^unknown .*: {kind}: .*{re.escape(reason)}", done.out, re.MULTILINE)


def test_records_of_another_version_are_no_disagreement(results, cli, monkeypatch):
    monkeypatch.setattr(Frechet, "version", 99)
    done = cli("verify", "--share", 1, "--results", results)
    assert done.code == 0
    assert summary(done) == [RECORDS - 8, 0, 8, 0]
    assert re.search(r"unknown .* fd: its metric\.version is \d+, and 99 here", done.out)
    monkeypatch.setattr(LatentFlow, "version", 99)
    done = cli("verify", "--share", 1, "--results", results)
    assert done.code == 0
    assert summary(done) == [RECORDS - 6 - 10, 0, 6 + 8, 0]  # fits are not made, nor counted
    assert re.search(r"its fit\.prior\.version is \d+, and 99 here", done.out)
    assert "2 to fit again" in done.err


def test_without_its_references_a_bundle_verifies_what_needs_none(results, cli):
    for file in (cache_root() / "bundles" / "small" / "reference").glob("*-train.*"):
        file.unlink()
    done = cli("verify", "--share", 1, "--results", results)
    assert done.code == 0
    assert summary(done) == [RECORDS - 8, 0, 8, 0]
    assert "reference of training images" in done.out
    shutil.rmtree(cache_root() / "bundles" / "small" / "reference")
    done = cli("verify", "--share", 1, "--results", results)
    assert done.code == 0
    assert summary(done) == [RECORDS - 16, 0, 16, 0]
    assert "make it with: python -m benchmark reference --bundle" in done.out


def test_a_fit_that_fails_here_is_a_disagreement(results, cli, monkeypatch):
    def broken(*_):
        raise ValueError("no such luck")

    monkeypatch.setattr(LatentFlow, "fit", broken)
    done = cli("verify", "--share", 1, "--results", results)
    assert done.code == 1
    assert summary(done) == [RECORDS - 10, 0, 0, 10]
    assert "fit: ok recorded, failed here: ValueError: no such luck" in done.out
    assert re.search(r"fd, memorisation, mmd, samples: fails here: .*no such luck", done.out)


@pytest.mark.parametrize("what, unknown", [("fit", 10), ("sample", 8)])
def test_a_fault_of_this_machine_is_no_word_on_a_record(what, unknown, results, cli, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(LatentFlow, what, full)
    done = cli("verify", "--share", 1, "--results", results)
    assert done.code == 0
    assert summary(done) == [RECORDS - unknown, 0, unknown, 0]
    assert re.search(rf"^unknown .*{re.escape(PRIOR)} seed 0: .*out of memory", done.out, re.MULTILINE)


def test_a_gpu_computes_in_the_arithmetic_of_the_records(results, cli, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    cli("verify", "--share", 0.01, "--results", results)
    assert torch.backends.cudnn.allow_tf32 is False


def test_a_plugins_records_want_the_plugin(small_bundle, tmp_path, cli):
    plugin = Path(__file__).parent / "old_plugins" / "prior_full_gaussian.py"
    shutil.copytree(small_bundle, cache_root() / "bundles" / "small")
    words = ["--bundle", "small", "--priors", "full_gaussian", "--seeds", 1, "--metrics", "mmd", "--device", "cpu"]
    words += ["--results", tmp_path]
    assert cli("run", *words, "--plugin", plugin).code == 0
    done = cli("verify", "--share", 1, "--results", tmp_path)
    assert done.code == 0
    assert summary(done) == [3, 0, 1, 0]
    assert "unknown prior 'full_gaussian'" in done.out
    done = cli("verify", "--share", 1, "--results", tmp_path, "--plugin", plugin)
    assert done.code == 0
    assert summary(done) == [5, 0, 0, 0]


def test_a_record_whose_prior_cannot_be_planned_here_is_named_with_the_reason(small_bundle, tmp_path, cli):
    plugin = tmp_path / "mine.py"
    source = (Path(__file__).parent / "old_plugins" / "prior_full_gaussian.py").read_text()
    plugin.write_text(source)
    shutil.copytree(small_bundle, cache_root() / "bundles" / "small")
    words = ["--bundle", "small", "--priors", "full_gaussian", "--seeds", 1, "--metrics", "mmd", "--device", "cpu"]
    results = ["--plugin", plugin, "--results", tmp_path / "results"]
    assert cli("run", *words, *results).code == 0
    fails = "    @classmethod\n    def recipe(cls, dataset, latent_shape):\n        raise KeyError('no recipe')\n\n"
    plugin.write_text(re.sub(r"(?m)^(?=    def fit)", fails, source))
    done = cli("verify", "--share", 1, *results)
    assert done.code == 0
    assert summary(done) == [3, 0, 1, 0]
    assert re.search(r"^unknown .* full_gaussian seed 0: mmd: prior full_gaussian .*no recipe", done.out, re.MULTILINE)


def test_the_threads_are_those_of_the_record(results, cli, monkeypatch):
    """Nothing is fitted and little scored: three threads on fewer cores wait for each other."""
    for path in record_files(results):
        record = json.loads(path.read_text())
        if record["row"]["prior"] == "latent_flow" and record["kind"] in ("fit", "mmd"):
            write_sealed(path, {**record, "provenance": {**record["provenance"], "threads": 3}})
        else:
            path.unlink()
    seen = []
    monkeypatch.setattr(LatentFlow, "fit", lambda *_: seen.append(torch.get_num_threads()))
    usual = torch.get_num_threads()
    for cores, expected in ((8, 3), (2, 2)):
        monkeypatch.setattr("os.cpu_count", lambda: cores)
        cli("verify", "--share", 1, "--results", results)
        assert seen[-2:] == [expected] * 2
        assert torch.get_num_threads() == usual


def test_on_another_machine_a_row_of_two_seeds_says_nothing_but_equality(results, cli):
    for path in record_files(results):
        record = json.loads(path.read_text())
        write_sealed(path, {**record, "provenance": {**record["provenance"], "device": "another"}})
    change(results, "fd", lambda record: record["values"].update(fd=record["values"]["fd"] * 2))
    change(results, "samples", _png)
    Board(results).write()
    done = cli("verify", "--share", 1, "--results", results)
    assert done.code == 0
    assert summary(done) == [RECORDS - 2, 0, 2, 0]
    assert "of the pixels differ" in done.out


@pytest.mark.parametrize("words", [["--share", 0.3], ["--share", 0.3, "--seed", 1], ["--share", 0.01]], ids=str)
def test_what_is_drawn_is_whole_fits_and_the_same_each_time(words, results, cli):
    first, second = (cli("verify", *words, "--results", results) for _ in range(2))
    assert first.code == 0
    assert first.out == second.out
    lines = first.out.splitlines()[:-1]
    assert len(lines) == (1 if words[1] == 0.01 else 2)  # of eight
    for line in lines:
        assert line.count(",") == (2 if "reconstruction" in line else 3 if "aggregate" in line else 4)


def test_a_draw_is_of_the_keys_and_the_seed_alone():
    groups = {str(number): None for number in range(40)}
    for share, count in ((0, 1), (0.01, 1), (0.1, 4), (0.5, 20), (1, 40)):
        chosen = draw_share(groups, share, 0)
        assert len(set(chosen)) == len(chosen) == count
        assert chosen == draw_share(dict(reversed(groups.items())), share, 0)
    draws = [key for seed in range(2_000) for key in draw_share(groups, 0.1, seed)]
    counts = np.unique(draws, return_counts=True)[1]
    assert len(counts) == 40
    assert np.abs(counts - 200).max() < 5 * math.sqrt(200)  # each as often as any other


def test_fits_failures_and_timings_are_not_drawn():
    identity = {"fit": "f", "metric": {}}
    record = {"kind": "fd", "status": "ok", "identity": identity}
    others = [
        {**record, "status": "failed"},
        {**record, "kind": "fit"},
        {**record, "identity": {**identity, "machine": {}}},
    ]
    assert group_by_fit([record, *others]) == {"f": [record]}


def test_two_honest_seeds_are_flagged_one_time_in_a_hundred():
    generator = np.random.default_rng(0)
    for n in (2, 4, 9):
        recorded, here = generator.normal(size=(2, 200_000))
        deviation = generator.normal(size=(200_000, n)).std(1, ddof=1)
        flagged = (np.abs(recorded - here) > difference_limit(n) * deviation).mean()
        assert flagged == pytest.approx(0.01, abs=0.001)


@pytest.mark.parametrize(
    "recorded, here, same, others, verdict",
    [
        (1.0, 1.0, True, [], "equal"),
        (1.0, 1.0, False, [], "equal"),
        (1.0, 1.0 + 1e-7, True, [], "within"),
        (1.0, 1.0 + 1e-7, False, [], "within"),
        (0.0, 1e-9, True, [], "DISAGREES"),
        (1.0, 1.0 + 1e-5, True, [1.0, 2.0, 3.0], "DISAGREES"),
        (1.0, 1.0 + 1e-5, False, [1.0, 2.0, 3.0], "within"),
        (1.0, 15.0, False, [1.0, 2.0, 3.0], "within"),  # t sqrt(2) = 9.925 x 1.414 = 14.04
        (1.0, 15.1, False, [1.0, 2.0, 3.0], "DISAGREES"),
        (15.1, 1.0, False, [1.0, 2.0, 3.0], "DISAGREES"),
        (1.0, 2.0, False, [1.0], "unknown"),
        (1.0, 2.0, False, [1.0, 1.0, 1.0], "unknown"),
        (1.0, 2.0, False, [1.0, None, 3.0], "unknown"),
        ("a", "b", True, [], "DISAGREES"),
        ("a", "b", False, ["c", "d"], "unknown"),
        ([1.0], [2.0], True, [], "DISAGREES"),
        (1.0, "b", True, [], "DISAGREES"),
    ],
)
def test_agreement_of_a_value(recorded, here, same, others, verdict):
    assert judge_value("value", recorded, here, same, others)[0] == verdict


def test_pixels_that_differ_are_counted():
    one = torch.zeros(2, 3, 4, 5, dtype=torch.uint8)
    other = one.clone()
    other[0, 1, 2, 3] = other[0, 2, 2, 3] = other[1, 0, 0, 0] = 9
    assert differing_pixels(as_png(one), as_png(other)) == pytest.approx(2 / 40)
    assert differing_pixels(as_png(one), as_png(one[:1])) == 1


def test_ctrl_c_ends_with_what_was_verified(results, cli, tmp_path, monkeypatch):
    groups = group_by_fit([json.loads(file.read_text()) for file in record_files(results)])
    of_priors = {fit for fit, scores in groups.items() if scores[0]["row"]["prior"] == "latent_flow"}
    # ids, and so the draw, differ from machine to machine: one that begins with both fits, the second interrupted
    seed = next(seed for seed in itertools.count() if set(draw_share(groups, 1, seed)[:2]) == of_priors)
    fits, fit = [], LatentFlow.fit

    def interrupted(self, *given):
        fits.append(self)
        if len(fits) == 2:
            raise KeyboardInterrupt
        return fit(self, *given)

    monkeypatch.setattr(LatentFlow, "fit", interrupted)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))  # others are at work in the usual one
    done = cli("verify", "--share", 1, "--seed", seed, "--results", results)
    assert done.code == 130
    assert "interrupted" in done.err
    assert "Traceback" not in done.err
    assert summary(done) == [1 + 4, 0, 0, 0]  # the first fit and its scores, though no other line came after theirs
    assert sum(line.count(",") + 1 for line in done.out.splitlines()[:-1]) == 1 + 4
    assert not [path for path in (tmp_path / "temporary").iterdir() if path.name.startswith("latent-prior-benchmark-")]


def test_a_fresh_cache_is_empty_and_goes(monkeypatch):
    usual = cache_root()
    with fresh_cache() as folder:
        assert cache_root() == folder
        assert not list(folder.iterdir())
        (folder / "fits").mkdir()
    assert cache_root() == usual
    assert not folder.exists()
    monkeypatch.delenv("LATENT_PRIOR_CACHE")
    with pytest.raises(KeyError), fresh_cache():
        raise KeyError
    assert "LATENT_PRIOR_CACHE" not in os.environ


def test_where_there_is_nothing_to_verify_it_says_so(tmp_path, cli):
    done = cli("verify", "--results", tmp_path)
    assert done.code == 2
    assert "no records here" in done.err
    (tmp_path / "records").mkdir()
    done = cli("verify", "--results", tmp_path)
    assert done.code == 2
    assert "no scores here to verify" in done.err
    assert cli("verify", "--share", 1.5, "--results", tmp_path).code == 2


def test_scores_against_train_and_against_test_are_told_apart_and_come_out_again(small_bundle, tmp_path, cli):
    shutil.copytree(small_bundle, cache_root() / "bundles" / "small")
    words = ["run", "--bundle", "small", "--priors", "gaussian", "--seeds", 1, "--metrics", "scores"]
    for protocol in ("nvae", "rae"):
        done = cli(*words, "--protocol", protocol, "--results", tmp_path)
        assert done.code == 0, done.err
    made = {table.protocol.preset: table.rows for table in make_tables(tmp_path)[0]}
    for label in ("gaussian", "aggregate_posterior"):
        against_train, against_test = (made[preset][label].values for preset in ("nvae", "rae"))
        assert against_train["fd", "fd"] != against_test["fd", "fd"]
        assert against_train["c2st", "c2st_auc"] == against_test["c2st", "c2st_auc"]
        assert ("memorisation", "memorisation") in against_test
        assert ("memorisation", "memorisation") not in against_train
    assert made["rae"]["reconstruction"].values["fd", "fd"]
    assert ("fd", "fd") not in made["nvae"]["reconstruction"].values
    assert len(made["rae"]["gaussian"].values["redraws", "fd_redraws"][0]) == 4
    verified = cli("verify", "--results", tmp_path, "--share", 1)
    assert verified.code == 0, verified.out
    assert summary(verified) == [42, 0, 0, 0], verified.out


@pytest.mark.parametrize(
    "here, verdict",
    [([1.0, 2.0], "equal"), ([1.0, 2 + 1e-9], "within"), ([1.0, 2.1], "DISAGREES"), ([1.0], "DISAGREES")],
)
def test_lists_agree_as_their_values_do(here, verdict):
    assert judge_value("redraws", [1.0, 2.0], here, True, [])[0] == verdict
