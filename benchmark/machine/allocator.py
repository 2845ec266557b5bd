"""Freed memory: on a CPU it stays with the process, so that the next batch finds it there; on a GPU it goes to others.

glibc hands blocks of more than 32 MB back to the kernel as soon as they are freed, and gets the next batch's in fresh
pages, each cleared and faulted in. On a CPU that costs half of the time of feature extraction and a quarter of
training. PyTorch keeps a GPU's freed memory for good: a dozen processes that share one, each with what its largest
metric once took, fill it while none of them works with a tenth.
"""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
KEPT = 2_000_000_000  # bytes of free memory at the top of the heap before any is given back
MAPPED = 1_000_000_000  # bytes from which on a block is mapped by itself


def keep_freed_memory() -> bool:
    """Tell glibc's allocator; False where there is none (another platform or C library)."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all([mallopt(M_TRIM_THRESHOLD, KEPT), mallopt(M_MMAP_THRESHOLD, MAPPED)])


def give_back_freed_memory(device: torch.device) -> None:
    """What is freed on a GPU, and only kept, is there for other processes again. On a CPU: nothing."""
    if device.type == "cuda":
        import torch  # whoever only asks for help does not wait for it

        torch.cuda.empty_cache()
