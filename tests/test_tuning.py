"""Equal trials for every prior: what is tried, what is chosen of it, and that nothing else decides."""

import itertools
import json
import math
import os
import re
import shutil
import statistics
import time

import numpy as np
import pytest
from boards import Results
from commands import contents, finish, only_line, record_files, start
from html_reader import Reader

from benchmark.bundles.find import SHIPPED
from benchmark.errors import UsageError
from benchmark.registry import Registry
from benchmark.report.best_of import expected_best, expected_best_band
from benchmark.report.choice import SEEDS, judge, judge_all
from benchmark.report.html.page import report_html
from benchmark.report.tables import make_tables
from benchmark.report.tuned import tuned_grids
from benchmark.report.tuning import Change, group_tunings, summary_of
from benchmark.request import request_from
from benchmark.store.held import STALE, read_claim
from benchmark.store.records import RecordStore
from benchmark.store.tunings import Try, Tuning, read_tunings
from benchmark.tuning.points import alternatives, trial_settings

SPACE = {
    "learning_rate": {"low": 1e-4, "high": 1e-2, "why": "a", "sampling": False},
    "width": {"low": 8, "high": 512, "why": "b", "sampling": False},
    "kind": {"values": ["one", "two", "three"], "why": "c", "sampling": False},
}
#: a Gaussian whose recipe is bad, while its space holds a good one; `{fit}` is what a fit does
PLANTED = """
import time, torch
from pydantic import Field
from priors.api import Between, LatentPrior, OneOf, PriorConfig, hookimpl, sampling_setting

class Settings(PriorConfig):
    width: float = Field(6.0, gt=0)
    shift: float = 3.0
    scale: float = sampling_setting(3.0, gt=0)

class Planted(LatentPrior):
    name = "planted"
    Config = Settings
    config: Settings
    network_evaluations = 0
    space = {
        "width": Between(0.3, 8.0, "from too narrow to too wide"),
        "shift": OneOf((0.0, 1.0, 3.0), "one of them is right"),
        "scale": OneOf((1.0, 2.0, 3.0), "one of them is right"),
    }

    def __init__(self, shape, config):
        super().__init__(shape, config)
        self.register_buffer("mean", torch.zeros(shape))

    def fit(self, posterior, generator, progress):
        width = self.config.width
        assert not hasattr(posterior, "test")
        {fit}

    def sample(self, n, generator):
        z = torch.randn(n, *self.latent_shape, generator=generator, device=generator.device)
        return self.config.shift + self.config.scale / 3 * self.config.width * z

@hookimpl
def register_priors():
    return [Planted]
"""


@pytest.fixture
def planted(tmp_path):
    def write(fit="pass"):
        (tmp_path / "planted.py").write_text(PLANTED.replace("{fit}", fit))
        return tmp_path / "planted.py"

    return write


def tune_words(bundle, plugin, results, *more):
    return ["tune", "--bundle", bundle, "--plugin", plugin, "--priors", "planted", "--results", results, *more]


def judged(results):
    found, damaged = judge_all(results, lambda: RecordStore(results / "records").all()[0])
    assert not damaged
    return found


# ---- what is tried ------------------------------------------------------------------------------------------------


def test_a_trial_is_a_function_of_space_seed_and_number_alone():
    points = [trial_settings(SPACE, 0, number) for number in range(17)]
    assert points[0] == {}
    assert [trial_settings(SPACE, 0, number) for number in reversed(range(17))] == points[::-1]
    assert len({json.dumps(point) for point in points}) == 17
    assert trial_settings(SPACE, 1, 1) != points[1]
    assert trial_settings({}, 0, 3) == {}


