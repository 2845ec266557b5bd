"""Tables from records alone: means and intervals, the gap closed, and what is never put side by side."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from boards import CEILING, GAUSSIAN, Results, draw_pictures, tables_of
from scipy import stats

from benchmark.cli.app import main
from benchmark.metrics.samples import as_png
from benchmark.report import board, sample_grids
from benchmark.report.board import Board
from benchmark.report.tables import make_tables
from benchmark.store.sealed import read_sealed

COLUMNS = [
    "dataset",
    "backbone",
    "backbone_seed",
    "bundle",
    "prior",
    "reference",
    "protocol",
    "device",
    "metric",
    "source",
    "mean",
    "low",
    "high",
    "seeds",
]


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path / "results")


def test_the_tidy_csv_has_the_promised_columns_and_a_line_a_number(results):
    results.references()
    results.scores("evalp", [6.0, 7.0])
    board = results.board()
    assert list(board.columns) == COLUMNS
    assert not board.duplicated(["bundle", "protocol", "device", "prior", "metric"]).any()
    line = results.line("evalp")
    assert list(line[:5]) == ["digits", "conv_vae", 0, "b" * 16, "evalp"]
    assert (line["protocol"], line["device"]) == (results.protocol.hash[:16], "cpu")
    references = board.groupby("prior")["reference"].unique().map(list).to_dict()
    assert references == {"evalp": [False], "gaussian": [True], "aggregate_posterior": [True]}


@pytest.mark.parametrize("values", [[3.0, 4.0], [1.0, 2.5, 9.0, 4.0], [5.0, 5.0, 5.0], GAUSSIAN])
def test_means_and_intervals_over_seeds_are_student_s(values, results):
    results.scores("evalp", values)
    line = results.line("evalp")
    mean, error = pd.Series(values).mean(), stats.sem(values)
    expected = stats.t.interval(0.95, len(values) - 1, mean, error) if error else (mean, mean)
    assert (line["mean"], line["low"], line["high"]) == pytest.approx((mean, *expected), rel=1e-7)
    assert line["seeds"] == len(values)
    digits = 2 - math.floor(math.log10(mean))  # three significant ones
    assert f"{mean:.{digits}f} ± {(expected[1] - expected[0]) / 2:.{digits}f}" in results.text


def test_one_seed_has_a_mean_and_no_interval(results):
    results.scores("evalp", [3.25])
    line = results.line("evalp")
    assert line["mean"] == 3.25
    assert math.isnan(line["low"])
    assert math.isnan(line["high"])
    assert line["seeds"] == 1
    assert "±" not in results.tables()[0][2][1]


def test_the_gap_closed_is_the_share_between_gaussian_and_aggregate_posterior(results):
    results.references()
    results.scores("evalp", [g - 0.4 * (g - c) for g, c in zip(GAUSSIAN, CEILING)])
    results.scores("evalp[steps=9]", [c - 1 for c in CEILING])
    line = results.line("evalp", "gap_closed")
    assert (line["mean"], line["low"], line["high"]) == pytest.approx((0.4, 0.4, 0.4), abs=1e-9)
    assert results.line("evalp[steps=9]", "gap_closed")["mean"] > 1  # the ceiling may be passed
    assert results.line("gaussian", "gap_closed")["mean"] == pytest.approx(0, abs=1e-12)
    assert results.line("aggregate_posterior", "gap_closed")["mean"] == pytest.approx(1)
    header, _, *rows = results.tables()[0]
    cells = {row[0].strip("*"): row[header.index("gap closed ↑")] for row in rows}
    assert cells["evalp"] == "40.0 ± 0.0 %"


def test_the_gap_closed_is_over_the_seeds_that_all_three_have(results):
    results.references(gaussian=[10.0, 12.0, 11.0])
    prior = [6.0, 7.5, 6.5, 100.0, 100.0]
    results.scores("evalp", prior)
    line = results.line("evalp", "gap_closed")
    assert line["mean"] == pytest.approx((33.0 - 20.0) / (33.0 - 7.5))
    assert line["seeds"] == 3


@pytest.mark.parametrize(
    "gaussian, ceiling",
    [
        ([5.0, 3.0, 4.0], [4.0, 4.5, 3.5]),  # no gap to speak of
        ([2.0, 2.1, 1.9], [4.0, 4.1, 3.9]),  # the Gaussian is the better one: nothing to close
        ([2.0], [4.0]),
        ([10.0, 12.0], []),  # no ceiling
    ],
)
def test_the_gap_closed_is_blank_where_there_is_no_gap_to_close(gaussian, ceiling, results):
    results.references(gaussian, ceiling)
    results.scores("evalp", [6.0] * len(gaussian))
    assert "gap_closed" not in set(results.board()["metric"])
    header, _, row = results.tables()[0]
    assert row[header.index("gap closed ↑")] == ""


def test_reference_rows_stand_apart_from_the_ranking(results):
    results.references()
    results.scores("reconstruction", [1.0] * 5)
    results.scores("evalp", [6.0] * 5)
    results.scores("evalp[steps=9]", [5.0] * 5)
    ranked, apart, *_ = results.tables()
    assert [row[0].strip("*") for row in ranked[2:]] == ["evalp[steps=9]", "evalp"]  # best first
    assert [row[0].strip("*") for row in apart[2:]] == ["aggregate_posterior", "gaussian", "reconstruction"]
    board = results.board()
    assert set(board[board["reference"]]["prior"]) == {"aggregate_posterior", "gaussian", "reconstruction"}


def test_two_seeds_of_a_backbone_are_two_tables_that_name_them(results):
    for bundle, seed in (("b" * 16, {}), ("d" * 16, {"backbone_seed": 1})):
        results.references(bundle=bundle, **seed)
    assert [section.partition(",")[2][:16] for section in results.sections()] == [
        " conv_vae seed 0",
        " conv_vae seed 1",
    ]
    assert results.board().groupby("bundle")["backbone_seed"].unique().explode().tolist() == [0, 1]


@pytest.mark.parametrize(
    "other",
    [{"bundle": "d" * 16}, {"dataset": "mnist"}, {"backbone": "nvae"}, {"device": "cuda"}],
    ids=lambda other: next(iter(other)),
)
def test_rows_of_two_bundles_or_devices_are_never_in_one_table(other, results):
    for more in ({}, other):
        results.references(**more)
        results.scores("evalp", [6.0, 7.0] if not more else [60.0, 70.0], **more)
    assert len(results.sections()) == 2
    board = results.board()
    scores = board[(board["prior"] == "evalp") & (board["metric"] == "FD digit-cnn")]
    assert sorted(scores["mean"]) == [6.5, 65.0]
    assert scores[next(iter(other))].nunique() == 2
    assert {len(table) - 2 for table in results.tables()} == {1, 2}


@pytest.mark.parametrize(
    "change",
    [
        {"generated": 400},
        {"split": "val"},
        {"budget": "full"},
        {"reference_split": "train"},
        {"extractor": {"name": "inception", "version": 1, "weights": "1" * 64}, "score": "FID"},
    ],
    ids=lambda change: ",".join(change),
)
def test_rows_of_two_protocols_are_never_in_one_table(change, results):
    other = results.new_protocol(**change)
    results.references()
    results.scores("evalp", [6.0, 7.0])
    results.references(gaussian=[30.0, 31.0], ceiling=[20.0, 20.5], protocol=other)
    results.scores("evalp", [26.0, 27.0], protocol=other)
    board = results.board()
    assert len(results.sections()) == 2
    scores = board[(board["prior"] == "evalp") & board["metric"].isin(["FD digit-cnn", "FID"])]
    assert scores.set_index("protocol")["mean"].to_dict() == {results.protocol.hash[:16]: 6.5, other.hash[:16]: 26.5}
    for section, protocol in ((s, p) for s in results.sections() for p in (results.protocol, other)):
        assert (protocol.hash[:16] in section) == (("26.5" in section) == (protocol is other))


def test_a_fit_that_this_protocol_never_scored_is_no_row_of_its_table(results):
    """Settings chosen on val leave no blank rows in the test table, and do not keep it from ranking."""
    val = results.new_protocol(split="val")
    results.references()
    results.add("evalp[steps=9]", "fit", {"fit_seconds": 1.0}, protocol=val)
    results.scores("evalp[steps=9]", [5.0], protocol=val)
    for seed in range(5):
        results.add("evalp", "fit", {"fit_seconds": 1.0}, seed)
    results.scores("evalp", [6.0, 6.1, 6.2, 6.3, 6.4])
    section = next(s for s in results.sections() if "test split" in s)
    assert "evalp[steps=9]" not in section
    assert "does not rank" not in section
    assert "**evalp**" in section
    board = results.board()
    assert list(board[board["prior"] == "evalp[steps=9]"]["protocol"].unique()) == [val.hash[:16]]


def test_an_older_configuration_of_a_label_is_left_out_and_said_so(results):
    results.scores("evalp", [100.0, 101.0, 102.0], code="old")
    results.scores("evalp", [6.0, 7.0], code="new")
    line = results.line("evalp")
    assert line["mean"] == 6.5
    assert line["seeds"] == 2
    assert "Left out: an older evalp" in results.text
    assert "Left out" not in Results(results.folder.parent / "other").text


def test_a_failure_of_an_older_configuration_is_not_told_of_the_new_one(results):
    results.references()
    results.add("evalp", "fit", {"status": "failed", "reason": "ValueError: old"}, code="old")
    assert "ValueError: old" in results.text
    results.scores("evalp", [6.0], code="new")
    assert "ValueError: old" not in results.text


def test_timings_of_two_machines_are_not_averaged(results):
    one, two = ({"device": name, "threads": 1, "dtype": "float32"} for name in ("slow", "fast"))
    results.references(GAUSSIAN[:2], CEILING[:2])
    for seed, (machine, seconds) in enumerate([(one, 8.0), (two, 2.0), (two, 2.0)]):
        values = {"prior_seconds_1000": seconds, "prior_seconds_1000_quartiles": [seconds, seconds]}
        reads = ("timing_batches", "timing_repeats", "timing_seconds")
        results.add("evalp", "sampling_time", values, seed, machine=machine, reads=reads)
    results.scores("evalp", [6.0, 7.0, 8.0])
    line = results.line("evalp", "prior_seconds_1000")
    assert line["mean"] == 2.0
    assert line["seeds"] == 2
    assert results.line("evalp")["seeds"] == 3  # scores are of no machine
    assert re.search("Left out: sampling_time on another machine, of evalp", results.text)


def test_a_row_that_is_timed_elsewhere_later_takes_no_other_row_s_time_away(results):
    one, two = ({"device": name, "threads": 1, "dtype": "float32"} for name in ("slow", "fast"))
    results.references(GAUSSIAN[:2], CEILING[:2])
    reads = ("timing_batches", "timing_repeats", "timing_seconds")
    timed = [("evalp", 0, one), ("evalp", 1, one), ("ncp", 0, one), ("ncp", 0, two), ("latent_flow", 0, two)]
    for label, seed, machine in timed:
        seconds = 8.0 if machine is one else 2.0
        values = {"prior_seconds_1000": seconds, "prior_seconds_1000_quartiles": [seconds, seconds]}
        results.add(label, "sampling_time", values, seed, machine=machine, reads=reads)
    for label in ("evalp", "ncp", "latent_flow"):
        results.scores(label, [6.0, 7.0])
    assert results.line("evalp", "prior_seconds_1000")["mean"] == 8.0
    assert results.line("ncp", "prior_seconds_1000")["mean"] == 8.0
    assert "Left out: sampling_time on another machine, of latent_flow, ncp." in results.text


def test_times_to_fit_on_two_machines_are_not_averaged(results):
    results.scores("evalp", [6.0, 7.0, 8.0])
    for seed, (threads, seconds) in enumerate([(1, 90.0), (2, 30.0), (2, 40.0)]):
        results.add("evalp", "fit", {"fit_seconds": seconds}, seed, threads=threads)
    line = results.line("evalp", "fit_seconds")
    assert line["mean"] == 35.0
    assert line["seeds"] == 2
    assert results.line("evalp")["seeds"] == 3
    assert re.search("Left out: times to fit on another machine, of evalp", results.text)
    assert re.search("time.*; fits on .*, 2 threads", results.text)


def test_the_seeds_of_a_row_are_those_of_its_score(results):
    results.references(GAUSSIAN[:2], CEILING[:2])
    results.scores("evalp", [6.0, 7.0])
    for seed in range(5):
        results.add("evalp", "mmd", {"mmd_imq": 0.1}, seed)
    ranked, _ = results.tables()[:2]
    assert ranked[0][-1] == "seeds"
    assert [row[-1] for row in ranked[2:]] == ["2"]


def test_timings_of_the_same_seed_on_two_machines_keep_the_newest_machine(results):
    machines = [{"device": name, "threads": 1, "dtype": "float32"} for name in ("slow", "fast")]
    for machine, seconds in zip(machines, (8.0, 2.0)):
        for label in ("gaussian", "evalp"):
            reads = ("timing_batches", "timing_repeats", "timing_seconds")
            values = {"prior_seconds_1000": seconds, "prior_seconds_1000_quartiles": [seconds, seconds]}
            results.add(label, "sampling_time", values, machine=machine, reads=reads)
    results.scores("gaussian", [3.0])
    results.scores("evalp", [2.0])
    for label in ("gaussian", "evalp"):
        assert results.line(label, "prior_seconds_1000")["mean"] == 2.0


def test_a_protocol_makes_a_table_of_the_bundles_that_ran_under_it_alone(results):
    """The sample strips of reference rows read no count, so another data set's full run would claim them."""
    other = results.new_protocol(generated=10_000, preparation="other images")
    results.references()
    results.add("aggregate_posterior", "samples", {"png": ""}, reads=("split", "rounding"))
    results.references(protocol=other, bundle="d" * 16, dataset="mnist")
    assert [(table.dataset, table.protocol.hash) for table in make_tables(results.folder)[0]] == [
        ("digits", results.protocol.hash),
        ("mnist", other.hash),
    ]


