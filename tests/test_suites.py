"""Suites from their files to pages: what is read, planned, trained, run once and judged."""

from __future__ import annotations

import json
import math
import re
import shutil
import tomllib
from types import SimpleNamespace

import numpy as np
import pytest
import torchvision
from commands import contents, finish, only_line, record_files, shorten, start
from draws import CPU

from backbones.conv_vae import ConvVAE
from benchmark.bundles.bundle import open_bundle
from benchmark.bundles.find import all_bundles
from benchmark.errors import UsageError
from benchmark.protocol import PRESETS as PROTOCOLS
from benchmark.registry import Registry
from benchmark.report.findings import cells
from benchmark.report.statistics import mean_interval
from benchmark.report.tables import TableRow
from benchmark.request import resolve, stored_reference
from benchmark.store.sealed import Damaged, read_sealed, write_sealed
from benchmark.suites import running
from benchmark.suites.claims import judge, without_setting
from benchmark.suites.figures import make_series
from benchmark.suites.pages import write_pages
from benchmark.suites.places import Place, PlacedRow, Recorded, find_notes, find_tables, keep_note, read_note
from benchmark.suites.plan import make_steps
from benchmark.suites.quantities import parse_quantity
from benchmark.suites.running import dry_run, run_suite
from benchmark.suites.suite import PRESETS, Figure, find_suite, parse_suite, read_suite, shipped
from benchmark.suites.training import find_trained, train

TINY = """
title = "A tiny suite"
question = "Which claims hold?"

[[presets.quick.requests]]
bundle = "BUNDLE"
priors = "fitted_gaussian,gmm[components=1,2]"
seeds = 4
metrics = ["fd", "cross_entropy"]

[[figures]]
x = "prior.components"
y = "fd"

[[figures]]
x = "cross_entropy"
y = "fd"

[[claims]]
says = "A fitted Gaussian codes latents better"
test = "lower"
metric = "cross_entropy"
row = "fitted_gaussian"
than = "gaussian"

[[claims]]
says = "N(0, I) codes latents better"
test = "lower"
metric = "cross_entropy"
row = "gaussian"
than = "fitted_gaussian"

[[claims]]
says = "More components, lower FD"
test = "trend"
metric = "fd"
rows = "gmm[*]"
along = "prior.components"
direction = "falls"
"""
VERDICTS = {
    "A fitted Gaussian codes latents better": "held",
    "N(0, I) codes latents better": "did not hold",
    "More components, lower FD": "undecided",
}


@pytest.fixture(scope="module")
def tiny(small_bundle, tmp_path_factory):
    """The file, and what a run of it left: `file`, `results`, `cache`."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.toml").write_text(TINY.replace("BUNDLE", str(small_bundle)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENT_PRIOR_CACHE", str(folder / "cache"))
        shorten(patch)
        _, failed = run_suite(read_suite(folder / "tiny.toml"), "quick", folder / "results", {"device": "cpu"})
    assert failed == 0
    return SimpleNamespace(file=folder / "tiny.toml", results=folder / "results", cache=folder / "cache")


def test_a_run_leaves_a_page_a_figure_and_findings(tiny):
    page = (tiny.results / "suites" / "tiny.md").read_text()
    findings = (tiny.results / "findings.md").read_text()
    for says, word in VERDICTS.items():
        assert f"### {says}: {word}" in page
        (line,) = [line for line in findings.splitlines() if line.startswith(f"| {says} ")]
        assert f"**{word}**" in line
        assert "(suites/tiny.md)" in line
    assert "![A tiny suite](tiny.png)" in page
    assert "fewer than 3 values of the setting" in page
    assert "python -m benchmark suite tiny.toml --preset quick" in page
    assert (tiny.results / "suites" / "tiny.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_recorded_is_not_done_again(tiny, cli, monkeypatch):
    monkeypatch.setenv("LATENT_PRIOR_CACHE", str(tiny.cache))
    before = contents(tiny.results)
    words = ["--preset", "quick", "--device", "cpu", "--workers", 1, "--results", tiny.results]
    done = cli("suite", tiny.file, *words)
    assert done.code == 0, done.err
    assert "measured" not in done.err
    assert "# A tiny suite" in done.out
    assert contents(tiny.results) == before


def test_a_dry_run_does_nothing(tiny, cli, tmp_path):
    done = cli("suite", tiny.file, "--preset", "quick", "--dry-run", "--results", tmp_path / "r", "--device", "cpu")
    assert done.code == 0, done.err
    assert "fits to do" in done.out
    assert not (tmp_path / "r").exists()


def test_the_leaderboard_rewrites_pages_from_files_alone(tiny, cli):
    pages = [tiny.results / "findings.md", *(tiny.results / "suites" / f"tiny.{ending}" for ending in ("md", "png"))]
    before = [path.read_bytes() for path in pages]
    for path in pages:
        path.unlink()
    assert cli("leaderboard", "--results", tiny.results).code == 0
    assert [path.read_bytes() for path in pages] == before


def test_a_damaged_note_is_named_and_others_stay(tiny, tmp_path):
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "cut.json").write_text("{")
    write_sealed(tmp_path / "suites" / "other.json", {"name": "other"})
    note = read_sealed(tiny.results / "suites" / "tiny.json")
    write_sealed(tmp_path / "suites" / "tiny.json", note)
    elsewhere = {**note, "name": "../../evil"}
    write_sealed(tmp_path / "suites" / "leads.json", {key: each for key, each in elsewhere.items() if key != "seal"})
    damaged = write_pages(tmp_path)
    assert [said.split(": ")[0].rpartition("/")[2] for said in damaged] == ["cut.json", "leads.json", "other.json"]
    assert not list(tmp_path.parent.glob("evil*"))
    assert (tmp_path / "findings.md").read_text().count("**undecided**") == 3  # there are no records
    with pytest.raises(Damaged, match="preset"):
        read_note(tmp_path / "suites" / "other.json")


@pytest.fixture
def apart(tiny, tmp_path):
    """A results folder as of a suite whose VAEs are all its own: records lie below it, and nowhere else."""
    shutil.copytree(tiny.results, tmp_path / "apart")
    for part in ("records", "protocols"):
        shutil.move(tmp_path / "apart" / part, tmp_path / "apart" / "suites" / "tiny" / part)
    return tmp_path / "apart"


def test_the_leaderboard_rewrites_pages_of_a_suite_whose_vaes_are_all_its_own(apart, tiny, cli):
    (apart / "findings.md").unlink()
    assert cli("leaderboard", "--results", apart).code == 0
    assert (apart / "findings.md").read_bytes() == (tiny.results / "findings.md").read_bytes()


def test_findings_lead_to_no_leaderboard_where_there_is_none(apart):
    (apart / "leaderboard.md").unlink()
    assert write_pages(apart) == []
    said = (apart / "findings.md").read_text()
    assert "leaderboard.md" not in said
    assert "(suites/tiny.md)" in said


def test_damaged_records_of_a_suite_are_named(apart, tiny, cli, monkeypatch):
    """Else a claim would be of fewer seeds, and nobody know why."""
    monkeypatch.setenv("LATENT_PRIOR_CACHE", str(tiny.cache))
    path = next(path for path in record_files(apart / "suites" / "tiny") if path.name.startswith("fd-"))
    path.write_text("{")
    words = ["suite", tiny.file, "--preset", "quick", "--device", "cpu", "--results", apart]
    for done in (cli("leaderboard", "--results", apart), cli(*words, "--recorded")):
        assert done.code == 1
        assert "left out: " in done.err
        assert path.name in done.err


def test_a_folder_without_suites_gets_no_findings(tmp_path):
    assert write_pages(tmp_path) == []
    assert not (tmp_path / "findings.md").exists()


GRID = """
title = "A grid"
question = "?"