def test_trials_fill_the_space_evenly():
    """Each half, and each third, of every range has its share of 16 points: a Sobol sequence is balanced."""
    points = [trial_settings(SPACE, seed, number) for seed in (0, 7) for number in range(1, 17)]
    for seed in range(2):
        part = points[16 * seed : 16 * (seed + 1)]
        assert sum(point["learning_rate"] < 1e-3 for point in part) == 8
        assert sum(point["width"] < 64 for point in part) in (7, 8, 9)
        assert all(4 <= [point["kind"] for point in part].count(kind) <= 7 for kind in ("one", "two", "three"))
    assert all(1e-4 <= point["learning_rate"] <= 1e-2 and 8 <= point["width"] <= 512 for point in points)
    assert all(isinstance(point["width"], int) for point in points)
    assert all(float(f"{point['learning_rate']:.3g}") == point["learning_rate"] for point in points)


def test_alternatives_are_all_choices_but_the_recipe_s():
    space = {"a": {"values": [1, 2]}, "b": {"values": ["x", "y"]}}
    others = alternatives(space, {"a": 1, "b": "y", "c": 0})
    assert others == [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}]
    assert alternatives({}, {"a": 1}) == []


@pytest.mark.parametrize(
    "space, why",
    [
        ('{"wdth": OneOf((1.0, 2.0), "x")}', "nearest: 'width'"),
        ('{"width": (1.0, 2.0)}', "must be a Between or a OneOf"),
        ('{"width": Between(2.0, 1.0, "x")}', "0 < low < high"),
        ('{"width": Between(0.0, 1.0, "x")}', "0 < low < high"),
        ('{"width": Between(1.0, 2.0, "")}', "gives no reason"),
        ('{"width": OneOf((), "x")}', "has no values"),
        ('{"scale": Between(1.0, 2.0, "x")}', "acts at sampling alone"),
        ('{"width": Between(1.0, float("inf"), "x")}', "0 < low < high"),
        ('{"width": Between("a", "b", "x")}', "0 < low < high"),
        ('{"width": OneOf("12", "x")}', "must be a tuple of values"),
        ('{"width": OneOf((2.0, 2.0), "x")}', "has one value"),
        ('{"scale": OneOf((0.0, 1.0), "x")}', "has 0.0, which the setting does not take"),
        ('{"width": OneOf((1.0, object()), "x")}', "which the setting does not take"),
        ('["width"]', "must be a dict"),
        ("None", "must be a dict"),
    ],
)
def test_a_space_that_cannot_be_drawn_from_breaks_its_plugin_alone(space, why, planted):
    path = planted()
    path.write_text(re.sub(r"space = \{.*?\n    \}", f"space = {space}", path.read_text(), flags=re.DOTALL))
    registry = Registry([path])
    assert "planted" not in registry.at_hand("prior")
    assert why.replace("nearest: ", "") in registry.broken[str(path)]


def test_a_space_has_few_settings(planted):
    path = planted()
    settings = "\n".join(f"    s{i}: float = 1.0" for i in range(6))
    space = ", ".join(f'"s{i}": OneOf((1.0, 2.0), "x")' for i in range(6))
    text = path.read_text().replace("    shift: float = 3.0", f"    shift: float = 3.0\n{settings}")
    path.write_text(re.sub(r"space = \{.*?\n    \}", f"space = {{{space}}}", text, flags=re.DOTALL))
    registry = Registry([path])
    assert "planted" not in registry.at_hand("prior")
    assert "at most 5" in registry.broken[str(path)]


# ---- what trials bring --------------------------------------------------------------------------------------------


def test_the_expected_best_is_the_mean_of_the_lowest_over_all_choices():
    scores = [3.0, 1.0, 4.0, 1.5, 9.0, 2.6]
    for k in range(1, 7):
        brute = statistics.fmean(map(min, itertools.combinations(scores, k)))
        assert expected_best(scores, k) == pytest.approx(brute, rel=1e-12)
    assert math.isnan(expected_best(scores, 7))
    assert math.isnan(expected_best(scores, 0))


