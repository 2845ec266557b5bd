"""Imports point one way: docs/architecture.md draws the rows, and no file imports from a row above its own."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("benchmark", "priors", "backbones")
#: what an api.py may import: it is the lowest row, so that a plugin needs nothing else
OF_LEAVES = {"torch", "pydantic", "pluggy", "torch_fidelity", "torchvision"}
ERRORS = Path("benchmark/errors.py")
STANDARD = {"__future__", "abc", "collections", "dataclasses", "functools", "hashlib", "math", "pathlib", "typing"}


def drawn_rows(text):
    """The rows of the drawing, from the top down: each a list of paths, a folder with a slash at its end."""
    (drawing,) = re.findall(r"<!-- rows -->\n+```\n(.*?)```", text, re.DOTALL)
    return [re.findall(r"[\w/.*-]+(?:\.py|/)", line.partition("#")[0]) for line in drawing.splitlines() if line.strip()]


ROWS = drawn_rows((ROOT / "docs" / "architecture.md").read_text())


def row_of(path):
    """The number of a file's row, from the top; what every api.py may import lies in the lowest, as they do."""
    if path.name == "api.py" or path == ERRORS:
        return len(ROWS)
    name = path.as_posix()
    exact = [number for number, row in enumerate(ROWS) if name in row]
    inside = [
        (len(part), number)
        for number, row in enumerate(ROWS)
        for part in row
        if part.endswith("/") and name.startswith(part)
    ]
    return exact[0] if exact else max(inside)[1]


def files(root=ROOT):
    return sorted(path.relative_to(root) for package in PACKAGES for path in (root / package).rglob("*.py"))


@cache
def names_in(source):
    """What a source imports, as it is written: names of modules, and of what is taken from them."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
            names += [alias.name.partition(".")[0] for alias in node.names]  # `import a.b` binds the whole of a
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "it imports relatively"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def imported(path, root=ROOT):
    """The files here, and the modules elsewhere, that a file imports anywhere in it, under TYPE_CHECKING too."""
    here, elsewhere = set(), set()
    for name in names_in((root / path).read_text()):
        found = file_of(name, root)
        if found is None:
            elsewhere.add(name)
        else:
            here.add(found)
    return here, elsewhere


def file_of(name, root=ROOT):
    """The file that a dotted name comes from: a module, or what a module defines; None for other packages' names."""
    parts = name.split(".")
    if parts[0] not in PACKAGES:
        return None
    for length in range(len(parts), 0, -1):
        base = Path(*parts[:length])
        for candidate in (base.with_suffix(".py"), base / "__init__.py"):
            if (root / candidate).is_file():
                return candidate
    return None


def arrows_up(root=ROOT):
    """(importer, imported) wherever a file imports one of a row above its own."""
    return [
        (str(path), str(other))
        for path in files(root)
        for other in imported(path, root)[0]
        if row_of(other) < row_of(path)
    ]


def sideways(root=ROOT):
    """(importer, imported) between two rooms of one row: folders, or files that are a room of their own."""
    return [
        (str(path), str(other))
        for path in files(root)
        for other in imported(path, root)[0]
        if row_of(other) == row_of(path) < len(ROWS) and room(other) != room(path)
    ]


def room(path):
    name = path.as_posix()
    rooms = [part for row in ROWS for part in row if name == part or (part.endswith("/") and name.startswith(part))]
    return max(rooms, key=len)


def test_every_file_has_its_place_in_the_drawing():
    assert files()
    for path in files():
        assert row_of(path) <= len(ROWS)


def test_every_room_of_the_drawing_is_there():
    for part in (part for row in ROWS for part in row):
        assert (ROOT / part).exists(), part


def test_no_file_imports_one_of_a_row_above():
    assert arrows_up() == []


def test_rooms_of_one_row_do_not_import_each_other():
    assert sideways() == []


def test_no_folder_has_a_circle_of_imports():
    """Within a folder files may import each other, as long as no way leads back."""
    arrows = {path: imported(path)[0] for path in files()}

    def reached(start):
        seen, open_ends = set(), list(arrows[start])
        while open_ends:
            path = open_ends.pop()
            if path not in seen:
                seen.add(path)
                open_ends += arrows.get(path, ())
        return seen

    assert [str(path) for path in arrows if path in reached(path)] == []


@pytest.mark.parametrize("path", [path for path in files() if path.name == "api.py"], ids=str)
def test_an_api_is_a_leaf(path):
    here, elsewhere = imported(path)
    assert {other for other in here if other.name != "api.py"} <= {ERRORS}
    allowed = OF_LEAVES | STANDARD
    assert [name for name in elsewhere if name.partition(".")[0] not in allowed] == []


@pytest.mark.parametrize(
    "line, into, named",
    [
        ("from benchmark.report.tables import tables", "benchmark/jobs/fit.py", "benchmark/report/tables.py"),
        ("    from benchmark import coordinator", "benchmark/store/records.py", "benchmark/coordinator.py"),
        ("from benchmark.store.sealed import file_hash", "priors/parts/flows.py", "benchmark/store/sealed.py"),
        ("from backbones.conv_vae import ConvVAE", "priors/ncp.py", "backbones/conv_vae.py"),
        ("import benchmark.errors", "benchmark/store/records.py", "benchmark/__init__.py"),
        (
            "if TYPE_CHECKING:\n    from benchmark.jobs.plan import jobs",
            "benchmark/bundles/find.py",
            "benchmark/jobs/plan.py",
        ),
    ],
)
def test_a_planted_arrow_upwards_or_sideways_is_named(line, into, named, tmp_path):
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            copy = tmp_path / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(path.read_text())
    planted = tmp_path / into
    body = f"\n\ndef planted():\n{line}\n" if line.startswith(" ") else f"\n{line}\n"
    planted.write_text(planted.read_text() + body)
    assert (into, named) in arrows_up(tmp_path) + sideways(tmp_path)
