"""What the leaderboard concludes: differences to the best, other backbone seeds, ranks over bundles, and pictures."""

import json
import random
import re
import subprocess
import sys

import matplotlib
import pytest
from boards import CEILING, GAUSSIAN, Results, draw_pictures, tables_of
from PIL import Image
from scipy import stats

from benchmark.metrics.api import IMAGE_SETTINGS
from benchmark.report import pareto
from benchmark.report.pictures import DRAWN_FROM
from benchmark.report.published import CLAIMS, FIGURES
from benchmark.report.tables import make_tables
from benchmark.store.sealed import write_sealed

NOISE = [0.1, -0.1, 0.06, -0.05, 0.02]


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path / "results")


def around(mean, turn=0):
    return [mean + NOISE[(seed + turn) % 5] for seed in range(5)]


def test_the_table_of_differences_is_paired_and_agrees_with_what_is_bold(results):
    results.references()
    rows = {"ncp": around(3.0), "evalp": around(3.05, 1), "mcmc_ebm": around(4.0, 2), "latent_flow": around(9.0, 3)}
    for label, values in rows.items():
        results.scores(label, values)
    cells = results.further("FD digit-cnn above that of ncp (t-tests paired by seed")
    assert list(cells) == ["evalp", "mcmc_ebm", "latent_flow"]
    raw = {label: stats.ttest_rel(rows[label], rows["ncp"]) for label in cells}
    assert cells["evalp"]["p, Holm"] == f"{raw['evalp'].pvalue:.3g}"
    assert cells["latent_flow"]["p, Holm"] == "< 0.001"
    low, high = raw["evalp"].confidence_interval(0.95)  # the last step of Holm's
    assert cells["evalp"]["interval"] == f"[{low:.4f}, {high:.4f}]"
    assert float(cells["mcmc_ebm"]["FD digit-cnn above the best"]) == pytest.approx(1.0)
    bold = {row[0].strip("*") for row in results.tables()[0][2:] if row[0].startswith("**")}
    assert bold == {"ncp", "evalp"}
    assert "t-tests paired by seed, Holm's correction" in results.text


def test_rows_of_other_seeds_are_compared_by_welch(results):
    results.scores("ncp", around(3.0))
    results.scores("evalp", [*around(4.0), 4.0])
    assert results.further("FD digit-cnn above that of ncp (Welch's t-tests") is not None
    assert "paired by seed" not in results.text


def test_a_table_that_does_not_rank_shows_no_differences(results):
    results.scores("ncp", around(3.0))
    results.scores("evalp", around(4.0)[:4])
    assert results.further("FD digit-cnn above") is None


def test_conclusions_name_the_backbone_and_the_order_on_another_seed_of_it(results):
    orders = [("ncp", "evalp", "mcmc_ebm", "latent_flow"), ("evalp", "ncp", "mcmc_ebm", "latent_flow")]
    for seed, order in enumerate(orders):
        for rank, label in enumerate(order):
            results.scores(label, around(3.0 + rank, rank), bundle="bd"[seed] * 16, backbone_seed=seed)
    first, second = results.sections()
    assert f"holds for this one backbone (bundle `{'b' * 16}`)" in first
    assert f"Backbone seed 1 (bundle `{'d' * 16}`) orders them evalp, ncp, mcmc_ebm, latent_flow: " in first
    assert "between the two orders of 4 priors is 0.67." in first, "5 of 6 pairs agree: (5 - 1) / 6"
    assert f"Backbone seed 0 (bundle `{'b' * 16}`) orders them ncp, evalp" in second


@pytest.mark.parametrize("other", [{"backbone": "nvae"}, {"dataset": "mnist"}, {"device": "cuda"}, {"split": "val"}])
def test_only_another_seed_of_the_same_setting_stands_beside(other, results):
    change = {"protocol": results.new_protocol(split="val")} if "split" in other else other
    for more in ({}, {"bundle": "d" * 16, "backbone_seed": 1, **change}):
        for rank, label in enumerate(("ncp", "evalp")):
            results.scores(label, around(3.0 + rank), **more)
    assert "Backbone seed 1" not in results.text
    assert "Kendall" not in results.text