def test_a_timing_alone_makes_no_row(results):
    """Timings read nothing of the split, so those of the test table must not open blank rows in that of val."""
    results.scores("gaussian", [3.0])
    values = {"prior_seconds_1000": 1.0, "prior_seconds_1000_quartiles": [1.0, 1.0]}
    machine = {"device": "some", "threads": 1, "dtype": "float32"}
    results.add("evalp", "sampling_time", values, machine=machine, reads=("timing_batches",))
    assert set(results.board()["prior"]) == {"gaussian"}


@pytest.mark.parametrize("fit", [{"fit_seconds": 1.0}, {"status": "failed", "reason": "no"}], ids=["fitted", "failed"])
def test_timings_and_fits_alone_make_no_table(fit, results):
    """A protocol that was noted by a run which has scored nothing yet."""
    values = {"prior_seconds_1000": 1.0, "prior_seconds_1000_quartiles": [1.0, 1.0]}
    machine = {"device": "some", "threads": 1, "dtype": "float32"}
    results.add("gaussian", "sampling_time", values, machine=machine, reads=("timing_batches",))
    results.add("evalp", "fit", fit)
    assert results.board().empty
    assert results.sections() == []


@pytest.mark.parametrize("seeds, ranks", [(4, False), (5, True)])
def test_a_table_ranks_from_five_seeds_on(seeds, ranks, results):
    results.references()
    noise = [0.1, -0.1, 0.05, -0.05, 0.0][:seeds]
    results.scores("evalp", [5.0 + e for e in noise])
    results.scores("evalp[steps=8]", [5.01 - e for e in noise])
    results.scores("evalp[steps=9]", [9.0 + e for e in noise])
    text, ranked = results.text, results.tables()[0]
    shown = [row[0] for row in ranked[2:]]
    if ranks:
        assert shown == ["**evalp**", "**evalp[steps=8]**", "evalp[steps=9]"]
        assert "does not rank" not in text
    else:
        assert shown == ["evalp", "evalp[steps=8]", "evalp[steps=9]"]
        assert "Fewer than 5 seeds" in text
        assert "does not rank" in text


