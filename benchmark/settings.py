"""Settings typed by a user -> a validated config, or one line that says what is wrong with them."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ValidationError

from benchmark.errors import UsageError, unknown


def parsed(text: str) -> Any:
    """`1`, `0.5`, `true` and `null` as JSON has them; anything else is a string."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def validated(config: type[BaseModel], settings: dict[str, Any], of: str) -> BaseModel:
    """`config(**settings)`; raises `UsageError` naming the setting, its value and what was expected."""
    for name in settings:
        if name not in config.model_fields:
            raise unknown(f"setting of {of}", name, config.model_fields)
    try:
        return config(**settings)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "settings"
        raise UsageError(f"{of}: {where}={problem['input']!r}: {problem['msg']}") from error