def bundles(results, orders, **more):
    """A ranking table a bundle, with priors in these orders."""
    for number, order in enumerate(orders):
        of = {"bundle": f"{number:016}", "dataset": f"set{number}", **more}
        results.references([20 + each for each in GAUSSIAN], [each - 2 for each in CEILING], **of)
        for rank, label in enumerate(order):
            results.scores(label, around(3.0 + rank, rank), **of)


def test_average_ranks_over_bundles_by_hand(results):
    bundles(results, ["abc", "abc", "bacd"])  # d is not in all of them
    page = results.across
    assert "On these 3 data sets (set0, set1, set2), not beyond them" in page
    ranks, chances = tables_of(page)
    assert [row[:2] for row in ranks[2:]] == [["a", "1.33"], ["b", "1.67"], ["c", "3.00"]]
    assert chances[2:] == [["a", "", "0.67", "1.00"], ["b", "0.33", "", "1.00"], ["c", "0.00", "0.00", ""]]
    p = stats.friedmanchisquare([1, 1, 2], [2, 2, 1], [3, 3, 3]).pvalue
    assert f"Friedman's test of all ranking alike: p = {p:.3g}:" in page


def test_two_bundles_have_ranks_and_no_test(results):
    bundles(results, ["abc", "acb"])
    assert "too few data sets or priors for a test" in results.across
    assert "Friedman" not in results.across


def test_one_bundle_val_tables_and_tables_that_do_not_rank_are_not_averaged(results):
    bundles(results, ["abc"])
    results.scores("a", around(9.0), bundle="e" * 16, protocol=results.new_protocol(split="val"))
    results.scores("b", around(8.0), bundle="e" * 16, protocol=results.new_protocol(split="val"))
    for label in "ab":
        results.scores(label, around(9.0)[:4], bundle="f" * 16)
        results.scores(label, around(9.0), bundle="d" * 16, protocol=results.new_protocol(preset="rae", budget="full"))
        results.scores(label, around(9.0), bundle="c" * 16, device="cuda")
    assert results.across == ""
    assert "mean rank" not in results.screen


INCEPTION = {"name": "inception", "version": 1, "weights": "1" * 64}


def test_a_bundle_with_two_extractors_counts_once_by_the_one_that_scored_it_first(results):
    bundles(results, ["ab", "ab"])
    bundles(results, ["ba"], protocol=results.new_protocol(extractor=INCEPTION, score="FID"))
    bundles(results, ["ab", "ab"])  # nor does it matter which was looked at last
    assert [row[:2] for row in tables_of(results.across)[0][2:]] == [["a", "1.00"], ["b", "2.00"]]
    assert "set0-conv_vae-quick-inception.md): FID, a second score of the same rows" in results.screen


def test_of_an_extractor_s_versions_the_newest_counts(results):
    bundles(results, ["ab", "ab"])
    newer = {"name": "digit-cnn", "version": 2, "weights": "2" * 64}
    bundles(results, ["ba"], protocol=results.new_protocol(extractor=newer))
    assert [row[:2] for row in tables_of(results.across)[0][2:]] == [["a", "1.50"], ["b", "1.50"]]


def test_a_second_extractor_has_a_table_of_its_own_after_the_first_s_and_each_says_how_the_other_orders(results):
    inception = results.new_protocol(extractor=INCEPTION, score="FID", features=2048)
    for protocol, order in (
        (results.protocol, ("ncp", "evalp", "mcmc_ebm")),
        (inception, ("evalp", "ncp", "mcmc_ebm")),
    ):
        for rank, label in enumerate(order):
            results.scores(label, around(3.0 + rank, rank), protocol=protocol)
    second, first = results.sections()
    assert first.startswith("digits, conv_vae seed 0, test split, quick protocol, FD digit-cnn\n")
    assert second.startswith("digits, conv_vae seed 0, test split, quick protocol, FID\n")
    assert "FID orders them evalp, ncp, mcmc_ebm: Kendall's τ between the two orders of 3 priors is 0.33." in first
    assert "FD digit-cnn orders them ncp, evalp, mcmc_ebm: Kendall's τ" in second


def timed(results, label, seconds, seeds=5):
    for seed in range(seeds):
        values = {"prior_seconds_1000": seconds, "prior_seconds_1000_quartiles": [0.9 * seconds, 1.2 * seconds]}
        machine = {"device": "some", "threads": 1, "dtype": "float32"}
        results.add(label, "sampling_time", values, seed, machine=machine, reads=("timing_batches",))


