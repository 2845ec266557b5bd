"""Which device a command runs on."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from benchmark.errors import UsageError

if TYPE_CHECKING:
    import torch

DeviceName = Literal["auto", "cpu", "cuda"]


def choose_device(name: DeviceName) -> torch.device:
    """The device of that name, `auto` being CUDA where there is one. Raises `UsageError` where CUDA is not there.

    On CUDA it sets the arithmetic that all records are made in.
    """
    import torch  # here, so that the names of devices can be had, by `--help`, without it

    from benchmark.machine.arithmetic import require_float32

    if name == "cuda" and not torch.cuda.is_available():
        built = f" (this PyTorch asks for a driver of CUDA {torch.version.cuda})" if torch.version.cuda else ""
        raise UsageError(f"--device cuda: no CUDA device is available here{built}; use --device cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    require_float32()
    return torch.device("cuda")


def total_memory(device: torch.device) -> int | None:
    """Bytes of memory of the device, of a CPU what this process may have of it; None where that is not known."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    known = []
    with suppress(OSError, ValueError, AttributeError):
        known.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError):  # of a container
        known.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(known, default=None)


def count_workers(name: DeviceName, per_gpu: int) -> int:
    """How many processes share a device well: so many a GPU, or one a core that this process may use."""
    import torch

    if name != "cpu" and torch.cuda.is_available():
        return per_gpu * torch.cuda.device_count()
    from joblib import cpu_count  # which knows of affinities and containers

    return cpu_count()
