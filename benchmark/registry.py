"""Names -> classes. Built-ins and strangers' plugins come in through the same hooks, each isolated.

Three ways in: a module of the kind's own package here, `--plugin file.py`, or an installed package's entry
point in the group `latent_prior_benchmark`. A plugin that fails is listed as broken, with the reason, and
harms nothing else. Built-in modules are imported when their kind is first asked for; entry points when a
name is not found without them, or when all names are listed.

A run wants strangers' priors `apart`: a process of its own imports each plugin and says what it registers. One that
registers priors alone is not imported here, and a `ForeignPrior` stands for each of its classes.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import math
import pkgutil
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import pluggy
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from backbones.api import Backbone
from benchmark.datasets.api import Dataset
from benchmark.errors import UsageError, unknown_name, words_of
from benchmark.executors.api import Executor
from benchmark.machine.switches import kept_functions, kept_switches
from benchmark.metrics.api import FIT, REFERENCE_ROWS, Metric
from benchmark.plugin_files import GROUP, Plugin
from benchmark.processes.child import Answer, Child, Died, Raised
from benchmark.progress import say
from benchmark.store.closure import PLUGIN, source_hash
from benchmark.text import without_kind
from priors.api import Between, LatentPrior, OneOf

#: for whom `--priors` asks beside names and groups
ALL = "all"
#: seconds that a plugin may take to be imported, or to say what its settings are, in a process of its own
PATIENCE = 300.0
#: settings of a search space
MOST_TUNED = 5

hookspec = pluggy.HookspecMarker(GROUP)


class Hooks:
    """What a plugin module may define. Each hook returns a list of classes."""

    @hookspec
    def register_priors(self) -> list[type[LatentPrior]]:
        raise NotImplementedError

    @hookspec
    def register_backbones(self) -> list[type[Backbone]]:
        raise NotImplementedError

    @hookspec
    def register_datasets(self) -> list[type[Dataset]]:
        raise NotImplementedError

    @hookspec
    def register_metrics(self) -> list[type[Metric]]:
        raise NotImplementedError

    @hookspec
    def register_executors(self) -> list[type[Executor]]:
        raise NotImplementedError

    @hookspec
    def register_extractors(self) -> list[type]:
        raise NotImplementedError


@dataclass(frozen=True)
class Kind:
    """A kind of plugin: its hook, the package of the built-in ones, and their base class in that package's `api.py`.

    The base is imported when a class is held against it: that of extractors brings torch-fidelity and torchvision.
    """

    hook: str
    package: str
    base_name: str

    @property
    def base(self) -> type:
        return getattr(importlib.import_module(f"{self.package}.api"), self.base_name)


KINDS = {
    "prior": Kind("register_priors", "priors", "LatentPrior"),
    "backbone": Kind("register_backbones", "backbones", "Backbone"),
    "dataset": Kind("register_datasets", "benchmark.datasets", "Dataset"),
    "metric": Kind("register_metrics", "benchmark.metrics", "Metric"),
    "extractor": Kind("register_extractors", "benchmark.extractors", "Extractor"),
    "executor": Kind("register_executors", "benchmark.executors", "Executor"),
}


@dataclass(frozen=True, eq=False)
class ForeignPrior:
    """A prior class that is imported in processes of its own alone; what is known of it here."""

    plugin: Plugin
    name: str
    companions: tuple[dict[str, Any], ...]
    group: str
    by_default: bool
    doc: str


@dataclass
class Registry:
    """All that is registered. `broken` maps a plugin's origin to the reason why it (or a part of it) is not.

    `files` and `plugins` are read first; `apart`: strangers' priors are not imported here, and have `patience` seconds
    to say what they are. `imported` are the plugins
    that were, one of those that are not files only where something else than a prior is registered by it.
    """

    files: list[Path] = field(default_factory=list)
    plugins: list[Plugin] = field(default_factory=list)
    apart: bool = False
    patience: float = PATIENCE
    broken: dict[str, str] = field(default_factory=dict, init=False)
    imported: list[Plugin] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(Hooks)
        self._classes: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
        self._origins: dict[Any, str] = {}
        self._sources: dict[Any, str | None] = {}
        self._built_in: set[str] = set()
        self._installed: set[str] = set()
        self._entry_points_read = False
        for path in self.files:
            if not path.is_file():
                raise UsageError(f"--plugin {path}: no such file")
            if path.suffix != ".py":
                raise UsageError(f"--plugin {path}: expected a Python file, whose name ends with .py")
        self._unread = [*(Plugin(str(path)) for path in self.files), *self.plugins]

    def get(self, kind: str, name: str) -> Any:
        """The class registered as `name`, or a `ForeignPrior`; raises `UsageError` with the nearest name."""
        self._read_built_in(kind)
        if name not in self._classes[kind]:
            self._read_entry_points()
        if name not in self._classes[kind]:
            error = unknown_name(kind, name, self._classes[kind])
            broken = "; ".join(f"broken plugin {origin}: {why}" for origin, why in self.broken.items())
            raise UsageError(f"{broken}; {error}" if broken else str(error))
        return self._classes[kind][name]

    def all(self, kind: str) -> dict[str, Any]:
        """Every class of a kind by name."""
        self._read_built_in(kind)
        self._read_entry_points()
        return dict(sorted(self._classes[kind].items()))

    def at_hand(self, kind: str) -> list[str]:
        """The names of built-ins and `--plugin` files: installed plugins are not part of a default."""
        self._read_built_in(kind)
        return [name for name, cls in self._classes[kind].items() if self._origins[cls] not in self._installed]

    def find_priors(self, word: str | None) -> list[str]:
        """The priors at hand that a word stands for: `all`, their group, or (None) what a run has by default."""
        known = [self.get("prior", name) for name in self.at_hand("prior")]
        if word is None:
            return [cls.name for cls in known if cls.by_default]
        return [cls.name for cls in known if word in (ALL, cls.group)]

    def groups(self) -> list[str]:
        """The words that stand for several priors."""
        return [ALL, *sorted({self.get("prior", name).group for name in self.at_hand("prior")} - {""})]

    def origin(self, cls: Any) -> str:
        """`built-in`, the plugin's file, or the entry point it came from."""
        return self._origins[cls]

    def source(self, cls: Any) -> str | None:
        """The hash of a plugin's source (see `store/closure.py`); None of a built-in, whose version counts."""
        return self._sources[cls]

    def _read_built_in(self, kind: str) -> None:
        """Import a kind's own modules; all kinds' before any plugin file, so that no plugin can take their names."""
        for each in KINDS if self._unread else [kind]:
            package = KINDS[each].package
            if package not in self._built_in:
                self._built_in.add(package)
                for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
                    if not module.ispkg:
                        self._read("built-in", functools.partial(importlib.import_module, module.name), of=module.name)
        while self._unread:
            self._read_foreign(self._unread.pop(0))

    def _read_entry_points(self) -> None:
        if self._entry_points_read:
            return
        self._entry_points_read = True
        for kind in KINDS:
            self._read_built_in(kind)
        for entry in metadata.entry_points(group=GROUP):
            plugin = Plugin(entry.name, entry.value)
            self._installed.add(plugin.origin)
            if plugin not in self.plugins:
                self._read_foreign(plugin)

    def _read_foreign(self, plugin: Plugin) -> None:
        """Import a plugin; where its priors stay apart, only if it registers something else."""
        if not self.apart:
            self.imported.append(plugin)
            self._read(plugin.origin, plugin.load)
            return
        try:
            with Child(say) as child:
                found = child.call(survey, plugin, limit=self.patience).value
        except Died as death:
            self.broken[plugin.origin] = f"when it is imported, {death}"
            return
        except Raised as error:
            self.broken[plugin.origin] = str(error).splitlines()[-1]
            return
        if found["broken"] is not None:
            self.broken[plugin.origin] = found["broken"]
        for prior in found["priors"]:
            stand_in = ForeignPrior(plugin, **{**prior["known"], "companions": tuple(prior["known"]["companions"])})
            try:
                self._add("prior", stand_in, plugin.origin, prior["source"])
            except ValueError as error:
                self.broken[plugin.origin] = _why(error)
        if found["others"]:
            self.imported.append(plugin)
            self._read(plugin.origin, plugin.load)

    def _read(self, origin: str, load: Any, of: str | None = None) -> None:
        """Import one plugin and take its classes. Whatever it raises is noted, and nothing else is harmed."""
        of = of or origin
        try:
            with self._undisturbed(origin):
                module = load()
                self._manager.register(module, of)
                self._manager.check_pending()
        except (Exception, SystemExit) as error:
            self.broken[of] = _why(error)
            if self._manager.has_plugin(of):
                self._manager.unregister(name=of)
            return
        hooks = [
            (kind, implementation.function)
            for kind, spec in KINDS.items()
            for implementation in getattr(self._manager.hook, spec.hook).get_hookimpls()
            if implementation.plugin is module
        ]
        if not hooks and origin != "built-in":  # where most modules are no plugins
            named = ", ".join(spec.hook for spec in KINDS.values())
            self.broken[of] = f"it registers nothing: no function marked @hookimpl (one of {named})"
        for kind, hook in hooks:
            self._take(kind, origin, of, hook, inspect.getmodule(module))

    @contextmanager
    def _undisturbed(self, origin: str) -> Iterator[None]:
        """While a stranger's code is imported here, what it changes of this process is put back, and said."""
        if origin == "built-in":
            yield
            return
        replaced: list[str] = []
        with kept_functions(replaced.append), kept_switches():
            yield
        if replaced and self.apart:
            say(f"plugin {origin} replaced {', '.join(replaced)}, which was put back")

    def _take(self, kind: str, origin: str, of: str, hook: Any, module: ModuleType | None) -> None:
        if kind == "prior" and self.apart and origin != "built-in":
            return
        try:
            with self._undisturbed(origin):
                found = list(hook())
            for cls in found:
                _check(cls, KINDS[kind].base)
                defined_in = sys.modules.get(cls.__module__)  # which need not be the module that registers it
                source = None if origin == "built-in" else source_hash(module, defined_in)
                self._add(kind, cls, origin, source)
                if kind in ("extractor", "backbone"):  # which say themselves what they are, in protocols and cards
                    cls.source = source
        except (Exception, SystemExit) as error:
            self.broken[of] = _why(error)

    def _add(self, kind: str, cls: Any, origin: str, source: str | None) -> None:
        """Register a class, or what stands for it. Raises `ValueError` where its name cannot be had."""
        if kind == "prior" and cls.name in REFERENCE_ROWS:
            raise ValueError(f"the prior name '{cls.name}' is that of a reference row")
        if kind == "prior" and cls.name == ALL:
            raise ValueError(f"the prior name '{ALL}' means every prior")
        if kind == "metric" and cls.name == FIT:
            raise ValueError(f"the metric name '{FIT}' is that of a fit's own record")
        if cls.name in self._classes[kind]:
            taken = self._origins[self._classes[kind][cls.name]]
            raise ValueError(f"the {kind} name '{cls.name}' is taken ({taken})")
        self._classes[kind][cls.name] = cls
        self._origins[cls], self._sources[cls] = origin, source