def test_the_expected_best_has_no_bias():
    """The lowest of 4 uniform numbers is 1/5 on average; the plug-in estimate from 8 of them is above it."""
    drawn = np.random.default_rng(0).uniform(size=(20_000, 8))
    ours = statistics.fmean(expected_best(row, 4) for row in drawn)
    ranks = np.arange(9) / 8
    plug_in = float(np.sort(drawn) @ ((1 - ranks[:-1]) ** 4 - (1 - ranks[1:]) ** 4) @ np.full(20_000, 1 / 20_000))
    assert ours == pytest.approx(0.2, abs=0.003)
    assert plug_in > 0.2 + 0.01


def test_the_band_holds_the_expected_best():
    scores = np.random.default_rng(1).uniform(size=16).tolist()
    for k in (1, 4, 16):
        low, high = expected_best_band(scores, k)
        assert low <= expected_best(scores, k) <= high


# ---- what is chosen -----------------------------------------------------------------------------------------------


def plan(trials, sampled=(), others=()):
    fd = {"metric": {"name": "fd", "version": 1}, "settings": {"split": "val", "extractor": {"name": "digit-cnn"}}}
    tries = [Try(settings={"x": n} if n else {}, config_hash=f"{n:x}") for n in range(trials)]
    return Tuning(
        identity={"fd": fd, "space": {}, "budget": "quick", "bundle": "b", "device": "cpu", "base": {}},
        dataset="digits",
        backbone="conv_vae",
        backbone_seed=0,
        bundle="b",
        device="cpu",
        protocol="p",
        score="FD",
        label="p",
        prior="p",
        base={},
        allowed=8,
        trials=tries,
        alternatives=list(others),
        sampled=[Try(settings=settings, config_hash=hash) for settings, hash in sampled],
        time="2030-01-01T00:00:00Z",
    )


def record(hash, seed, fd=None, took=1.0, status="ok", prior="p", split="val"):
    """The fit's record and, of one that went well, its score."""
    row = {"config_hash": hash, "seed": seed, "bundle": "b", "prior": prior, "device": "cpu"}
    fit = {"row": row, "kind": "fit", "id": f"fit-{hash}-{seed}", "status": status, "reason": "no"}
    fit["values"] = {"fit_seconds": took}
    settings = {"split": split, "extractor": {"name": "digit-cnn"}}
    identity = {"fit": fit["id"], "metric": {"name": "fd", "version": 1}, "settings": settings}
    score = {"row": row, "kind": "fd", "id": f"fd-{hash}-{seed}-{split}", "status": "ok", "identity": identity}
    return [fit] + ([] if fd is None else [{**score, "values": {"fd": fd}, "seconds": 0.5}])


def found(*scores, **more):
    return [each for hash, seed, fd in scores for each in record(hash, seed, fd, **more)]


FIRST = found(("0", 1000, 5.0), ("1", 1000, 2.0), ("2", 1000, 3.0), ("3", 1000, 4.0), ("4", 1000, 9.0))


def test_nothing_is_chosen_before_everything_is_there():
    assert judge(plan(5), FIRST[:-2]).finalists == []
    whole = judge(plan(5), FIRST)
    assert [trial.number for trial in whole.finalists] == [1, 2, 3]
    assert whole.winner is None


def test_where_there_is_no_gap_the_summary_says_so():
    said = summary_of([judge(plan(5), FIRST)])
    assert "no gap" in said
    assert "nan" not in said


def test_the_lowest_mean_over_tuning_seeds_wins_not_the_luckiest_seed():
    more = found(("1", 1001, 8.0), ("1", 1002, 8.0), ("2", 1001, 3.0), ("2", 1002, 3.0))
    assert judge(plan(5), FIRST + more).chosen is None
    chosen = judge(plan(5), FIRST + more + found(("3", 1001, 4.0), ("3", 1002, 4.0))).chosen
    assert chosen.number == 2
    assert chosen.mean == 3.0


def test_scores_of_other_splits_and_seeds_choose_nothing():
    other = found(("1", 1001, 1.0), ("1", 1002, 1.0), split="test") + found(("4", 0, 0.1), ("4", 7, 0.1))
    whole = judge(plan(5), FIRST + other)
    assert [sorted(trial.scores) for trial in whole.trials] == [[1000]] * 5


