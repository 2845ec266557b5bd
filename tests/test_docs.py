"""What the pages say: code runs, commands are commands, links and paths lead somewhere, figures are the leaderboard's.

A fenced block is taken by its language:

    python    run, in order, one namespace and one folder a page; written to a file where the first line is `# name.py`
    toml      written to the file of its first line, `# name.toml`
    sh        commands of the suite, run in that folder; they take seconds
    console   commands behind `$ ` that take long or need data: a `run` is asked for its `--dry-run`, others are parsed
    text      pictures and lists of files, as is a block without a language: not looked at

What installs (`pip install`) is left to `.ci/run`.
"""

from __future__ import annotations

import itertools
import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import typer

from benchmark.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKED = [*PAGES, ROOT / "CHANGELOG.md"]
#: folders of the repository: what begins with one of these and stands in backticks is a path
FOLDERS = ("benchmark", "priors", "backbones", "docs", "results", "tests", "tools", ".ci")
SUITE = ["python", "-m", "benchmark"]
TOOLS = ("ruff", "mypy", "python", "pre-commit")
#: the steps of a VAE that a page trains, and how many are enough to see that what follows runs
STEPS = ("steps=600", "steps=100")


@dataclass(frozen=True)
class Block:
    """A fenced block; `line` is that of its first line within the page, from 1."""

    page: str
    line: int
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file that it is to be written to."""
        named = re.match(r"# ([\w-]+\.(?:py|toml))\n", self.text)
        return named[1] if named and self.language in ("python", "toml") else None


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix() if page.is_relative_to(ROOT) else page.name


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found, opened = [], None
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if not line.startswith("```"):
            continue
        if opened is None:
            opened = number, line[3:].strip()
            continue
        start, language = opened
        text = "".join(f"{each}\n" for each in page.read_text().splitlines()[start : number - 1])
        found.append(Block(name_of(page), start + 1, language, text))
        opened = None
    assert opened is None, f"{name_of(page)}:{opened}: a block that does not end"
    return found


def execute(block: Block, namespace: dict, cli) -> None:
    """Do what a block says, in the current folder; a failure names page and line."""
    if block.file:
        Path(block.file).write_text(block.text)
    elif block.language == "python":
        code = compile("\n" * (block.line - 1) + block.text, block.page, "exec")  # a traceback has page and line
        exec(code, namespace)
    elif block.language in ("sh", "console"):
        for number, line in enumerate(block.text.splitlines(), block.line):
            command = line.partition(" #")[0].strip()
            if block.language == "console":
                command = command.removeprefix("$ ") if command.startswith("$ ") else ""
            if command and "pip install" not in command:
                problem = try_command(shlex.split(command), block.language == "sh", cli)
                assert problem is None, f"{block.page}:{number}: {command}\n{problem}"
    else:
        assert block.language in ("", "text"), f"{block.page}:{block.line}: a block of {block.language or 'nothing'}"


def try_command(words: list[str], whole: bool, cli) -> str | None:
    """Run a command of the suite, as it is (`whole`) or as far as can be; what is wrong with it, or None."""
    if words[:3] != SUITE:
        return None if not whole and words[0] in TOOLS else "not a command of the suite"
    words = words[3:]
    if not whole:
        if words[0] != "run" or names_no_images(words):
            return parse(words)
        words = [*words, "--dry-run"]
    done = cli(*words)
    return None if done.code == 0 else f"exit code {done.code}\n{done.out[-2000:]}{done.err[-2000:]}"


def names_no_images(words: list[str]) -> bool:
    """Whether a run is of a reader's own images, which are not here."""
    given = dict(itertools.pairwise(words)).get("--dataset", "")
    return given.endswith(".npz") and not Path(given).exists()


def parse(words: list[str]) -> str | None:
    """Read a command's words without doing anything; what is wrong with them, or None."""
    commands = typer.main.get_command(app).commands
    name, *rest = words
    if name == "--help":
        return None
    if name not in commands:
        return f"no command '{name}'"
    try:
        commands[name].make_context(name, list(rest))
    except Exception as error:  # the parser's own classes, whichever release of it is installed
        return f"{type(error).__name__}: {getattr(error, 'message', error)}"
    return None


@pytest.fixture
def run_page(cli, tmp_path, monkeypatch, brief):
    """Do all that a page says, in a folder of its own."""

    def run(page: Path) -> None:
        monkeypatch.chdir(tmp_path)
        namespace = {"__name__": "page"}
        for block in blocks(page):
            execute(replace(block, text=block.text.replace(*STEPS)), namespace, cli)

    return run


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name_of)
def test_the_blocks_of_a_page_run(page, run_page):
    run_page(page)


