"""A training step that does not wait for Python: on a GPU recorded once as a CUDA graph and replayed.

A step of these priors is some fifty small kernels, each over before Python has asked for the next one. A graph asks for
all of them at once. On other devices the step is called as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch

T = TypeVar("T")

WARM_UP = 3  # calls in which libraries and optimisers allocate what they keep: steps like all others, not recorded


def without_python(step: Callable[[], T], generator: torch.Generator) -> Callable[[], T]:
    """`step`, or on a GPU what replays it: the same kernels on the same tensors, and so the same numbers.

    A step updates tensors in place, draws from `generator` alone and neither reads a value back nor branches on one;
    numbers of Python that change from call to call stay what they were when it was recorded. What it returns is
    overwritten by the next call.
    """
    return Replayed(step, generator) if generator.device.type == "cuda" else step


class Replayed(Generic[T]):
    """The first `WARM_UP` calls run on a stream of their own, as a recording asks; the next one is recorded."""

    def __init__(self, step: Callable[[], T], generator: torch.Generator) -> None:
        self._step, self._generator, self._calls = step, generator, 0
        self._stream = torch.cuda.Stream(generator.device)
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> T:
        if self._calls < WARM_UP:
            self._calls += 1
            return self._call_aside()
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            self._graph.register_generator_state(self._generator)
            with torch.cuda.graph(self._graph, stream=self._stream):
                self._returned = self._step()
        self._graph.replay()
        return self._returned

    def _call_aside(self) -> T:
        current = torch.cuda.current_stream(self._generator.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            returned = self._step()
        current.wait_stream(self._stream)
        return returned
