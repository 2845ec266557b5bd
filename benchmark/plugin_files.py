"""A plugin's file as a module that may import what lies beside it, and leaves nothing under a plain name.

The folder becomes a package of a name of its own, `latent_prior_plugin_<hash>`, and the file a module of it. So
relative imports, pickling, tracebacks and `inspect` work as for any package. `import helpers`, too, means the file
beside it: each module of that package has an `__import__` of its own among its builtins, which looks for a top-level
name among those that `beside` owns first. An import within a function asks the same one. Two folders that each hold a
`helpers.py` have two modules. So what is hashed is what runs, whatever was imported under its plain name before.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from benchmark.store.closure import PLUGIN, Owned, beside, closure, within
from benchmark.store.sealed import content_hash

#: of entry points
GROUP = "latent_prior_benchmark"


@dataclass(frozen=True)
class Plugin:
    """A file, or, where a `module` stands beside its name, an entry point of an installed package."""

    name: str
    module: str | None = None

    @property
    def origin(self) -> str:
        """What a user knows it by."""
        return f"{self.name} ({self.module})" if self.module else self.name

    def load(self) -> Any:
        """What it registers from: a module, most often. Raises whatever its code raises."""
        if self.module is None:
            return load_file(Path(self.name))
        return metadata.EntryPoint(self.name, self.module, GROUP).load()


def load_file(path: Path) -> ModuleType:
    """The module of a plugin's file; the same one where neither the file nor what it imports beside it has changed."""
    path = path.resolve()
    inner = path.stem.replace(".", "_")
    owned = beside(path.parent, own=inner)
    sources = {str(file): file.read_bytes() for file in closure(inner, path, within(owned)).values()}
    hashes = {file: hashlib.sha256(source).hexdigest() for file, source in sources.items()}
    package = PLUGIN + content_hash([str(path), hashes])[:12]
    name = f"{package}.{inner}"
    if name in sys.modules:
        return sys.modules[name]
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    _loaded[package] = _Folder(path.parent, owned, sources)
    importlib.invalidate_caches()  # a file may be younger than the last look at its folder
    folder = ModuleSpec(package, None, is_package=True)
    folder.submodule_search_locations = [str(path.parent)]
    loader = _Loader(name, str(path))
    spec = ModuleSpec(name, loader, origin=str(path))
    spec.has_location = True
    try:
        sys.modules[package] = importlib.util.module_from_spec(folder)
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
        for file in closure(inner, path, within(owned)).values():  # the plugin may have put a folder on the path
            sources.setdefault(str(file), file.read_bytes())
    except BaseException:
        for each in [each for each in sys.modules if each == package or each.startswith(f"{package}.")]:
            del sys.modules[each]
        raise
    return module


def files_of_plugin(path: Path) -> list[Path]:
    """A plugin's file, and those of its own that it imports: what it is identified by."""
    path = path.resolve()
    inner = path.stem.replace(".", "_")
    return list(closure(inner, path, within(beside(path.parent, own=inner))).values())


@dataclass(frozen=True)
class _Folder:
    """A plugin's folder: what it owns, and the files that the plugin imports as they were when it was loaded."""

    path: Path
    owned: Owned
    sources: dict[str, bytes]


_loaded: dict[str, _Folder] = {}


class _Loader(SourceFileLoader):
    def get_data(self, path: str) -> bytes:
        """The file as it was when the plugin was loaded: code that is imported later is the code that was hashed."""
        known = _loaded[self.name.partition(".")[0]].sources
        return known[path] if path in known else super().get_data(path)

    def get_code(self, fullname: str) -> CodeType:
        """Compiled from its source: a cached .pyc tells an edit by size and second, and may be the code before it."""
        return self.source_to_code(self.get_data(self.path), self.path)

    def exec_module(self, module: ModuleType) -> None:
        package = module.__name__.partition(".")[0]
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _importing(package)}
        super().exec_module(module)


class _Finder(MetaPathFinder):
    """Finds modules of plugins' folders where Python would, and has them loaded by `_Loader`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(PLUGIN):
            return None
        package, _, inner = fullname.partition(".")
        top, _, deeper = inner.partition(".")
        if top and not deeper:
            place = _loaded[package].owned(top)
            if place is None:  # by a relative import: what is not hashed is not found either
                _refuse(fullname, top, _loaded[package].path)
                return None
            path = [str(place.parent)]
        spec = PathFinder.find_spec(fullname, path, target)
        if spec and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def _refuse(fullname: str, name: str, folder: Path) -> None:
    """Say why what is there is not imported: `import name` in the same folder would mean another."""
    if (folder / name).exists() or (folder / f"{name}.py").exists():
        raise ModuleNotFoundError(f"'{name}' beside a plugin has the name of another package: rename it", name=fullname)


_finder = _Finder()


def _importing(package: str) -> Any:
    """`__import__` for the modules of a plugin's folder, which is `package`."""
    folder = _loaded[package]

    def import_(
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        top = name.partition(".")[0]
        if level or folder.owned(top) is None:
            return builtins.__import__(name, globals, locals, fromlist, level)
        module = builtins.__import__(f"{package}.{name}", globals, locals, fromlist, 0)
        return module if fromlist else sys.modules[f"{package}.{top}"]

    return import_