def test_the_page_says_how_probably_a_seed_of_one_prior_beats_one_of_another(results):
    results.references()
    results.scores("gmm", [1.0, 2.0, 3.0, 4.0, 5.0])
    results.scores("ncp", [2.0, 2.5, 3.5, 8.0, 9.0])
    results.scores("evalp", [10.0, 11.0, 12.0, 13.0, 14.0])
    results.scores("evalp[kl_weight=1]", [1.0, 1.1, 1.2, 1.3, 1.4])
    results.scores("few", [1.0, 2.0])
    found = results.further("The probability that a seed of the row has a lower FD digit-cnn")
    assert found == {
        "gmm": {"gmm": "", "ncp": "0.66", "evalp": "1.00"},  # 16 of 25 pairs, and a tie
        "ncp": {"gmm": "0.34", "ncp": "", "evalp": "1.00"},
        "evalp": {"gmm": "0.00", "ncp": "0.00", "evalp": ""},
    }


def test_one_prior_alone_beats_none(results):
    results.references()
    results.scores("gmm", [1.0, 2.0, 3.0, 4.0, 5.0])
    results.scores("few", [1.0, 2.0])
    assert results.further("The probability that a seed") is None


def test_a_row_with_few_seeds_stands_last_and_keeps_no_other_from_being_ranked(results):
    results.references()
    for label, values in [("evalp", CEILING), ("evalp[steps=8]", [value + 9 for value in CEILING])]:
        results.scores(label, values)
    alone = results.tables()
    results.scores("evalp[steps=9]", [1.0, 1.0])
    ranked, _, above = results.tables()[:3]
    assert [row[0] for row in ranked[2:]] == ["**evalp**", "evalp[steps=8]", "evalp[steps=9]"]
    assert above == alone[2]
    assert above[0][1].endswith("above the best")
    assert "does not rank" not in results.text
    assert "Fewer than 5 seeds, so last and not ranked: evalp[steps=9]." in results.text


