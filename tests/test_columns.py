"""Columns: what a metric declares stands in the tables, a stranger's too, and nothing that a fit says of itself."""

import re
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from boards import Results
from scipy import stats

from benchmark.jobs.task import _columns
from benchmark.metrics.api import Column
from benchmark.registry import Registry
from benchmark.report.columns import ORDER
from benchmark.report.frame import COLUMNS, results_frame
from benchmark.report.tables import make_tables

EXAMPLE = Path(__file__).with_name("plugin_metric.py")
NORM = {"value": "norm", "heading": "norm of latents", "group": "latents", "better": "lower"}


@pytest.fixture
def results(tmp_path):
    made = Results(tmp_path / "results")
    made.references()
    made.scores("evalp", [6.0, 7.0])
    return made


def measured(results, *values, name="norms", columns=None, label="evalp"):
    """A record of a stranger's metric for each of `values`, seed by seed."""
    declared = {} if columns is None else {"columns": columns}
    for seed, each in enumerate(values):
        results.add(label, name, {"status": "ok", "values": each, **declared}, seed)


@pytest.mark.parametrize("name", Registry().at_hand("metric"))
def test_a_built_in_declares_its_columns_in_groups_that_have_a_place(name, results):
    columns = Registry().get("metric", name).columns(results.protocol)
    assert columns is not None
    assert {column.group for column in columns if name not in ORDER[column.group]} == set()


def test_the_order_names_built_in_metrics_alone():
    assert {name for names in ORDER.values() for name in names} <= set(Registry().at_hand("metric"))


def test_a_plugin_metric_of_25_lines_stands_in_the_leaderboard_with_its_heading(small_bundle, tmp_path, cli):
    assert len(EXAMPLE.read_text().splitlines()) <= 25
    words = ["--bundle", small_bundle, "--priors", "gaussian", "--seeds", 2, "--metrics", "norm_gap"]
    done = cli("run", *words, "--device", "cpu", "--plugin", EXAMPLE, "--results", tmp_path / "results")
    assert done.code == 0, done.err
    page = tmp_path / "results" / "boards" / "small-conv_vae-quick.md"
    text = page.read_text()
    table = text.partition("Latents against held-out q_agg")[2].splitlines()[2:6]
    assert [cell.strip() for cell in table[0].split("|")] == ["", "prior", "norm gap ↓", ""]
    assert [line.split("|")[1].strip() for line in table[2:]] == ["*aggregate_posterior*", "*gaussian*"]
    assert all(re.search(r"\d ± \d", line) for line in table[2:])
    cli("leaderboard", "--results", tmp_path / "results")  # where no plugin is at hand
    assert page.read_text() == text


def test_a_metric_without_a_declaration_has_a_table_of_its_own_with_the_names_of_its_numbers(results):
    measured(results, {"norm": 1.0, "width": 3, "said": "so"}, {"norm": 2.0, "width": 3, "said": "no"})
    half = stats.t.interval(0.95, 1, 1.5, stats.sem([1, 2]))[1] - 1.5
    assert results.further("norms:") == {"evalp": {"norm": f"1.50 ± {half:.2f}", "width": "3.00 ± 0.00"}}


def test_a_declared_column_stands_in_its_group_after_the_built_in_ones(results):
    measured(results, {"norm": 1.0}, columns=[NORM])
    results.add("evalp", "cross_entropy", {"cross_entropy": 3.0})
    assert results.further("Latents against") == {
        "evalp": {"cross-entropy, nats ↓": "3.00", "norm of latents ↓": "1.00"}
    }
    assert results.further("norms:") is None


def test_a_column_in_the_main_table_stands_before_the_time_to_fit(results):
    measured(results, {"norm": 0.5}, columns=[NORM | {"group": "main", "unit": "nats", "scale": 2, "digits": 3}])
    header, _, row = results.tables()[0]
    assert header[-3:] == ["norm of latents, nats ↓", "fit, s", "seeds"]
    assert row[-3] == "1.000"


def test_a_group_of_its_own_is_a_table_of_that_name(results):
    measured(results, {"norm": 1.0}, columns=[NORM | {"group": "Norms, apart"}])
    assert results.further("Norms, apart:") == {"evalp": {"norm of latents ↓": "1.00"}}


