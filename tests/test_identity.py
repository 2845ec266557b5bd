"""What decides an id: committed records keep theirs, a plugin's follows its own files, a built-in's is decided upon."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import pickle
import shutil
import subprocess
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from closures import KEPT, ROOT, built_ins, decide, undecided
from pydantic import create_model

from benchmark import coordinator
from benchmark.bundles.bundle import SPLITS, open_bundle
from benchmark.bundles.find import SHIPPED, all_bundles
from benchmark.bundles.groups import Groups
from benchmark.jobs.identity import Job, Row, class_identity, make_reference_row
from benchmark.jobs.reference_rows import REFERENCES
from benchmark.protocol import Protocol, read_protocols
from benchmark.registry import Registry
from benchmark.request import Request, resolve
from benchmark.store.closure import PLUGIN, SUITE, _of_distributions, beside, closure, within
from benchmark.store.records import RecordStore, record_id
from benchmark.store.sealed import content_hash, file_hash, read_sealed
from priors.api import PosteriorSplit, PriorConfig, later_setting, sampling_setting
from priors.ncp import NCPConfig

RESULTS = ROOT / "results"
EXAMPLE = Path(__file__).parent / "old_plugins" / "prior_full_gaussian.py"
METRIC_EXAMPLE = Path(__file__).with_name("plugin_metric.py")


# ---- committed records --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def committed():
    """Every committed record, with the job that it is of as the classes of today make it."""
    registry, bundles = Registry(), {bundle.id[:16]: bundle for bundle in all_bundles()[0].values()}
    records, damaged = RecordStore(RESULTS / "records").all()
    assert not damaged
    made, found = {}, []
    for record in records:
        row = record["row"]
        key = json.dumps({name: row[name] for name in row if name != "config_hash"}, sort_keys=True)
        if key not in made:
            line = make_reference_row(row["prior"])
            if row["prior"] not in REFERENCES:
                cls = registry.get("prior", row["prior"])
                config = cls.Config(**row["config"])
                decide = config.fit_settings(), config.sampling_settings()
                line = Row(row["label"], row["prior"], class_identity(registry, cls), row["config"], *decide)
            bundle = bundles[row["bundle"]]
            if groups := row.get("groups"):  # whose draws may lie elsewhere: what a record says of them decides
                card = {"counts": {of: groups[of] for of in SPLITS}, "each": groups["each"], "sha256": groups["draws"]}
                chosen = Groups(tuple(groups["chosen"]), bundle.path, {**card, "shapes": groups["of"] * [[1]]})
                bundle = replace(bundle, groups=chosen)
            made[key] = Job(line, bundle, row["seed"], row["budget"], row["device"])
        found.append((record, made[key]))
    return SimpleNamespace(registry=registry, records=found)


def differing(records, expected):
    """Titles of the records for which `expected(record, job)` is another than the first of its pair."""
    pairs = ((record, *expected(record, job)) for record, job in records)
    return [f"{record['kind']}-{record['id']}" for record, was, now in pairs if was != now]


def test_every_committed_fit_has_the_id_that_its_prior_has_now(committed):
    fits = [(record, job) for record, job in committed.records if record["kind"] == "fit"]
    assert len(fits) >= 212
    assert differing(fits, lambda record, job: (record["id"], job.fit_id)) == []


def test_every_committed_row_has_the_config_hash_that_it_has_now(committed):
    assert len(committed.records) >= 3639
    assert (
        differing(committed.records, lambda record, job: (record["row"]["config_hash"], job.facts()["config_hash"]))
        == []
    )


def test_every_committed_measurement_has_the_id_that_its_metric_has_now(committed):
    """Under one of the saved protocols of its bundle; of a timing, on the machine that it names."""
    metrics, protocols = committed.registry.all("metric"), read_protocols(RESULTS)[0]

    def ids(record, job):
        cls, identity = metrics[record["kind"]], record["identity"]
        parts = (each.part(cls.reads) for bundle, each in protocols if bundle == record["row"]["bundle"])
        settings = next((part for part in parts if part == identity["settings"]), {"no protocol": "has these settings"})
        metric = class_identity(committed.registry, cls)
        return record["id"], record_id(job.measurement_identity(metric, settings, identity.get("machine")))

    measured = [(record, job) for record, job in committed.records if record["kind"] != "fit"]
    assert len(measured) >= 3427
    assert differing(measured, ids) == []


def test_every_committed_protocol_has_the_hash_that_names_its_file():
    files = sorted((RESULTS / "protocols").glob("*/*.json"))
    assert len(files) >= 11
    made = [Protocol(**{k: v for k, v in read_sealed(file).items() if k != "seal"}) for file in files]
    assert [protocol.hash[:16] for protocol in made] == [file.stem for file in files]


def test_committed_protocols_name_the_extractors_that_are_here(committed):
    saved = {each.extractor["name"]: each.extractor for _, each in read_protocols(RESULTS)[0]}
    for name, identity in saved.items():
        cls = committed.registry.get("extractor", name)
        assert {**identity, "weights": None} == {"name": name, "version": cls.version, "weights": None}
        if cls.embedded:
            assert cls().identity() == identity


# ---- what is added later ------------------------------------------------------------------------------------------


class Added(NCPConfig):
    """A prior with records gains a setting of its fit and one of its sampling."""

    skips: int = later_setting(3, ge=1)
    temperature: float = later_setting(1.0, sampling=True, gt=0)


def ncp_job(config):
    bundle = open_bundle(SHIPPED / "mnist-conv_vae")
    identity, decide = {"name": "ncp", "version": 1}, (config.fit_settings(), config.sampling_settings())
    return Job(Row("ncp", "ncp", identity, config.model_dump(mode="json"), *decide), bundle, 0, "full", "cpu")


def ids(job):
    measurement = record_id(job.measurement_identity({"name": "fd", "version": 1}, {}, None))
    return {"fit": job.fit_id, "measurement": measurement, "row": job.facts()["config_hash"]}


@pytest.mark.parametrize(
    "settings, changed",
    [
        ({}, set()),
        ({"skips": 3, "temperature": 1}, set()),
        ({"temperature": 0.7}, {"measurement", "row"}),
        ({"skips": 4}, {"fit", "measurement", "row"}),
    ],
)
def test_a_later_setting_counts_where_it_is_not_its_default(settings, changed):
    before, after = ids(ncp_job(NCPConfig())), ids(ncp_job(Added(**settings)))
    assert {kind for kind in before if before[kind] != after[kind]} == changed


def test_a_later_setting_of_sampling_is_no_part_of_the_fit():
    assert Added.sampling_names() - NCPConfig.sampling_names() == {"temperature"}
    assert "temperature" not in Added(temperature=0.5).fit_settings()
    assert Added(temperature=0.5).sampling_settings()["temperature"] == 0.5


def test_settings_keep_their_constraints_and_their_defaults():
    class Config(PriorConfig):
        draws: int = sampling_setting(2, ge=1)
        heat: float = later_setting(1.0, sampling=True, gt=0)

    assert Config().model_dump() == {"draws": 2, "heat": 1.0}
    for wrong in ({"draws": 0}, {"heat": 0}):
        with pytest.raises(ValueError, match="greater than"):
            Config(**wrong)


def saved_protocol():
    return next(protocol for _, protocol in read_protocols(RESULTS)[0] if protocol.reference_split is None)


@pytest.mark.parametrize("value, same", [(None, True), (7, False)])
def test_a_new_field_of_the_protocol_counts_where_it_is_not_none(value, same):
    newer = create_model("Newer", __base__=Protocol, components=(int | None, None))
    old = saved_protocol()
    assert (newer(**old.model_dump(), components=value).hash == old.hash) == same


def test_the_reference_split_counts_as_none_too():
    old = saved_protocol()
    later = {"settings", "groups"}  # which count in no hash where they are None
    assert old.hash == content_hash(old.model_dump(mode="json", exclude=later))


def test_draws_of_the_aggregate_posterior_are_what_its_formula_says():
    """`priors/api.py` is in no built-in's hash, and every fit starts here."""
    mean, std = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.full((5, 3), 0.1)
    split = PosteriorSplit(mean, std)
    ours, theirs = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    index = torch.randint(5, (8,), generator=theirs)
    assert torch.equal(split.sample(8, ours), mean[index] + std[index] * torch.randn(8, 3, generator=theirs))
    index = torch.randperm(5, generator=theirs)[:4]
    assert torch.equal(split.one_each(4, ours), mean[index] + std[index] * torch.randn(4, 3, generator=theirs))