def words_of_class(cls: Any) -> str:
    """The docstring of a class's module, else its own."""
    module = sys.modules.get(cls.__module__)
    return str(getattr(module, "__doc__", None) or vars(cls).get("__doc__") or "").strip()


def survey(plugin: Plugin) -> Answer:
    """What a plugin registers, of its priors enough to plan with: called in a process of its own."""
    registry = Registry(plugins=[plugin])
    own = {
        kind: [cls for name in registry.at_hand(kind) if registry.origin(cls := registry.get(kind, name)) != "built-in"]
        for kind in KINDS
    }
    known = [field.name for field in fields(ForeignPrior) if field.name not in ("plugin", "doc")]
    priors = [
        {
            "known": {name: getattr(cls, name) for name in known} | {"doc": words_of_class(cls)},
            "source": registry.source(cls),
        }
        for cls in own["prior"]
    ]
    others = any(classes for kind, classes in own.items() if kind != "prior")
    return {"priors": priors, "others": others, "broken": registry.broken.get(plugin.origin)}, {}


def _check(cls: Any, base: type) -> None:
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise TypeError(f"{cls!r} is not a subclass of {base.__name__}")
    if inspect.isabstract(cls):
        undefined: frozenset[str] = getattr(cls, "__abstractmethods__", frozenset())
        raise TypeError(f"{cls.__name__} does not define {', '.join(sorted(undefined))}")
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not name.replace("-", "_").isidentifier():
        raise TypeError(f"{cls.__name__}.name is {name!r}; it must be a word of letters, digits, - and _")
    if issubclass(cls, Metric) and not isinstance(cls.reads, (tuple, list)):
        raise TypeError(f"{cls.__name__}.reads is {cls.reads!r}; it must be a tuple of fields of the protocol")
    if issubclass(cls, LatentPrior):
        if not isinstance(cls.space, dict):
            raise TypeError(f"{cls.__name__}.space is {cls.space!r}; it must be a dict of Between and OneOf")
        for of in ("quick", "block_quick", "long_quick", "space"):
            for setting in getattr(cls, of):
                if setting not in cls.Config.model_fields:
                    raise unknown_name(f"setting in {cls.__name__}.{of}", setting, cls.Config.model_fields)
        _check_space(cls)


