"""Did anybody decide whether a change of the code changes a built-in's numbers?

    python tests/closures.py                          say what is undecided; write down versions that were raised
    python tests/closures.py --same-numbers NAME...   these keep their numbers and so their versions; `all`: every one

A built-in is identified by its name and a version raised by hand. `closures.json` keeps beside that version a hash of
each file that can decide its numbers: its own, and what that imports of the suite, however deep. `test_identity.py`
fails where the two disagree.

Left out are `benchmark/__init__.py`, which offers the suite to Python, `errors.py`, `progress.py` and `store/`, which
say and keep what others computed, and every `api.py`: these grow with each capability, and the little that they
compute is held to its formula by tests of its own.
Comments, docstrings, formatting, annotations of functions and a metric's `columns` decide nothing: no hash has them.
"""

from __future__ import annotations

import argparse
import ast
import functools
import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import benchmark
from benchmark.registry import KINDS, Registry
from benchmark.store.closure import SUITE, closure, within

ROOT = Path(benchmark.__file__).resolve().parent.parent
KEPT = Path(__file__).with_suffix(".json")
LEFT_OUT = {"benchmark", "benchmark.errors", "benchmark.progress", "benchmark.store"}


@dataclass(frozen=True)
class BuiltIn:
    """`version` is None for a data set: the hash of its pixels is part of every bundle made of it."""

    kind: str
    name: str
    version: int | None
    module: str

    @property
    def title(self) -> str:
        return f"{self.kind} {self.name}"

    def hashes(self, root: Path) -> dict[str, str]:
        """File below `root` -> hash, for each that can decide a number and holds any code."""
        file = root.joinpath(*self.module.split(".")).with_suffix(".py")
        find = within({name: root / name for name in SUITE}.get)
        files = closure(self.module, file, lambda module: None if _left_out(module) else find(module))
        hashes = {file.relative_to(root).as_posix(): code_hash(file.read_bytes()) for file in files.values()}
        return {file: hash for file, hash in hashes.items() if hash != code_hash(b"")}


@functools.cache
def code_hash(source: bytes) -> str:
    """The start of the hash of what a file does."""
    return hashlib.sha256(json.dumps(_shape(ast.parse(source))).encode()).hexdigest()[:16]


def built_ins() -> list[BuiltIn]:
    registry = Registry()
    return [
        BuiltIn(kind, name, getattr(cls, "version", None), cls.__module__)
        for kind in KINDS
        for name, cls in registry.all(kind).items()
        if kind != "executor" and registry.origin(cls) == "built-in"  # which decides where, and no number
    ]


def entry(built_in: BuiltIn, root: Path = ROOT) -> dict[str, Any]:
    """What is kept of a built-in."""
    return {"version": built_in.version, "files": built_in.hashes(root)}


def undecided(kept: dict[str, Any], root: Path = ROOT) -> list[str]:
    """A sentence for each built-in whose files are not those that its version was decided for; then what decides."""
    said, open_ = [], []
    for each in built_ins():
        was, now = kept.get(each.title, {"version": None, "files": {}}), entry(each, root)
        if was != now:
            files = sorted({*was["files"], *now["files"]})
            changed = [file for file in files if was["files"].get(file) != now["files"].get(file)]
            raised = f", version {was['version']} -> {now['version']}" if was["version"] != now["version"] else ""
            said.append(f"{each.title}{raised}: {', '.join(changed) or 'no file'} changed")
            open_.append(each.name)
    if said:
        raising = "raise its `version` (a data set has none: make its bundles again)"
        said += [
            f"where numbers change, {raising}, then: python tests/closures.py",
            f"where none does: python tests/closures.py --same-numbers {' '.join(open_)}",
        ]
    return said


def decide(kept: dict[str, Any], same_numbers: list[str], root: Path = ROOT) -> dict[str, Any]:
    """What to keep: built-ins as they are now, where their version was raised, they are new, or they are named."""
    decided = {}
    for each in built_ins():
        was, now = kept.get(each.title), entry(each, root)
        new = was is None or was["version"] != now["version"]
        decided[each.title] = now if new or {each.name, "all"} & {*same_numbers} else was
    return decided


def _left_out(module: str) -> bool:
    return module in LEFT_OUT or module.endswith(".api") or module.startswith("benchmark.store.")


def _shape(node: Any) -> Any:
    """A syntax tree as lists of names and values, alike in every version of Python."""
    if isinstance(node, list):
        return [_shape(each) for each in node if not _decides_nothing(each)]
    if not isinstance(node, ast.AST):
        return [type(node).__name__, ascii(node)]
    fields = [(name, value) for name, value in ast.iter_fields(node) if name != "kind"]
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.arg)):
        fields = [(name, value) for name, value in fields if name not in ("annotation", "returns")]
    shapes = {name: _shape(value) for name, value in fields if value is not None}
    return [type(node).__name__, *([name, shapes[name]] for name in sorted(shapes) if shapes[name] != [])]


def _decides_nothing(node: Any) -> bool:
    """Docstrings, a metric's columns, imports of what is left out."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    if isinstance(node, ast.ImportFrom):
        return not node.level and _left_out(node.module or "")
    return isinstance(node, ast.FunctionDef) and node.name == "columns"


def main(words: list[str]) -> Iterator[str]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--same-numbers", nargs="+", default=[], metavar="NAME")
    names = parser.parse_args(words).same_numbers
    if unknown := {*names} - {each.name for each in built_ins()} - {"all"}:
        parser.error(f"no built-in is called {', '.join(sorted(unknown))}")
    kept = decide(json.loads(KEPT.read_text()) if KEPT.exists() else {}, names)
    KEPT.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    yield from undecided(kept)


if __name__ == "__main__":
    sentences = list(main(sys.argv[1:]))
    print("\n".join(sentences) or "every built-in is decided")
    sys.exit(bool(sentences))