def test_what_fails_or_is_ended_is_spent_and_what_was_slow_counts():
    """Else a busy machine would choose: the recipe took one second."""
    failed = record("1", 1000, status="diverged") + record("4", 1000, status="timed out")
    slow = record("2", 1000, 0.5, took=1_000.0)
    whole = judge(plan(5), found(("0", 1000, 5.0), ("3", 1000, 4.0)) + failed + slow)
    assert [trial.score for trial in whole.trials] == [5.0, math.inf, 0.5, 4.0, math.inf]
    assert whole.trials[1].failures == {1000: "diverged: no"}
    assert whole.trials[4].failures == {1000: "timed out: no"}
    assert [trial.number for trial in whole.finalists] == [2, 3, 0]


def test_where_every_trial_fails_nothing_is_chosen():
    whole = judge(plan(2), record("0", 1000, status="failed") + record("1", 1000, status="failed"))
    assert whole.finalists == []
    assert whole.chosen is None


def test_settings_of_sampling_are_chosen_on_the_winner_s_fits():
    more = found(*((hash, seed, fd) for hash, fd in (("0", 5.0), ("1", 2.0)) for seed in SEEDS))
    others = [{"m": 1}, {"m": 2}]
    waiting = judge(plan(2, others=others), more)
    assert waiting.winner.number == 1
    assert waiting.chosen is None
    sampled = [({"x": 1, "m": 1}, "a"), ({"x": 1, "m": 2}, "b")]
    scores = found(*((hash, seed, fd) for hash, fd in (("a", 2.5), ("b", 1.5)) for seed in SEEDS))
    assert judge(plan(2, sampled, others), more + scores).chosen.settings == {"x": 1, "m": 2}
    worse = found(*((hash, seed, fd) for hash, fd in (("a", 2.5), ("b", 2.5)) for seed in SEEDS))
    assert judge(plan(2, sampled, others), more + worse).chosen.settings == {"x": 1}
    of_another = [({"x": 0, "m": 1}, "a"), ({"x": 0, "m": 2}, "b")]
    assert judge(plan(2, of_another, others), more + scores).chosen is None


# ---- from the command line ----------------------------------------------------------------------------------------