[presets.quick.bundles.hole]
dataset = "digits"
images = 200
settings = { kl_weight = [0.1, 10], epochs = 1, width = 1, nz = 4, batch_size = 32 }
keep = [160, 40, 60]

[[presets.quick.requests]]
bundle = "hole"
priors = "fitted_gaussian"
seeds = 1
metrics = "mmd"

[[figures]]
x = "bundle.kl_weight"
y = "mmd_imq"

[[claims]]
says = "Lower"
test = "lower"
metric = "mmd_imq"
row = "fitted_gaussian"
than = "gaussian"
"""


def test_a_grid_of_bundles_is_trained_once(tmp_path, monkeypatch):
    suite = parse_suite("grid", tomllib.loads(GRID), "grid.toml")
    assert "would be trained first on 200 images" in dry_run(suite, "quick", tmp_path / "r", {"device": "cpu"})
    assert run_suite(suite, "quick", tmp_path / "r", {"device": "cpu"})[1] == 0
    trained = {name: b for name, b in all_bundles()[0].items() if "images200" in name}
    assert sorted(b.card["backbone"]["config"]["kl_weight"] for b in trained.values()) == [0.1, 10]
    assert {b.card["dataset"]["counts"]["train"] for b in trained.values()} == {200}
    assert {b.card["posterior_counts"]["train"] for b in trained.values()} == {160}
    page = (tmp_path / "r" / "suites" / "grid.md").read_text()
    assert "fitted_gaussian - gaussian on hole, kl_weight=0.1" in page
    assert "one seed has no interval" in page
    monkeypatch.setattr(running, "train", lambda *_: pytest.fail("it was trained again"))
    before = record_files(tmp_path / "r" / "suites" / "grid")
    assert before
    assert record_files(tmp_path / "r") == []  # no column of the usual first screen
    assert run_suite(suite, "quick", tmp_path / "r", {"device": "cpu"})[1] == 0
    assert record_files(tmp_path / "r" / "suites" / "grid") == before


def test_more_images_than_there_are_is_one_line(cli, tmp_path):
    words = ["--dataset", "digits", "--images", 5000, "--out", tmp_path / "b", "--device", "cpu"]
    assert "digits has 1,097 training images, fewer than the 5,000 asked" in only_line(cli("pretrain", *words))


def test_machines_that_share_a_suite_train_each_bundle_once_and_do_each_job_once(tmp_path):
    (tmp_path / "grid.toml").write_text(GRID.replace("seeds = 1", "seeds = 2"))
    words = ["suite", tmp_path / "grid.toml", "--preset", "quick", "--results", tmp_path / "r", "--device", "cpu"]
    words += ["--workers", 1, "--shared"]
    logs = [tmp_path / "0", tmp_path / "1"]
    started = [start(words, tmp_path / f"cache{log.name}", log) for log in logs]
    done = [finish(process, log) for process, log in zip(started, logs)]
    assert [each.code for each in done] == [0, 0], "\n".join(each.output for each in done)
    apart = tmp_path / "r" / "suites" / "grid"
    assert len([*(apart / "cache" / "bundles").glob("*/bundle.json")]) == 2
    assert sum(each.output.count("training conv_vae on digits") for each in done) == 2
    assert not any((tmp_path / f"cache{log.name}" / "bundles").exists() for log in logs)
    measured = [re.findall(r"^\[\d+/\d+\] .* seed \d: measured", each.output, re.MULTILINE) for each in done]
    assert len(measured[0] + measured[1]) == 12, "two bundles, three rows that have latents, two seeds"
    assert len({json.loads(path.read_text())["row"]["bundle"] for path in record_files(apart)}) == 2
    assert not list((apart / "claims").glob("[!.]*.json"))
    assert "fitted_gaussian - gaussian on hole, kl_weight=0.1" in (tmp_path / "r" / "suites" / "grid.md").read_text()


def test_a_bundle_that_a_machine_has_is_handed_to_those_that_share(tmp_path, monkeypatch):
    suite = parse_suite("grid", tomllib.loads(GRID.replace("[0.1, 10]", "[10]")), "grid.toml")
    assert run_suite(suite, "quick", tmp_path / "alone", {"device": "cpu"})[1] == 0
    monkeypatch.setattr("benchmark.suites.training.pretrain", lambda *_: pytest.fail("it was trained again"))
    assert run_suite(suite, "quick", tmp_path / "r", {"device": "cpu", "shared": True})[1] == 0
    one, other = (
        {path.name for path in record_files(tmp_path / results / "suites" / "grid")} for results in ("alone", "r")
    )
    assert one == other
    (made,) = (tmp_path / "r" / "suites" / "grid" / "cache" / "bundles").iterdir()
    monkeypatch.setattr("benchmark.suites.training.SHIPPED", tmp_path / "shipped")
    monkeypatch.setenv("LATENT_PRIOR_CACHE", str(tmp_path / "fresh"))
    shutil.copytree(made, tmp_path / "shipped" / made.name)
    assert run_suite(suite, "quick", tmp_path / "of shipped", {"device": "cpu"})[1] == 0, "nothing is trained"
    assert {path.name for path in record_files(tmp_path / "of shipped" / "suites" / "grid")} == one
    (training,) = suite.preset("quick").bundles["hole"].each()
    where = Registry(), CPU, []
    assert find_trained(training, *where) is not None
    for keep in (None, (150, 40, 40)):
        other = training.model_copy(update={"keep": keep})
        assert find_trained(other, *where) is None, "of what is shipped another part is kept"


@pytest.mark.parametrize(
    "change, said",
    [
        ({"keep": (70, 30, 30)}, "keep=160,40,60, and 70,30,30 are asked"),
        ({"version": 99}, "by another version of conv_vae"),
        ({"source": "abc"}, "by another version of conv_vae"),
        ({"recipes": {"digits": ((1, 32, 32), {"learning_rate": 0.5})}}, "learning_rate="),
    ],
)
def test_what_has_the_name_of_a_training_and_is_another_one_is_not_taken_for_it(change, said, tmp_path, monkeypatch):
    suite = parse_suite("grid", tomllib.loads(GRID.replace("[0.1, 10]", "[10]")), "grid.toml")
    assert run_suite(suite, "quick", tmp_path, {"device": "cpu"})[1] == 0
    (training,) = suite.preset("quick").bundles["hole"].each()
    where = Registry(), CPU, []
    made = find_trained(training, *where)
    assert made is not None
    for name, value in change.items():
        if name in ("version", "source", "recipes"):
            monkeypatch.setattr(ConvVAE, name, value)
    training = training.model_copy(update={name: value for name, value in change.items() if name == "keep"})
    with pytest.raises(UsageError, match=f"is of another training: .*{said}.*: remove the folder to train it again"):
        find_trained(training, *where)
    monkeypatch.setattr("benchmark.suites.training.SHIPPED", made.path.parent)
    with pytest.raises(UsageError, match="is of another training"):  # no more is one that is shipped taken
        find_trained(training, *where)
    shared = train(training, *where, tmp_path / "shared")
    assert shared.path.parent == tmp_path / "shared", "what a machine keeps for itself does not stand in its way"
    assert shared.id != made.id


def test_a_page_is_not_replaced_by_that_of_a_smaller_preset(tiny, cli, tmp_path):
    content = tiny.file.read_text()
    quick = content[content.index("[[presets.quick.requests]]") : content.index("[[figures]]")]
    both = content.replace("[[figures]]", quick.replace("quick", "default") + "[[figures]]", 1)
    file, results = tmp_path / "both.toml", tmp_path / "r"
    file.write_text(both)
    shutil.copytree(tiny.results, results)
    words = ["suite", file, "--results", results, "--device", "cpu"]
    assert cli(*words, "--preset", "default", "--recorded").code == 0
    page = (results / "suites" / "both.md").read_bytes()
    for more in ([], ["--recorded"]):
        line = only_line(cli(*words, "--preset", "quick", *more))
        assert "both.md is of --preset default, and quick would replace it with less: take --preset default" in line
    assert (results / "suites" / "both.md").read_bytes() == page


def test_equal_values_of_a_grid_are_told_from_a_setting_that_is_a_list(tmp_path):
    (tmp_path / "grid.toml").write_text(GRID.replace("[0.1, 10]", "[1, 1]"))
    with pytest.raises(UsageError, match=r"two of these are equal; .* in one of its own: kl_weight = \[\[1, 1\]\]"):
        read_suite(tmp_path / "grid.toml")
    (tmp_path / "grid.toml").write_text(GRID.replace("[0.1, 10]", "[[1, 1]]"))
    (training,) = read_suite(tmp_path / "grid.toml").preset("quick").bundles["hole"].each()
    assert training.settings["kl_weight"] == [1, 1]


@pytest.mark.parametrize(
    "right, wrong, said",
    [
        ("images = 200", "images = 5000", "digits has 1,097 training images, fewer than the 5,000 asked"),
        ("images = 200", "images = 20", "batch_size 32 is larger than the 20 training images"),
    ],
)
def test_a_training_that_cannot_be_is_refused_before_anything_is_done(right, wrong, said, tmp_path, cli):
    assert right in GRID
    (tmp_path / "grid.toml").write_text(GRID.replace(right, wrong))
    words = ["suite", tmp_path / "grid.toml", "--preset", "quick", "--results", tmp_path / "r", "--device", "cpu"]
    for more in ([], ["--dry-run"]):
        assert f"suite grid, presets.quick, bundles.hole: {said}" in only_line(cli(*words, "--workers", 1, *more))
    assert not (tmp_path / "r").exists()


def test_posteriors_that_are_too_few_are_refused_with_the_file():
    content = tomllib.loads(GRID.replace("keep = [160, 40, 60]", "keep = [1, 1, 1]"))
    with pytest.raises(UsageError, match=r"bundles.hole: keep=1: Input should be greater than or equal to 2$"):
        parse_suite("grid", content, "grid.toml")


def test_images_of_one_s_own_are_counted_before_a_training(tmp_path, cli):
    parts = {split: np.full((n, 16, 16), n, np.uint8) for split, n in {"train": 70, "val": 9, "test": 8}.items()}
    np.savez(tmp_path / "own.npz", **parts)
    own = GRID.replace('dataset = "digits"', f'dataset = "{tmp_path / "own.npz"}"')
    assert own != GRID
    (tmp_path / "grid.toml").write_text(own)
    words = ["suite", tmp_path / "grid.toml", "--preset", "quick", "--results", tmp_path / "r", "--dry-run"]
    for _ in range(2):  # their hash is known the second time
        assert "own has 70 training images, fewer than the 200 asked" in only_line(cli(*words))
    for settings in (", batch_size = 128", ""):  # its own, and that of a recipe for images of such a size
        (tmp_path / "grid.toml").write_text(own.replace("images = 200\n", "").replace(", batch_size = 32", settings))
        assert re.search(r"batch_size \d+ is larger than the 70 training images", only_line(cli(*words)))


def test_missing_images_are_one_line(cli, tmp_path, monkeypatch):
    class Nowhere(torchvision.datasets.MNIST):
        def __init__(self, *_, **__):
            raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.MNIST", Nowhere)
    line = only_line_below(cli("suite", "prior-hole", "--preset", "quick", "--results", tmp_path, "--workers", 1))
    assert "mnist is not whole" in line


def only_line_below(done):
    """The last line of a refused command, which is its error."""
    assert done.code == 2
    assert "Traceback" not in done.err
    return done.err.splitlines()[-1]


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_suite_names_what_is_there(name):
    suite = find_suite(name)
    assert list(suite.presets) == list(PRESETS)
    for preset in PRESETS:
        steps = make_steps(suite, preset, {"device": "cpu", "results": "results"}, make=False)
        assert all(len(step.request.seeds) >= (3 if preset == "default" else 2) for step in steps)
        budget = "quick" if preset == "quick" else "full"
        assert {step.request.budget for step in steps} == {budget}
        assert {step.request.split for step in steps} == {"test"}
        for step in steps:
            # draws of the groups of what a suite trains are in the cache of who made them
            if step.bundle is not None and (step.training is None or step.request.groups is None):
                assert resolve(step.request, step.registry, reference_of=stored_reference).jobs


WRONG = {
    'says = "A fitted Gaussian codes latents better"\ntest = "lower"': [
        ('says = "A"\ntest = "lowr"', ["unknown test", "'lowr'", "did you mean 'lower'"]),
        ('says = "A"', ["claim 1", "its test is missing"]),
        ('says = "A"\nmargins = 1\ntest = "lower"', ["'margins'", "did you mean 'margin'", "claim 1"]),
        ('says = "A"\nmargin = 0\ntest = "lower"', ["claim 1", "margin=0"]),
    ],
    'row = "fitted_gaussian"': [
        ('row = "fited_gaussian"', ["unknown prior", "did you mean 'fitted_gaussian'"]),
        ('row = "gmm[components=3]"', ["claim 1", "no request makes this row", "did you mean 'gmm[components="]),
        ('row = "gmm[components=3,*]"', ["claim 1", "no request makes this row"]),
        ('row = "gmm[components=1,2]"', ["expected one row"]),
    ],
    'metric = "cross_entropy"\nrow = "f': [
        ('metric = "cross_entrpy"\nrow = "f', ["claim 1", "did you mean 'cross_entropy'"]),
        ('metric = "mmd_imq"\nrow = "f', ["claim 1", "unknown value 'mmd_imq'"]),  # not asked for
        ('metric = "gap_closed"\nrow = "f', ["claim 1", "no number a seed"]),
        ('metric = "gian.fd"\nrow = "f', ["did you mean 'gain'"]),
    ],
    'along = "prior.components"': [
        ('along = "prior.component"', ["claim 3", "did you mean 'components'"]),
        ('along = "fd"', ["expected prior.NAME or bundle.NAME"]),
    ],
    'x = "prior.components"': [('x = "prior.comp"', ["figure 1", "setting of a prior"])],
    'question = "Which': [
        ('questions = "Which', ["did you mean 'question'"]),
        ('day = 2026-01-01\nquestion = "Which', ["dates"]),
    ],
    'rows = "gmm[*]"': [("rows = 5", ["claim 3", "rows=5: expected a list: [5]"])],
    "presets.quick": [("presets.quik", ["unknown preset", "did you mean 'quick'"])],
    "seeds = 4": [
        ("seed = 2", ["request 1", "did you mean 'seeds'"]),
        ('results = "r"', ["results is of the machine"]),
        ('seeds = "two"', ["seeds='two'"]),
    ],
    'metrics = ["fd", "cross_entropy"]': [('metrics = ["fd", "cross_entrpy"]', ["did you mean 'cross_entropy'"])],
    "components=1,2": [("component=1,2", ["did you mean 'components'"])],
    'bundle = "': [('bundle = "none', ["unknown bundle"])],
    "[[claims]]": [("[[claim]]", ["did you mean 'claims'"]), ("[claims", ["not readable as TOML"])],
}


@pytest.mark.parametrize(
    "right, wrong, parts", [(right, *case) for right, cases in WRONG.items() for case in cases], ids=str
)
def test_a_wrong_file_is_one_line(right, wrong, parts, small_bundle, tmp_path, cli):
    text = TINY.replace("BUNDLE", str(small_bundle))
    assert right in text
    count = -1 if right in ("presets.quick", "[[claims]]") else 1
    (tmp_path / "wrong.toml").write_text(text.replace(right, wrong, count))
    line = only_line(cli("suite", tmp_path / "wrong.toml", "--preset", "quick", "--results", tmp_path / "r"))
    for part in parts:
        assert part in line
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    "words, part",
    [
        (["sanity-mnst"], "did you mean 'sanity-mnist'"),
        (["none.toml"], "no such file"),
        (["sanity-mnist", "--preset", "quik"], "did you mean 'quick'"),
    ],
)
def test_wrong_words_are_one_line(words, part, cli):
    assert part in only_line(cli("suite", *words))


def test_a_bundle_that_no_request_is_on_is_refused():
    content = tomllib.loads(GRID.replace('bundle = "hole"', 'bundle = "digits-conv_vae"'))
    with pytest.raises(UsageError, match="no request is on the bundle hole"):
        parse_suite("grid", content, "grid.toml")


# Claims about constructed tables


def recorded(name, values, settings=None, seeds=(0, 1, 2)):
    """A place: label -> (config, metric -> a number a seed)."""
    table = SimpleNamespace(
        rows={
            label: TableRow(label, {(metric, metric): dict(zip(seeds, of)) for metric, of in metrics.items()})
            for label, (_, metrics) in values.items()
        },
        protocol=PROTOCOLS["quick"],
        measured=[],
        elsewhere=[],
        fits={},
    )
    rows = {
        label: PlacedRow(prior=label.partition("[")[0], config=config, seeds=list(seeds))
        for label, (config, _) in values.items()
    }
    words = {label: label for label in values}
    where = {"bundle": name, "protocol": "p", "device": "cpu", "settings": settings or {}}
    return Recorded(Place(name=name, rows=rows, words=words, **where), table)


ENDS = {"gaussian": ({}, {"fd": [10, 10.1, 9.9]}), "aggregate_posterior": (None, {"fd": [0.1, 0, 0.2]})}


def claim(**fields):
    content = {
        "title": "t",
        "question": "q",
        "presets": {"quick": {"requests": [{"priors": "gmm"}]}},
        "claims": [{"says": "s", **fields}],
    }
    return parse_suite("s", content, "s.toml").claims[0]


def gmm(components, *fd):
    return {f"gmm[components={components}]": ({"components": components}, {"fd": list(fd)})}


def test_a_margin_is_a_share_of_the_gap():
    place = recorded("a", {**ENDS, **gmm(1, 1.0, 1.1, 0.9), **gmm(2, 1.3, 1.42, 1.18)})
    said = {"test": "alike", "metric": "fd", "rows": "gmm[*]"}
    assert judge(claim(**said, margin=0.1), [place]).word == "held"
    assert judge(claim(**said, margin=0.01), [place]).word == "did not hold"


def test_where_no_gap_is_shown_a_margin_says_nothing():
    flat = {"gaussian": ({}, {"fd": [1, 2, 3]}), "aggregate_posterior": (None, {"fd": [3, 2, 1]})}
    rows = {**gmm(1, 1.0, 1.1, 0.9), **gmm(2, 1.0, 1.1, 0.9)}
    said = claim(test="not_behind", metric="fd", row="gmm[components=1]", than="gmm[components=2]")
    alone = judge(said, [recorded("flat", {**flat, **rows})])
    assert (alone.word, alone.why) == ("undecided", "no gap is shown on flat")
    both = judge(said, [recorded("flat", {**flat, **rows}), recorded("deep", {**ENDS, **rows})])
    assert (both.word, both.why) == ("held", "no gap is shown on flat")


@pytest.mark.parametrize("lacking", ["all of it", "the second seed of N(0, I)"])
def test_a_place_of_which_too_little_is_recorded_leaves_a_claim_open(lacking):
    """Else a claim over two places would hold when one of them has been run."""
    said = claim(test="not_behind", metric="fd", row="gmm[components=1]", than="gmm[components=2]")
    rows = {**ENDS, **gmm(1, 1.0, 1.1, 0.9), **gmm(2, 1.0, 1.1, 0.9)}
    partly = {**rows, "gaussian": ({}, {"fd": [9]})}
    if lacking == "all of it":
        partly = {name: (config, {"fd": []}) for name, (config, _) in rows.items()}
    known, unknown = recorded("known", rows), recorded("unknown", partly)
    assert judge(said, [known]).word == "held"
    both = judge(said, [known, unknown])
    assert (both.word, both.why) == ("undecided", "too little is recorded to tell a gap on unknown")
    wrong = recorded("known", {**rows, **gmm(1, 9.0, 9.1, 8.9)})
    assert judge(said, [wrong, unknown]).word == "did not hold", "one that is wrong is enough"


def test_a_row_that_was_asked_for_and_is_not_recorded_leaves_a_claim_undecided():
    place = recorded("a", {**ENDS, **gmm(1, 1.0, 1.1, 0.9), **gmm(2)})
    verdict = judge(
        claim(test="lower", metric="fd", row="gmm[components=1]", than="gmm[components=2]"),
        [place],
    )
    assert verdict.word == "undecided"
    assert "no value with seeds 0, 1, 2" in verdict.why
    empty = Recorded(place.place, None)
    assert (
        judge(claim(test="lower", metric="fd", row="gmm[components=1]", than="gaussian"), [empty]).word == "undecided"
    )


def test_rows_that_are_asked_for_with_fewer_seeds_are_compared_by_those_that_both_have():
    place = recorded("a", {**ENDS, **gmm(1, 1.0, 1.1, 0.9), **gmm(2, 1.6, 1.72, 1.5, 9.0, 9.0)}, seeds=(0, 1, 2, 3, 4))
    place.place.rows["gmm[components=1]"].seeds[3:] = []
    said = claim(test="lower", metric="fd", row="gmm[components=1]", than="gmm[components=2]")
    verdict = judge(said, [place])
    assert (verdict.word, verdict.comparisons[0].seeds) == ("held", 3)
    assert verdict.comparisons[0].number == pytest.approx(-0.6067, abs=1e-3)


def test_a_trend_runs_along_settings_of_priors_and_of_bundles():
    of_priors = recorded("a", {**ENDS, **gmm(1, 3, 3.1, 2.9), **gmm(5, 2, 2.1, 2), **gmm(50, 1, 1.1, 0.9)})
    said = {"test": "trend", "metric": "fd", "direction": "falls"}
    assert judge(claim(**said, rows="gmm[*]", along="prior.components"), [of_priors]).word == "held"
    of_bundles = [
        recorded(f"kl={kl}", {"gaussian": ({}, {"fd": [kl, kl + 0.1, kl]})}, {"kl_weight": kl}) for kl in (1, 2, 3)
    ]
    assert judge(claim(**said, rows="gaussian", along="bundle.kl_weight"), of_bundles).word == "did not hold"
    assert judge(claim(**said, rows="gaussian", along="bundle.kl_weight"), of_bundles[:2]).word == "undecided"


def test_a_correlation_is_of_means_over_bundles_and_priors():
    places = []
    for bundle in range(4):
        rows = {"gaussian": ({}, {"fd": [20] * 3, "mmd_imq": [2] * 3})}
        for prior in range(4):
            x = bundle + prior / 2
            rows |= {f"gmm[components={prior}]": ({"components": prior}, {"fd": [20 - x] * 3, "mmd_imq": [2 - x] * 3})}
        places.append(recorded(f"b{bundle}", rows))
    said = {"test": "correlation", "rows": "gmm[*]", "x": "gain.mmd_imq", "y": "gain.fd"}
    assert judge(claim(**said), places).word == "held"
    assert judge(claim(**said, direction="falls"), places).word == "did not hold"
    assert judge(claim(**said), places[:1]).word == "undecided"


def test_figures_show_rows_along_a_setting_and_n01_across():
    place = recorded("a", {**ENDS, **gmm(1, 3, 3.1, 2.9), **gmm(5, 2, 2.1, 2)})
    series = {of.name: of for of in make_series(Figure(x="prior.components", y="fd"), [place])}
    assert [dot[0] for dot in series["gmm"].dots] == [1, 5]
    assert series["gmm"].dots[0][1] == pytest.approx(3)
    assert series["gaussian"].across == [pytest.approx(10)]


def test_shares_of_logged_steps_and_times_are_quantities(monkeypatch):
    place = recorded("a", gmm(1, 1, 1, 1), seeds=(0, 1, 2))
    log = [{"step": 1, "upper": 2.0, "estimate": 1.0}, {"step": 2, "upper": 0.0, "estimate": 1.0}, {"step": 3}]
    monkeypatch.setattr("benchmark.suites.places.fit_logs", lambda *_: {0: log, 1: [{"step": 1}]})
    shares = place.values("gmm[components=1]", parse_quantity("log.upper > log.estimate"))
    assert shares[0] == 0.5
    assert math.isnan(shares[1])


def test_times_are_of_the_machine_that_timed_most_of_the_suite_s_rows():
    """The table's may be another: it has more rows than the suite asked for."""
    place = recorded("a", {**gmm(1, 1), **gmm(2, 1)}, seeds=(0, 1))

    def timing(label, seed, machine, seconds):
        row, values = {"label": label, "seed": seed}, {"prior_seconds_1000": seconds}
        return {"kind": "sampling_time", "row": row, "identity": {"machine": machine}, "values": values}

    few, many = "gmm[components=1]", "gmm[components=2]"
    place.table.protocol = SimpleNamespace(timing_batches=[1, 1000])
    place.table.measured.extend(
        [timing(few, 0, "old", 5.0), timing("another", 0, "old", 5.0), timing("more", 0, "old", 5.0)]
    )
    place.table.elsewhere.extend([timing(few, 0, "new", 1.0), timing(many, 0, "new", 2.0)])
    seconds = parse_quantity("seconds")
    assert place.values(few, seconds)[0] == 1.0
    assert math.isnan(place.values(few, seconds)[1])
    assert place.values(many, seconds)[0] == 2.0


