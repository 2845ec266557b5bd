"""report.html says what the markdown pages say, in one file that asks nobody for anything."""

import os
import re
from urllib.parse import unquote_to_bytes

import pytest
from boards import Results, tables_of
from html_reader import Reader
from PIL import Image

from benchmark.report.html.page import report_html
from benchmark.report.tables import make_tables

HOSTILE = "x<script>alert(1)[a=1]"


@pytest.fixture
def results(tmp_path):
    results = Results(tmp_path / "results")
    results.references()
    for label, mean in (("gmm", 3.0), ("evalp", 5.0), (HOSTILE, 6.0)):
        results.scores(label, [mean + 0.1 * seed for seed in range(5)])
        for seed in range(5):
            times = {"prior_seconds_1000": mean / 1_000, "prior_seconds_1000_quartiles": [0.001, 0.008]}
            machine = {"device": "cpu", "threads": 1, "dtype": "float32"}
            results.add(label, "sampling_time", times, seed, machine=machine)
            results.add(label, "c2st", {"c2st_auc": 0.5 + mean / 100 + seed / 1_000}, seed)
    log = [{"step": step, "nll": 3.0 / step, HOSTILE: 1.0, "held_out_nll": 4.0 / step} for step in (1, 2, 3)]
    for label in ("gmm", HOSTILE):
        kept = {"status": "ok", "values": {"fit_seconds": 1.0, "best_step": 2}, "parameters": 1, "log": log}
        results.add(label, "fit", kept)
    results.add("evalp[steps=1]", "fit", {"status": "failed", "reason": "<img src=http://x.y/z>"})
    results.scores("gmm", [1.0], protocol=results.new_protocol(split="val"))
    return results


def test_it_is_one_file_that_asks_for_nothing_and_whose_links_lead_somewhere(results):
    text = report_html(results.folder)
    page = Reader(text)
    assert page.open == []
    assert all(asked.startswith("data:") for asked in page.asked)
    assert not re.search(r"@import|url\((?!['\"]?(data:|#))|fetch\(|XMLHttpRequest", text)
    assert page.links
    assert page.links <= page.ids
    assert page.tags.count("script") == 1
    assert page.tags.count("caption") == page.tags.count("table")
    assert len(text) < 8e6


def test_its_first_table_is_that_of_the_first_screen(results):
    first = Reader(report_html(results.folder)).tables[0]
    markdown = tables_of(results.screen)[0]
    expected = [[cell.replace("*", "") for cell in row] for row in (markdown[0], *markdown[2:])]
    assert first == expected
    assert [row[0] for row in first] == ["prior", "gmm", "evalp", "FD: N(0, I) → aggregate posterior"]


def test_words_of_strangers_are_text(results):
    text = report_html(results.folder)
    page = Reader(text)
    assert any(HOSTILE in row[0] for table in page.tables for row in table)
    assert "<script>alert" not in text
    assert "<img src=http" not in text
    assert "&lt;img src=http" in text, "the reason of a failure"


def test_quality_can_be_looked_at_by_each_score_that_rows_have(results):
    text = report_html(results.folder)
    assert re.findall(r'<figure data-score="([^"]*)"', text) == ["FD digit-cnn", "C2ST"]
    assert "<title>gmm: " in text


def test_learning_curves_stand_beside_the_table_and_are_told_to_those_who_hear_them(results):
    text = report_html(results.folder)
    (described,) = re.findall(r"<desc>(gmm: held_out_nll[^<]*)</desc>", text)
    assert described.startswith("gmm: held_out_nll of 1 seeds ends at 1.33, kept at step 2; ")
    assert "No views of latents and interpolations, for want of draws in this machine&#39;s cache." in text


def test_figures_for_papers_are_png_and_pdf_and_their_bytes_repeat(results, tmp_path):
    made = {}
    for name in ("one", "two"):
        report_html(results.folder, tmp_path / name)
        made[name] = {path.name: path.read_bytes() for path in sorted((tmp_path / name).iterdir())}
    assert made["one"] == made["two"]
    names = ("pareto-digits-conv_vae-quick-fd", "pareto-digits-conv_vae-quick-c2st_auc", "curves-digits-conv_vae-quick")
    assert set(made["one"]) == {f"{name}.{kind}" for name in names for kind in ("png", "pdf")}
    assert Image.open(tmp_path / "one" / "pareto-digits-conv_vae-quick-fd.png").width == 1600


@pytest.mark.parametrize("name", ["results", "a b&c", "\udcff"], ids=["plain", "spaced", "undecodable"])
@pytest.mark.parametrize("out", ["{}/report.html", "{}/r/mine.html", "elsewhere/mine.html"])
def test_a_sample_grid_is_found_from_wherever_the_report_lies(out, name, results, tmp_path, cli):
    (on_val,) = [table for table in make_tables(results.folder)[0] if table.protocol.split == "val"]
    grid = tmp_path / name / "samples" / f"{on_val.page}.png"
    results.folder.rename(tmp_path / name)
    grid.parent.mkdir()
    Image.new("RGB", (8, 8)).save(grid)
    path = tmp_path / out.format(name)
    assert cli("report", "--results", tmp_path / name, "--out", path).code == 0
    (link,) = re.findall(r'<a href="([^"]*)">Samples', path.read_text())
    assert (path.parent / os.fsdecode(unquote_to_bytes(link))).resolve() == grid.resolve()


def test_the_command_says_where_it_lies(results, cli):
    done = cli("report", "--results", results.folder, "--out", results.folder / "r" / "mine.html")
    assert done.code == 0, done.err
    assert "mine.html (0." in done.err
    assert (results.folder / "r" / "mine.html").read_text() == report_html(results.folder)
    assert cli("report", "--results", results.folder / "none").code == 2
