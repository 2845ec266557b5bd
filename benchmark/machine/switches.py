"""What a stranger's code may change of the process that it runs in, put back as it was.

Switches of torch, numpy and Python decide the last digits of everything that is computed later, and a function of
theirs that somebody replaced decides all of them. What cannot be seen from here (a tensor changed in place, a thread
that goes on) is why strangers' priors and metrics are called in processes of their own.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch

#: beside the suite's own modules, where a function that is not what it was is put back
LIBRARIES = (torch, torch.Tensor, torch.linalg, torch.nn.functional, np, np.linalg, math, time, json, random)
SUITE = ("benchmark", "priors", "backbones")


@contextmanager
def kept_switches() -> Iterator[None]:
    """Switches, the current folder, the environment and the global generators afterwards as before."""
    switches = [(read, put_back, read()) for read, put_back in _SWITCHES]
    generators = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    folder, environment, filters = _folder(), dict(os.environ), list(warnings.filters)
    try:
        yield
    finally:
        for read, put_back, value in switches:
            if read() != value:
                put_back(value)
        torch.set_rng_state(generators[0])
        np.random.set_state(generators[1])  # noqa: NPY002
        random.setstate(generators[2])
        if folder is not None and _folder() != folder:
            with contextlib.suppress(OSError):  # it is gone
                os.chdir(folder)
        if os.environ != environment:
            os.environ.clear()
            os.environ.update(environment)
        warnings.filters[:] = filters  # type: ignore[index]


@contextmanager
def kept_functions(told: Callable[[str], None]) -> Iterator[None]:
    """Functions and classes of the suite and of `LIBRARIES` as before; `told` is given the name of each put back."""
    places: list[Any] = [*LIBRARIES, *_modules()]
    before = [(place, dict(vars(place))) for place in places]
    try:
        yield
    finally:
        for place, known in before:
            now = vars(place)
            hidden = [each for each in now if each not in known and isinstance(place, type)]
            for name in [each for each, value in known.items() if callable(value) and now.get(each) is not value]:
                setattr(place, name, known[name])
                told(f"{place.__name__}.{name}")
            for name in hidden:  # what the class had of its base
                delattr(place, name)
                told(f"{place.__name__}.{name}")


def _modules() -> list[ModuleType]:
    return [module for name, module in list(sys.modules.items()) if name.partition(".")[0] in SUITE and module]


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None


def _of(place: Any, name: str) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    return lambda: getattr(place, name), lambda value: setattr(place, name, value)


def _flushes() -> bool:
    """Whether the processor takes the smallest numbers for 0, for which torch has no word."""
    return (torch.full((1,), 1e-310, dtype=torch.float64, device="cpu") * 1).item() == 0


#: how each is read, and how what was read is put back
_SWITCHES: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.is_grad_enabled, torch._C._set_grad_enabled),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    (torch.get_default_device, lambda device: torch.set_default_device(None if device.type == "cpu" else device)),
    (_flushes, torch.set_flush_denormal),
    (np.geterr, lambda value: np.seterr(**value)),
    (sys.getrecursionlimit, sys.setrecursionlimit),
    (gc.isenabled, lambda collecting: gc.enable() if collecting else gc.disable()),
    *(_of(torch.backends.cudnn, name) for name in ("enabled", "benchmark", "deterministic", "allow_tf32")),
    _of(torch.backends.cuda.matmul, "allow_tf32"),
)