def test_a_planted_prior_is_mended_on_val_alone_and_its_rows_stand_apart(planted, tmp_path, cli):
    """Its recipe is far off; 11 trials find settings that close most of the gap, with no reference of test at hand."""
    plugin, bundle, results = (
        planted("if width > 7: raise RuntimeError('too wide')"),
        tmp_path / "bundle",
        tmp_path / "r",
    )
    shutil.copytree(SHIPPED / "digits-conv_vae", bundle, ignore=shutil.ignore_patterns("*-test*"))
    words = tune_words(bundle, plugin, results, "--trials", 11)
    done = cli(*words)
    assert done.code == 0, done.err
    (each,) = judged(results)
    assert each.closed(each.recipe.score) < 0
    assert each.closed(each.chosen.mean) > 0.5
    assert each.chosen.settings["shift"] == 0
    records = [json.loads(path.read_text()) for path in record_files(results)]
    assert {record["kind"] for record in records} == {"fit", "fd"}
    assert {record["row"]["seed"] for record in records} == set(SEEDS)
    assert {r["identity"]["settings"]["split"] for r in records if r["kind"] == "fd"} == {"val"}
    # 11 are allowed: two other scales cost one of them
    assert len(each.trials) == 1 + 10
    assert len(each.sampled) == 2
    assert "too wide" in done.out
    page = (results / "tuning.md").read_text()
    assert "planted, trial" in page
    assert "planted: `width`" in page
    assert list((results / "boards").glob("*")) == []
    assert {path.name for path in (results / "tuning").iterdir()} == {
        "digits-conv_vae-settings.png",
        "digits-conv_vae-trials.png",
    }

    before = contents(results / "records")
    assert cli(*words).code == 0
    assert contents(results / "records") == before
    assert judged(results) == [each]

    run = ["run", "--bundle", SHIPPED / "digits-conv_vae", "--plugin", plugin, "--results", results, "--seeds", 2]
    run += ["--metrics", "fd"]
    done = cli(*run, "--settings", "tuned")
    assert done.code == 0, done.err
    count = len(record_files(results))
    typed = ",".join(f"{name}={value}" for name, value in each.chosen.settings.items())
    assert cli(*run, "--priors", f"planted[{typed}]").code == 0
    assert len(record_files(results)) == count, "the same fit, and the same scores"
    recipes, of_tuned = (results / "boards" / f"digits-conv_vae-quick{which}.md" for which in ("", "-tuned"))
    assert "planted\\*" not in recipes.read_text()
    assert "planted[width" in recipes.read_text()
    assert "| planted\\*" in of_tuned.read_text()
    assert "planted[width" not in of_tuned.read_text().partition("<details>")[0]
    first = (results / "leaderboard.md").read_text()
    assert "Tuned rows: [digits-conv_vae-quick-tuned](boards/digits-conv_vae-quick-tuned.md)." in first
    assert cli(*run, "--priors", "planted").code == 0
    assert "On test, with seeds that chose nothing" in (results / "tuning.md").read_text()
    _, _, changed = (results / "leaderboard.md").read_text().partition("digits, conv_vae seed 0, quick budget; ")
    (row,) = [line for line in changed.splitlines() if line.startswith("| planted ")]
    _, _, recipe, tuned, difference, place, *_ = map(str.strip, row.split("|"))
    assert float(tuned.split(" ± ")[0]) > float(recipe.split(" ± ")[0])
    assert float(difference.split()[0]) < 0, "a lower FD is a larger share of the gap"
    assert place == "", "two seeds rank nothing"
    report = report_html(results)
    page = Reader(report)
    assert [recipe, tuned, difference] in [cells[1:4] for table in page.tables for cells in table]
    assert page.links <= page.ids
    assert "tuning" in page.links
    assert page.tags.count("caption") == page.tags.count("table")
    assert sum(asked.startswith("data:image/webp") for asked in page.asked) >= 2, "its pictures are inside"
    assert page.asked.count("data:,") == 1, "the icon alone has none"
    for picture in (results / "tuning").iterdir():
        picture.write_bytes(b"not a picture") if "trials" in picture.name else picture.unlink()
    without = report_html(results)
    assert without.count("here: <code>leaderboard</code> draws it") == 2
    assert Reader(without).open == []
    trial = next(line for line in (results / "tuning.md").read_text().splitlines() if "planted, trial" in line)
    assert trial.removeprefix("- ").partition("(")[0] in report
    verified = cli("verify", "--results", results, "--plugin", plugin, "--share", 0.02)
    assert verified.code == 0, verified.out + verified.err
    assert "the tables are the records'" in verified.err


def test_fewer_trials_are_the_first_of_more(small_bundle, planted, tmp_path, cli):
    plugin, results = planted(), tmp_path / "results"
    assert cli(*tune_words(small_bundle, plugin, results, "--trials", 2)).code == 0
    (few,) = judged(results)
    before = contents(results / "records")
    assert cli(*tune_words(small_bundle, plugin, results, "--trials", 3)).code == 0
    (more,) = judged(results)
    assert [t.config_hash for t in more.trials[: len(few.trials)]] == [t.config_hash for t in few.trials]
    assert before.items() <= contents(results / "records").items()
    assert len(read_tunings(results)[0]) == 1
    assert cli(*tune_words(small_bundle, plugin, results, "--trials", 2, "--seed", 1)).code == 0
    (other,) = judged(results)
    assert {t.config_hash for t in other.trials[1:]}.isdisjoint(t.config_hash for t in more.trials[1:])