def test_failures_are_listed_with_their_reason(results):
    results.references()
    results.add("evalp", "fit", {"status": "diverged", "reason": "upper not finite after 500 energy steps"}, seed=2)
    results.add("evalp", "fd", {"status": "failed", "reason": "BadSample: 3 of 500 samples are not finite"}, seed=3)
    results.add("evalp", "mmd", {"status": "failed", "reason": "BadSample: 3 of 500 samples are not finite"}, seed=3)
    results.scores("evalp", [6.0, 7.0])
    text = results.text
    assert "Failed: evalp seed 2: fit diverged: upper not finite after 500 energy steps" in text
    assert "Failed: evalp seed 3: fd, mmd failed: BadSample: 3 of 500 samples are not finite" in text
    line = results.line("evalp")
    assert line["mean"] == 6.5
    assert line["seeds"] == 2


@pytest.mark.parametrize("kind", ["fit", "fd"])
def test_a_prior_that_failed_with_every_seed_does_not_keep_the_others_from_ranking(kind, results):
    results.references()
    results.scores("evalp", [5.0, 5.1, 4.9, 5.2, 4.8])
    for seed in range(5):
        results.add("evalp[steps=9]", kind, {"status": "failed", "reason": "ValueError: no"}, seed)
    assert "**evalp**" in results.text
    assert "does not rank" not in results.text
    assert results.text.count("Failed: evalp[steps=9]") == 5


