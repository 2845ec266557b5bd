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

    Module initialisation and several libraries draw from them, whatever generator they are handed.
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


@contextmanager
def drawing(device: torch.device, *name: str | int) -> Iterator[torch.Generator]:
    """A generator to hand over, while the global ones are seeded: each with a stream of its own.

    Of one stream both would draw the same numbers, and noises that are to be independent would be equal.
    """
    with seeded_globals(device, "global", *name):
        yield stream(device, *name)