def board(results, references=True):
    if references:
        results.references()
        timed(results, "gaussian", 1e-5)
    for label, score, seconds in (("ncp", 2.6, 20.0), ("evalp", 4.0, 0.002), ("evalp[kl_weight=1]", 8.0, 0.003)):
        results.scores(label, around(score))
        timed(results, label, seconds)
    results.scores("untimed", around(3.0))
    ((table,), *_) = make_tables(results.folder)
    return table, results.folder / "pareto" / f"{table.page}.png"


def test_points_are_gap_closed_and_milliseconds_as_the_table_has_them(results):
    table, _ = board(results)
    found = {point.label: point for point in pareto.make_points(table)}
    assert list(found) == ["gaussian", "evalp", "evalp[kl_weight=1]", "ncp"], "by time; untimed rows are no points"
    assert found["evalp"].time == pytest.approx((2.0, 1.8, 2.4))
    expected = [100 * part for part in table.gap_closed(table.rows["evalp"])[0]]
    assert found["evalp"].quality == pytest.approx(tuple(expected))
    assert found["gaussian"].reference
    assert found["gaussian"].quality[0] == pytest.approx(0, abs=1e-9)


def test_points_are_fd_where_there_is_no_gap_and_one_seed_has_no_interval(results):
    results.scores("ncp", [3.0])
    timed(results, "ncp", 1.0, 1)
    ((table,), *_) = make_tables(results.folder)
    assert [point.quality for point in pareto.make_points(table)] == [(3.0, None, None)]
    draw_pictures(results.folder)
    assert Image.open(results.folder / pareto.pareto_file(table)).format == "PNG"


def test_without_a_timed_prior_there_is_no_picture_and_no_link(results):
    results.references()
    timed(results, "gaussian", 1e-5)
    results.scores("ncp", around(3.0))
    draw_pictures(results.folder)
    assert not (results.folder / "pareto").exists()
    assert "(pareto/" not in results.text


@pytest.mark.parametrize("references", [True, False], ids=["gap closed", "fd"])
def test_the_picture_is_a_png_linked_and_the_same_bytes_each_time(references, results):
    _, path = board(results, references)
    draw_pictures(results.folder)
    first = path.read_bytes()
    assert Image.open(path).format == "PNG"
    assert Image.open(path).size == (960, 600)
    assert set(Image.open(path).info) == {"dpi", DRAWN_FROM}, "no version, no date"
    assert f"(../pareto/{path.name})" in results.text
    path.unlink()
    draw_pictures(results.folder)
    assert path.read_bytes() == first


def test_a_picture_is_drawn_again_where_its_points_changed_or_it_is_damaged_and_only_there(results, monkeypatch):
    _, path = board(results)
    draw_pictures(results.folder)
    first, drawn = path.read_bytes(), []
    original = pareto._figure
    monkeypatch.setattr(pareto, "_figure", lambda *words: drawn.append(1) or original(*words))
    draw_pictures(results.folder)
    assert not drawn
    path.write_bytes(b"no picture")
    draw_pictures(results.folder)
    assert len(drawn) == 1
    assert path.read_bytes() == first
    timed(results, "untimed", 0.5)
    draw_pictures(results.folder)
    assert len(drawn) == 2
    assert path.read_bytes() != first


def test_pictures_of_ours_go_with_their_page_and_others_stay(results):
    _, path = board(results)
    draw_pictures(results.folder)
    (page,) = (results.folder / "boards").glob("*.md")
    page.with_name("gone.md").write_text(page.read_text())
    for folder in ("pareto", "samples"):
        (results.folder / folder).mkdir(exist_ok=True)
        for name in ("gone.png", "a copy of mine.png"):
            (results.folder / folder / name).write_bytes(path.read_bytes())
    theirs = page.with_name("theirs.md")
    theirs.write_text("Notes")
    Image.new("RGB", (8, 8)).save(results.folder / "samples" / "theirs.png")
    results.board()
    assert sorted(of.name for of in path.parent.iterdir()) == sorted(["a copy of mine.png", path.name])
    assert sorted(of.name for of in (results.folder / "samples").iterdir()) == ["a copy of mine.png", "theirs.png"]
    assert sorted(of.name for of in page.parent.iterdir()) == sorted([page.name, theirs.name])