def test_a_tuning_that_is_not_through_says_so_and_how_it_goes_on(small_bundle, planted, tmp_path, cli):
    plugin, results = planted(), tmp_path / "results"
    assert cli(*tune_words(small_bundle, plugin, results, "--trials", 2, "--seed", 3)).code == 0
    assert "not through" not in (results / "leaderboard.md").read_text()
    words = ["run", "--bundle", small_bundle, "--plugin", plugin, "--results", results, "--device", "cpu"]
    words += ["--settings", "tuned"]
    ((through,), _) = read_tunings(results)
    begun = [Try(settings={}, config_hash="0" * 64)]
    update = {"label": "planted[scale=1]", "identity": {**through.identity, "base": {"scale": 1}}, "trials": begun}
    other = through.model_copy(update=update)
    other.save(results)
    beside = cli(*words, "--dry-run")
    assert beside.code == 0
    assert "| planted*" in beside.out
    assert re.search(r"left out: planted\[scale=1\]: no tuning .* --seed 3 goes on with it", beside.err + beside.out)
    (results / "tunings" / other.bundle / f"{other.id}.json").unlink()
    last = next(
        path
        for path in record_files(results)
        if json.loads(path.read_text())["row"]["seed"] == 1002
        and json.loads(path.read_text())["row"]["prior"] == "planted"
    )
    last.unlink()
    assert cli("leaderboard", "--results", results).code == 0
    first = (results / "leaderboard.md").read_text()
    assert "Tunings that are not through, and so choose nothing: `planted` (small" in first
    assert "trials of each prior" not in first, "none is through"
    for prior in (["--priors", "planted"], []):
        assert "--trials 2 --seed 3 goes on with it" in only_line(cli(*words, *prior))
    for more in (["--priors", "gmm"], ["--priors", "gmm", "--extractor", "digit-cnn"]):
        said = only_line(cli(*words, *more))
        assert said.endswith("does it")
        assert ("--extractor digit-cnn" in said) == ("--extractor" in more), (
            "what is tuned by another says nothing here"
        )
    assert "kde has no search space" in only_line(cli(*words, "--priors", "kde"))
    assert (results / "tuning.md").exists()
    (plan,) = (results / "tunings").glob("*/*.json")
    plan.write_bytes(plan.read_bytes()[:-9])
    assert cli("leaderboard", "--results", results).code == 1
    assert (results / "tuning.md").exists(), "what backs it is damaged, and not gone"
    assert str(plan) in only_line(cli(*words))
    shutil.rmtree(results / "tunings")
    assert cli("leaderboard", "--results", results).code == 0
    assert not (results / "tuning.md").exists(), "nothing backs it"


def test_settings_that_are_typed_stay_as_they_are(small_bundle, planted, tmp_path, cli):
    results = tmp_path / "results"
    words = tune_words(small_bundle, planted(), results, "--trials", 2)
    words[words.index("planted")] = "planted[scale=1,shift=0]"
    assert cli(*words).code == 0
    (each,) = judged(results)
    assert each.tuning.starred == "planted[shift=0,scale=1]*"
    assert all(set(trial.settings) <= {"width"} for trial in each.trials)
    assert not each.sampled


def test_a_trial_that_takes_too_long_is_ended_and_spent(small_bundle, planted, tmp_path, cli, monkeypatch):
    monkeypatch.setattr("benchmark.report.choice.GRACE", 2.0)
    plugin = planted("if width != 6.0 and width > 2: time.sleep(600)")
    start = time.monotonic()
    assert cli(*tune_words(small_bundle, plugin, tmp_path / "results", "--trials", 5)).code == 0
    assert time.monotonic() - start < 120
    (each,) = judged(tmp_path / "results")
    ended = [trial for trial in each.trials if trial.score == math.inf]
    assert ended
    assert all(trial.settings["width"] > 2 and "timed out" in trial.failures[1000] for trial in ended)
    assert each.chosen.settings.get("width", 6.0) in (
        6.0,
        *(t.settings["width"] for t in each.trials[1:] if t.settings["width"] <= 2),
    )


