"""Freed memory stays with the process, so that the next batch finds it there.

glibc hands blocks of more than 32 MB back to the kernel as soon as they are freed, and gets the next batch's in fresh
pages, each cleared and faulted in. On a CPU that costs half of the time of feature extraction and a quarter of
training.
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
KEPT = 2_000_000_000  # bytes of free memory at the top of the heap before any is given back
MAPPED = 1_000_000_000  # bytes from which on a block is mapped by itself


def keep_freed_memory() -> bool:
    """Tell glibc's allocator; False where there is none (another platform or C library)."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all([mallopt(M_TRIM_THRESHOLD, KEPT), mallopt(M_MMAP_THRESHOLD, MAPPED)])
