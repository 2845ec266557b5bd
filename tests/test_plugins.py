"""Other people's priors and metrics: three ways in, an identity of their own, and nothing broken but themselves."""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from boards import all_pages
from commands import contents, record_files, the_record
from scipy.stats import multivariate_normal

from benchmark.bundles.bundle import open_bundle
from benchmark.errors import UsageError
from benchmark.jobs.identity import Job, class_identity
from benchmark.jobs.plan import make_prior_row, make_rows
from benchmark.registry import KINDS, Registry
from benchmark.store.sealed import read_sealed, write_sealed
from priors.api import AggregatePosterior, PosteriorSplit

EXAMPLE = Path(__file__).parent / "old_plugins" / "prior_full_gaussian.py"
METRIC_EXAMPLE = Path(__file__).with_name("plugin_metric.py")
CPU = torch.device("cpu")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """`installed(name, source)` puts a module and its entry point where pip would: on the path, with metadata."""
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def install(name, source, value=None):
        (site / f"{name}.py").write_text(source)
        info = site / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[latent_prior_benchmark]\n{name} = {value or name}\n")
        importlib.invalidate_caches()

    before = set(sys.modules)
    yield install
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(site) in sys.modules[name].__file__:
            del sys.modules[name]


def words(bundle, tmp_path, priors, *more):
    results = ["--seeds", 1, "--device", "cpu", "--results", tmp_path / "results"]
    return ["run", "--bundle", bundle, "--priors", priors, *results, *more]


def test_a_prior_of_forty_lines_joins_the_leaderboard(small_bundle, tmp_path, cli):
    assert len(EXAMPLE.read_text().splitlines()) <= 45
    priors = "full_gaussian,full_gaussian[draws=50]"
    done = cli(*words(small_bundle, tmp_path, priors, "--plugin", EXAMPLE))
    assert done.code == 0, done.err
    board = pd.read_csv(tmp_path / "results" / "leaderboard.csv").set_index(["prior", "metric"])
    for label in ("full_gaussian", "full_gaussian[draws=50]"):
        assert {"FD digit-cnn", "mmd_imq", "mmd_rbf"} <= set(board.loc[label].index)
        assert not board.loc[label, "reference"].any()
        assert board.loc[(label, "mmd_imq"), "mean"] < board.loc[("gaussian", "mmd_imq"), "mean"] * 0.75
    fit, _ = the_record(tmp_path / "results", "fit", prior="full_gaussian", label="full_gaussian")
    assert fit["row"]["config"] == {"draws": 20_000}
    assert len(fit["log"]) == 1
    assert fit["parameters"] == 0
    assert fit["identity"]["prior"].keys() == {"name", "source"}


def test_the_example_fits_and_scores_what_its_name_says(small_bundle):
    """Its density is scipy's, and its moments are those of the mixture of posteriors, computed in closed form."""
    bundle, registry = open_bundle(small_bundle), Registry([EXAMPLE])
    mean, std = bundle.posterior("train", CPU)
    cls = registry.get("prior", "full_gaussian")
    prior = cls(bundle.latent_shape, cls.Config(draws=200_000))
    split = PosteriorSplit(mean, std)
    prior.fit(AggregatePosterior(split, split), torch.Generator().manual_seed(0), lambda *_, **__: None)
    covariance = np.cov(mean.double().numpy().T, bias=True) + np.diag(std.double().square().mean(0).numpy())
    z = prior.sample(200_000, torch.Generator().manual_seed(1)).double().numpy()
    scale = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((z.mean(0) - mean.double().mean(0).numpy()) / scale, 0, atol=0.015)
    np.testing.assert_allclose(np.cov(z.T) / np.outer(scale, scale), covariance / np.outer(scale, scale), atol=0.015)
    expected = multivariate_normal(prior.mean.numpy(), (prior.scale @ prior.scale.T).numpy()).logpdf(z[:50])
    np.testing.assert_allclose(prior.log_prob(torch.from_numpy(z[:50]).float()).numpy(), expected, rtol=1e-4, atol=1e-4)


