"""Settings typed by a user -> a validated config, or one line that says what is wrong with them."""

from __future__ import annotations

import itertools
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from benchmark.errors import UsageError, unknown_name
from benchmark.text import without_kind

Model = TypeVar("Model", bound=BaseModel)

NUMBER = r"\d+(?:\.\d+)?(?:e[+-]?\d+)?"  # in a tuple
OF_PYTHON = {"None": None, "True": True, "False": False}  # as its users spell JSON's words


def parse_value(text: str) -> Any:
    """`1`, `true` and `null` as JSON has them, `True` and `None`; `32x64`, `0.5x0.9` are tuples; else a string."""
    if text in OF_PYTHON:
        return OF_PYTHON[text]
    if re.fullmatch(rf"{NUMBER}(x{NUMBER})+", text):
        return tuple(int(part) if part.isdigit() else float(part) for part in text.split("x"))
    try:
        return json.loads(text)
    except ValueError:
        return text


def format_value(value: Any) -> str:
    """A value as a user would type it: `parse_value(format_value(value)) == value`; a list is JSON's of a tuple."""
    if isinstance(value, (tuple, list)):
        return "x".join(map(str, value))
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return value if parse_value(value) == value else json.dumps(value)  # `"None"` is a word, None is nothing
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if not isinstance(value, float) or float(short) == value else repr(value)


def parse_named(text: str, option: str) -> list[tuple[str, list[dict[str, Any]]]]:
    """`'evalp[gp_weight=1,10],gaussian'` -> [("evalp", [{gp_weight: 1}, {gp_weight: 10}]), ("gaussian", [{}])].

    A comma inside brackets starts another setting where a name and `=` follow, else another value of the last.
    """
    parts = re.findall(r"[^,\[\]]+(?:\[[^\[\]]*\])?", text)
    if ",".join(parts) != text or not parts:
        raise UsageError(
            f"{option} {text}: expected names with settings in brackets, e.g. 'evalp[gp_weight=1,10],gaussian'"
        )
    asked = []
    for part in parts:
        name, bracket, inside = part.strip().partition("[")
        if not name:
            raise UsageError(f"{option} {text}: expected a name, got '{part}'")
        values: dict[str, list[Any]] = {}
        setting = None
        for word in inside.rstrip("]").split(",") if bracket else []:
            before, equals, after = word.partition("=")
            if equals:
                setting, word = before.strip(), after
                if setting in values:
                    raise UsageError(f"{option} {part}: '{setting}' is given twice; several values are {setting}=1,2")
                values[setting] = []
            if setting is None or not word.strip():
                raise UsageError(f"{option} {part}: expected NAME=VALUE inside the brackets, got '{word}'")
            values[setting].append(parse_value(word.strip()))
        asked.append((name, [dict(zip(values, choice)) for choice in itertools.product(*values.values())]))
    return asked


def read_toml(file: Path, of: str) -> dict[str, Any]:
    """What a TOML file holds; `of`: what errors call it. Raises `UsageError`."""
    try:
        return tomllib.loads(file.read_text())
    except FileNotFoundError:
        raise UsageError(f"{of}: no such file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{of}: not readable as TOML ({error})") from error


def validate(config: type[Model], settings: dict[str, Any], of: str) -> Model:
    """`config(**settings)` of settings as they are typed; raises `UsageError` as `construct` does."""
    tuples = {name for name, field in config.model_fields.items() if get_origin(field.annotation) is tuple}
    # one member is typed, and shown, as a number
    alone = (int, float)
    return construct(
        config, {k: (value,) if k in tuples and type(value) in alone else value for k, value in settings.items()}, of
    )


def construct(model: type[Model], fields: dict[str, Any], of: str) -> Model:
    """`model(**fields)`; raises `UsageError` naming the field, its value and what was expected."""
    for name in fields:
        if name not in model.model_fields:
            raise unknown_name(f"setting of {of}", name, model.model_fields)
    try:
        return model(**fields)
    except ValidationError as error:
        problem, *others = error.errors()
        where, wanted = ".".join(map(str, problem["loc"])) or "settings", [_expected(model, problem)]
        field = str(problem["loc"][0]) if problem["loc"] else ""
        if others and field and get_origin(model.model_fields[field].annotation) in (Union, UnionType):
            where = field  # of a union each member has an error of its own, under a name of its own
            wanted += [_expected(model, other) for other in others if other["loc"][:1] == (field,)]
        if problem["type"] == "missing":
            raise UsageError(f"{of}: {where} is missing") from error
        raise UsageError(f"{of}: {where}={problem['input']!r}: {', or: '.join(dict.fromkeys(wanted))}") from error


def _expected(model: type[Model], problem: ErrorDetails) -> str:
    """What was expected, as pydantic says it; its word for what has several values is Python's and no user's."""
    if problem["type"] != "tuple_type":
        return without_kind(problem["msg"])
    if {int, float} & set(_types_in(model.model_fields[str(problem["loc"][0])].annotation)):
        return "expected several numbers: typed, 32x64; in a file, [32, 64]"
    return f"expected a list: [{problem['input']!r}]"


def _types_in(annotation: Any) -> Iterator[Any]:
    yield annotation
    for each in get_args(annotation):
        yield from _types_in(each)