def test_drawing_leaves_matplotlib_as_it_was(results):
    import matplotlib.pyplot as plt

    board(results)
    before, backend = dict(matplotlib.rcParams), matplotlib.rcParams._get("backend")
    draw_pictures(results.folder)
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.rcParams._get("backend") == backend
    assert plt.get_fignums() == []


@pytest.mark.parametrize("module", ["benchmark.report.board", "benchmark.cli.app", "benchmark.coordinator"])
def test_importing_the_commands_imports_no_plotting(module):
    plotting = {"matplotlib.pyplot", "matplotlib.figure", "seaborn"}
    code = f"import sys, {module}; sys.exit(bool({plotting} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("seed", range(30))
def test_the_front_is_what_no_other_point_beats(seed):
    """Against a double loop; coarse values, so that there are ties and equal points."""
    source = random.Random(seed)
    points = [(source.randint(0, 9), source.randint(0, 9)) for _ in range(15)]

    def beaten(time, quality):
        return any(t <= time and q >= quality and (t, q) != (time, quality) for t, q in points)

    expected = [index for index, point in enumerate(points) if not beaten(*point)]
    found = pareto.find_front(*map(list, zip(*points)))
    assert sorted(found) == expected
    assert [points[index][0] for index in found] == sorted(points[index][0] for index in found)


def test_every_point_is_named_within_the_picture(results):
    table, _ = board(results)
    figure = pareto._figure(pareto.make_points(table), True, "title", ["x", "y"])
    (axes,) = figure.axes
    texts = [text for text in axes.texts if text.get_text()]
    assert {text.get_text() for text in texts} == {"gaussian", "evalp", "evalp[kl_weight=1]", "ncp"}
    boxes = [text.get_window_extent() for text in texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
    assert all(axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 for box in boxes)
    assert axes.get_xscale() == "log"
    assert re.search("front", axes.get_legend().get_texts()[0].get_text())


# Spread, time, what is left out


def test_the_spread_of_draws_stands_beside_that_of_seeds(results):
    """Standard deviations by hand: seeds 9.5, 10, 10.5; one fit 9.5 (its first draw) and 9.4, 9.9."""
    results.scores("evalp", [9.5, 10.0, 10.5])
    assert results.further("Standard deviations") is None, "nothing was drawn again"
    results.add("evalp", "redraws", {"fd_redraws": [9.4, 9.9], "mmd_imq_redraws": [0.001, 0.003]}, 0)
    for seed, value in enumerate((0.002, 0.004, 0.009)):
        results.add("evalp", "mmd", {"mmd_imq": value}, seed)
    (cells,) = results.further("Standard deviations").values()
    assert cells == {
        "FD digit-cnn, over seeds": "0.500",
        "FD digit-cnn, one fit": "0.265",
        "MMD² imq ×10³, over seeds": "3.61",
        "MMD² imq ×10³, one fit": "1.00",
    }
    assert not results.board()["metric"].str.contains("redraws").any(), "draws of one fit are no seeds"


def test_times_and_memory_stand_apart_at_every_batch(results):
    machine = {"device": "some", "threads": 1, "dtype": "float32"}
    results.scores("evalp", [9.5])
    values = {}
    for batch, seconds in ((1, 0.001), (100, 0.002), (1000, 0.004)):
        for what, times in (("prior", seconds), ("decode", 10 * seconds)):
            values |= {f"{what}_seconds_{batch}": times, f"{what}_seconds_{batch}_quartiles": [times, times]}
    values |= {"prior_peak_bytes_1000": 2_500_000, "decode_peak_bytes_1000": 81_000_000}
    results.add("evalp", "sampling_time", values, machine=machine, reads=("timing_batches",))
    (cells,) = results.further("Time and memory").values()
    assert cells == {
        "latents, ms / 1": "1 [1, 1]",
        "latents, ms / 100": "2 [2, 2]",
        "latents, ms / 1,000": "4 [4, 4]",
        "decoding, ms / 1": "10 [10, 10]",
        "decoding, ms / 100": "20 [20, 20]",
        "decoding, ms / 1,000": "40 [40, 40]",
        "latents, peak MB / 1,000": "2.50",
        "decoding, peak MB / 1,000": "81.0",
    }


def test_extraction_is_a_fact_of_the_table(results):
    machine = {"device": "some", "threads": 1, "dtype": "float32"}
    results.references()
    assert "features of" not in results.text
    for seed, seconds in enumerate((0.5, 0.7)):
        values = {"extraction_seconds": seconds, "extraction_images": 100}
        results.add("aggregate_posterior", "extraction_time", values, seed, machine=machine, reads=("extractor",))
    assert "time (some, 1 threads, float32): " in results.text
    assert "features of 100 images: 600 ms" in results.text


def test_records_that_no_protocol_covers_are_counted_and_named(results):
    results.references()
    assert "Left out" not in results.screen
    for seed in range(3):
        results.add("evalp", "fd", {"fd": 1.0}, seed, protocol=results.new_protocol(generated=7), reads=IMAGE_SETTINGS)
    forgotten = results.folder / "protocols" / ("b" * 16) / f"{results.new_protocol(generated=7).hash[:16]}.json"
    forgotten.unlink()
    says = f"Left out: 3 records of digits conv_vae (bundle {'b' * 16}), measured under settings that no protocol"
    assert f"{says} here has: fd 3" in results.screen


def test_a_protocol_of_another_version_is_left_out_in_one_line(results):
    results.references()
    path = next((results.folder / "protocols").glob("*/*.json"))
    content = {name: value for name, value in json.loads(path.read_text()).items() if name not in ("seal", "preset")}
    write_sealed(path, content)
    assert (
        f"Left out: {path}: preset: field required (of another version of the suite? then it can be deleted)\n"
        in results.screen
    )


def test_a_protocol_that_a_bundle_cannot_fill_says_so(results):
    results.references(protocol=results.new_protocol(generated=1500))
    assert "(the protocol's 2,000 are more than this bundle has posteriors for)" in results.text
    results.references(protocol=results.new_protocol(generated=2000), bundle="d" * 16)
    assert results.text.count("more than this bundle") == 1


# Parity with published numbers


def parity(results):
    """The page's tables: a list of rows, each of them header -> cell."""
    results.board()
    text = (results.folder / "parity.md").read_text()
    groups = [group.splitlines() for group in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)]
    cells = [[[cell.strip() for cell in line.strip("|").split("|")] for line in group] for group in groups]
    return [[dict(zip(table[0], row, strict=True)) for row in table[2:]] for table in cells]