def test_an_installed_plugin_is_found_by_name(small_bundle, tmp_path, cli, installed):
    installed("somebodys_prior", EXAMPLE.read_text())
    done = cli(*words(small_bundle, tmp_path, "full_gaussian"))
    assert done.code == 0, done.err
    assert "full_gaussian" in set(pd.read_csv(tmp_path / "results" / "leaderboard.csv")["prior"])
    (line,) = [line for line in cli("list").out.splitlines() if line.startswith("  full_gaussian ")]
    assert "(plugin: somebodys_prior" in line


def test_entry_points_sleep_while_built_ins_are_enough(tmp_path, cli, installed):
    awake = tmp_path / "imported"
    installed("sleeper", f"{EXAMPLE.read_text()}\nimport pathlib\npathlib.Path({str(awake)!r}).touch()\n")
    run = [
        "run",
        "--dataset",
        "digits",
        "--seeds",
        1,
        "--metrics",
        "fd",
        "--device",
        "cpu",
        "--results",
        tmp_path / "r",
    ]
    assert cli(*run, "--priors", "evalp[steps=20]").code == 0
    assert not awake.exists()
    done = cli(*run, "--priors", "full_gaussain")
    assert done.code == 2
    assert "did you mean 'full_gaussian'?" in done.err
    assert awake.exists()
    assert "sleeper" not in sys.modules, "it was imported in a process of its own"


def test_without_names_an_installed_plugin_is_left_out_and_a_file_is_not(small_bundle, installed):
    installed("sleeper", EXAMPLE.read_text())
    bundle = open_bundle(small_bundle)
    assert "full_gaussian" not in [row.name for row in make_rows(Registry(), None, bundle, "quick")]
    assert "sleeper" not in sys.modules
    assert "full_gaussian" in [row.name for row in make_rows(Registry([EXAMPLE]), None, bundle, "quick")]
    awake = Registry()
    assert "full_gaussian" in awake.all("prior")
    assert "full_gaussian" not in [row.name for row in make_rows(awake, None, bundle, "quick")]


def test_an_edited_plugin_is_another_prior(small_bundle, tmp_path, cli):
    plugin = tmp_path / "mine.py"
    plugin.write_text(EXAMPLE.read_text())
    assert cli(*words(small_bundle, tmp_path, "full_gaussian", "--plugin", plugin)).code == 0
    first = contents(tmp_path / "results" / "records")
    assert cli(*words(small_bundle, tmp_path, "full_gaussian", "--plugin", plugin)).code == 0
    assert contents(tmp_path / "results" / "records") == first

    plugin.write_text(EXAMPLE.read_text().replace("self.mean.copy_(z.mean(0))", "self.mean.copy_(z.mean(0) + 3)"))
    assert cli(*words(small_bundle, tmp_path, "full_gaussian", "--plugin", plugin)).code == 0
    second = contents(tmp_path / "results" / "records")
    assert {path: second[path] for path in first} == first
    assert {path.parent.name for path in set(second) - set(first)} == {"full_gaussian"}
    mine = [read_sealed(path) for path in record_files(tmp_path / "results") if path.parent.name == "full_gaussian"]
    assert len({r["id"] for r in mine if r["kind"] == "fit"}) == 2
    assert len({r["values"]["fd"] for r in mine if r["kind"] == "fd"}) == 2
    assert "Left out: an older full_gaussian" in all_pages(tmp_path / "results")


def test_a_file_and_an_installed_copy_of_it_have_one_identity(small_bundle, installed):
    installed("somebodys_prior", EXAMPLE.read_text())
    bundle, ids = open_bundle(small_bundle), []
    for registry in (Registry([EXAMPLE]), Registry()):
        row = make_prior_row(registry, "full_gaussian", {}, bundle, "quick")
        ids.append(Job(row, bundle, 0, "quick", "cpu").fit_id)
    assert ids[0] == ids[1]