def _check_space(cls: type[LatentPrior]) -> None:
    """Raise `TypeError` where a search space asks for more than every prior may ask for, or cannot be drawn from."""
    of = f"{cls.__name__}.space"
    if len(cls.space) > MOST_TUNED:
        raise TypeError(f"{of} has {len(cls.space)} settings; at most {MOST_TUNED}, so that all priors have one chance")
    for setting, values in cls.space.items():
        here = f"{of}['{setting}']"
        if not isinstance(values, (Between, OneOf)):
            raise TypeError(f"{here} is {values!r}; it must be a Between or a OneOf of priors.api")
        if not values.why:
            raise TypeError(f"{here} gives no reason: why these values?")
        if isinstance(values, Between) and setting in cls.Config.sampling_names():
            raise TypeError(f"{here} acts at sampling alone, so it must be a OneOf of few values")
        _check_values(here, _some_of(here, values), cls.Config.model_fields[setting])


def _some_of(here: str, values: Between | OneOf) -> list[Any]:
    """All values of a list; of a range its ends, and one between. Raises `TypeError` where it is neither."""
    if isinstance(values, OneOf):
        if not isinstance(values.values, (tuple, list)):
            raise TypeError(f"{here} is {values.values!r}; it must be a tuple of values")
        if not values.values:
            raise TypeError(f"{here} has no values")
        if len({repr(value) for value in values.values}) < 2:
            raise TypeError(f"{here} has one value; at least two, or there is nothing to choose")
        return list(values.values)
    low, high = values.low, values.high
    numbers = all(type(end) in (int, float) for end in (low, high))
    if not (numbers and 0 < low < high < math.inf):
        raise TypeError(f"{here} is from {low} to {high}; it must be 0 < low < high")
    middle = low * (high / low) ** 0.4
    return [low, round(middle) if isinstance(low, int) else middle, high]


def _check_values(here: str, values: list[Any], field: FieldInfo) -> None:
    """Raise `TypeError` for the first value that a setting does not take, or that no record can hold."""
    of: Any = Annotated[field.annotation, field]
    setting: TypeAdapter[Any] = TypeAdapter(of)
    for value in values:
        try:
            setting.validate_python(json.loads(json.dumps(value)))
        except (ValueError, TypeError) as error:  # pydantic's is a ValueError
            said = without_kind(error.errors()[0]["msg"]) if isinstance(error, ValidationError) else str(error)
            raise TypeError(f"{here} has {value!r}, which the setting does not take: {said}") from error


def _why(error: BaseException) -> str:
    """What went wrong with a plugin, and where, if that is a file which it imports from beside it."""
    frames = traceback.walk_tb(error.__traceback__)
    own = [frame for frame, _ in frames if frame.f_globals.get("__name__", "").startswith(PLUGIN)]
    said = re.sub(rf"{PLUGIN}\w+?\.", "", f"{type(error).__name__}: {words_of(error)}")
    if not own or own[-1].f_code.co_filename == own[0].f_code.co_filename:
        return said
    return f"{said} ({Path(own[-1].f_code.co_filename).name}, line {own[-1].f_lineno})"