TAKEN = {
    "gmm[components=1]": (1.0, 1.0, 1.0),
    "gmm[components=2]": (10.0, 20.0, 50.0),
    "gmm[components=4]": (100.0,) * 3,
}


def timed():
    """A place where each size takes ten or twenty times as long as the one before, and scatters with it."""
    place = recorded("a", {**gmm(1, 1), **gmm(2, 1), **gmm(4, 1)}, seeds=(0, 1, 2))
    place.table.protocol = SimpleNamespace(timing_batches=[1, 1000])
    for label, taken in TAKEN.items():
        place.table.measured.extend(
            {
                "kind": "sampling_time",
                "row": {"label": label, "seed": seed},
                "identity": {"machine": "one"},
                "values": {"prior_seconds_1000": seconds},
            }
            for seed, seconds in enumerate(taken)
        )
    return place


def test_times_are_compared_as_ratios():
    """The interval of the difference holds 0, that of the ratio no 1."""
    one, two, _ = TAKEN
    lower = {"test": "lower", "metric": "seconds", "row": one, "than": two}
    verdict = judge(claim(**lower), [timed()])
    assert verdict.word == "held"
    assert cells(verdict.deciding)[0] == "0.0464 x", "the geometric mean of 1/10, 1/20, 1/50"
    assert verdict.deciding.name == f"{one} / {two}"
    assert mean_interval([-9.0, -19.0, -49.0])[2] > 0, "so that nothing would be told"
    assert judge(claim(**lower | {"row": two, "than": one}), [timed()]).word == "did not hold"
    rises = {"test": "trend", "metric": "seconds", "rows": "gmm[*]", "along": "prior.components", "direction": "rises"}
    verdict = judge(claim(**rises), [timed()])
    assert verdict.word == "held"
    assert cells(verdict.deciding)[:2] == ["10 x", "[10, 10]"], "by which each size takes longer, of all three seeds"