GOOD = """
from priors.api import LatentPrior, hookimpl

class Good(LatentPrior):
    name = "{name}"
    def fit(self, posterior, generator, progress): ...
    def sample(self, n, generator): ...

@hookimpl
def {hook}():
    return [{returned}]
"""
BROKEN = {
    "raises on import": ("raise OSError('no licence')\n", "OSError: no licence"),
    "exits on import": ("import sys\nsys.exit(3)\n", "SystemExit: 3"),
    "does not parse": ("def f(:\n", "SyntaxError"),
    "misses a module": ("import no_such_package\n", "no_such_package"),
    "unmarked hook": (
        GOOD.format(name="good", hook="register_priors", returned="Good").replace("@hookimpl", ""),
        "no function marked @hookimpl (one of register_priors, register_backbones",
    ),
    "misspelt hook": (GOOD.format(name="good", hook="register_prior", returned="Good"), "register_prior"),
    "returns a non-class": (GOOD.format(name="good", hook="register_priors", returned="Good.fit"), "not a subclass"),
    "returns another class": (GOOD.format(name="good", hook="register_priors", returned="dict"), "not a subclass"),
    "returns nothing": ("from priors.api import hookimpl\n@hookimpl\ndef register_priors(): ...\n", "TypeError"),
    "abstract class": (GOOD.format(name="good", hook="register_priors", returned="LatentPrior"), "does not define fit"),
    "bad name": (GOOD.format(name="../good", hook="register_priors", returned="Good"), "'../good'"),
    "no name": (GOOD.format(name="x", hook="register_priors", returned="Good").replace('name = "x"', "pass"), "name"),
    "taken name": (GOOD.format(name="evalp", hook="register_priors", returned="Good"), "'evalp' is taken"),
    "name of a reference row": (
        GOOD.format(name="reconstruction", hook="register_priors", returned="Good"),
        "reconstruction",
    ),
    "caps no setting": (
        GOOD.format(name='good"; quick = {"step": 3}; of = "', hook="register_priors", returned="Good"),
        "unknown setting in Good.quick 'step'",
    ),
    "caps no setting of long vectors": (
        GOOD.format(name='good"; long_quick = {"step": 3}; of = "', hook="register_priors", returned="Good"),
        "unknown setting in Good.long_quick 'step'",
    ),
    "reads a word": (
        METRIC_EXAMPLE.read_text().replace("reads = LATENT_SETTINGS", 'reads = "split"'),
        "NormGap.reads is 'split'; it must be a tuple of fields of the protocol",
    ),
    "raises in its hook": (
        GOOD.format(name="good", hook="register_priors", returned="1 / 0"),
        "ZeroDivisionError",
    ),
}


@pytest.mark.parametrize("way", ["file", "entry point"])
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_listed_with_why_and_harms_nothing(case, way, tmp_path, cli, installed):
    source, why = BROKEN[case]
    installed("healthy", EXAMPLE.read_text())
    if way == "file":
        (tmp_path / "broken_one.py").write_text(source)
        listed = cli("list", "--plugin", tmp_path / "broken_one.py")
    else:
        installed("broken_one", source)
        listed = cli("list")
    assert listed.code == 0, listed.err
    told = listed.out.partition("broken plugins:\n")[2]
    assert len(told.splitlines()) == 1
    assert "broken_one" in told
    assert why in told
    names = listed.out.partition("backbones:")[0].split()
    assert {"gaussian", "evalp", "full_gaussian"} <= set(names)
    assert names.count("evalp") == 1
    assert not {"good", "../good", "reconstruction"} & set(names)


