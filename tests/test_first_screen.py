"""leaderboard.md: what is bold, what ranks, what a row is warned of."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from boards import CEILING, GAUSSIAN, Results, tables_of
from commands import ROOT

import benchmark
from benchmark.report.board import Board
from benchmark.report.first_screen import MOST
from benchmark.report.tables import make_tables

SPREAD = [-0.02, -0.01, 0.0, 0.01, 0.02]


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path / "results")


def rows(results, table=0):
    """label -> heading -> cell of a table of the first screen."""
    header, _, *body = tables_of(results.screen)[table]
    return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in body}


def scatter(mean, spread=1.0, turn=0):
    return [mean + spread * SPREAD[(index + turn) % 5] for index in range(5)]


def filled(results, **of):
    """Gap of 8: N(0, I) at 11, aggregate posterior at 2.5 or so."""
    results.references(**of)
    for label, mean in (("gmm", 3.0), ("ncp", 3.1), ("evalp", 5.0)):
        results.scores(label, scatter(mean, turn=len(label)), **of)


def test_the_best_and_what_is_shown_to_be_near_it_are_bold_and_a_noisy_row_is_not(results):
    filled(results)
    results.scores("drifting", scatter(3.2, 150, 2))  # its mean is third, its seeds lie anywhere from 0 to 6
    found = rows(results)
    closed = {label: cells["digits"] for label, cells in found.items()}
    assert closed["gmm"].startswith("**")
    assert closed["ncp"].startswith("**"), "0.1 of a gap of 8.5, for certain"
    assert closed["drifting"].endswith("≈")
    assert re.fullmatch(r"[\d.]+ ± [\d.]+", closed["evalp"]), "behind: no mark"
    assert re.search(r"`gmm` closes .*, the most; within 5 points: `ncp` \(-1\.\d\)", results.screen)
    noisy = r"; not told apart from it: `drifting` \(-2\.\d, ± \d+\.\d\); the other 1 are behind"
    assert re.search(noisy, results.screen)
    assert "**drifting" not in results.text


def test_cells_are_the_shares_that_load_results_gives(results):
    filled(results)
    frame = benchmark.load_results(results.folder)
    mean = frame[frame["metric"] == "fd"].groupby("row")["value"].mean()
    share = (mean["gaussian"] - mean["evalp"]) / (mean["gaussian"] - mean["aggregate_posterior"])
    assert rows(results)["evalp"]["digits"].startswith(f"{100 * share:.1f} ± ")


def test_a_bundle_without_a_hole_changes_no_rank_and_is_named_with_the_reason(results):
    for dataset, bundle in (("one", "1" * 16), ("two", "2" * 16)):
        filled(results, dataset=dataset, bundle=bundle)
    before = {label: cells["mean rank ↓"] for label, cells in rows(results).items() if cells["mean rank ↓"]}
    assert before == {"gmm": "1.0 [1.0, 1.0]", "ncp": "2.0 [2.0, 2.0]", "evalp": "3.0 [3.0, 3.0]"}
    flat = {"dataset": "flat", "bundle": "3" * 16}
    results.references(gaussian=GAUSSIAN, ceiling=GAUSSIAN[::-1], **flat)
    for label, mean in (("gmm", 9.0), ("ncp", 5.0), ("evalp", 1.0)):  # as if all were the other way round
        results.scores(label, scatter(mean), **flat)
    after = {label: cells["mean rank ↓"] for label, cells in rows(results).items() if cells["mean rank ↓"]}
    assert after == before
    why = "N(0, I) fits these latents already, so there is nothing to repair: no hole in FD"
    assert f"[flat-conv_vae-quick](boards/flat-conv_vae-quick.md): {why}" in results.screen


def test_two_seeds_of_a_backbone_share_a_column_and_only_the_first_takes_part_in_ranks(results):
    filled(results, dataset="one", bundle="1" * 16)
    filled(results, dataset="two", bundle="2" * 16)
    before = {label: cells["mean rank ↓"] for label, cells in rows(results).items()}
    again = {"dataset": "one", "bundle": "4" * 16, "backbone_seed": 1}
    results.references(**again)
    for label, mean in (("gmm", 9.0), ("ncp", 5.0), ("evalp", 1.0)):
        results.scores(label, scatter(mean), **again)
    found = rows(results)
    assert {label: cells["mean rank ↓"] for label, cells in found.items()} == before
    assert len(found["ncp"]["one"].split(";")) == 2
    assert len(found["ncp"]["two"].split(";")) == 1
    assert "(boards/one-conv_vae-seed1-quick.md)" in results.screen


def test_rows_of_another_device_stand_marked_and_untested(results):
    filled(results)
    results.references(device="cuda")
    results.scores("meanflow", scatter(2.0), device="cuda")
    found = rows(results)
    assert found["meanflow"]["digits"].endswith("†")
    assert found["gmm"]["digits"].startswith("**"), "the best of those that are tested with it"


def test_a_device_where_the_second_extractor_has_seen_nothing_leaves_the_first_its_place(results):
    """Latents are scored without an extractor, so those of the other device stand under both protocols."""
    filled(results)
    other = results.new_protocol(extractor={"name": "inception", "version": 1, "weights": "1" * 64}, score="FID-768")
    results.references(protocol=other)
    results.scores("gmm", scatter(3.0), protocol=other)
    for label in ("gaussian", "gmm"):
        results.add(label, "c2st", {"auc": 0.7}, device="cuda")
    results.references(device="cuda")
    results.scores("gmm", scatter(3.0), device="cuda")
    assert rows(results)["gmm"]["digits"].startswith("**")
    assert "FID-768, a second score of the same rows" in results.screen
    pages = sorted(path.name for path in (results.folder / "boards").glob("*digits*"))
    assert len([page for page in pages if page.endswith("-cuda.md")]) == 1, pages
    told = Board(results.folder).finish("b" * 16, other.hash)
    assert "FID-768, cuda" in told, "what was asked for is shown, whatever else holds it"


def test_other_settings_of_a_prior_stand_apart_and_take_part_in_no_rank(results):
    for dataset, bundle in (("one", "1" * 16), ("two", "2" * 16)):
        filled(results, dataset=dataset, bundle=bundle)
        results.scores("evalp[kl_weight=1]", scatter(2.6), dataset=dataset, bundle=bundle)
    assert "evalp[kl_weight=1]" not in rows(results)
    assert "mean rank ↓" not in rows(results, 1)["evalp[kl_weight=1]"]


def test_other_settings_with_few_seeds_stand_on_their_page_where_others_are_ranked(results):
    """The rows of an experiment are many, and are no entrants."""
    filled(results)
    results.scores("gmm[floor=0.1]", scatter(4.0))
    results.scores("gmm[floor=0.2]", scatter(4.0)[:3])
    assert list(rows(results, 1)) == ["gmm[floor=0.1]"]
    assert "; 1 more, of fewer than 5 seeds, stand on the pages" in results.screen
    assert "gmm[floor=0.2]" in results.text


def test_other_settings_with_few_seeds_are_shown_where_nothing_is_ranked(results):
    results.references()
    for label in ("gmm", "gmm[floor=0.2]"):
        results.scores(label, scatter(4.0)[:3])
    assert list(rows(results, 1)) == ["gmm[floor=0.2]"]


def test_a_data_set_with_a_deterministic_encoder_is_named_in_the_legend(results):
    filled(results, dataset="one", bundle="1" * 16)
    assert "Deterministic encoder" not in results.screen
    filled(results, dataset="two", bundle="2" * 16, deterministic=True)
    assert "Deterministic encoder (two): N(0, I), the 0 % line, was no part of its training" in results.screen


@pytest.mark.parametrize("auc, flagged", [(0.74, True), (0.55, False)])
def test_good_images_of_wrong_latents_are_flagged_in_the_row_and_explained_on_the_page(auc, flagged, results):
    filled(results)
    for seed in range(5):
        of = {"gaussian": 0.75, "aggregate_posterior": 0.5, "gmm": auc, "ncp": 0.52, "evalp": 0.75}
        for label, area in of.items():
            results.add(label, "c2st", {"c2st_auc": area + 0.001 * seed}, seed)
    found = rows(results)
    assert ("wrong latents (digits)" in found["gmm"].get("beware", "")) == flagged
    assert ("Note: good images, wrong latents: gmm closes" in results.text) == flagged
    assert "wrong latents: evalp" not in results.text, "its images are not good either"
    assert found["gmm"]["C2ST, worst ↓"] == f"{auc:.2f}"


@pytest.mark.parametrize("gap, error, flagged", [(3.0, 1.0, True), (3.0, 2.0, False), (-3.0, 0.1, False)])
def test_images_nearer_to_training_ones_than_chance_are_flagged(gap, error, flagged, results):
    filled(results)
    for seed in range(5):
        results.add("gmm", "fld", {"fld_gap": gap + SPREAD[seed], "fld_gap_error": error}, seed)
    assert ("images memorised (digits)" in rows(results)["gmm"].get("beware", "")) == flagged


def test_few_seeds_are_shown_without_a_ranking(results):
    results.references()
    results.scores("gmm", [3.0, 3.1, 3.2])
    assert "the most so far (fewer than 5 seeds: no ranking)" in results.screen
    assert not rows(results)["gmm"]["digits"].startswith("**")


def test_many_failures_leave_the_page_short(results):
    filled(results)
    for seed in range(40):
        results.add("broken", "fit", {"status": "failed", "reason": f"number {seed}"}, seed)
    shown = [line for line in results.screen.splitlines() if line.startswith("- Failed: ")]
    assert len(shown) == MOST + 1
    assert shown[-1] == "- Failed: 30 more, on the pages"
    assert results.text.count("Failed: broken") == 40


def test_a_page_of_a_table_that_has_another_name_now_is_removed_and_no_other_file(results):
    filled(results)
    _ = results.screen
    boards = results.folder / "boards"
    (boards / "notes.md").write_text("mine")
    (boards / "digits-conv_vae-quick.md").rename(boards / "old-name.md")
    _ = results.screen
    assert sorted(path.name for path in boards.iterdir()) == ["digits-conv_vae-quick.md", "notes.md"]


def test_names_of_pages_can_be_typed_and_are_all_different(results):
    filled(results)
    filled(results, bundle="d" * 16)
    filled(results, device="cuda")
    filled(results, backbone_seed=2, bundle="e" * 16)
    results.scores("gmm", [1.0], protocol=results.new_protocol(split="val"))
    results.scores("gmm", [1.0], protocol=results.new_protocol(generated=7))
    results.scores("gmm", [1.0], dataset="Mine [pad=2]", bundle="f" * 16)
    names = [table.page for table in make_tables(results.folder)[0]]
    assert len(set(names)) == len(names) == 7
    assert all(re.fullmatch(r"[\w.-]+", name, re.ASCII) for name in names)
    assert {"digits-conv_vae-quick-cuda", "digits-conv_vae-seed2-quick", "Mine_pad_2_-conv_vae-quick"} <= set(names)


def test_the_committed_first_screen_is_short_and_its_links_lead_somewhere():
    text = (ROOT / "results" / "leaderboard.md").read_text()
    assert len(text.splitlines()) <= 120
    links = re.findall(r"\]\(([^)#]+)", text)
    assert len(links) > 8
    assert [link for link in links if not (ROOT / "results" / link).is_file()] == []
    assert not re.search(r"[0-9a-f]{8}-", " ".join(Path(link).name for link in links)), "no hashes in names"
    assert max(CEILING) < min(GAUSSIAN)