@pytest.mark.parametrize("more", [{"test": "not_behind"}, {"test": "lower", "margin": 0.1}])
def test_a_margin_of_seconds_is_refused(more, tiny):
    said = {"metric": "seconds", "row": "fitted_gaussian", "than": "gaussian", "says": "s", **more}
    content = tomllib.loads(tiny.file.read_text())
    content["presets"]["quick"]["requests"][0]["metrics"].append("sampling_time")
    with pytest.raises(UsageError, match="'seconds' has none: take test = 'lower' or 'trend'"):
        make_steps(parse_suite("t", content | {"claims": [said]}, "t"), "quick", {"results": tiny.results})


def test_one_training_serves_all_requests_and_names(tmp_path, monkeypatch, small_bundle):
    """Else the second is refused: its folder is there."""
    content = tomllib.loads(GRID)
    quick = content["presets"]["quick"]
    quick["bundles"]["again"] = quick["bundles"]["hole"]
    quick["requests"] += [{**quick["requests"][0], "bundle": "again"}, {**quick["requests"][0], "groups": "all"}]
    monkeypatch.setenv("LATENT_PRIOR_CACHE", str(tmp_path / "cache"))
    steps = make_steps(parse_suite("grid", content, "grid"), "quick", {"results": tmp_path, "device": "cpu"})
    trained = []
    monkeypatch.setattr(running, "train", lambda training, *_: trained.append(training) or open_bundle(small_bundle))
    assert all(step.bundle for step in running._trained(steps))
    assert len(trained) == 2
    assert len({step.name for step in steps}) == 6, "each place has a name of its own"