def test_the_table_says_under_which_settings_it_was_made(results):
    results.references()
    results.scores("evalp", [6.0])
    text = results.text
    for part in ("b" * 16, results.protocol.hash[:16], "500 generated images against 500 test images", "8-bit"):
        assert part in text
    assert "padded" in text
    assert "quick protocol" in text
    assert "quick budget" in text
    assert "FD digit-cnn" in text
    assert "python -m benchmark run" in text
    assert f"torch {torch.__version__.split('+')[0]}" in text
    assert "c" * 10 in text


IMAGE_VALUES = {"precision": 0.75, "recall": 0.5, "density": 1.25, "coverage": 0.875}
LATENT_VALUES = {f"latent_{name}": value / 2 for name, value in IMAGE_VALUES.items()}


def test_further_tables_are_shown_where_some_row_has_what_they_show(results):
    results.references()
    results.scores("evalp", [6.0, 7.0])
    results.add("evalp", "mmd", {"mmd_imq": 0.25, "mmd_imq_p": 0.5})
    assert results.further("Images beside FD digit-cnn") is None
    assert results.further("Latents against") is None
    assert len(results.tables()) == 2
    main = results.tables()

    for seed, value in enumerate((0.012, 0.014)):
        results.add("evalp", "kid", {"kid": value}, seed)
    assert set(results.further("Images beside FD digit-cnn")) == {"evalp"}
    assert results.further("Latents against") is None
    results.add("gaussian", "neighbours", IMAGE_VALUES)
    results.add("reconstruction", "memorisation", {"memorisation": 0.5})
    images = results.further("Images beside FD digit-cnn: 500 generated against 500 test images")
    assert list(images) == ["evalp", "*gaussian*", "*reconstruction*"]
    half = stats.t.interval(0.95, 1, 13, stats.sem([12, 14]))[1] - 13
    assert images["evalp"]["KID ×10³ ↓"] == f"13.0 ± {half:.1f}"
    assert [images["*gaussian*"][f"{name} ↑"] for name in IMAGE_VALUES] == ["0.750", "0.500", "1.25", "0.875"]
    assert images["*gaussian*"]["KID ×10³ ↓"] == ""
    assert images["*reconstruction*"]["memorisation (½)"] == "0.500"
    assert "FD digit-cnn at ∞ ↓" not in images["evalp"], "a column that nobody has is not shown"

    assert "gap closed in KID ↑" not in images["evalp"], "there is no gap without both of its ends"
    for seed in range(2):
        results.add("gaussian", "kid", {"kid": 0.02 + 0.001 * seed}, seed)
        results.add("aggregate_posterior", "kid", {"kid": 0.004 + 0.001 * seed}, seed)
    images = results.further("Images beside FD digit-cnn")
    gained, gap = 0.0205 - 0.013, 0.016
    assert images["evalp"]["gap closed in KID ↑"].split(" ± ")[0] == f"{100 * gained / gap:.1f}"
    assert images["*gaussian*"]["gap closed in KID ↑"].startswith("0.0")

    results.add("evalp", "fd_infinity", {"fd_infinity": 0.25})
    results.add("evalp", "latent_neighbours", LATENT_VALUES)
    results.add("evalp", "cross_entropy", {"cross_entropy": 1234.5678})
    assert results.further("Images beside FD digit-cnn")["evalp"]["FD digit-cnn at ∞ ↓"] == "0.250"
    latents = results.further("Latents against held-out q_agg: 500 against as many draws")
    assert list(latents) == ["evalp"]
    assert [latents["evalp"][f"{name} ↑"] for name in IMAGE_VALUES] == ["0.375", "0.250", "0.625", "0.438"]
    assert latents["evalp"]["cross-entropy, nats ↓"] == "1234.57"
    assert "PCA" not in " ".join(latents["evalp"])
    assert [table[0] for table in results.tables()[:2]] == [table[0] for table in main], "the main table stays narrow"


