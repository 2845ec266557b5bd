"""What a terminal shows of a run in place."""

import io

import pytest
from rich.console import Console

from benchmark import live, progress
from benchmark.live import LiveTable
from benchmark.progress import parse_tracked, say, track


def terminal(monkeypatch, is_terminal=True):
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=100, color_system=None)
    monkeypatch.setattr(live, "console", console)
    monkeypatch.setattr(progress, "console", console)
    return console


def text_of(table):
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(table._as_table())
    return console.file.getvalue()


def test_each_row_shows_what_is_done_running_and_failed():
    table = LiveTable({"gmm": 3, "evalp[gp_weight=1]": 2})
    table.begin(1, "gmm", 0)
    table.begin(2, "evalp[gp_weight=1]", 4)
    table.move(1, "fd")
    table.take("evalp[gp_weight=1] seed 4: 250/1200, 1m09s left  loss 3.2")
    shown = text_of(table)
    assert "0 of 5 steps" in shown
    assert "seed 0: fd" in shown
    assert "seed 4: 250/1200, 1m09s left" in shown
    assert "evalp[gp_weight=1]" in shown, "brackets are shown as they are"
    table.end(1, done=True, failed=False)
    table.end(2, done=True, failed=True)
    table.skip("gmm")
    shown = text_of(table)
    assert "3 of 5 steps" in shown
    assert "left" in shown.splitlines()[0]
    assert [line.split()[:2] for line in shown.splitlines()[2:]] == [["2/3", "gmm"], ["1/2", "1"]]
    assert "seed" not in shown


def test_a_job_that_is_tried_again_is_not_done():
    table = LiveTable({"gmm": 1})
    table.begin(1, "gmm", 0)
    table.end(1, done=False, failed=False)
    assert "0 of 1 steps" in text_of(table)


def test_what_is_said_stands_above_the_table_and_how_far_a_job_is_in_it(monkeypatch):
    console = terminal(monkeypatch)
    table = LiveTable({"gmm": 1})
    table.begin(1, "gmm", 0)
    with table.shown():
        say("gmm seed 0: 10/20, 3s left  loss 1")
        say("[1/2] something was measured")
        assert "seed 0: 10/20" in text_of(table)
        console.file.seek(0)
        said = [line for line in console.file.getvalue().splitlines() if "loss 1" in line or "measured" in line]
    assert len(said) == 1
    assert "[1/2] something was measured" in said[0]
    say("after")
    assert console.file.getvalue().rstrip().endswith("after")


def test_a_log_has_lines_alone(monkeypatch):
    console = terminal(monkeypatch, is_terminal=False)
    table = LiveTable({"gmm": 1})
    with table.shown():
        table.begin(1, "gmm", 0)
        say("gmm seed 0: 10/20, 3s left  loss 1")
    assert console.file.getvalue() == "gmm seed 0: 10/20, 3s left  loss 1\n"


@pytest.mark.parametrize("what", ["gmm seed 0", "a: b[c=1] seed 3"])
def test_a_line_of_a_tracked_job_is_known_by_its_form(what, monkeypatch):
    lines = []
    monkeypatch.setattr(progress, "LOG_INTERVAL", 0.0)
    progress.redirect(lines.append)
    try:
        with track(what) as step:
            for n in (1, 2, 3):
                step(n, 9, loss=1.5)
    finally:
        progress.redirect(None)
    assert lines
    for line in lines:
        about, how_far = parse_tracked(line)
        assert about == what
        assert how_far.partition("/")[2].startswith("9")
    assert parse_tracked("measured fd, 12.6 s") == ("", "")