def test_a_claim_may_compare_rows_of_two_requests_on_one_bundle(tiny):
    """As where a dear row is asked for with fewer seeds; under another budget they have no number together."""
    content = tomllib.loads(tiny.file.read_text())
    first = content["presets"]["quick"]["requests"][0]
    second = {**first, "priors": "radial", "seeds": 2}
    said = {"says": "A", "test": "lower", "metric": "fd", "row": "radial", "than": ["fitted_gaussian"]}
    content |= {"claims": [said], "figures": []}
    given = {"results": tiny.results, "device": "cpu"}
    content["presets"]["quick"]["requests"] = [first, second]
    assert len(make_steps(parse_suite("t", content, "t"), "quick", given)) == 2
    content["presets"]["quick"]["requests"] = [first, {**second, "budget": "full"}]
    with pytest.raises(UsageError, match="radial and fitted_gaussian are on no bundle together"):
        make_steps(parse_suite("t", content, "t"), "quick", given)
    content["presets"]["quick"]["requests"] = [first, {**second, "budget": "quick", "protocol": "quick"}]
    assert len(make_steps(parse_suite("t", content, "t"), "quick", given)) == 2, "said in full it is the same"


def test_claims_are_judged_on_what_is_recorded_elsewhere(tiny, tmp_path, cli, monkeypatch):
    """Of a device that is not here, too; and nothing is done."""
    shutil.copytree(tiny.results / "records", tmp_path / "records")
    shutil.copytree(tiny.results / "protocols", tmp_path / "protocols")
    shutil.copy(tiny.results / "leaderboard.md", tmp_path)
    monkeypatch.setenv("LATENT_PRIOR_CACHE", str(tmp_path / "cache"))
    before = contents(tmp_path / "records")
    words = ["suite", tiny.file, "--preset", "quick", "--results", tmp_path, "--recorded"]
    assert cli(*words, "--device", "cpu").code == 0
    assert (tmp_path / "findings.md").read_bytes() == (tiny.results / "findings.md").read_bytes()
    for path in (tmp_path / "records").rglob("*.json"):
        record = json.loads(path.read_text())
        record["row"]["device"] = "cuda"
        write_sealed(path, {key: value for key, value in record.items() if key != "seal"})
    note = (tmp_path / "suites" / "tiny.json").read_bytes()
    done = cli(*words, "--device", "cuda")
    assert done.code == 0
    assert "tiny-cuda.md" in done.err
    assert "--device cuda" in (tmp_path / "suites" / "tiny-cuda.md").read_text()
    assert (tmp_path / "suites" / "tiny.json").read_bytes() == note, "each device has its own"
    findings = (tmp_path / "findings.md").read_text()
    assert findings.count("quick, cuda") == findings.count("quick, cpu") == len(VERDICTS)
    assert findings.count("- [A tiny suite](suites/tiny") == 1, "asked once"
    assert contents(tmp_path / "records").keys() == before.keys()
    assert not (tmp_path / "cache" / "fits").exists()