def test_what_spatial_latents_have_on_principal_axes_has_columns_of_its_own(results):
    results.references()
    results.add("gaussian", "c2st", {"c2st_auc": 0.75, "c2st_auc_pca64": 0.625})
    results.add("gaussian", "mmd_pca64", {"mmd_imq_pca64": 0.002, "mmd_imq_pca64_p": 0.5})
    cells = results.further("Latents against")["*gaussian*"]
    assert cells == {"C2ST AUC ↓": "0.750", "PCA-64: MMD² imq ×10³ ↓": "2.00", "PCA-64: C2ST AUC ↓": "0.625"}


def test_every_value_of_a_metric_is_in_the_csv_and_one_without_values_harms_nothing(results):
    results.references()
    results.add("gaussian", "latent_neighbours", LATENT_VALUES)
    results.add("gaussian", "fd_infinity", {})
    assert results.line("gaussian", "latent_density")["mean"] == 0.625
    assert "fd_infinity" not in set(results.board()["metric"])


def test_the_order_of_the_csv_does_not_depend_on_the_order_of_the_records(tmp_path):
    boards = []
    for number, order in enumerate((["gaussian", "evalp", "zeta"], ["zeta", "evalp", "gaussian"])):
        made = Results(tmp_path / str(number))
        for label in order:
            made.scores(label, {"gaussian": GAUSSIAN, "evalp": CEILING, "zeta": [5.0, 6.0]}[label])
        made.board()
        boards.append((made.folder / "leaderboard.csv").read_text())
    assert boards[0] == boards[1]


