"""What a registered class is, and what may be set of it: for people, from the class alone."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema
from tabulate import tabulate

from benchmark.registry import ForeignPrior, words_of_class
from benchmark.settings import format_value
from benchmark.text import one_line
from priors.api import Between, OneOf

LONGEST = 140  # characters of what a thing is
#: what a bound of a JSON schema says
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
#: attributes of each kind of class that say what it is, and what they are called
FACTS = {
    "prior": {"group": "group", "by_default": "in a run that names no priors", "learns": "targets of check"},
    "metric": {"reads": "reads of the protocol", "reference_rows": "reference rows that have it"},
    "dataset": {"terms": "terms", "preview": "stands in where it has no bundle"},
    "extractor": {"score": "score", "channels": "channels", "embedded": "can always be used"},
}


def summarise(cls: Any) -> str:
    """What a class is, in a line: the first sentence of its module's docstring, else of its own."""
    text = cls.doc if isinstance(cls, ForeignPrior) else words_of_class(cls)
    sentence = re.split(r"(?<=\.)\s+(?=[A-Z`])", one_line(text.partition("\n\n")[0]))[0]
    return textwrap.shorten(sentence, LONGEST, placeholder=" ...")


def describe(kind: str, cls: Any, origin: str) -> str:
    """All that is to be known of a class before it is used: what it is, its settings, its recipes."""
    version = f", version {cls.version}" if hasattr(cls, "version") else ""
    lines = [f"{kind} {cls.name} ({one_line(origin)}{version}): {summarise(cls)}"]
    for attribute, said in FACTS.get(kind, {}).items():
        value = getattr(cls, attribute, None)
        if value not in (None, "", (), {}):
            lines.append(f"  {said}: {('no', 'yes')[value] if isinstance(value, bool) else _said(value)}")
    config = getattr(cls, "Config", None)
    if isinstance(config, type) and issubclass(config, BaseModel):
        lines += _settings(cls, config)
    return "\n".join(lines)


def _settings(cls: Any, config: type[BaseModel]) -> Iterator[str]:
    if not config.model_fields:
        yield "  it has no settings"
        return
    schema = _schema(config)
    body = [
        [
            name,
            _type(found, schema) if (found := schema.get("properties", {}).get(name)) else str(field.annotation),
            "required" if field.is_required() else _said(field.get_default(call_default_factory=True)),
            "sampling" if isinstance(extra := field.json_schema_extra, dict) and extra.get("sampling") else "",
        ]
        for name, field in config.model_fields.items()
        if not field.exclude  # of training, in a VAE that was trained elsewhere
    ]
    # in how many fits a setting of sampling takes part is what people ask for: none
    header = (
        ["setting", "values", "default", ""] if any(line[-1] for line in body) else ["setting", "values", "default"]
    )
    grid = tabulate([line[: len(header)] for line in body], header, "simple", disable_numparse=True)
    yield from ("  " + line.rstrip() for line in grid.splitlines())
    if len(header) == 4:
        yield "  sampling: it acts on draws alone, and rows that differ in it share a fit"
    long = f" for vectors of more than {getattr(cls, 'long_from', 0):,} numbers"
    shapes = {"": "", "block_": " for blocks", "long_": long}
    for of, said in shapes.items():
        for dataset, (_, settings) in getattr(cls, f"{of}recipes", {}).items():
            yield f"  recipe{said} on {dataset}: {_listed(settings) or 'the defaults'}"
    for of, said in shapes.items():
        if caps := getattr(cls, f"{of}quick", None):
            yield f"  quick budget{said}, at most: {_listed(caps)}"
    for setting, values in getattr(cls, "space", {}).items():
        yield f"  tuned, {setting}: {_range(values)} ({values.why})"
    for companion in getattr(cls, "companions", ()):
        yield f"  shown beside it: {cls.name}[{_listed(companion)}]"


def _schema(config: type[BaseModel]) -> dict[str, Any]:
    try:
        return config.model_json_schema()
    except PydanticInvalidForJsonSchema:  # of a stranger's type
        return {}


def _type(part: dict[str, Any], whole: dict[str, Any]) -> str:
    """What a part of a JSON schema lets through."""
    if "$ref" in part:
        part = whole["$defs"][part["$ref"].rpartition("/")[2]]
    if "anyOf" in part:
        return " or ".join(_type(each, whole) for each in part["anyOf"])
    if "enum" in part or "const" in part:
        return ", ".join(map(_said, part.get("enum", [part.get("const")])))
    if part.get("type") == "array":
        return f"several (joined by x) of: {_type(part.get('items', {}), whole)}"
    bounds = ", ".join(f"{sign} {_said(part[name])}" for name, sign in BOUNDS.items() if name in part)
    return f"{part.get('type', 'anything')} {bounds}".strip()


def _range(values: Between | OneOf) -> str:
    if isinstance(values, OneOf):
        return ", ".join(map(_said, values.values))
    return f"{_said(values.low)} to {_said(values.high)}"


def _listed(settings: dict[str, Any]) -> str:
    return ",".join(f"{name}={_said(value)}" for name, value in settings.items())


def _said(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, dict):
        return _listed(value)
    if isinstance(value, (tuple, list)) and any(isinstance(each, str) for each in value):
        return ", ".join(map(str, value))
    return one_line(format_value(value))