def test_the_page_of_a_gpu_moves_from_where_an_earlier_version_had_it(tiny, tmp_path, cli):
    shutil.copytree(tiny.results, tmp_path, dirs_exist_ok=True)
    suites = tmp_path / "suites"
    note = read_note(suites / "tiny.json")
    places = [place.model_copy(update={"device": "cuda"}) for place in note.places]
    write_sealed(suites / "tiny.json", note.model_copy(update={"places": places}).model_dump(mode="json"))
    assert (
        cli("suite", tiny.file, "--preset", "quick", "--results", tmp_path, "--device", "cpu", "--recorded").code == 0
    )
    assert read_note(suites / "tiny.json").device == "cpu"
    assert read_note(suites / "tiny-cuda.json").device == "cuda"
    assert {path.name for path in suites.glob("tiny*.md")} == {"tiny.md", "tiny-cuda.md"}
    shutil.copy(suites / "tiny-cuda.json", suites / "tiny.json")  # as an earlier version leaves it
    assert [path.name for path in find_notes(tmp_path)] == ["tiny-cuda.json"]


def test_a_suite_of_an_earlier_version_that_has_the_name_of_a_gpu_s_page_keeps_it(tiny, tmp_path):
    note = read_note(tiny.results / "suites" / "tiny.json")
    on_gpu = note.model_copy(update={"places": [each.model_copy(update={"device": "cuda"}) for each in note.places]})
    other = keep_note(tmp_path, note.model_copy(update={"name": "tiny-cuda"}))
    before = other.read_bytes()
    with pytest.raises(UsageError, match="is the note of the suite tiny-cuda: move it"):
        keep_note(tmp_path, on_gpu)
    assert other.read_bytes() == before