def test_a_tuning_of_which_every_trial_fails_is_through_and_chooses_nothing(small_bundle, planted, tmp_path, cli):
    plugin, results = planted("raise ValueError('never')"), tmp_path / "results"
    assert cli(*tune_words(small_bundle, plugin, results, "--trials", 2)).code == 1
    words = ["run", "--bundle", small_bundle, "--plugin", plugin, "--results", results, "--settings", "tuned"]
    assert "planted: every trial of its tuning on" in only_line(cli(*words))
    assert "Tunings of which every trial failed, and so choose nothing" in (results / "leaderboard.md").read_text()
    assert "none fits" in (results / "tuning.md").read_text()


@pytest.mark.slow  # machines that share a folder, below, lose one too
def test_two_shells_one_of_which_is_killed_choose_the_same(small_bundle, planted, tmp_path):
    plugin = planted("time.sleep(0.1)")
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    logs = [tmp_path / f"log{number}" for number in range(4)]
    words = [tune_words(small_bundle, plugin, results, "--trials", 4) for results in (alone, shared)]
    undisturbed = start(words[0], tmp_path / "cache-a", logs[0])
    assert finish(undisturbed, logs[0]).code == 0
    first, second = (start(words[1], tmp_path / "cache-b", log) for log in logs[1:3])
    while len(record_files(shared)) < 4:
        assert first.is_alive(), logs[1].read_text()
        time.sleep(0.05)
    first.kill()
    first.join()
    assert finish(second, logs[2]).code == 0
    assert finish(start(words[1], tmp_path / "cache-b", logs[3]), logs[3]).code == 0
    (one,), (other,) = judged(alone), judged(shared)
    assert [(t.settings, t.scores) for t in one.trials] == [(t.settings, t.scores) for t in other.trials]
    assert one.chosen.settings == other.chosen.settings
    assert {path.name for path in record_files(alone)} == {path.name for path in record_files(shared)}


def test_machines_that_share_a_folder_share_the_trials_and_take_over_a_lost_one_s(small_bundle, planted, tmp_path):
    """With caches of their own, so that nothing but the results folder tells one of the other."""
    slow = "__import__('os').environ['LATENT_PRIOR_CACHE'].endswith('first')"  # to be at a job when it is killed
    plugin, shared = planted(f"time.sleep(1.0 if {slow} else 0.2)"), tmp_path / "shared"
    logs = [tmp_path / name for name in ("alone", "first", "second", "late")]
    words = tune_words(small_bundle, plugin, shared, "--trials", 4, "--shared")
    undisturbed = start(tune_words(small_bundle, plugin, tmp_path / "alone-r", "--trials", 4), tmp_path / "c", logs[0])
    assert finish(undisturbed, logs[0]).code == 0
    lost, other = (start(words, tmp_path / f"cache-{log.name}", log) for log in logs[1:3])

    def held_by_the_lost():
        found = [(path, read_claim(path)) for path in (shared / "claims").glob("[!.]*.json")]
        return [path for path, claim in found if claim and claim.process == lost.pid and claim.what]

    def both_have_measured():
        return all(log.exists() and ": measured" in log.read_text() for log in logs[1:3])

    while not (both_have_measured() and held_by_the_lost()):
        assert lost.is_alive(), logs[1].read_text()
        time.sleep(0.02)
    lost.kill()
    lost.join()
    for path in held_by_the_lost():
        os.utime(path, (time.time() - STALE - 1,) * 2)
    assert finish(other, logs[2]).code == 0
    (one,), (same,) = judged(tmp_path / "alone-r"), judged(shared)
    assert [(t.settings, t.scores) for t in one.trials] == [(t.settings, t.scores) for t in same.trials]
    assert one.chosen.settings == same.chosen.settings
    assert {path.name for path in record_files(tmp_path / "alone-r")} == {path.name for path in record_files(shared)}
    done = [re.findall(r"^\[\d+/\d+\] (.* seed \d+): measured", log.read_text(), re.MULTILINE) for log in logs[1:3]]
    assert all(done), "both had a part in it"
    assert len(done[0] + done[1]) == len({*done[0], *done[1]}), "each trial once"
    assert not list((shared / "claims").glob("[!.]*.json"))
    assert not (tmp_path / "cache-second" / "fits").exists()
    assert list((shared / "cache" / "fits").iterdir())


