"""Commands that a message tells a user to type: whole, quoted, and with what was typed just now that they need too."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

#: what decides which things a name means and where they are: the next command needs it as this one does
CARRIED = ("--dataset", "--data-root", "--plugin", "--inception-weights", "--device")

_takes: dict[str, set[str]] = {}
_typed: dict[str, Any] = {}


def set_commands(takes: Mapping[str, set[str]]) -> None:
    """The commands there are, with the options that each takes."""
    _takes.update(takes)


def set_typed(options: Mapping[str, Any]) -> None:
    """What was typed for the command under way: `--option` -> value."""
    _typed.clear()
    _typed.update(options)


def suggest(command: str, *arguments: str, **options: Any) -> str:
    """The line for a shell: `suggest("run", bundle="my vae")` -> `python -m benchmark run --bundle 'my vae'`.

    A list repeats its option; what is None is left out. What was typed just now (`CARRIED`) goes along.
    """
    named = {f"--{name.replace('_', '-')}": value for name, value in options.items()}
    carried = {name: _typed[name] for name in CARRIED if name in _typed and name in _takes.get(command, set())}
    words = [command, *arguments]
    for option, value in {**carried, **named}.items():
        each = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        words += [word for one in each if one is not None for word in (option, str(one))]
    return f"python -m benchmark {shlex.join(map(str, words))}"
