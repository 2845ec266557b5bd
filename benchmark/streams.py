"""Random streams: every draw belongs to a named stream, and a stream's name and seed decide it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from benchmark.store.sealed import content_hash


def stream_seed(*name: str | int) -> int:
    """A 60-bit seed from a stream's name, e.g. `stream_seed("sample", 0)`."""
    return int(content_hash(list(name))[:15], 16)


def stream(device: torch.device, *name: str | int) -> torch.Generator:
    """A generator on `device` at the start of the named stream."""
    return torch.Generator(device).manual_seed(stream_seed(*name))


@contextmanager
def seeded_globals(device: torch.device, *name: str | int) -> Iterator[None]:
    """Seed the global generators (torch, numpy, random) from the named stream, and put them back afterwards.

    Module initialisation and several libraries draw from them, whatever generator they are handed. What is handed one
    of a stream beside them needs a name of its own here: of the same name both draw the same numbers.
    """
    seed, numpy_state, python_state = stream_seed(*name), np.random.get_state(), random.getstate()  # noqa: NPY002
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 (the global generator is the point)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)
