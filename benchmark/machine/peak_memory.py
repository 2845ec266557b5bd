"""Peak memory of tensors while a function runs, beyond what was held before; what libraries use inside is not seen.

On a GPU the allocator is asked, from which cuDNN takes its workspaces too. On a CPU, whose allocator keeps no such
count and gives freed memory back as it likes, every operation's results are counted while they live; those made of
numpy arrays or of Python's lists are not.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_memory(run: Callable[[], Any], device: torch.device) -> int:
    """Bytes that tensors made by `run` took at once, at most."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with _Held() as held:
        run()
    return held.peak


class _Held(TorchDispatchMode):
    """Adds up the storages that operations make, and takes them off when they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's, which has no types
        self.bytes = self.peak = 0
        self._storages: set[int] = set()

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {storage.data_ptr() for storage in _find_storages((args, kwargs))}
        result = operation(*args, **(kwargs or {}))
        for storage in _find_storages(result):
            place, size = storage.data_ptr(), storage.nbytes()
            if size and place not in given and place not in self._storages:  # a view and a result in place are neither
                self._storages.add(place)
                self.bytes += size
                weakref.finalize(storage, self._free, place, size)
        self.peak = max(self.peak, self.bytes)
        return result

    def _free(self, place: int, size: int) -> None:
        self._storages.discard(place)
        self.bytes -= size


def _find_storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
