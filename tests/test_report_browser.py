"""report.html in a real browser: nothing is asked for, everything works by mouse and keyboard, and it fits a phone."""

import shutil

import numpy as np
import pytest
import torch
from boards import Results
from draws import normal

from benchmark.bundles.find import all_bundles
from benchmark.metrics.samples import as_png
from benchmark.report.draws import Draws
from benchmark.report.html.page import report_html

pytestmark = pytest.mark.browser
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LABELS = {"gmm": 3.0, "ncp": 4.0, "evalp": 5.0, "a<b>|`x`[y=1]": 6.0}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    results = Results(tmp_path_factory.mktemp("report") / "results")
    generator = np.random.default_rng(0)
    for dataset, bundle in (("one", "1" * 16), ("two", "2" * 16)):
        of = {"dataset": dataset, "bundle": bundle}
        results.references(**of)
        for label, mean in LABELS.items():
            results.scores(label, [mean + 0.1 * generator.standard_normal() for _ in range(5)], **of)
            for seed in range(5):
                seconds = mean / 1_000
                times = {"prior_seconds_1000": seconds, "prior_seconds_1000_quartiles": [seconds, seconds]}
                results.add(
                    label, "sampling_time", times, seed, machine={"device": "x", "threads": 1, "dtype": "y"}, **of
                )
                log = [{"step": step, "nll": mean / step, "held_out_nll": mean / step + 1} for step in (100, 200, 300)]
                fit = {"status": "ok", "values": {"best_step": 200}, "parameters": 1, "log": log}
                results.add(label, "fit", fit, seed, **of)
            images = torch.from_numpy(generator.integers(0, 255, (12, 1, 8, 8), dtype=np.uint8))
            results.add(label, "samples", {"png": as_png(images)}, **of)
    path = results.folder / "report.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmark.report.html.page.find_draws", lambda table: made_up_draws())
        path.write_text(report_html(results.folder))
    return path


def made_up_draws():
    """Of two rows, those of the others being missing."""
    drawn = {label: normal(200, 16, seed) for seed, label in enumerate(("gmm", "a<b>|`x`[y=1]"), 1)}
    return Draws(all_bundles()[0]["digits-conv_vae"], normal(200, 16, 0), drawn, ["ncp", "evalp"])


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium here (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(params=[(1280, "light"), (1280, "dark"), (390, "light")], ids=["light", "dark", "phone"])
def page(browser, report, request):
    width, scheme = request.param
    opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened.troubles, opened.asked = [], []
    opened.on("console", lambda message: opened.troubles.append(message.text))
    opened.on("pageerror", lambda error: opened.troubles.append(str(error)))
    opened.on("request", lambda asked: opened.asked.append(asked.url))
    opened.goto(report.as_uri())
    yield opened
    opened.close()


def first_column(page, table=0):
    """Labels of the rows that are shown, reference rows left out."""
    return page.locator("table").nth(table).locator("tbody tr:visible td:first-child:not(:has(em))").all_inner_texts()


def test_it_opens_without_a_request_an_error_or_scrolling_sideways(page, report):
    assert page.troubles == []
    assert [url for url in page.asked if not url.startswith("data:")] == [report.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "opened, too"
    loaded = page.evaluate("[...document.images].map((image) => image.complete && image.naturalWidth > 0)")
    assert len(loaded) == 2 * (len(LABELS) + 2), "samples of all rows, paths of those with draws"
    assert all(loaded)
    assert page.locator("svg[role=img] > title").count() == 2 * 4, "quality, learning curves and two views of latents"
    assert page.locator("table:not(:has(caption))").count() == 0


def test_ink_and_paper_follow_the_scheme(page):
    scheme = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    paper, ink = page.evaluate("((of) => [of.backgroundColor, of.color])(getComputedStyle(document.body))")
    light = [sum(map(int, colour[4:-1].split(","))) for colour in (paper, ink)]
    assert (light[0] < light[1]) == scheme
    assert page.evaluate("getComputedStyle(document.querySelector('.pareto svg text')).fill") == ink


def test_tables_sort_by_mouse_and_by_keyboard_and_say_so(page):
    usual = first_column(page)
    head = page.locator("table").first.locator("thead th").nth(1)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert first_column(page) == usual[::-1]
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert first_column(page) == usual
    page.locator("table").first.locator("thead th").first.locator("button").press("Space")
    assert first_column(page) == sorted(usual)
    assert page.locator("table").first.locator("th[aria-sort]").count() == 1


def test_rows_are_filtered_in_all_tables_at_once(page):
    page.get_by_role("searchbox").fill("gmm, evalp")
    assert set(first_column(page)) == {"gmm", "evalp"}
    assert "rows in all tables" in page.get_by_role("status").inner_text()
    page.get_by_role("searchbox").fill("")
    assert len(first_column(page)) > 2


def test_pictures_that_are_a_click_away_open_by_keyboard_and_can_be_read_at_any_width(page):
    """On a phone a figure of many panels scrolls in a box of its own, and its letters stay letters."""
    told = page.locator("section").first.locator("summary").all_inner_texts()
    assert [words.partition(",")[0].partition(":")[0] for words in told[:4]] == [
        "Samples",
        "Learning curves",
        "Latents of each prior against q_agg",
        "Interpolations",
    ]
    for place in (1, 2):
        summary = page.locator("section").first.locator("summary").nth(place)
        summary.press("Enter")
        figure = summary.locator("xpath=..").locator("figure").first
        assert figure.is_visible()
        letters = figure.locator("svg text").first.bounding_box()
        assert letters["height"] > 8
        box = page.evaluate("(figure) => figure.getBoundingClientRect().right <= innerWidth", figure.element_handle())
        assert box
    assert "ncp, evalp" in page.locator("p.missing").first.inner_text()


def test_words_of_strangers_are_shown_and_not_obeyed(page):
    assert any("a<b>|`x`[y=1]" in text for text in page.locator("tbody td:first-child").all_inner_texts())
    assert page.locator("td b").count() == 0


def test_a_point_says_its_row_and_numbers_where_a_pointer_rests(page):
    told = page.locator(".pareto figure:visible svg g > title").all_text_contents()
    assert any(text.startswith("gmm: ") and text.endswith(" ms") for text in told)