def test_a_plugin_put_back_as_it_was_shows_its_own_numbers_again(small_bundle, tmp_path, cli):
    """A run that finds everything recorded leaves no newer record, and yet says which code is in force."""
    plugin, shown = tmp_path / "mine.py", []
    edited = EXAMPLE.read_text().replace("self.mean.copy_(z.mean(0))", "self.mean.copy_(z.mean(0) + 3)")
    for source in (EXAMPLE.read_text(), edited, EXAMPLE.read_text()):
        plugin.write_text(source)
        done = cli(*words(small_bundle, tmp_path, "full_gaussian", "--plugin", plugin, "--metrics", "mmd"))
        assert done.code == 0, done.err
        board = pd.read_csv(tmp_path / "results" / "leaderboard.csv").set_index(["prior", "metric"])
        shown.append(board.loc[("full_gaussian", "mmd_imq"), "mean"])
    assert shown[0] == shown[2] != shown[1]
    note = next((tmp_path / "results" / "in_force").glob("*/quick-cpu.json"))
    note.write_text("{}")
    done = cli("leaderboard", "--results", tmp_path / "results")
    assert done.code == 1
    assert str(note) in done.err
    assert cli(*words(small_bundle, tmp_path, "gaussian", "--metrics", "mmd")).code == 0
    assert list(read_sealed(note)["labels"]) == ["aggregate_posterior", "reconstruction", "gaussian"]


def test_a_table_has_one_version_of_a_metric(small_bundle, tmp_path, cli):
    """Edited and run on fewer seeds, put back, and made to fail: a mean is of one code alone, the latest run's."""
    plugin, results, source = tmp_path / "norm.py", tmp_path / "results", METRIC_EXAMPLE.read_text()

    def shown():
        board = pd.read_csv(results / "leaderboard.csv").set_index(["prior", "metric"])
        at = ("gaussian", "norm_gap")
        return board.loc[at, ["mean", "seeds"]].tolist() if at in board.index else None

    def after(text, seeds, code=0):
        plugin.write_text(text)
        more = ["--plugin", plugin, "--metrics", "norm_gap,mmd", "--seeds", seeds]
        assert cli(*words(small_bundle, tmp_path, "gaussian", *more)).code == code
        return shown()

    edited = source.replace("abs(mean - expected)", "abs(mean - expected) + 100")
    first = after(source, 2)
    time.sleep(1.1)  # records are dated by the second
    second = after(edited, 1)
    assert first[0] < 50
    assert first[1] == 2
    assert second[0] > 100
    assert second[1] == 1
    assert "Left out: norm_gap by another version of that metric" in all_pages(results)
    assert after(source, 2) == first
    note = next((results / "in_force").glob("*/quick-cpu.json"))
    write_sealed(note, {"labels": read_sealed(note)["labels"]})  # as the first notes were
    assert cli("leaderboard", "--results", results).code == 0
    assert shown() == second, "without a note the newest record counts"
    assert after(source.replace("abs(mean - expected)", "1 / 0"), 2, code=1) is None
    assert "ZeroDivisionError" in all_pages(results)


def test_a_plugin_under_a_built_ins_name_is_not_checked_as_the_built_in(tmp_path, cli):
    plugin = tmp_path / "gaussian.py"
    plugin.write_text(GOOD.format(name="gaussian", hook="register_priors", returned="Good"))
    done = cli("check", "gaussian", "--plugin", plugin)
    assert done.code == 2
    assert done.out == ""
    assert f"error: broken plugin {plugin}: ValueError: the prior name 'gaussian' is taken (built-in)" in done.err


def test_a_run_tells_of_a_broken_plugin_and_goes_on(small_bundle, tmp_path, cli):
    (tmp_path / "bad.py").write_text(BROKEN["raises on import"][0])
    plugins = ["--plugin", tmp_path / "bad.py", "--plugin", EXAMPLE]
    done = cli(*words(small_bundle, tmp_path, "gaussian,full_gaussian", *plugins))
    assert done.code == 1, done.err
    assert f"broken plugin {tmp_path / 'bad.py'}: OSError: no licence" in done.err
    *_, told, last = done.err.splitlines()
    assert told == f"left out: broken plugin {tmp_path / 'bad.py'}: OSError: no licence"
    assert "0 failed, 1 left out" in last
    assert "full_gaussian" in set(pd.read_csv(tmp_path / "results" / "leaderboard.csv")["prior"])