def test_the_newest_declaration_counts(results):
    measured(results, {"norm": 1.0}, columns=[NORM])
    results.add(
        "gaussian", "norms", {"status": "ok", "values": {"norm": 2.0}, "columns": [NORM | {"heading": "length"}]}
    )
    assert results.further("Latents against")["evalp"] == {"length ↓": "1.00"}


@pytest.mark.parametrize(
    "shows, values, cell",
    [
        ("median", [1.0, 2.0], "2"),
        ("count", [12345, 12345], "12,345"),
        ("mean", ["a", "b"], None),
        ("median", ["a", "b"], None),
        ("count", [[1], [1]], None),
        ("gap", ["a", "b"], None),
        ("time", [1.0, 2.0], None),  # no quartiles
        ("spread", [1.0, 2.0], None),  # not drawn again
    ],
)
def test_what_cannot_be_shown_so_is_blank(shows, values, cell, results):
    measured(results, *({"norm": value} for value in values), columns=[NORM | {"shows": shows, "better": None}])
    found = results.further("Latents against")
    assert found == (None if cell is None else {"evalp": {"norm of latents": cell}})


@pytest.mark.parametrize(
    "declared",
    [
        "norm",
        [1],
        ["norm"],
        [{"value": "norm"}],
        [NORM | {"shows": "pie"}],
        [NORM | {"better": "up"}],
        [NORM | {"scale": "large"}],
        [NORM | {"digits": -3}],
        [NORM | {"heading": None}],
        {"value": "norm"},
        None,
    ],
    ids=str,
)
def test_a_declaration_that_cannot_be_read_falls_back_to_names(declared, results):
    results.add("evalp", "norms", {"status": "ok", "values": {"norm": 1.0}, "columns": declared})
    assert results.further("norms:") == {"evalp": {"norm": "1.00"}}


@pytest.mark.parametrize("values", [[1e308] * 3, [10**400, 1], [1e-320, 0.0]], ids=["huge", "no float", "tiny"])
@pytest.mark.parametrize("scale", [1, 1e300])
def test_numbers_of_any_size_break_nothing(values, scale, results):
    measured(results, *({"norm": value} for value in values), columns=[NORM | {"scale": scale}])
    assert "**" not in results.text
    assert results.line("evalp")["mean"] == 6.5


@pytest.mark.parametrize("text", ["a|b", "a\nb", "a\r\n\n| b", "|", "\n"])
@pytest.mark.parametrize("of", ["heading", "unit", "group", "name"])
def test_text_of_a_plugin_breaks_no_table(of, text, results):
    plain = results.text.splitlines()
    columns = None if of == "name" else [NORM | {of: text}]
    measured(results, {text if of == "name" else "norm": 1.0}, columns=columns)
    lines = results.text.splitlines()
    added = [line for line in lines if line not in plain and line.startswith("|")]
    assert len(added) == 3  # a header, a rule and a row
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in added} == {3}


TOLD = {"fd": 0.01, "kid": 0.01, "cross_entropy": 0.01, "gap_closed": 0.99, "parameters": 1, "png": "no picture"}
TOLD |= {"mmd_imq_redraws": "none", "fd_redraws": "none", "mmd_imq": 0.1, "norm": 0.1, "prior_seconds_1000": 0.1}


def test_what_a_fit_says_of_itself_changes_no_cell(tmp_path):
    texts = []
    for number, told in enumerate(({}, TOLD)):
        made = Results(tmp_path / str(number))
        made.references()
        for seed in range(2):
            made.add("evalp", "fit", {"fit_seconds": 1.0, **told}, seed)
        made.add("evalp", "c2st", {"c2st_auc": 0.7})
        made.add("gaussian", "norms", {"norm": 1.0})
        made.add("gaussian", "redraws", {"fd_redraws": [9.0, 9.1]})
        texts.append(made.text)
    assert texts[0] == texts[1]


def test_what_a_fit_says_is_in_the_csv_as_the_fit_s(results):
    results.add("evalp", "fit", {"fit_seconds": 1.0, "fd": 0.01})
    board = results.board()
    board = board[board["metric"] != "gap_closed"]
    of_evalp = board[board["prior"] == "evalp"].set_index(["metric", "source"])["mean"].to_dict()
    assert of_evalp == {("FD digit-cnn", "fd"): 6.5, ("fd", "fit"): 0.01, ("fit_seconds", "fit"): 1.0}
    assert "0.01" not in re.sub("## .*", "", results.text)


