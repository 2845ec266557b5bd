"""The commands under one name, and what every error becomes: one line and an exit code."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

import typer

from benchmark.cli import images, plugins, pretrain, results, run
from benchmark.errors import NO_SPACE, UNUSABLE_PATH, UsageError
from benchmark.machine.allocator import keep_freed_memory
from benchmark.progress import say

app = typer.Typer(
    help="A benchmark of latent priors for frozen, pretrained VAEs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich would take [settings] in brackets for its own
    context_settings={"max_content_width": 120},
)
COMMANDS: dict[str, Callable[..., None]] = {
    "run": run.run,
    "pretrain": pretrain.pretrain,
    "reference": images.reference,
    "bound": images.bound,
    "list": plugins.list_,
    "show": plugins.show_,
    "check": plugins.check,
    "new-prior": plugins.new_prior,
    "leaderboard": results.leaderboard,
    "report": results.report,
    "verify": results.verify,
}
for name, command in COMMANDS.items():
    app.command(name)(command)


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