@pytest.mark.parametrize(
    "words, said",
    [
        (["tune", "--priors", "gaussian"], "prior gaussian has no search space: nothing to tune"),
        (["tune", "--priors", "evlp"], "'evlp'"),
        (["tune", "--priors", "planted[wdth=2]"], "'wdth'"),
        (["tune", "--priors", "planted[width=2,shift=0,scale=1]"], "no search space but for what is set already"),
        (["run", "--settings", "tuned"], "no prior is tuned on"),
        (["run", "--settings", "tuned", "--priors", "planted"], "planted: no tuning of it on"),
    ],
)
def test_what_cannot_be_tuned_is_one_line(words, said, small_bundle, planted, tmp_path, cli):
    done = cli(*words, "--bundle", small_bundle, "--plugin", planted(), "--results", tmp_path / "results")
    assert said in only_line(done)
    assert not (tmp_path / "results").exists()


def test_seeds_that_choose_are_not_reported():
    with pytest.raises(UsageError, match="seeds from 1000 on choose settings"):
        request_from({"seeds": [1000]})
    assert request_from({"seeds": [1000], "split": "val"}).seeds == (1000,)


def test_a_damaged_plan_is_named_and_harms_no_table(tmp_path, cli):
    results = Results(tmp_path / "results")
    results.references()
    plan(3).save(results.folder)
    (path,) = (results.folder / "tunings").glob("*/*.json")
    path.write_text(path.read_text().replace('"cpu"', '"cuda"'))
    done = cli("leaderboard", "--results", results.folder)
    assert done.code == 1
    assert f"left out: {path}: content does not match its seal" in done.err


def test_a_recipe_that_is_scored_on_another_device_alone_is_marked(tmp_path, monkeypatch):
    results = Results(tmp_path / "results")
    for device, worst in (("cuda", 10.0), ("cpu", 20.0)):
        results.references(gaussian=[worst] * 5, ceiling=[2.0] * 5, device=device)
    results.scores("p", [4.0] * 5, device="cuda")
    tables, *_ = make_tables(results.folder)
    row = Change("p", None, (0.9, 0.9, 0.9), None, 0, (math.nan, 3.8))
    monkeypatch.setattr("benchmark.report.tuned.changes_of", lambda *_: [row])
    (plain,) = tuned_grids([tuned_here("cuda", results.protocol)], tables)
    assert "†" not in plain.text + plain.caption, "it is its own device's: nothing was to be found elsewhere"
    (grid,) = tuned_grids([tuned_here("cpu", results.protocol)], tables)
    assert "| p " in grid.text
    assert "75.0 ± 0.0 †" in grid.text, "of its own gap, 10 to 2"
    assert "†: on another type of device" in grid.caption
    other = results.protocol.model_copy(update={"budget": "full"})
    (none,) = tuned_grids([tuned_here("cpu", other)], tables)
    assert "†" not in none.text + none.caption, "another budget's recipe is another"


def tuned_here(device, protocol):
    fd = {"metric": {"name": "fd", "version": 1}, "settings": {"split": "val", "extractor": protocol.extractor}}
    identity = {**plan(3).identity, "fd": fd, "bundle": "b" * 64, "device": device, "budget": protocol.budget}
    return group_tunings([judge(plan(3).model_copy(update={"identity": identity}), [])])[0]


def test_a_dry_run_says_what_would_be_tried(small_bundle, planted, tmp_path, cli):
    done = cli(*tune_words(small_bundle, planted(), tmp_path / "results", "--trials", 3, "--dry-run"))
    assert done.code == 0
    assert done.out.count("planted") == 3  # two others of its scale cost one trial
    assert not record_files(tmp_path / "results")