# ---- closures -----------------------------------------------------------------------------------------------------


@pytest.fixture
def write(tmp_path):
    """`write({"a/b.py": source})` below the test's folder, which it returns."""

    def write(files, root=tmp_path):
        for name, source in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(source)
        return root

    return write


CLOSURES = {
    "nothing of its own": ({"p.py": "import torch, os.path", "q.py": ""}, {"p"}),
    "import": ({"p.py": "import q", "q.py": ""}, {"p", "q"}),
    "import of a name": ({"p.py": "from q import f", "q.py": ""}, {"p", "q"}),
    "import under another name": ({"p.py": "import q as r", "q.py": "", "r.py": ""}, {"p", "q"}),
    "within a function": ({"p.py": "def f():\n  if 1:\n    import q", "q.py": ""}, {"p", "q"}),
    "two levels down": ({"p.py": "import q", "q.py": "import r", "r.py": "", "s.py": ""}, {"p", "q", "r"}),
    "a circle": ({"p.py": "import q", "q.py": "import p"}, {"p", "q"}),
    "relative": ({"p.py": "from . import q\nfrom .r import x", "q.py": "", "r.py": ""}, {"p", "q", "r"}),
    "a package": ({"p.py": "import k.m", "k/__init__.py": "", "k/m.py": "", "k/n.py": ""}, {"p", "k", "k.m"}),
    "a module from a package": ({"p.py": "from k import m", "k/__init__.py": "", "k/m.py": ""}, {"p", "k", "k.m"}),
    "a package's own imports": (
        {"p.py": "import k", "k/__init__.py": "from .m import x", "k/m.py": "from ..q import y", "q.py": ""},
        {"p", "k", "k.m", "q"},
    ),
    "relative within a package": (
        {"p.py": "import k.a.b", "k/__init__.py": "", "k/a/__init__.py": "",
         "k/a/b.py": "from . import c\nfrom .. import d", "k/a/c.py": "", "k/d.py": "", "k/c.py": "", "d.py": ""},
        {"p", "k", "k.a", "k.a.b", "k.a.c", "k.d"},
    ),
    "all of a package": ({"p.py": "from k import *", "k/__init__.py": "", "k/m.py": ""}, {"p", "k", "k.m"}),
    "a folder without __init__": ({"p.py": "from mine_alone.m import x", "mine_alone/m.py": ""}, {"p", "mine_alone.m"}),
    "a folder of somebody else's name": ({"p.py": "import torch.nn", "torch/nn.py": ""}, {"p"}),
    "a package before a module": (
        {"p.py": "import k", "k.py": "import q", "k/__init__.py": "", "q.py": ""},
        {"p", "k"},
    ),
    "a missing module": ({"p.py": "import nowhere\nfrom .nowhere import x"}, {"p"}),
    "what does not parse": ({"p.py": "import q", "q.py": "def f(:"}, {"p", "q"}),
    "the suite's names": (
        {"p.py": "import priors.api, benchmark, backbones", **{f"{name}.py": "" for name in SUITE}},
        {"p"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CLOSURES)
def test_a_closure_is_what_a_file_imports_of_its_own(case, write):
    files, expected = CLOSURES[case]
    folder = write(files)
    found = closure("p", folder / "p.py", within(beside(folder)))
    assert set(found) == expected
    assert all(file.is_relative_to(folder) for file in found.values())


# ---- plugins ------------------------------------------------------------------------------------------------------

PRIOR = """
import torch
from priors.api import LatentPrior, PriorConfig, hookimpl
{imports}

class {name}(LatentPrior):
    name = "{name}"

    def fit(self, posterior, generator, progress):
        {fit}

    def sample(self, n, generator):
        return {scale} * torch.ones(n, *self.latent_shape)

@hookimpl
def register_priors():
    return [{name}]
"""


def plugin(imports="", name="scaled", fit="pass", scale="SCALE"):
    return PRIOR.format(imports=imports, name=name, fit=fit, scale=scale)


def scale_of(registry, name="scaled"):
    """What a fitted prior of that name draws: the number that its helper holds."""
    cls = registry.get("prior", name)
    prior = cls((1,), cls.Config())
    prior.fit(None, None, None)
    return prior.sample(1, None).item()


def source_of(*files, name="scaled"):
    registry = Registry(list(files))
    return class_identity(registry, registry.get("prior", name))["source"]


WAYS = {
    "import": ("import helpers", "pass", "helpers.SCALE"),
    "from": ("from helpers import SCALE", "pass", "SCALE"),
    "as": ("import helpers as h", "pass", "h.SCALE"),
    "relative": ("from .helpers import SCALE", "pass", "SCALE"),
    "within a function": ("", "from helpers import SCALE; self.scale = SCALE", "self.scale"),
    "relative within a function": ("", "from . import helpers; self.scale = helpers.SCALE", "self.scale"),
    "a package": ("import parts.numbers", "pass", "parts.numbers.SCALE"),
    "a module of a package": ("from parts import numbers", "pass", "numbers.SCALE"),
    "a folder": ("from bare_folder.numbers import SCALE", "pass", "SCALE"),
    "two levels down": ("from between import SCALE", "pass", "SCALE"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_plugin_imports_what_lies_beside_it_and_its_id_follows(way, write):
    imports, fit, scale = WAYS[way]
    folder = write(
        {
            "p.py": plugin(imports, fit=fit, scale=scale),
            "parts/__init__.py": "",
            "between.py": "from helpers import SCALE",
        }
    )
    sources, path, names = {}, list(sys.path), set(sys.modules)
    for number in (2, 3):  # of one length, within one second: a .pyc would not tell them apart
        write(dict.fromkeys(["helpers.py", "parts/numbers.py", "bare_folder/numbers.py"], f"SCALE = {number}.0"))
        registry = Registry([folder / "p.py"])
        assert scale_of(registry) == number
        sources[number] = class_identity(registry, registry.get("prior", "scaled"))["source"]
    assert sources[2] != sources[3]
    assert sys.path == path
    new = {name: str(getattr(sys.modules[name], "__file__", "")) for name in set(sys.modules) - names}
    assert all(name.startswith(PLUGIN) for name, file in new.items() if file.startswith(str(folder)))


def test_the_id_does_not_follow_a_file_that_is_not_imported(write):
    folder = write({"p.py": plugin("from helpers import SCALE"), "helpers.py": "SCALE = 1", "other.py": "X = 1"})
    before = source_of(folder / "p.py")
    write({"other.py": "X = 2", "another.py": ""})
    assert source_of(folder / "p.py") == before


def test_a_plugin_of_one_file_has_the_id_that_it_always_had(write):
    folder = write({"p.py": plugin(scale="1.0"), "helpers.py": ""})
    assert source_of(folder / "p.py") == content_hash([file_hash(folder / "p.py")])
    assert source_of(EXAMPLE, name="full_gaussian") == content_hash([file_hash(EXAMPLE)])


def test_the_id_follows_the_plugins_file_where_a_helper_defines_the_class(write):
    helper = plugin(scale="self.scale").partition("@hookimpl")[0]
    hook = (
        "import helpers\nfrom priors.api import hookimpl\nhelpers.scaled.scale = {}\n"
        "@hookimpl\ndef register_priors(): return [helpers.scaled]"
    )
    sources = set()
    for number in (2.0, 3.0):
        folder = write({"p.py": hook.format(number), "helpers.py": helper})
        assert scale_of(Registry([folder / "p.py"])) == number
        sources.add(source_of(folder / "p.py"))
    assert len(sources) == 2


def test_two_folders_have_a_helper_of_one_name_each(write, tmp_path):
    lazy = {"fit": "import helpers; self.scale = helpers.SCALE", "scale": "self.scale"}
    for folder, number in (("a", 2), ("b", 3), ("c", 4)):
        write({"helpers.py": f"SCALE = {number}.0"}, tmp_path / folder)
    write(
        {
            "a/p.py": plugin("from helpers import SCALE", "first"),
            "b/p.py": plugin("from helpers import SCALE", "second"),
        }
    )
    write({"c/p.py": plugin(name="third", **lazy)})
    registry = Registry([tmp_path / folder / "p.py" for folder in "abc"])
    assert [scale_of(registry, name) for name in ("third", "second", "first")] == [4, 3, 2]
    assert "helpers" not in sys.modules


@pytest.mark.parametrize("name", SUITE)
def test_a_file_beside_a_plugin_never_stands_in_for_the_suite(name, write):
    folder = write({"p.py": plugin(f"import {name}", scale="1.0"), f"{name}.py": "raise OSError"})
    registry = Registry([folder / "p.py"])
    assert scale_of(registry) == 1
    assert not registry.broken
    assert inspect.getmodule(registry.get("prior", "scaled")).__dict__[name] is sys.modules[name]


def test_modules_beside_a_plugin_may_import_each_other_in_a_circle(write):
    circle = {"a.py": "import b\nONE = 1", "b.py": "import a, p\ndef scale(): return a.ONE + p.TWO"}
    folder = write({"p.py": plugin("TWO = 2\nimport a, b", scale="b.scale()"), **circle})
    assert scale_of(Registry([folder / "p.py"])) == 3


BROKEN_HELPERS = {
    "raises": ("X = 1\nraise OSError('no licence')", ["OSError: no licence", "helpers.py, line 2"]),
    "misses a module": ("\nimport no_such_package", ["No module named 'no_such_package'", "helpers.py, line 2"]),
    "does not parse": ("def f(:", ["SyntaxError", "helpers.py, line 1"]),
    "misses a name": ("X = 1", ["ImportError: cannot import name 'SCALE' from 'helpers'", "helpers.py"]),
}


@pytest.mark.parametrize("case", BROKEN_HELPERS)
def test_what_is_broken_beside_a_plugin_is_named_and_harms_nothing(case, write):
    source, said = BROKEN_HELPERS[case]
    folder = write({"p.py": plugin("from helpers import SCALE"), "helpers.py": source})
    names = set(sys.modules)
    registry = Registry([folder / "p.py", EXAMPLE])
    assert "full_gaussian" in registry.all("prior")
    assert list(registry.broken) == [str(folder / "p.py")]
    assert all(words in registry.broken[str(folder / "p.py")] for words in said)
    assert PLUGIN not in registry.broken[str(folder / "p.py")].replace(str(folder), "")
    registered = inspect.getmodule(registry.get("prior", "full_gaussian")).__name__.partition(".")[0]
    new = {name: str(getattr(sys.modules[name], "__file__", "")) for name in set(sys.modules) - names}
    beside = [name for name, file in new.items() if file.startswith((str(folder), str(EXAMPLE.parent)))]
    assert all(name.startswith(registered) for name in beside)


def test_a_helper_that_is_mended_is_read_again(write):
    folder = write({"p.py": plugin("from helpers import SCALE"), "helpers.py": "raise OSError"})
    assert "scaled" not in Registry([folder / "p.py"]).all("prior")
    write({"helpers.py": "SCALE = 1.0"})
    assert scale_of(Registry([folder / "p.py"])) == 1


def test_a_plugins_modules_are_like_any_others(write):
    folder = write(
        {"my-prior.v2.py": plugin("import helpers", scale="helpers.fail()"), "helpers.py": "\ndef fail(): 1 / 0"}
    )
    registry = Registry([folder / "my-prior.v2.py"])
    cls = registry.get("prior", "scaled")
    assert pickle.loads(pickle.dumps(cls)) is cls
    assert inspect.getsource(cls).startswith("class scaled(LatentPrior)")
    with pytest.raises(ZeroDivisionError) as caught:
        scale_of(registry)
    last = traceback.extract_tb(caught.tb)[-1]
    assert (Path(last.filename), last.lineno) == (folder / "helpers.py", 2)


def test_an_edited_helper_gives_a_new_number(small_bundle, write, cli):
    folder, shown = write({"p.py": plugin("import helpers", scale="helpers.SCALE")}), []
    for number in (1, 3):
        write({"helpers.py": f"SCALE = {number}.0"})
        words = ["run", "--bundle", small_bundle, "--priors", "scaled", "--plugin", folder / "p.py", "--metrics", "mmd"]
        done = cli(*words, "--seeds", 1, "--device", "cpu", "--results", folder / "results")
        assert done.code == 0, done.err
        board = pd.read_csv(folder / "results" / "leaderboard.csv").set_index(["prior", "metric"])
        shown.append(board.loc[("scaled", "mmd_imq"), "mean"])
    assert shown[0] != shown[1]


@pytest.fixture
def package(write, monkeypatch):
    """`package()`: an installed package that registers a prior, imported anew."""
    site = write({f"scaled_package/{name}.py": source for name, source in PACKAGE.items()})
    site = write(
        {
            "scaled_neighbour.py": "X = 1",
            "scaled-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: scaled\nVersion: 1\n",
        }
    )
    write({"scaled-1.dist-info/entry_points.txt": "[latent_prior_benchmark]\nscaled = scaled_package.prior\n"})
    monkeypatch.syspath_prepend(str(site))

    def forget():
        for name in [name for name in sys.modules if name.startswith("scaled_")]:
            del sys.modules[name]
        importlib.invalidate_caches()

    def source(**edited):
        write({f"{name.replace('__', '/')}.py": text for name, text in edited.items()})
        forget()
        return source_of()

    yield source
    forget()


PACKAGE = {
    "__init__": "",
    "prior": plugin("import scaled_neighbour\nfrom scaled_package.numbers import SCALE"),
    "numbers": "from . import deep\nSCALE = deep.SCALE",
    "deep": "SCALE = 1.0",
    "unused": "",
}


def test_the_id_of_an_installed_plugin_follows_what_it_imports_of_its_package(package):
    before = package()
    assert package(scaled_package__unused="X = 2") == before
    assert package(scaled_neighbour="X = 22") == before
    assert package(scaled_package__deep="SCALE = 22.0") != before


# ---- built-ins ----------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    """A copy of the suite's sources; `edit(file, old, new)` changes it."""
    for name in SUITE:
        shutil.copytree(
            ROOT / name,
            tmp_path / name,
            ignore=lambda folder, names: [
                n for n in names if not (n.endswith(".py") or (Path(folder) / n).is_dir()) or n == "pretrained"
            ],
        )

    def edit(file, old, new):
        text = (tmp_path / file).read_text()
        assert old in text
        (tmp_path / file).write_text(text.replace(old, new))

    return SimpleNamespace(root=tmp_path, edit=edit)


def test_every_change_of_a_built_in_is_decided():
    sentences = undecided(json.loads(KEPT.read_text()))
    assert not sentences, "\n".join(sentences)


def test_every_built_in_is_kept_and_nothing_else():
    assert sorted(json.loads(KEPT.read_text())) == sorted(each.title for each in built_ins())


def planted(tree):
    """First words of the sentences about a tree that was edited: which built-ins."""
    return [sentence.partition(":")[0] for sentence in undecided(decide({}, []), tree.root)[:-2]]


def test_an_edit_of_a_shared_part_names_every_prior_that_imports_it(tree):
    assert planted(tree) == []
    tree.edit("priors/parts/image_flows.py", "return", "return 2 *")
    sentences = undecided(decide({}, []), tree.root)
    # latent_wgan by what it takes of evalp
    names = ("evalp", "evalp_groups", "evalp_joint", "jebm", "latent_flow", "latent_wgan", "ncp_groups")
    assert sentences[:-2] == [f"prior {name}: priors/parts/image_flows.py changed" for name in names]
    assert sentences[-1].endswith("python tests/closures.py --same-numbers " + " ".join(names))
    assert "raise its `version`" in sentences[-2]


def test_an_edit_of_the_mathematics_names_the_metrics_that_use_it(tree):
    tree.edit("benchmark/scores/ranks.py", "return", "return 2 *")
    assert planted(tree) == ["metric c2st", "metric groups", "metric latent_memorisation", "metric memorisation"]


def test_what_decides_no_number_raises_no_alarm(tree):
    tree.edit("priors/parts/flows.py", '"""Normalising', '"""More words. Normalising')
    tree.edit("priors/parts/flows.py", "\ndef ", "\n\n# a comment\ndef ")
    tree.edit("priors/parts/flows.py", "-> Tensor:", "-> object:")
    tree.edit("priors/api.py", "name: ClassVar[str]", "name: ClassVar[str]\n    homepage: str = ''")
    tree.edit("benchmark/progress.py", "return", "return None or")
    tree.edit(
        "benchmark/metrics/kid.py",
        "    def measure",
        "    @classmethod\n    def columns(cls, protocol): return []\n\n    def measure",
    )
    assert planted(tree) == []


def test_same_numbers_decides_for_those_that_are_named(tree):
    kept = decide({}, [])
    tree.edit("priors/parts/image_flows.py", "return", "return 2 *")
    decided = decide(kept, ["evalp"], tree.root)
    assert [sentence.partition(":")[0] for sentence in undecided(decided, tree.root)[:-2]] == [
        "prior evalp_groups",
        "prior evalp_joint",
        "prior jebm",
        "prior latent_flow",
        "prior latent_wgan",
        "prior ncp_groups",
    ]
    assert undecided(decide(kept, ["all"], tree.root), tree.root) == []


def test_a_raised_version_decides_and_is_to_be_written_down(tree, monkeypatch):
    kept = decide({}, [])
    tree.edit("priors/mcmc_ebm.py", "return", "return 2 *")
    raised = [replace(each, version=each.version + 1) if each.name == "mcmc_ebm" else each for each in built_ins()]
    monkeypatch.setattr("closures.built_ins", lambda: raised)
    assert undecided(kept, tree.root)[0].startswith("prior mcmc_ebm, version 1 -> 2: priors/mcmc_ebm.py")
    assert undecided(decide(kept, [], tree.root), tree.root) == []


OLD_PLUGINS = Path(__file__).parent / "old_plugins"


def test_an_edited_extractor_is_another_one(tmp_path):
    """Its features of real and of generated images are others: neither reference nor score of the old one serves."""
    path = tmp_path / "thumbnail.py"
    shutil.copy(OLD_PLUGINS / "extractor_thumbnail.py", path)
    name = next(name for name in Registry([path]).at_hand("extractor") if name not in Registry().at_hand("extractor"))
    before = Registry([path]).get("extractor", name)().identity()
    path.write_text(path.read_text() + "\nEDITED = True\n")
    after = Registry([path]).get("extractor", name)().identity()
    assert before["source"] != after["source"]
    assert {key: value for key, value in before.items() if key != "source"} == {
        key: value for key, value in after.items() if key != "source"
    }


def test_the_identity_of_a_built_in_extractor_holds_no_source():
    assert set(Registry().get("extractor", "digit-cnn")().identity()) == {"name", "version", "weights"}


def test_a_backbone_edited_since_its_bundle_was_made_is_told(tmp_path, cli):
    path = tmp_path / "linear.py"
    shutil.copy(OLD_PLUGINS / "backbone_linear_vae.py", path)
    words = ["--dataset", "digits", "--backbone", "linear_vae", "--plugin", path, "--device", "cpu"]
    assert cli("pretrain", *words, "--set", "epochs=1", "--out", tmp_path / "bundle").code == 0
    run = ["run", "--bundle", tmp_path / "bundle", "--plugin", path, "--priors", "gaussian", "--seeds", 1]
    run += ["--metrics", "fd", "--device", "cpu", "--results", tmp_path / "results"]
    assert "another source" not in cli(*run).err
    path.write_text(path.read_text() + "\nEDITED = True\n")
    done = cli(*run, "--metrics", "samples")
    assert done.code == 0
    assert "was made by another source of the backbone linear_vae" in done.err


# ---- plugins in folders of every make -----------------------------------------------------------------------------

#: files, what runs (a plugin `p.py` below `here`), and the helper that is edited; the folder above is on Python's path
FOLDERS = {
    "its own package": ({"here/__init__.py": ""}, "from here.helpers import SCALE", "here/helpers.py"),
    "its own folder without __init__": ({}, "from here.helpers import SCALE", "here/helpers.py"),
    "what its package imports": (
        {"here/__init__.py": "", "here/helpers.py": "from . import deep\nSCALE = deep.SCALE"},
        "import here.helpers\nSCALE = here.helpers.SCALE",
        "here/deep.py",
    ),
    "all of a package with a subpackage": (
        {"here/k/__init__.py": "__all__ = ['sub']"},
        "from k import *\nSCALE = sub.SCALE",
        "here/k/sub/__init__.py",
    ),
    "a folder that it puts on the path": (
        {},
        "import sys, pathlib\nsys.path.insert(0, str(pathlib.Path(__file__).parent / 'lib'))\nfrom in_lib import SCALE",
        "here/lib/in_lib.py",
    ),
    "a call by a relative name": (
        {},
        "from importlib import import_module\nSCALE = import_module('.helpers', __package__).SCALE",
        "here/helpers.py",
    ),
    "a call by a relative name within a package": (
        {"here/k/__init__.py": "",
         "here/k/a.py": "import importlib\nm = importlib.import_module('..deep', __package__)"},
        "import k.a\nSCALE = k.a.m.SCALE",
        "here/deep.py",
    ),
    "__import__": ({}, "SCALE = __import__('helpers').SCALE", "here/helpers.py"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDERS)
def test_what_runs_is_hashed_wherever_it_lies_in_the_plugin_s_folder(case, write, monkeypatch):
    """The second registry of a process is no less right than the first, whatever the first imported."""
    files, imports, helper = FOLDERS[case]
    folder = write({"here/p.py": plugin(imports), **files})
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    sources = set()
    for number in (2, 3):
        write({helper: f"SCALE = {number}.0"})
        registry = Registry([folder / "here" / "p.py"])
        assert scale_of(registry) == number, registry.broken
        sources.add(registry.source(registry.get("prior", "scaled")))
    assert len(sources) == 2
    assert source_of(folder / "here" / "p.py") in sources


def source_elsewhere(path, **options):
    """The identity and what is drawn, as a process of its own has them."""
    code = (
        "import sys; from pathlib import Path; from benchmark.registry import Registry; "
        f"registry = Registry([Path({str(path)!r})]); cls = registry.get('prior', 'scaled'); "
        "print(registry.source(cls), cls((1,), cls.Config()).sample(1, None).item())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_module_that_is_called_by_its_plain_name_is_hashed(write):
    """Python finds it where the folder is on its path, as the current one is."""
    folder, found = write({"p.py": plugin("import importlib\nSCALE = importlib.import_module('helpers').SCALE")}), []
    for number in (2, 3):
        write({"helpers.py": f"SCALE = {number}.0"})
        found.append(source_elsewhere(folder / "p.py", cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}))
    assert [float(drawn) for _, drawn in found] == [2, 3]
    assert found[0][0] != found[1][0]


@pytest.mark.parametrize("name", [*SUITE, "test"])
@pytest.mark.parametrize("way", ["module", "folder"])
def test_a_sibling_of_somebody_else_s_name_is_refused_and_not_run_unhashed(name, way, write):
    """`import test` beside it is Python's own; of a file beside it, unlike a bare folder, that is not so."""
    files = {f"{name}.py": "SCALE = 1.0"} if way == "module" else {f"{name}/x.py": "SCALE = 1.0"}
    imported = f".{name}" if way == "module" else f".{name}.x"
    folder = write({"p.py": plugin(f"from {imported} import SCALE"), **files})
    registry = Registry([folder / "p.py"])
    if (name, way) == ("test", "module"):
        assert scale_of(registry) == 1
        return
    assert "scaled" not in registry.all("prior")
    assert f"'{name}' beside a plugin has the name of another package" in registry.broken[str(folder / "p.py")]


def test_a_plugin_may_be_named_like_the_library_that_it_imports(write, tmp_path, monkeypatch):
    library = write({"flowlib/__init__.py": "", "flowlib/numbers.py": "SCALE = 2.0"}, tmp_path / "site-packages")
    monkeypatch.syspath_prepend(str(library))
    folder = write({"flowlib.py": plugin("import flowlib.numbers", scale="flowlib.numbers.SCALE")}, tmp_path / "mine")
    assert scale_of(Registry([folder / "flowlib.py"])) == 2
    assert source_of(folder / "flowlib.py") == content_hash([file_hash(folder / "flowlib.py")])


@pytest.mark.parametrize("place, name", [(".venv/lib/python3/site-packages", "below"), ("packages", "beneath")])
def test_no_installed_package_is_hashed_also_below_the_plugin_s_folder(place, name, write, tmp_path, monkeypatch):
    """By its folder's name or where Python says that packages are."""
    library = write({f"{name}/__init__.py": "SCALE = 2.0"}, tmp_path / place)
    monkeypatch.setattr("benchmark.store.closure._library", lambda: [tmp_path / "packages"], raising=False)
    monkeypatch.syspath_prepend(str(library))
    folder = write({"p.py": plugin(f"from {name} import SCALE")})
    assert scale_of(Registry([folder / "p.py"])) == 2
    assert source_of(folder / "p.py") == content_hash([file_hash(folder / "p.py")])


def test_a_library_that_is_developed_below_the_plugin_s_folder_stays_itself(write, tmp_path, monkeypatch):
    """Installed by a link to its source: a second copy of it would be another library, and of compiled code none."""
    info = {"linked-1.dist-info/METADATA": "Name: linked\nVersion: 1", "linked-1.dist-info/top_level.txt": "linked"}
    monkeypatch.syspath_prepend(str(write(info, tmp_path / "site-packages")))
    monkeypatch.syspath_prepend(str(write({"linked/__init__.py": "SCALE = 2.0"}, tmp_path / "sources")))
    monkeypatch.setattr("benchmark.store.closure._of_distributions", _of_distributions.__wrapped__)
    folder = write({"p.py": plugin("import linked", scale="linked.SCALE")})
    assert scale_of(Registry([folder / "p.py"])) == 2
    assert "linked" in sys.modules
    assert source_of(folder / "p.py") == content_hash([file_hash(folder / "p.py")])


def test_a_plugin_among_installed_packages_is_hashed_without_them(write, tmp_path, monkeypatch):
    site = write({"p.py": plugin("from within import SCALE"), "within.py": "SCALE = 2.0"}, tmp_path / "site-packages")
    monkeypatch.syspath_prepend(str(site))
    assert scale_of(Registry([site / "p.py"])) == 2
    assert source_of(site / "p.py") == content_hash([file_hash(site / "p.py")])


@pytest.mark.parametrize("imports", ["", "import sys\nsys.path.insert(0, {lib!r})"])
def test_a_helper_edited_before_its_late_import_runs_as_it_was_hashed(imports, write, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    helper = "lib/late.py" if imports else "late.py"
    source = plugin(
        imports.format(lib=str(tmp_path / "lib")), fit="import late; self.scale = late.SCALE", scale="self.scale"
    )
    folder = write({"p.py": source, helper: "SCALE = 2.0"})
    registry = Registry([folder / "p.py"])
    before = registry.source(registry.get("prior", "scaled"))
    write({helper: "SCALE = 3.0"})
    assert scale_of(registry) == 2
    newer = Registry([folder / "p.py"])
    assert scale_of(newer) == 3
    assert newer.source(newer.get("prior", "scaled")) != before


def test_the_id_of_a_metric_is_that_of_the_code_that_runs(small_bundle, tmp_path):
    """Its file is edited between the names' becoming classes and the first job."""
    path = tmp_path / "metric.py"
    path.write_text(METRIC_EXAMPLE.read_text())
    request = Request(bundle=small_bundle, priors="gaussian", seeds=1, metrics="norm_gap", device="cpu",
                      plugins=[path], results=tmp_path / "results")  # fmt: skip
    resolved = resolve(request)
    path.write_text(METRIC_EXAMPLE.read_text() + "\nEDITED = True\n")
    coordinator.run(resolved)
    records, _ = RecordStore(tmp_path / "results" / "records").all()
    sources = {record["identity"]["metric"]["source"] for record in records if record["kind"] == "norm_gap"}
    assert sources == {content_hash([file_hash(METRIC_EXAMPLE)])}
