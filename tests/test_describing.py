"""`list` says what each thing is; `show` its settings, their types, ranges, defaults and recipes."""

from __future__ import annotations

import re

import pytest

from benchmark.registry import KINDS, Registry

PLUGIN = '''
"""A prior of somebody's. It has settings of many types."""
from typing import Annotated, Literal
from pydantic import Field
from priors.api import Between, LatentPrior, OneOf, PriorConfig, hookimpl, sampling_setting

class Config(PriorConfig):
    steps: int = Field(10, ge=1, le=99)
    rate: Annotated[float, Field(gt=0)] | None = None
    kind: Literal["a", "b"] = "a"
    widths: tuple[int, ...] = (3, 4)
    flag: bool = True
    proposals: int = sampling_setting(5, ge=1)

class Mine(LatentPrior):
    name = "mine"
    Config = Config
    recipes = {"mnist": (16, {"steps": 7})}
    block_recipes = {"mnist": (1_280, {"steps": 8})}
    long_recipes = {"mnist": (1_792, {"steps": 9})}
    quick = {"steps": 3}
    block_quick = {"steps": 4}
    long_quick = {"steps": 5}
    space = {"rate": Between(1e-4, 1e-2, "usual"), "widths": OneOf(((3, 4), (8,)), "two sizes")}
    def fit(self, posterior, generator, progress): ...
    def sample(self, n, generator): ...

@hookimpl
def register_priors():
    return [Mine]
'''


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    return path


def test_list_has_a_line_of_what_each_thing_is(cli, plugin):
    lines = cli("list", "--plugin", plugin).out.splitlines()
    registry = Registry([plugin])
    for kind in KINDS:
        of_kind = lines[lines.index(f"{kind}s:") + 1 :][: len(registry.all(kind))]
        assert [line.split()[0] for line in of_kind] == list(registry.all(kind))
        assert all(len(line.split()) > 4 and len(line) < 200 for line in of_kind if "mine" not in line)
    (mine,) = [line for line in lines if line.startswith("  mine ")]
    assert "A prior of somebody's." in mine
    assert str(plugin) in mine


def test_show_has_settings_with_types_ranges_defaults_and_recipes(cli, plugin):
    shown = cli("show", "mine", "--plugin", plugin).out
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in shown.splitlines()[1:]}
    assert lines["steps"] == "integer ≥ 1, ≤ 99 10"
    assert lines["rate"] == "number > 0 or null null"
    assert lines["kind"] == "a, b a"
    assert lines["widths"].endswith("integer 3x4")
    assert lines["flag"] == "boolean true"
    assert lines["proposals"] == "integer ≥ 1 5 sampling"
    assert "recipe on mnist: steps=7" in shown
    assert "recipe for blocks on mnist: steps=8" in shown
    assert "recipe for vectors of more than 1,000 numbers on mnist: steps=9" in shown
    assert "quick budget, at most: steps=3" in shown
    assert "quick budget for blocks, at most: steps=4" in shown
    assert "quick budget for vectors of more than 1,000 numbers, at most: steps=5" in shown
    assert "tuned, rate: 0.0001 to 0.01 (usual)" in shown
    assert "tuned, widths: 3x4, 8 (two sizes)" in shown


@pytest.mark.parametrize("kind", KINDS)
def test_show_knows_whatever_list_lists(kind, cli):
    for name, cls in Registry().all(kind).items():
        done = cli("show", name)
        assert done.code == 0
        assert f"{kind} {name} (built-in" in done.out
        fields = getattr(getattr(cls, "Config", None), "model_fields", {})
        settings = [setting for setting, field in fields.items() if not field.exclude]
        assert all(re.search(rf"^  {setting} ", done.out, re.MULTILINE) for setting in settings)


def test_show_of_a_data_set_says_which_other_stands_in_for_it(cli):
    assert "  stands in where it has no bundle: celeba64-preview\n" in cli("show", "celeba64").out


def test_the_help_of_list_names_every_kind_that_it_lists(cli):
    said = " ".join(cli("list", "--help").out.split())
    assert all(f"{kind}s" in said for kind in KINDS)


def test_show_of_what_there_is_not_names_the_nearest(cli):
    done = cli("show", "evlap")
    assert done.code == 2
    assert "did you mean 'evalp'?" in done.err


@pytest.mark.parametrize("name", ["notes.md", "weights.bin", "mine"])
def test_a_plugin_that_is_no_python_file_is_one_line(name, cli, tmp_path):
    (tmp_path / name).write_bytes(b"\x00\x01not python")
    done = cli("list", "--plugin", tmp_path / name)
    assert done.code == 2
    assert "expected a Python file" in done.err
    assert done.err.count("\n") == 1
