"""A plugin's file as a module that may import what lies beside it, and leaves nothing under a plain name.

The folder becomes a package of a name of its own, `latent_prior_plugin_<hash>`, and the file a module of it. So
relative imports, pickling, tracebacks and `inspect` work as for any package. `import helpers`, too, means the file
beside it: each module of that package has an `__import__` of its own among its builtins, which looks for a top-level
name in the folder first. An import within a function asks the same one. Two folders that each hold a `helpers.py` have
two modules.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from benchmark.store.closure import PLUGIN, beside, closure, within
from benchmark.store.sealed import content_hash, file_hash


def load_file(path: Path) -> ModuleType:
    """The module of a plugin's file; the same one where neither the file nor what it imports beside it has changed."""
    path = path.resolve()
    inner = path.stem.replace(".", "_")
    files = closure(inner, path, within(beside(path.parent)))
    sources = {name: file_hash(file) for name, file in files.items()}
    package = PLUGIN + content_hash([str(path), sources])[:12]
    name = f"{package}.{inner}"
    if name in sys.modules:
        return sys.modules[name]
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
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
    except BaseException:
        for each in [each for each in sys.modules if each == package or each.startswith(f"{package}.")]:
            del sys.modules[each]
        raise
    return module


class _Loader(SourceFileLoader):
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
        spec = PathFinder.find_spec(fullname, path, target)
        if spec and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


_finder = _Finder()


def _importing(package: str) -> Any:
    """`__import__` for the modules of a plugin's folder, which is `package`."""
    owned = beside(Path(sys.modules[package].__path__[0]))

    def import_(
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        top = name.partition(".")[0]
        if level or owned(top) is None:
            return builtins.__import__(name, globals, locals, fromlist, level)
        module = builtins.__import__(f"{package}.{name}", globals, locals, fromlist, 0)
        return module if fromlist else sys.modules[f"{package}.{top}"]

    return import_