MEASURED = {"gaussian", "ncp", "evalp", "latent_flow"}  # in what follows


def on_mnist(results, **more):
    """Five seeds, ncp the best, evalp no better than the Gaussian, of which its MMD is not told apart."""
    shared = dict(dataset="mnist", protocol=results.new_protocol(preset="rae")) | more
    results.references(**shared)
    results.scores("ncp", around(3.0), **shared)
    results.scores("evalp", around(9.0, 1), **shared)
    results.scores("latent_flow", around(9.5, 2), **shared)
    for label, of in (("evalp", around(0.3)), ("gaussian", around(0.3, 1))):
        for seed, value in enumerate(of):
            results.add(label, "mmd", {"mmd_imq": value}, seed, **shared)


def test_no_published_figure_is_left_out_of_the_parity_page(results):
    on_mnist(results)
    figures, claims = parity(results)
    shown = [(row["data set"], row["method"], row["published"]) for row in figures]
    assert shown == [(figure.dataset, figure.method, figure.value) for figure in FIGURES]
    for row, figure in zip(figures, FIGURES):
        assert row["its protocol"]
        assert row["its backbone"]
        assert figure.source in row["source (read in)"]
        if figure.prior is None:
            assert row["here"] == "no such prior here"
        elif figure.dataset == "mnist" and figure.prior in MEASURED:
            assert row["here"].startswith("FD digit-cnn 11.0 ± ")
            assert "500 images against 500 of test" in row["what differs"]
        else:
            assert row["here"] == "not measured"
    assert len(claims) == sum(len(claim.datasets) for claim in CLAIMS)


def test_a_method_that_was_not_measured_is_named_once_however_many_tables_its_data_set_has(results):
    on_mnist(results)
    on_mnist(results, protocol=results.new_protocol(preset="rae", extractor=INCEPTION, score="FID"))
    figures, _ = parity(results)
    named = [row["method"] for row in figures if row["data set"] == "mnist"]
    absent = [figure.method for figure in FIGURES if figure.dataset == "mnist" and figure.prior not in MEASURED]
    present = [figure.method for figure in FIGURES if figure.dataset == "mnist" and figure.prior in MEASURED]
    assert absent
    assert present
    assert sorted(named) == sorted(absent + 2 * present)


