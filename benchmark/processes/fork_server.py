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
import importlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

from benchmark.machine.importing import importing

#: what the server imports; a name and no import, for it stands above
PRELOADED = "benchmark.jobs.preloaded"
#: what the kernel is to end first where memory runs out: a child, not who waits for it
FIRST_TO_GO = "1000"

_address: str | None = None
_lifeline: socket.socket | None = None  # of the server that this process started


def fork_child(output: int, serve: Callable[[Connection], None]) -> tuple[Connection, socket.socket]:
    """A new process that runs `serve(connection)`, its standard output and errors going to the file `output`.

    Returns the other end of its connection, and the guard's end: what closes it kills the child. Four bytes from it are
    the child's number, and four more, when it has ended, its wait status. `serve` is a function of a module of ours.
    """
    ours, theirs = Pipe()
    report, of_guard = socket.socketpair()
    with theirs, of_guard, _connect() as server:
        where = f"{serve.__module__}:{serve.__qualname__}".encode()
        socket.send_fds(server, [where], [theirs.fileno(), of_guard.fileno(), output])
        server.recv(1)  # it has taken them
    return ours, report


def _connect() -> socket.socket:
    """A connection to the server that is there, or to a new one."""
    server = socket.socket(socket.AF_UNIX)
    if _address is not None:
        try:
            server.connect(_address)
        except OSError:  # it was killed
            pass
        else:
            return server
    server.connect(start_server())
    return server


def start_server() -> str:
    """Start a server; returns its address, which takes connections from now on, while the server still imports."""
    global _address, _lifeline
    _address = os.path.join(tempfile.mkdtemp(prefix="latent-prior-benchmark-"), "server")
    _lifeline, of_server = socket.socketpair()
    atexit.register(_lifeline.close)
    with socket.socket(socket.AF_UNIX) as listener, of_server:
        listener.bind(_address)
        listener.listen(128)
        root = str(Path(__file__).resolve().parents[2])
        code = f"import sys; sys.path.insert(0, {root!r}); from {__name__} import main; main(*map(int, sys.argv[1:]))"
        descriptors = listener.fileno(), of_server.fileno()
        subprocess.Popen(
            [sys.executable, "-c", code, *map(str, descriptors)],
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C on a terminal is for the command alone
        )
    return _address


def main(listening: int, living: int) -> None:
    """The server: forks a guard with its child for each connection, until the process that started it is no more."""
    global _address
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no guard is waited for
    listener, lifeline = socket.socket(fileno=listening), socket.socket(fileno=living)
    _address = listener.getsockname()  # a child finds the same server
    with importing():  # what is imported here is shared by all forks, and searched for garbage by none
        importlib.import_module(PRELOADED)
    while lifeline not in select.select([listener, lifeline], [], [])[0]:
        server, _ = listener.accept()
        with server:
            where, descriptors, _, _ = socket.recv_fds(server, 1_000, 3)
            if len(descriptors) == 3 and os.fork() == 0:
                for each in (listener, lifeline, server):
                    each.close()
                with contextlib.suppress(BaseException):
                    _guard(where.decode(), *descriptors)
                os._exit(1)
            for descriptor in descriptors:
                os.close(descriptor)
            server.send(b".")
    shutil.rmtree(os.path.dirname(_address), ignore_errors=True)
    os._exit(0)  # what libraries have to say at an orderly end is of no use


def _guard(where: str, channel: int, report: int, output: int) -> None:
    """Fork the child, and wait for its end or for that of whoever asked for it."""
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
        os.write(report, child.to_bytes(4, "little"))
    ended = 0
    while not ended and report not in select.select([report, woken], [], [])[0]:
        os.read(woken, 100)
        ended, status = os.waitpid(child, os.WNOHANG)
    with contextlib.suppress(OSError):
        os.killpg(child, signal.SIGKILL)  # its session, with what it has started there
    if not ended:
        os.kill(child, signal.SIGKILL)  # if it has no session yet
        _, status = os.waitpid(child, 0)
    with contextlib.suppress(OSError):
        os.write(report, status.to_bytes(4, "little"))
    os._exit(0)


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
    with contextlib.suppress(SystemExit):
        getattr(importlib.import_module(module), name)(Connection(channel))
    os._exit(0)