BROKEN = {
    "python that raises": ("```python\nx = 1\nraise KeyError('lost')\n```", KeyError, "lost"),
    "a command that fails": ("```sh\npython -m benchmark run --priors gausian\n```", AssertionError, "page.md:2"),
    "an option that is gone": ("```console\n$ python -m benchmark verify --part 1\n```", AssertionError, "--part"),
    "a command that is gone": ("```console\n$ python -m benchmark score\n```", AssertionError, "score"),
    "a prior that is gone": ("```console\n$ python -m benchmark run --priors ebm\n```", AssertionError, "ebm"),
    "another program": ("```sh\nrm -r results\n```", AssertionError, "not a command of the suite"),
    "another language": ("```yaml\na: 1\n```", AssertionError, "page.md:2"),
    "an end that is missing": ("```python\nx = 1\n", AssertionError, "does not end"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_block_fails(name, run_page, tmp_path):
    text, error, said = BROKEN[name]
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(error, match=re.escape(said)):
        run_page(tmp_path / "page.md")


def test_a_traceback_names_page_and_line(run_page, tmp_path):
    (tmp_path / "page.md").write_text("# A page\n\n```python\nx = 1\n1 / 0\n```\n")
    with pytest.raises(ZeroDivisionError) as raised:
        run_page(tmp_path / "page.md")
    last = raised.traceback[-1]
    assert Path(last.path).name == "page.md"
    assert last.lineno + 1 == 5


def test_a_file_of_a_page_serves_its_later_blocks(run_page, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```python\n# part.py\nVALUE = 3\n```\n```python\nassert 'VALUE = 3' in open('part.py').read()\n```\n"
    )
    run_page(page)


def without_blocks(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What its headings can be linked by: lower case, words joined by `-`, other characters dropped."""
    headings = re.findall(r"^#+ (.+)$", without_blocks(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page: Path) -> list[str]:
    """Links and pictures of a page that lead to no file here, or to no heading of it."""
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_blocks(page)):
        path, _, anchor = target.partition("#")
        if path.startswith(("http:", "https:")):
            continue
        file = page.parent / path if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(target)
    return dead


def lost_paths(text: str) -> list[str]:
    """Paths of the repository in backticks (`*` stands for several) that are not there."""
    named = re.findall(rf"`((?:{'|'.join(map(re.escape, FOLDERS))})/[\w./*-]*)`", text)
    return [path for path in named if not list(ROOT.glob(path.rstrip("/")))]


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_links_lead_somewhere(page):
    assert dead_links(page) == []


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_paths_are_there(page):
    assert lost_paths(page.read_text()) == []


def test_a_dead_link_and_a_lost_path_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One thing\n[a](#one-thing) [b](#another) [c](page.md) [d](none.md) [e](page.md#one-thing)\n")
    assert dead_links(page) == ["#another", "none.md"]
    assert lost_paths("`priors/api.py`, `priors/*.py`, `results/`, `priors/none.py` and `tests/*.rst`") == [
        "priors/none.py",
        "tests/*.rst",
    ]


def test_the_readme_leads_to_every_page():
    linked = re.findall(r"\]\((docs/[\w-]+\.md)", (ROOT / "README.md").read_text())
    assert {f"docs/{page.name}" for page in PAGES if page.parent == ROOT / "docs"} <= set(linked)


def test_markers_of_contributing_are_registered(pytestconfig):
    registered = {line.partition(":")[0] for line in pytestconfig.getini("markers")}
    named = set(re.findall(r"pytest -m (\w+)", (ROOT / "CONTRIBUTING.md").read_text()))
    assert named
    assert named <= registered


def cells(text: str) -> dict[str, dict[str, str]]:
    """The first table of a page: label -> heading -> cell."""
    table = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert table
    header, _, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[0].splitlines()]
    return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in body}


#: headings of the README -> those of the first screen
HEADINGS = {
    "MNIST": "mnist",
    "faces 64x64": "celeba64-preview",
    "CIFAR-10": "cifar10",
    "latents / s ↑": "latents / s ↑ (mnist, cuda)",
}


def test_the_figures_of_the_readme_are_those_of_the_leaderboard():
    measured = cells((ROOT / "results" / "leaderboard.md").read_text())
    shown = cells((ROOT / "README.md").read_text())
    assert list(shown) == [label for label in measured if not label.startswith("*")]
    for label, row in shown.items():
        assert row == {heading: measured[label][HEADINGS.get(heading, heading)] for heading in row}


@pytest.mark.parametrize("page", sorted((ROOT / "results").rglob("*.md")), ids=lambda page: page.name)
def test_pictures_and_pages_that_a_page_of_the_results_links_are_there(page):
    linked = re.findall(r"\]\(([^)#:]+\.(?:png|md))", page.read_text())
    assert [link for link in linked if not (page.parent / link).exists()] == []
