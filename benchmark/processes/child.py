"""A process of its own in which functions of ours are called, and what it answers.

What goes to the child is pickled. What comes back is JSON and safetensors, which can run nothing: a child may hold
foreign code. A function that is called there returns `(value, tensors)`: something that JSON has, and tensors by name.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from benchmark.processes.fork_server import fork_child
from benchmark.text import printable

Answer = tuple[Any, dict[str, Tensor]]

#: seconds in which a child that said nothing more is to have ended by itself
GRACE = 2.0
#: bytes of a message, and of tensors: what claims to be longer is no message
MOST, MOST_OF_TENSORS = 100_000_000, 100_000_000_000
#: where a child has its end of the connection, out of reach of code that closes or writes to the first files it finds
OUT_OF_REACH = 700
#: lines of a child's output that are shown, and the last ones that are kept for whoever asks why it died
SHOWN, KEPT, LONGEST = 5, 20, 500


class Died(Exception):
    """A child ended, or was ended, without an answer; the message says how. `output`: its last lines."""

    def __init__(self, reason: str, output: list[str]) -> None:
        super().__init__(reason)
        self.output = output


class Raised(Exception):
    """A function of ours raised in a child; the message is its traceback. What the system refused is an `OSError`."""


@dataclass(frozen=True)
class Told:
    """What a child says on the way, by `tell`."""

    kind: str
    value: Any


@dataclass(frozen=True)
class Answered:
    value: Any
    tensors: dict[str, Tensor]


def _standard_error() -> int:
    """Where this process's own words go; a stand-in for the stream may have no number."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return 2


class Child:
    """One child, from its start to `close`, which ends it whatever it is at.

    `say`: shows the first lines of its output, each by a call, where it may hold foreign code; None where its output
    is this process's own. `environment`: variables beside those of this process.
    """

    def __init__(self, say: Callable[[str], None] | None = None, environment: dict[str, str] | None = None) -> None:
        self._output = _Output(say) if say else None
        writing = self._output.writing if self._output else _standard_error()
        self._channel, self._guard, self._of_guard, self._number = fork_child(writing, serve)
        if self._output:
            self._output.follow()
        self._guarded = True
        self._status: int | None = None
        with contextlib.suppress(OSError):  # it has died: what is asked of it next says so
            self._channel.send(
                {
                    "environment": {**os.environ, **(environment or {})},
                    "folder": os.getcwd(),
                    "words": sys.argv,
                    "path": sys.path,
                }
            )

    @property
    def waited_for(self) -> list[Any]:
        """What is ready, by `multiprocessing.connection.wait`, when `receive` has something."""
        return [self._channel, *([self._guard] if self._guarded else [])]

    def start(self, function: Callable[..., Answer], *arguments: Any) -> None:
        """Have a function called; `receive` has what it says, and at last its answer."""
        with contextlib.suppress(OSError):
            self._channel.send((function, arguments))

    def receive(self, limit: float | None = None) -> Told | Answered:
        """The next message, waited for. Raises `Raised`, or `Died` where none will come, or none within `limit` s."""
        try:
            while self._channel not in (ready := wait(self.waited_for, limit)):
                if not ready:
                    raise Died(f"the process gave no answer in {limit:g} s", [])
                if self._read_status() is not None:
                    raise EOFError
            message = json.loads(self._channel.recv_bytes(MOST))
            if message["kind"] == "told":
                return Told(message["what"], message["value"])
            if message["kind"] == "answered":
                return Answered(message["value"], load(self._channel.recv_bytes(MOST_OF_TENSORS)))
        except Died:
            raise
        except Exception as error:  # its end, or what is no message
            raise Died(self._describe_end(error), self._output.last() if self._output else []) from None
        said = message["value"]
        raise OSError(*said["of_system"]) if said["of_system"] else Raised(said["traceback"])

    def call(
        self,
        function: Callable[..., Answer],
        *arguments: Any,
        told: Callable[[Told], None] = lambda _: None,
        limit: float | None = None,
    ) -> Answered:
        """Call a function there and wait for its answer; `told` is given what it says on the way.

        Raises as `receive`, `limit` being the longest silence.
        """
        self.start(function, *arguments)
        while isinstance(message := self.receive(limit), Told):
            told(message)
        return message

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """End the child, with all that it has started, and wait until it is gone."""
        self._channel.close()
        if self._guarded:
            with contextlib.suppress(OSError):
                self._guard.shutdown(socket.SHUT_WR)
        if self._await_status() is None:  # the guard was killed, or stopped
            for kill, number in ((os.kill, self._of_guard), (os.killpg, self._number)):
                with contextlib.suppress(OSError):
                    kill(number, signal.SIGKILL)
        self._guard.close()
        if self._output:
            self._output.close()

    def _await_status(self) -> int | None:
        """How the child ended, once it has; None where nobody says so in time."""
        if self._guarded and self._status is None and select.select([self._guard], [], [], GRACE)[0]:
            self._read_status()
        return self._status

    def _read_status(self) -> int | None:
        """What the guard says; where it was killed nobody says how the child ends."""
        status = _read_number(self._guard)
        self._guarded = status is not None
        if status is not None:
            self._status = status
        return status

    def _describe_end(self, error: Exception) -> str:
        status = self._await_status()
        if status is None:
            ended = isinstance(error, (EOFError, OSError))
            return "the process lost its connection" if ended else f"the process sent what is no message ({error})"
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            return f"the process ended by itself, with exit code {code}"
        memory = ", as happens where memory or a limit runs out" if -code == signal.SIGKILL else ""
        return f"the process was killed by {signal.Signals(-code).name}{memory}"


