"""A process that is asked to stop, by a signal, before it is ended: it gives back what it holds."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

#: what schedulers send before they end a process: a warning that time runs out, or that they are about to
WARNING, ENDING = signal.SIGUSR1, signal.SIGTERM
#: seconds between the warning and the end
MARGIN = 120


class Stopped(BaseException):
    """Raised where the process is to stop. `warned`: its time runs out; else somebody wants it gone."""

    def __init__(self, warned: bool) -> None:
        super().__init__("its time runs out" if warned else "it is to end")
        self.warned = warned


@contextmanager
def stoppable(end: float | None = None) -> Iterator[None]:
    """Meanwhile `WARNING` and `ENDING` raise `Stopped`, once, wherever the main thread is.

    `end`: when this process will be ended, in seconds since 1970; it warns itself `MARGIN` seconds before.
    """

    def stop(number: int, _: FrameType | None) -> NoReturn:
        for each in (WARNING, ENDING):  # what is done now is not to be stopped again
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number == WARNING)

    before = {each: signal.signal(each, stop) for each in (WARNING, ENDING)}
    clock = None
    if end is not None:
        clock = threading.Timer(max(0.0, end - MARGIN - time.time()), os.kill, (os.getpid(), WARNING))
        clock.daemon = True
        clock.start()
    try:
        yield
    finally:
        if clock is not None:
            clock.cancel()
        for each, handler in before.items():
            signal.signal(each, handler)