def call(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code, capsys.readouterr().err


def filled(results):
    results.references()
    results.scores("evalp", [6.0] * 5)
    for tone, label in enumerate(("evalp", "gaussian", "aggregate_posterior", "reconstruction")):
        images = torch.full((12, 1, 8, 8), 50 * tone, dtype=torch.uint8)
        results.add(label, "samples", {"png": as_png(images)}, reads=("split", "grid_columns", "rounding"))
    return results


def outputs(folder):
    return {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*.*") if path.suffix != ".json"}


def test_the_command_rebuilds_all_from_records(results, monkeypatch, capsys):
    filled(results)
    command = ("leaderboard", "--results", results.folder)
    assert call(monkeypatch, capsys, *command)[0] == 0
    made = outputs(results.folder)
    assert {path.suffix for path in made} == {".md", ".csv", ".png"}
    assert len(made) == 4
    for path in made:
        (results.folder / path).unlink()
    assert call(monkeypatch, capsys, *command)[0] == 0
    assert outputs(results.folder) == made
    picture = next(path.name for path in made if path.suffix == ".png")
    assert f"(../samples/{picture})" in results.text


@pytest.mark.parametrize("what", ["records", "protocols"])
def test_a_damaged_file_is_left_out_named_and_an_exit_code(what, results, monkeypatch, capsys):
    filled(results)
    path = next((results.folder / what).rglob("fd-*.json" if what == "records" else "*.json"))
    lost = read_sealed(path)
    path.write_text(path.read_text()[:-40])
    code, told = call(monkeypatch, capsys, "leaderboard", "--results", results.folder)
    assert code == 1
    assert str(path) in told
    assert "Traceback" not in told
    assert str(path) in (results.folder / "leaderboard.md").read_text()
    board = pd.read_csv(results.folder / "leaderboard.csv")
    if what == "records":
        seeds = board[(board["prior"] == lost["row"]["label"]) & (board["metric"] == "FD digit-cnn")]["seeds"]
        assert list(seeds) == [4]
    else:
        assert board.empty
        assert list(board.columns) == COLUMNS


def test_no_records_here_is_one_line(tmp_path, monkeypatch, capsys):
    code, told = call(monkeypatch, capsys, "leaderboard", "--results", tmp_path)
    assert code == 2
    assert told.count("\n") == 1
    assert str(tmp_path) in told


def test_an_empty_results_folder_has_an_empty_leaderboard(results):
    assert results.board().empty
    assert results.damaged == []
    assert make_tables(results.folder) == ([], [], [])


# Rewriting while records come in


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still; a rewriting takes two seconds of it."""
    now, write = SimpleNamespace(seconds=100.0), board.make_tables

    def takes_two_seconds(*given):
        now.seconds += 2
        return write(*given)

    monkeypatch.setattr(board.time, "monotonic", lambda: now.seconds)
    monkeypatch.setattr(board, "make_tables", takes_two_seconds)
    return now


def test_a_refresh_waits_until_rewriting_takes_a_twentieth_of_the_time(results, clock):
    shown, text = Board(results.folder), results.folder / "boards" / "digits-conv_vae-quick.md"
    results.scores("evalp", [6.0])
    shown.refresh()
    first = text.read_text()
    results.scores("ncp", [7.0])
    clock.seconds += 37
    shown.refresh()
    assert text.read_text() == first
    clock.seconds += 1.5
    shown.refresh()
    assert "ncp" in text.read_text()


def test_an_interrupted_run_writes_whatever_the_time(results, clock):
    shown = Board(results.folder)
    shown.refresh()
    results.scores("evalp", [6.0])
    assert shown.write() == []
    assert "evalp" in (results.folder / "boards" / "digits-conv_vae-quick.md").read_text()


def test_the_end_of_a_run_reads_once_for_tables_pictures_and_text(results, monkeypatch):
    filled(results)
    expected, calls, read = results.text, [], board.make_tables
    monkeypatch.setattr(board, "make_tables", lambda *given: calls.append(1) or read(*given))
    text = Board(results.folder).finish("b" * 16, results.protocol.hash)
    assert len(calls) == 1
    assert tables_of(text)[0][2][0].strip("*") == "evalp"
    assert all(line in expected for line in text.splitlines() if line.startswith("- "))
    assert list((results.folder / "samples").glob("*.png"))
    assert Board(results.folder).finish("d" * 16, results.protocol.hash) == ""


def test_a_grid_is_drawn_again_only_where_its_strips_changed_or_it_is_damaged(results, monkeypatch):
    filled(results)
    draw_pictures(results.folder)
    (path,) = (results.folder / "samples").glob("*.png")
    drawn, first, draw = [], path.read_bytes(), sample_grids._draw
    monkeypatch.setattr(sample_grids, "_draw", lambda *given: drawn.append(1) or draw(*given))
    draw_pictures(results.folder)
    assert drawn == []
    path.write_bytes(first[:100])
    draw_pictures(results.folder)
    assert len(drawn) == 1
    assert path.read_bytes() == first
    results.add("ncp", "samples", {"png": as_png(torch.zeros(12, 1, 8, 8, dtype=torch.uint8))}, reads=("split",))
    draw_pictures(results.folder)
    assert len(drawn) == 2
