"""The source files a module is made of: its own, and those of its folder or package that it imports, however deep.

Imports are read from the source with `ast`, those inside functions too, and nothing is executed; what is imported by a
computed name, and what is no Python source, is not seen. Who owns a module decides how far the reading goes:

a plugin's file            the folder that it lies in
an installed package       that package
an installed single file   that file
the suite's own modules    its three packages

Whatever else is imported is somebody else's, and ignored.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import sys
import sysconfig
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType

from benchmark.store.sealed import content_hash, file_hash

#: the packages of the suite: what lies beside a plugin under one of these names never stands in for them
SUITE = ("benchmark", "priors", "backbones")
#: how the name of a package starts that stands for a plugin's folder (see `benchmark/plugin_files.py`)
PLUGIN = "latent_prior_plugin_"

#: top-level name -> the path of its module or package without any suffix, None where it is somebody else's
Owned = Callable[[str], Path | None]
#: dotted name -> the file of that module or package, None where it is somebody else's or none at all
Find = Callable[[str], Path | None]


def beside(folder: Path, own: str | None = None) -> Owned:
    """What modules of a plugin's folder find there: what is beside a file comes first, as it does for a script.

    As in Python, a folder without `__init__.py` counts only where nothing else has its name. Nor does the plugin's file
    itself, `own`, stand in for a library of its name. What Python finds by its path counts where it is one and the
    same: the package that the folder is part of, or what lies in a folder below it that the plugin has put on the path.
    """
    folder = folder.resolve()

    def owned(name: str) -> Path | None:
        if name in SUITE or not name.isidentifier():
            return None
        place, known = folder / name, _known(name, folder)
        if name == own:
            return place if known in (None, place) else None
        if _file(place) and not _installed(folder):
            return place
        if known is None:
            return place if place.is_dir() else None
        if _installed(known) or not (_file(known) or known.is_dir()):
            return None
        below = known.is_relative_to(folder) and name not in _of_distributions()
        return known if below or folder.is_relative_to(known) else None

    return owned


def within(owned: Owned) -> Find:
    """Files of the modules that are owned."""

    def find(module: str) -> Path | None:
        top, *inner = module.split(".")
        place = owned(top)
        return _file(place.joinpath(*inner)) if place else None

    return find


def closure(name: str, file: Path, find: Find) -> dict[str, Path]:
    """Module name -> file: the module `name` in `file`, and what can be found of all that it imports, however deep.

    A package's `__init__.py` belongs to each of its modules, since importing one runs it.
    """
    files = {name: file}
    waiting = _imports(name, file, find)
    while waiting:
        module = waiting.pop()
        found = find(module)
        if found and module not in files:
            files[module] = found
            waiting |= _imports(module, found, find)
    return files


def own_files(module: ModuleType) -> list[Path]:
    """The closure of an imported module that is a plugin's: its own file, then the others by name."""
    name = module.__name__
    top, _, inner = name.partition(".")
    if top in SUITE or not module.__file__:
        return []
    file = Path(module.__file__)
    roots = [Path(root) for root in getattr(sys.modules.get(top), "__path__", [])]
    if top.startswith(PLUGIN):
        files = closure(inner, file, within(beside(roots[0], own=inner)))
    else:
        root = next((root for root in roots if file.is_relative_to(root)), file.with_suffix(""))
        files = closure(name, file, within({top: root}.get))
    return list(dict.fromkeys([file, *(files[each] for each in sorted(files))]))


@functools.cache
def source_hash(*modules: ModuleType | None) -> str:
    """Hash of the modules that register and that define a plugin's class, and of their own files which they import.

    It is taken once, so that a file edited while a run goes on does not pass for the code that is running.
    """
    files = dict.fromkeys(file for module in modules if module for file in own_files(module))
    return content_hash([file_hash(file) for file in files])


def _imports(name: str, file: Path, find: Find) -> set[str]:
    """Dotted names that `file` imports, with the packages they lie in; some may be no modules."""
    is_package = file.name == "__init__.py" and name != "__init__"
    package = name if is_package else name.rpartition(".")[0]
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # importing it fails as well, or it is no Python source
        return set()
    names = {name, *(each for node in ast.walk(tree) for each in _named(node, package, find))}
    parts = (each.split(".") for each in names)
    return {".".join(words[:count]) for words in parts for count in range(1, len(words) + 1)}


def _named(node: ast.AST, package: str, find: Find) -> Iterator[str]:
    if isinstance(node, ast.Call):
        yield from _called(node, package)
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        words = _upwards(package, node.level) + (node.module.split(".") if node.module else [])
        for alias in node.names:
            if alias.name != "*":
                yield ".".join([*words, alias.name])
                continue
            yield ".".join(words)
            found = find(".".join(words))
            if found and found.name == "__init__.py":  # its `__all__` may name any module beside it
                yield from (".".join([*words, file.stem]) for file in found.parent.glob("*.py") if file != found)
                yield from (".".join([*words, file.parent.name]) for file in found.parent.glob("*/__init__.py"))


def _upwards(package: str, level: int) -> list[str]:
    """The words of the package that so many dots stand for in a module of `package`; none of an absolute import."""
    words = package.split(".") if package and level else []
    return words[: max(0, len(words) - level + 1)]


def _called(node: ast.Call, package: str) -> Iterator[str]:
    """What `import_module("helpers")` and `__import__("helpers")` name, where that is written out."""
    function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if function in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
        name = str(node.args[0].value)
        level = len(name) - len(name.lstrip("."))
        yield ".".join([*_upwards(package, level), name[level:]])


def _file(place: Path) -> Path | None:
    """The file of the module or package at a path without suffix; a package comes first, as in Python."""
    files = (place / "__init__.py", place.with_name(f"{place.name}.py"))
    return next((file for file in files if file.is_file()), None)


def _known(name: str, folder: Path) -> Path | None:
    """Where Python's path finds a top-level name: its path without suffix; of a built-in module, no file's.

    A folder without `__init__.py` is found where it is `folder`'s: others of its name add to it, and hide nothing.
    """
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # of a module that is being loaded
        return None
    if spec is None:
        return None
    places = [Path(each).resolve() for each in spec.submodule_search_locations or []]
    if spec.origin is None:
        return next((place for place in places if _related(place, folder)), None)
    return places[0] if places else Path(spec.origin).with_suffix("").resolve() if spec.has_location else Path(name)


def _related(place: Path, folder: Path) -> bool:
    return folder.is_relative_to(place) or place.is_relative_to(folder)


def _installed(place: Path) -> bool:
    """Whether it lies where Python or packages are installed, which may be a folder below a plugin's."""
    return not {"site-packages", "dist-packages"}.isdisjoint(place.parts) or any(
        place.is_relative_to(root) for root in _library()
    )


@functools.cache
def _of_distributions() -> frozenset[str]:
    """Top-level names that are installed, if only by a link to where they are developed."""
    return frozenset(metadata.packages_distributions())


@functools.cache
def _library() -> list[Path]:
    paths = sysconfig.get_paths()
    return [Path(paths[name]).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")]