def _read_number(guard: socket.socket) -> int | None:
    """Four bytes from a guard; None where it is no more."""
    try:
        number = guard.recv(4)
    except OSError:
        return None
    return int.from_bytes(number, "little") if len(number) == 4 else None


class _Output:
    """Follows what a child prints: the first lines are shown, the last ones kept, and no more."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._lines, self._count = say, deque[str](maxlen=KEPT), 0
        self._reading, self.writing = os.pipe()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def follow(self) -> None:
        os.close(self.writing)
        self._thread.start()

    def last(self) -> list[str]:
        self._thread.join(GRACE)
        return list(self._lines)

    def close(self) -> None:
        self._thread.join(GRACE)

    def _read(self) -> None:
        rest = b""
        with open(self._reading, "rb", buffering=0) as file:
            while chunk := file.read(65_536):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines[-max(KEPT, SHOWN - self._count) :]:
                    self._take(line)
                rest = rest[:LONGEST]
        if rest:
            self._take(rest)

    def _take(self, line: bytes) -> None:
        text = printable(line[:LONGEST].decode(errors="backslashreplace").rstrip())
        self._lines.append(text)
        self._count += 1
        if self._count <= SHOWN and text:
            self._say(text)
        if self._count == SHOWN + 1:
            self._say("... and more output, which is not shown")


_channel: Connection | None = None  # in a child, its own end
_sending = threading.Lock()


def tell(kind: str, value: Any) -> None:
    """In a child: say something, that JSON has, to whoever called the function that is running."""
    assert _channel is not None, "only a child tells"
    with _sending:
        _channel.send_bytes(json.dumps({"kind": "told", "what": kind, "value": value}).encode())


def serve(channel: Connection) -> None:
    """The child: takes on what its caller's process has of a place, and calls what it is told to until that ends."""
    global _channel
    with contextlib.suppress(OSError):  # where so many files are not allowed
        beyond = fcntl.fcntl(channel.fileno(), fcntl.F_DUPFD_CLOEXEC, OUT_OF_REACH)
        channel.close()
        channel = Connection(beyond)
    _channel = channel
    try:
        setting = channel.recv()
        os.environ.clear()
        os.environ.update(setting["environment"])
        os.chdir(setting["folder"])
        sys.argv[:], sys.path[:] = setting["words"], setting["path"]
        while True:
            function, arguments = channel.recv()
            parts = _called(function, arguments)
            with _sending:
                for part in parts:
                    channel.send_bytes(part)
    except EOFError:
        return
    except OSError as error:
        print(f"the connection was lost: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def _called(function: Callable[..., Answer], arguments: tuple[Any, ...]) -> list[bytes]:
    """The messages of an answer, or that of an error."""
    try:
        value, tensors = function(*arguments)
        said = json.dumps({"kind": "answered", "value": value}).encode()
        return [said, save({name: each.contiguous() for name, each in tensors.items()})]
    except BaseException as error:
        of_system = [error.errno, error.strerror, error.filename] if isinstance(error, OSError) else None
        raised = {"traceback": traceback.format_exc(), "of_system": of_system}
        return [json.dumps({"kind": "raised", "value": raised}).encode()]