def test_claims_are_held_against_paired_differences(results):
    on_mnist(results)
    rows = {(row["claim"], row["table"]): row for row in parity(results)[1]}
    held = {claim: row for (claim, table), row in rows.items() if table.startswith("mnist, conv_vae seed 0")}
    assert held["`evalp` lower than `ncp` in FD"]["here"] == "fails"
    assert held["`evalp` lower than `latent_flow` in FD"]["here"] == "holds"
    assert held["`evalp` lower than `gaussian` in MMD² imq"]["here"] == "not told apart"
    assert held["`evalp` lower than `mcmc_ebm` in time of 1,000 latents"]["here"] == "not measured"
    low, high = stats.ttest_rel(around(9.0, 1), around(3.0)).confidence_interval(0.95)
    assert held["`evalp` lower than `ncp` in FD"]["first above second"] == f"6 [{low:.3g}, {high:.3g}]"


def test_a_claim_of_images_is_held_against_each_score_and_one_of_latents_once(results):
    on_mnist(results)
    inception = results.new_protocol(preset="rae", extractor=INCEPTION, score="FID")
    shared = dict(dataset="mnist", protocol=inception)
    results.references(**shared)
    results.scores("ncp", around(4.0), **shared)
    results.scores("evalp", around(3.0, 1), **shared)
    of_mnist = [row for row in parity(results)[1] if row["table"].startswith("mnist, ")]
    images = [row["here"] for row in of_mnist if row["claim"] == "`evalp` lower than `ncp` in FD"]
    latents = [row["here"] for row in of_mnist if row["claim"] == "`evalp` lower than `gaussian` in MMD² imq"]
    assert (images, latents) == (["fails", "holds"], ["not told apart"])


def test_a_claim_of_likeness_fails_where_rows_are_told_apart(results):
    of = {"dataset": "celeba64"}
    on_mnist(results, **of)
    for shift, verdict in ((0.0, "not told apart"), (1.0, "they differ")):
        label = "evalp[kl_weight=1]"
        results.scores(label, around(9.0 + shift, 3), protocol=results.new_protocol(preset="rae"), code=verdict, **of)
        found = [row for row in parity(results)[1] if "about as" in row["claim"]]
        assert [row["here"] for row in found] == [verdict]


def test_few_seeds_tell_no_claim(results):
    shared = dict(dataset="cifar10", protocol=results.new_protocol(preset="rae"))
    results.references(**shared)
    results.scores("evalp", [3.0, 3.1], **shared)
    results.scores("ncp", [4.0, 4.3], **shared)
    found = [row["here"] for row in parity(results)[1] if row["claim"] == "`evalp` lower than `ncp` in FD"]
    assert found == ["not measured", "lower, 2 seeds alone", "not measured"]


def test_the_preview_stands_in_for_celeba_and_says_so_and_other_data_has_no_page(results):
    results.references()
    results.scores("evalp", around(3.0))
    results.board()
    assert not (results.folder / "parity.md").exists()
    on_mnist(results, dataset="celeba64-preview", bundle="e" * 16)
    of_celeba = [
        row["here"] for row in parity(results)[0] if row["data set"] == "celeba64" and row["method"] == "NCP-VAE"
    ]
    assert len(of_celeba) == 1
    assert "(celeba64-preview, conv_vae seed 0 (bundle `eeeeeeee`), FD digit-cnn, cpu)" in of_celeba[0]
    assert (
        "`evalp`, `ncp` and `mcmc_ebm` run settings chosen by this suite" in (results.folder / "parity.md").read_text()
    )


def test_a_figure_of_50000_against_train_stands_beside_the_table_that_is_so_made(results):
    shared = dict(dataset="cifar10", protocol=results.new_protocol(preset="rae"))
    results.references(**shared)
    results.scores("ncp", around(3.0), **shared)
    against_train = results.new_protocol(preset="nvae", reference_split="train", generated=400)
    results.references(**shared | {"protocol": against_train})
    results.scores("ncp", around(7.0), **shared | {"protocol": against_train})
    here = {
        (row["method"], row["its protocol"][:11]): row["here"]
        for row in parity(results)[0]
        if row["data set"] == "cifar10"
    }
    assert here["NCP-VAE", "FID, 50,000"].startswith("FD digit-cnn 7.0")
    assert here["NCP-VAE", "FID, counts"].startswith("FD digit-cnn 3.0")