def test_asking_for_what_a_broken_plugin_would_have_brought_says_so(small_bundle, tmp_path, cli):
    (tmp_path / "bad.py").write_text(BROKEN["raises on import"][0])
    done = cli(*words(small_bundle, tmp_path, "licensed", "--plugin", tmp_path / "bad.py"))
    assert done.code == 2
    last = done.err.strip().splitlines()[-1]
    assert "unknown prior 'licensed'" in last
    assert "bad.py" in last
    assert "OSError: no licence" in last


def test_a_metric_that_reads_what_no_protocol_has_is_one_line(small_bundle, tmp_path, cli):
    source = METRIC_EXAMPLE.read_text().replace("reads = LATENT_SETTINGS", 'reads = ("splt",)')
    (tmp_path / "norm.py").write_text(source)
    done = cli(*words(small_bundle, tmp_path, "gaussian", "--plugin", tmp_path / "norm.py", "--metrics", "norm_gap"))
    assert done.code == 2
    assert "Traceback" not in done.err
    last = done.err.splitlines()[-1]
    assert last.startswith("error: unknown field of the protocol in a metric's `reads` 'splt'; did you mean 'split'?")
    assert not (tmp_path / "results").exists()


def test_a_metric_that_cannot_be_made_is_one_line(small_bundle, tmp_path, cli):
    source = METRIC_EXAMPLE.read_text().replace(
        "    @classmethod", "    def __init__(self): exit('no licence')\n\n    @classmethod"
    )
    (tmp_path / "norm.py").write_text(source)
    done = cli(*words(small_bundle, tmp_path, "gaussian", "--plugin", tmp_path / "norm.py", "--metrics", "norm_gap"))
    assert done.code == 2
    assert done.err.splitlines()[-1] == "error: metric norm_gap cannot be made: SystemExit: no licence"


def test_the_same_file_named_twice_is_still_one_good_plugin():
    registry = Registry([EXAMPLE, EXAMPLE])
    assert registry.get("prior", "full_gaussian").name == "full_gaussian"
    assert class_identity(registry, registry.get("prior", "full_gaussian"))["name"] == "full_gaussian"


def test_a_partly_good_plugin_keeps_its_good_part(tmp_path):
    source = GOOD.format(name="good", hook="register_priors", returned="Good, LatentPrior")
    (tmp_path / "half.py").write_text(source)
    registry = Registry([tmp_path / "half.py"])
    assert registry.get("prior", "good").name == "good"
    assert "does not define" in registry.broken[str(tmp_path / "half.py")]


def test_every_built_in_of_every_kind_is_whole():
    registry = Registry()
    members = {kind: registry.all(kind) for kind in KINDS}
    assert not registry.broken
    assert all(members.values())
    for kind, classes in members.items():
        for name, cls in classes.items():
            assert registry.get(kind, name) is cls
            assert cls.name == name
            assert registry.origin(cls) == "built-in"
    for cls in [*members["prior"].values(), *members["metric"].values()]:
        assert class_identity(registry, cls) == {"name": cls.name, "version": cls.version}


@pytest.mark.parametrize(
    "kind, typed, nearest", [("prior", "evlap", "evalp"), ("metric", "mdm", "mmd"), ("dataset", "digit", "digits")]
)
def test_an_unknown_name_is_answered_with_the_nearest(kind, typed, nearest):
    with pytest.raises(UsageError, match=f"unknown {kind} '{typed}'; did you mean '{nearest}'"):
        Registry().get(kind, typed)


def test_a_plugin_file_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no-such\.py: no such file"):
        Registry([tmp_path / "no-such.py"])