@pytest.mark.parametrize("name, said", [("a.json", "letters"), ("..", "letters"), ("mine-CUDA", "so ends the page")])
def test_a_name_that_pages_of_another_would_have_is_refused(name, said, tiny, tmp_path, cli):
    file = tmp_path / f"{name}.toml"
    shutil.copy(tiny.file, file)
    line = only_line(cli("suite", file, "--preset", "quick", "--results", tmp_path / "r", "--dry-run"))
    assert str(file) in line
    assert said in line


@pytest.mark.parametrize(
    "words, said",
    [
        (["prior-hole", "--device", "cpu"], "not trained here, so nobody can tell"),
        (["TINY", "--device", "cuda"], "nothing is recorded of it on cuda"),
        (["TINY", "--dry-run"], "take one of them"),
    ],
)
def test_what_cannot_be_judged_leaves_the_pages_as_they_were(words, said, tiny, tmp_path, cli, monkeypatch):
    monkeypatch.setenv("LATENT_PRIOR_CACHE", str(tmp_path / "cache"))
    shutil.copytree(tiny.results, tmp_path / "r")
    before = contents(tmp_path / "r")
    typed = [tiny.file if word == "TINY" else word for word in words]
    assert said in only_line(cli("suite", *typed, "--preset", "quick", "--recorded", "--results", tmp_path / "r"))
    assert contents(tmp_path / "r") == before


