"""Clean processes, quickly: a server that has imported what they need, and has run none of it, forks them.

To start Python and import torch and the suite takes seconds; a fork of a process that has done so starts in hundredths
of one. The server is a fresh interpreter with modules of ours alone: what the caller's main module, patches or threads
are is not in it, and nothing of the caller is imported again. It has computed nothing, so that no thread of a library
is lost in a fork, and touched no GPU.

Between server and child stands a guard, which forks the child, tells how it ended, and kills its whole session as soon
as whoever asked for it closes its end or is no more: nothing is left behind, whatever dies first. A child that kills
its parent kills a guard. A server ends with the process that started it; a process that finds no server starts one.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import errno
import importlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

from benchmark.machine.importing import importing

#: what the server imports; a name and no import, for it stands above
PRELOADED = "benchmark.jobs.preloaded"
#: what the kernel is to end first where memory runs out: a child, not who waits for it
FIRST_TO_GO = "1000"
#: of <linux/prctl.h>: PR_SET_CHILD_SUBREAPER
ADOPT = 36

_requests: socket.socket | None = None  # to the server; a child has its own copy
_lifeline: socket.socket | None = None  # of the server that this process started


#: a connection to a child, its guard's end, the guard's number and the child's
Forked = tuple[Connection, socket.socket, int, int]


def fork_child(output: int, serve: Callable[[Connection], None]) -> Forked:
    """A new process that runs `serve(connection)`, its standard output and errors going to the file `output`.

    What closes the guard's end kills the child, and four bytes from it, when the child has ended, are its wait status.
    `serve` is a function of a module.
    """
    where = f"{serve.__module__}:{serve.__qualname__}".encode()
    for _ in range(2):
        start_server()
        if made := _ask(where, output):
            return made
        _forget_server()  # which has been killed
    raise OSError(errno.ECHILD, "the server that forks this suite's processes ended twice")


def _ask(where: bytes, output: int) -> Forked | None:
    """What `fork_child` returns; None where the server is no more."""
    assert _requests is not None
    ours, theirs = Pipe()
    report, of_guard = socket.socketpair()
    with theirs, of_guard:
        try:
            socket.send_fds(_requests, [where], [theirs.fileno(), of_guard.fileno(), output])
        except OSError:
            return None
    numbers = report.recv(8)
    if len(numbers) < 8:
        return None
    return ours, report, int.from_bytes(numbers[:4], "little"), int.from_bytes(numbers[4:], "little")


def start_server() -> None:
    """Start a server, unless there is one; it takes requests from now on, while it still imports."""
    global _requests, _lifeline
    if _requests is not None:
        return
    _requests, taken = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    _lifeline, of_server = socket.socketpair()
    atexit.register(_forget_server)
    # where this process looks and in its order, the current folder left out: beside installed packages may lie
    # namesakes of standard modules, which come behind them (`dataclasses`, which pythae installs)
    path = [*(each for each in sys.path if each), str(Path(__file__).resolve().parents[2])]
    code = f"import sys; sys.path[:] = {path!r}; from {__name__} import main; main(*map(int, sys.argv[1:]))"
    with taken, of_server:
        descriptors = taken.fileno(), _requests.fileno(), of_server.fileno()
        subprocess.Popen(
            [sys.executable, "-P", "-c", code, *map(str, descriptors)],  # nothing of the current folder is a module
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C on a terminal is for the command alone
        )


def _forget_server() -> None:
    """Close this process's ends; a server that it started ends with that."""
    global _requests, _lifeline
    for each in (_requests, _lifeline):
        if each is not None:
            each.close()
    _requests = _lifeline = None


def main(taking: int, asking: int, living: int) -> None:
    """The server: forks a guard with its child for each request, until the process that started it is no more."""
    global _requests
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no guard is waited for
    _adopt_orphans()  # those of a guard that was killed
    taken, lifeline = socket.socket(fileno=taking), socket.socket(fileno=living)
    _requests = socket.socket(fileno=asking)  # for the children, which may want some of their own
    with importing():  # what is imported here is shared by all forks, and searched for garbage by none
        importlib.import_module(PRELOADED)
    while lifeline not in select.select([taken, lifeline], [], [])[0]:
        where, descriptors, _, _ = socket.recv_fds(taken, 1_000, 3)
        if len(descriptors) == 3 and os.fork() == 0:
            taken.close()
            lifeline.close()
            with contextlib.suppress(BaseException):
                _guard(where.decode(), *descriptors)
            os._exit(1)
        for descriptor in descriptors:
            os.close(descriptor)
    _kill_descendants()
    os._exit(0)  # what libraries have to say at an orderly end is of no use


def _guard(where: str, channel: int, report: int, output: int) -> None:
    """Fork the child, and wait for its end or for that of whoever asked for it."""
    _adopt_orphans()
    woken, waking = os.pipe()
    os.set_blocking(waking, False)
    signal.set_wakeup_fd(waking)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    child = os.fork()
    if child == 0:
        signal.set_wakeup_fd(-1)
        for descriptor in (woken, waking, report):
            os.close(descriptor)
        _become_child(where, channel, output)
    os.close(channel)
    os.close(output)
    with contextlib.suppress(OSError):
        os.write(report, os.getpid().to_bytes(4, "little") + child.to_bytes(4, "little"))
    ended = 0
    while not ended and report not in select.select([report, woken], [], [])[0]:
        os.read(woken, 100)
        ended, status = os.waitpid(child, os.WNOHANG)
    with contextlib.suppress(OSError):
        os.killpg(child, signal.SIGKILL)  # its session
    if not ended:
        os.kill(child, signal.SIGKILL)  # if it has no session yet
        _, status = os.waitpid(child, 0)
    _kill_descendants()
    with contextlib.suppress(OSError):
        os.write(report, status.to_bytes(4, "little"))
    os._exit(0)


def _adopt_orphans() -> None:
    """On Linux, whatever a descendant leaves behind becomes a child of this process (`prctl(2)`)."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(ADOPT, 1, 0, 0, 0)


def _kill_descendants() -> None:
    """Kill all that descends from this process, whatever session it is in, until there is nothing left."""
    for _ in range(100):  # what is killed may just have forked
        found = _list_descendants()
        if not found:
            return
        for number in found:
            with contextlib.suppress(OSError):
                os.kill(number, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.002)


def _list_descendants() -> list[int]:
    """On Linux; none elsewhere. What has ended and is not waited for yet is none."""
    parents: dict[int, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = place.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents.setdefault(int(parent), []).append(int(place.parent.name))
    found = list(parents.get(os.getpid(), []))
    for number in found:
        found += parents.get(number, [])
    return found


def _become_child(where: str, channel: int, output: int) -> None:
    """Run what was asked for in a session of its own, with nothing but its connection and its output."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(output)
    with contextlib.suppress(OSError):  # where there is no such file, no such system
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_GO)
    module, _, name = where.partition(":")
    try:
        getattr(importlib.import_module(module), name)(Connection(channel))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
