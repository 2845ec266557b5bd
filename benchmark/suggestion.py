"""Commands that a message tells a user to type: whole, quoted, and with what was typed just now that they need too."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

#: what decides which things a name means and where they are: the next command needs it as this one does
CARRIED = ("--dataset", "--data-root", "--plugin", "--inception-weights", "--device", "--groups")

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
    """A command as `spell` has it, with what was typed just now (`CARRIED`) where it takes that too."""
    carried = {name: _typed[name] for name in CARRIED if name in _typed and name in _takes.get(command, set())}
    return _spell(command, arguments, {**carried, **_flags(options)})


def spell(command: str, *arguments: str, **options: Any) -> str:
    """The line for a shell: `spell("run", bundle="my vae")` -> `python -m benchmark run --bundle 'my vae'`.

    A list repeats its option; what is None is left out.
    """
    return _spell(command, arguments, _flags(options))


def _flags(options: dict[str, Any]) -> dict[str, Any]:
    return {f"--{name.replace('_', '-')}": value for name, value in options.items()}


def _spell(command: str, arguments: Sequence[str], options: Mapping[str, Any]) -> str:
    words = [command, *arguments]
    for option, value in options.items():
        each = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        words += [word for one in each if one is not None for word in (option, str(one))]
    return f"python -m benchmark {shlex.join(map(str, words))}"