def test_without_a_reference_nothing_is_judged(tiny, tmp_path, cli, monkeypatch):
    """The protocol's hash hangs on it."""
    monkeypatch.setattr(running, "find_reference", lambda *_: None)
    done = cli("suite", tiny.file, "--preset", "quick", "--recorded", "--results", tiny.results, "--device", "cpu")
    said = only_line(done)
    assert "reference of the test split here: python -m benchmark reference" in said
    assert "--extractor digit-cnn --split test" in said


@pytest.mark.parametrize(
    "label, name, rest",
    [
        ("evalp[steps=5,gp_weight=1]", "gp_weight", "evalp[steps=5]"),
        ("evalp[gp_weight=1]", "gp_weight", "evalp"),
        ("evalp", "gp_weight", "evalp"),
    ],
)
def test_a_label_without_a_setting(label, name, rest):
    assert without_setting(label, name) == rest


def test_tables_are_found_by_bundle_protocol_and_device(tiny):
    note = read_note(tiny.results / "suites" / "tiny.json")
    table = SimpleNamespace(
        bundle=note.places[0].bundle, protocol=SimpleNamespace(hash=note.places[0].protocol + "0"), device="cpu"
    )
    assert find_tables(note, [table])[0].table is table
    table.device = "cuda"
    assert find_tables(note, [table])[0].table is None
