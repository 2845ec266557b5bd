"""The commands under one name, and what every error becomes: one line and an exit code."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from benchmark.cli import cluster, export, images, joint, plugins, pretrain, results, run, suite, tune, wrap
from benchmark.cli.options import flags_of
from benchmark.errors import NO_SPACE, UNUSABLE_PATH, UsageError
from benchmark.machine.allocator import keep_freed_memory
from benchmark.machine.exits import refused_exit
from benchmark.progress import say
from benchmark.store.places import expand_home, settle_places
from benchmark.suggestion import set_commands, set_typed
from benchmark.text import one_line

app = typer.Typer(
    help="A benchmark of latent priors for frozen, pretrained VAEs.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich would take [settings] in brackets for its own
    context_settings={"max_content_width": 120},
)
#: the error of any words that typer does not take, which it exports under no name
WRONG_WORDS: Any = typer.BadParameter.__mro__[1]
COMMANDS: dict[str, Callable[..., None]] = {
    "run": run.run,
    "tune": tune.tune,
    "suite": suite.suite,
    "pretrain": pretrain.pretrain,
    "joint": joint.joint,
    "wrap": wrap.wrap,
    "reference": images.reference,
    "groups": images.groups,
    "bound": images.bound,
    "export": export.export,
    "list": plugins.list_,
    "show": plugins.show_,
    "check": plugins.check,
    "new-prior": plugins.new_prior,
    "leaderboard": results.leaderboard,
    "report": results.report,
    "pack": results.pack,
    "verify": results.verify,
    "submit": cluster.submit,
    "status": cluster.status,
}
#: what an interrupted command leaves, and how to go on
GO_ON = {
    "run": "what was recorded stays, and the same command goes on from here",
    "tune": "every trial that was recorded stays, and the same command goes on from here",
    "suite": "what was trained and recorded stays, and the same command goes on from here",
    "pretrain": "the same command goes on from the last whole epoch",
    "joint": "what was trained and recorded stays, and the same command goes on from here",
    "wrap": "a bundle that is there is whole, and `run` makes what it lacks; else the same command begins again",
    "reference": "splits that were written stay; name those that are missing with --split",
    "groups": "nothing is kept; the same command begins again, and fewer images take less time: --keep 1500,300,1200",
    "bound": "nothing is kept; the same command begins again, and fewer --samples take less time",
    "check": "the checks above hold or fail as they say; --target NAME alone takes less time",
    "verify": "nothing was changed; a smaller --share takes less time",
    "leaderboard": "the records are as they were, and the same command writes every table again",
}
OPTIONS = {name: flags_of(command) for name, command in COMMANDS.items()}
set_commands({name: set(flags.values()) for name, flags in OPTIONS.items()})


def _prepared(name: str, command: Callable[..., None]) -> Callable[..., None]:
    """The command, which begins with what every one begins with and ends as every one ends."""

    @functools.wraps(command)
    def call(**given: Any) -> None:
        settle_places()
        given = {each: _expand_homes(value) for each, value in given.items()}
        parameters = inspect.signature(command).parameters
        typed = {flag: given[each] for each, flag in OPTIONS[name].items() if given[each] != parameters[each].default}
        set_typed(typed)
        try:
            with refused_exit():
                command(**given)
        except SystemExit as error:  # a stranger's: ours end by typer.Exit
            raise UsageError(f"a plugin's code would have ended the command: {_described(error)}") from error
        except KeyboardInterrupt:
            say(f"interrupted: {GO_ON.get(name, 'nothing was changed; the same command begins again')}")
            raise typer.Exit(130) from None

    return call


def _expand_homes(value: Any) -> Any:
    if isinstance(value, list):
        return [_expand_homes(each) for each in value]
    return expand_home(value) if isinstance(value, Path) else value


for name, command in COMMANDS.items():
    app.command(name)(_prepared(name, command))


@app.callback()
def options() -> None:
    """A benchmark of latent priors for frozen, pretrained VAEs."""


def main() -> None:
    """Run a command; exit 0 when all went well, 1 when a job failed, 2 for wrong usage, 130 when interrupted.

    2, too, where the machine or a file does not give what is needed; 3 for a fault of the suite, its traceback saved.
    """
    keep_freed_memory()
    try:
        _require_values(sys.argv[1:])
        sys.exit(app(sys.argv[1:] or ["--help"], standalone_mode=False))  # typer itself would say errors in four lines
    except SystemExit as end:
        _leave(end.code)
        raise
    except WRONG_WORDS as error:
        help_ = f" (see: {error.ctx.command_path} --help)" if error.ctx else ""
        say(f"error: {one_line(error.format_message())}{help_}")
        sys.exit(2)
    except UsageError as error:
        say(f"error: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        say("interrupted before anything was done")
        sys.exit(130)
    except UNUSABLE_PATH as error:
        say(f"error: cannot use {error.filename}: {_said(error)} (--results, --out and caches are folders)")
        sys.exit(2)
    except Exception as error:
        sys.exit(_last_resort(error))


def _described(error: BaseException) -> str:
    from benchmark.jobs.failures import describe_error

    return describe_error(error)


def _require_values(words: list[str]) -> None:
    """Raise `UsageError` for a word of nothing: a variable that is not set, say, which a path takes for this folder."""
    for before, word in zip(["the command", *words], words):
        if not word.strip() or (word.startswith("--") and word.endswith("=")):
            raise UsageError(f"{before if not word.strip() else word}: its value is empty: leave it out, or give one")


def _last_resort(error: Exception) -> int:
    """Say in one line what nobody foresaw: the machine's faults, files that are damaged, and bugs of ours."""
    from benchmark.jobs.failures import describe_error, in_one_line, is_shortage
    from benchmark.store.sealed import Damaged

    if isinstance(error, Damaged):
        say(f"error: {in_one_line(str(error))}: put back what was there, or remove it, and it is made again")
        return 2
    if isinstance(error, OSError) and (error.filename or error.errno in NO_SPACE):
        say(f"error: {_said(error)}: {error.filename or 'the disk is full'}; what is recorded stays")
        return 2
    if is_shortage(error):
        say(f"error: out of memory ({describe_error(error)}); what is recorded stays: make sizes or batches smaller")
        return 2
    say(f"error: a fault of the suite: {describe_error(error)}; {_saved(error)}")
    return 3


def _saved(error: Exception) -> str:
    """Where the traceback of an error was written, for whoever mends it."""
    text = "".join(traceback.format_exception(error))
    try:
        handle, path = tempfile.mkstemp(prefix="latent-prior-benchmark-", suffix=".txt", text=True)
        with open(handle, "w", errors="backslashreplace") as file:
            file.write(text)
    except OSError:
        return "its traceback could not be saved"
    return f"its traceback, to report it with, is in {path}"


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
