"""The commands under one name, and what every error becomes: one line and an exit code."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from benchmark.cli import images, plugins, pretrain, results, run
from benchmark.cli.options import flags_of
from benchmark.errors import NO_SPACE, UNUSABLE_PATH, UsageError
from benchmark.machine.allocator import keep_freed_memory
from benchmark.progress import say
from benchmark.suggestion import set_commands, set_typed

app = typer.Typer(
    help="A benchmark of latent priors for frozen, pretrained VAEs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
COMMANDS: dict[str, Callable[..., None]] = {
    "run": run.run,
    "pretrain": pretrain.pretrain,
    "reference": images.reference,
    "bound": images.bound,
    "list": plugins.list_,
    "check": plugins.check,
    "new-prior": plugins.new_prior,
    "leaderboard": results.leaderboard,
    "verify": results.verify,
}
OPTIONS = {name: flags_of(command) for name, command in COMMANDS.items()}
set_commands({name: set(flags.values()) for name, flags in OPTIONS.items()})


def _prepared(name: str, command: Callable[..., None]) -> Callable[..., None]:
    """The command, which begins with what every one begins with and ends as every one ends."""

    @functools.wraps(command)
    def call(**given: Any) -> None:
        given = {each: _expand_home(value) for each, value in given.items()}
        parameters = inspect.signature(command).parameters
        typed = {flag: given[each] for each, flag in OPTIONS[name].items() if given[each] != parameters[each].default}
        set_typed(typed)
        command(**given)

    return call


def _expand_home(value: Any) -> Any:
    """`~` is the home folder, also where the shell leaves it: `--out=~/mine`."""
    if isinstance(value, list):
        return [_expand_home(each) for each in value]
    return Path(os.path.expanduser(value)) if isinstance(value, Path) else value


for name, command in COMMANDS.items():
    app.command(name)(_prepared(name, command))


@app.callback()
def options() -> None:
    """A benchmark of latent priors for frozen, pretrained VAEs."""


def main() -> None:
    """Run a command; exit 0 when all went well, 1 when a job failed, 2 for wrong usage, 130 when interrupted."""
    keep_freed_memory()
    try:
        app()
    except SystemExit as end:
        _leave(end.code)
        raise
    except UsageError as error:
        say(f"error: {error}")
        sys.exit(2)
    except UNUSABLE_PATH as error:
        say(f"error: cannot use {error.filename}: {_said(error)} (--results, --out and caches are folders)")
        sys.exit(2)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        say(f"error: {_said(error)}: {error.filename or 'the disk is full'}; what is recorded stays")
        sys.exit(2)


def _leave(code: int | str | None) -> None:
    """End at once where a plugin left a thread, which Python would wait for."""
    left = [thread for thread in threading.enumerate() if not (thread.daemon or thread is threading.main_thread())]
    if left and threading.current_thread() is threading.main_thread():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _said(error: OSError) -> str:
    """What the system says of an error."""
    return (error.strerror or type(error).__name__).lower()
