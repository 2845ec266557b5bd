"""The first import of torch and of what is built on it, a quarter faster."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Python does not search for garbage while this lasts, nor ever among what it leaves: imported modules stay.

    Half a million objects would be walked again and again while they are made, and once more when the process ends.
    Nothing is changed where torch is there already, and with it objects that may not stay.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()
