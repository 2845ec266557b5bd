"""How many threads the arithmetic takes: torch's, and those of the libraries under numpy and scipy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits


@contextmanager
def limit_threads(threads: int) -> Iterator[None]:
    """So many threads inside, those of before afterwards: how a sum is split among threads decides its last digit."""
    usual = torch.get_num_threads()
    with threadpool_limits(threads):
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(usual)