def test_two_metrics_that_return_one_name_keep_their_values(results):
    measured(results, {"fd": 1.0}, name="mine")
    measured(results, {"fd": 2.0}, name="yours")
    board = results.board()
    board = board[board["metric"] != "gap_closed"]
    means = board[board["prior"] == "evalp"].set_index("source")["mean"].to_dict()
    assert means == {"fd": 6.5, "mine": 1.0, "yours": 2.0}
    assert results.further("mine:") == {"evalp": {"fd": "1.00"}}
    assert results.tables()[0][2][1].startswith("6.50")


def test_a_metric_whose_columns_raise_keeps_its_values(capsys):
    class Broken:
        name = "broken"

        @classmethod
        def columns(cls, protocol):
            raise KeyError("no such field")

    work = SimpleNamespace(registry=SimpleNamespace(origin=lambda cls: "broken.py"), protocol=None)
    assert _columns(Broken(), work) == {}
    assert "metric broken: its columns cannot be read (KeyError" in capsys.readouterr().err


@pytest.mark.parametrize("origin, expected", [("mine.py", [Column("a", "A", "main")]), ("built-in", None)])
def test_a_stranger_s_columns_are_written_down_and_a_built_in_s_are_not(origin, expected):
    metric = type(
        "Mine", (), {"name": "mine", "columns": classmethod(lambda cls, protocol: [Column("a", "A", "main")])}
    )
    work = SimpleNamespace(registry=SimpleNamespace(origin=lambda cls: origin), protocol=None)
    found = _columns(metric(), work).get("columns")
    assert (found and [Column(**each) for each in found]) == expected


# The frame


def test_the_frame_has_a_line_a_number_of_the_configuration_in_force(results):
    results.scores("ncp", [9.0], code="old")
    results.scores("ncp", [3.0], code="new")
    results.add("evalp", "fit", {"fit_seconds": 1.5, "fd": 0.01, "runaway": "the bound rose"})
    results.add("evalp", "samples", {"png": "abc"}, reads=("split",))
    frame = results_frame(results.folder)
    assert list(frame.columns) == COLUMNS
    assert frame["value"].dtype == float
    found = frame[frame["row"].isin(["evalp", "ncp"])].set_index(["row", "seed", "source", "metric"])["value"].to_dict()
    assert found == {
        ("evalp", 0, "fd", "fd"): 6.0,
        ("evalp", 1, "fd", "fd"): 7.0,
        ("evalp", 0, "fit", "fd"): 0.01,
        ("evalp", 0, "fit", "fit_seconds"): 1.5,
        ("ncp", 0, "fd", "fd"): 3.0,
    }
    assert set(frame["protocol"]) == {results.protocol.hash[:16]}
    assert set(frame["score"]) == {"FD digit-cnn"}


def test_a_value_that_two_protocols_share_has_a_line_for_each(results):
    other = results.new_protocol(score="FID", extractor={"name": "inception", "version": 1, "weights": "1" * 64})
    results.scores("evalp", [60.0], protocol=other)
    results.add("evalp", "mmd", {"mmd_imq": 0.5})
    frame = results_frame(results.folder)
    shared = frame[frame["metric"] == "mmd_imq"]
    assert sorted(shared["score"]) == ["FD digit-cnn", "FID"]


def test_the_frame_agrees_with_the_csv(results):
    results.add("evalp", "cross_entropy", {"cross_entropy": 3.0, "rate": 1.0})
    board = results.board()
    means = results_frame(results.folder).groupby(["row", "source", "metric"])["value"].mean()
    csv = board[board["metric"] != "gap_closed"].replace({"metric": {"FD digit-cnn": "fd"}})
    pd.testing.assert_series_equal(
        csv.set_index(["prior", "source", "metric"])["mean"].sort_index(), means, check_names=False
    )


def test_no_results_are_an_empty_frame(tmp_path):
    frame = results_frame(tmp_path)
    assert frame.empty
    assert list(frame.columns) == COLUMNS
    assert make_tables(tmp_path) == ([], [], [])
