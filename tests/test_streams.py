"""What is said and shown on streams that have few characters, that nobody reads, or that obey what they are told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark import progress
from benchmark.report.markdown import _pipes
from benchmark.text import LONGEST, in_code, in_markdown, one_line, printable

#: what Python itself imports from the folder of `-m` before the first line of the suite
LOADED_BEFORE = {f"{name}.py" for name in ("sitecustomize", "usercustomize", "runpy", "pkgutil")}
SPOKEN = "FD 0.1 ± 0.2 ↓ 漢 \udce9 é"
TALKS = """
import sys
from benchmark.progress import prepare_streams, say, show
prepare_streams()
for _ in range(200):
    show(sys.argv[1] * 500)
    say(sys.argv[1] * 500)
open(sys.argv[2], "w").write("went on to its end")
"""


def talk(tmp_path, said="a ± b ↓ ", **streams):
    """A process that says and shows much, and where it went on to its end."""
    end, environment = tmp_path / "end", dict(os.environ, PYTHONIOENCODING=streams.pop("encoding", "utf-8"))
    command = [sys.executable, "-c", TALKS, said, str(end)]
    done = subprocess.Popen(command, env=environment, cwd=Path(progress.__file__).parents[1], **streams)
    return done, end


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8", "cp437"])
def test_no_encoding_is_a_reason_to_fail(encoding, tmp_path):
    talking, end = talk(tmp_path, SPOKEN.replace("\udce9", ""), encoding=encoding, stdout=-1, stderr=-1)
    shown, said = talking.communicate()
    assert (talking.returncode, end.read_text()) == (0, "went on to its end")
    assert b"FD 0.1" in shown
    assert b"FD 0.1" in said
    assert len(shown.splitlines()) == 200


@pytest.mark.parametrize("closed", [("stdout",), ("stderr",), ("stdout", "stderr")])
def test_that_nobody_reads_any_more_is_no_reason_to_stop(closed, tmp_path):
    streams = {name: -1 if name in closed else subprocess.DEVNULL for name in ("stdout", "stderr")}
    talking, end = talk(tmp_path, **streams)
    for name in closed:
        getattr(talking, name).close()
    assert talking.wait() == 0
    assert end.read_text() == "went on to its end"


def test_a_full_disk_under_standard_error_is_none_either(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        talking, end = talk(tmp_path, stdout=subprocess.DEVNULL, stderr=full)
        assert talking.wait() == 0
    assert end.read_text() == "went on to its end"


ODD = {
    "line": ("a\nb\r\nc\u2028d", "a b c d"),
    "bar": ("a|b", r"a\|b"),
    "bar behind a backslash": (r"a\|b", r"a\\\|b"),
    "tag": ("<script>alert(1)</script>", "&lt;script>alert(1)&lt;/script>"),
    "comment": ("<!-- x -->", "&lt;!-- x -->"),
    "code": ("`rm`", r"\`rm\`"),
    "bold": ("**best**", r"\*\*best\*\*"),
    "italic": ("_x_", r"\_x\_"),
    "link": ("[here](http://x)", r"[here]\(http://x)"),
    "picture": ("![x](y)", r"!\[x]\(y)"),
    "colour": ("\x1b[31mred", r"\\x1b[31mred"),
    "right to left": ("a\u202eb", r"a\\u202eb"),
    "formula": ("$x$", r"\$x\$"),
    "undecodable": ("caf\udce9", r"caf\\udce9"),
}


@pytest.mark.parametrize("name", ODD)
def test_words_of_strangers_are_text_of_a_page(name):
    given, expected = ODD[name]
    made = in_markdown(given)
    assert made == expected
    assert len(_pipes(["prior", "x"], [[made, "1"]]).splitlines()) == 3
    assert "`" not in in_code(given)[1:-1]


@pytest.mark.parametrize(
    "plain", ["evalp[gp_weight=1,10]", "fitted_gaussian", "p < 0.001", "FD at ∞ ↓", "MMD² imq ×10³ ± 2", "a (b) c - d"]
)
def test_plain_words_come_out_as_they_went_in(plain):
    assert in_markdown(plain) == one_line(plain) == printable(plain) == plain


def test_long_words_are_cut_and_counted():
    made = one_line("x" * 5_000_000)
    assert len(made) < LONGEST + 40
    assert made.endswith("(5,000,000 characters)")


def test_what_a_terminal_would_obey_is_shown(capsys):
    progress.show("a\x1b[2Jb\nc\u202ed")
    progress.say("[bold]\x1b]0;title\x07[/bold]")
    shown = capsys.readouterr()
    assert shown.out == "a\\x1b[2Jb\nc\\u202ed\n"
    assert shown.err == "[bold]\\x1b]0;title\\x07[/bold]\n"


def test_no_file_of_the_current_folder_stands_for_a_module(tmp_path):
    harmful = "open('ran', 'w').close(); raise SystemExit(3)"
    standard = {f"{name}.py" for name in sys.stdlib_module_names} - LOADED_BEFORE
    for name in ("torch.py", "typer.py", "pydantic.py", "priors/__init__.py", "backbones/api.py", *standard):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(harmful)
    environment = dict(os.environ, PYTHONPATH=str(Path(progress.__file__).parents[1]))
    command = [sys.executable, "-m", "benchmark", "list"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "  gaussian" in done.stdout
    assert not (tmp_path / "ran").exists()


def test_what_was_taken_from_the_current_folder_before_is_named(tmp_path):
    (tmp_path / "types.py").write_text(f"exec(open({__import__('types').__file__!r}).read())")
    environment = dict(os.environ, PYTHONPATH=str(Path(progress.__file__).parents[1]))
    code = "import types, runpy; runpy.run_module('benchmark', run_name='__main__', alter_sys=True)"
    command = [sys.executable, "-S", "-c", code, "list"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert str(tmp_path / "types.py") in done.stderr


@pytest.mark.parametrize("first, left", [(0, ", 2m05s left"), (250, ", 1m32s left"), (None, "")])
def test_the_time_left_is_by_steps_that_were_seen(first, left, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.track("fit") as show:
        if first is not None:
            show(first, 1_200)
        now[0] = 33.0
        step = 250 + (first or 0)
        show(step, 1_200, loss=0.5)
    assert capsys.readouterr().err == f"fit: {step}/1200{left}  loss 0.5\n"
