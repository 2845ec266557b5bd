"""What is written down of every run but is no part of its identity: code, packages, device, command."""

from __future__ import annotations

import functools
import os
import platform
import re
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmark.machine import arithmetic
from benchmark.text import printable
from benchmark.version import VERSION

PACKAGES = ("torch", "torchvision", "nflows", "torch-fidelity", "numpy", "scipy", "scikit-learn")
#: waiting threads that sleep instead of spinning double the time of a small draw
OPENMP = ("OMP_", "GOMP_", "KMP_", "MKL_")
CODE = ("benchmark", "priors", "backbones", "pyproject.toml", ":(exclude)backbones/pretrained")


def command_line() -> str:
    """The command as typed, with the folders of absolute paths left out: they mean nothing elsewhere."""
    words = [printable(Path(word).name if Path(word).is_absolute() else word) for word in sys.argv[1:]]
    return " ".join(["python -m benchmark", *(f"'{word}'" if set(word) & set(" []*?;&") else word for word in words)])


@functools.cache
def device_name(device: torch.device) -> str:
    """The model of the GPU or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@functools.cache
def _describe_driver(device: torch.device) -> dict[str, Any] | None:
    """Versions of CUDA and of the GPU's driver (Linux), and how it may round; None on a CPU."""
    if device.type != "cuda":
        return None
    try:
        found = re.search(r"\d+(\.\d+)+", Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        found = None
    return {"cuda": torch.version.cuda, "version": found and found[0], **arithmetic.describe_arithmetic()}


@functools.cache
def _describe_code() -> dict[str, Any]:
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    # an installed copy may sit inside some other project's checkout: that commit would be the wrong one
    ours = git("ls-files", "--error-unmatch", "benchmark/store/provenance.py") is not None
    commit = git("rev-parse", "HEAD") if ours else None
    dirty = bool(git("status", "--porcelain", "--", *CODE)) if commit else None
    return {"version": VERSION, "commit": commit, "dirty": dirty}


@functools.cache
def _list_packages() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


def provenance(device: torch.device) -> dict[str, Any]:
    """Code, packages, device, threads and command of this process, and the time now (UTC)."""
    return {
        "code": _describe_code(),
        "packages": _list_packages(),
        "device": device_name(device),
        "driver": _describe_driver(device),
        "instructions": torch.backends.cpu.get_cpu_capability(),  # one name of a processor may stand for several
        "threads": torch.get_num_threads(),
        "openmp": {name: value for name, value in os.environ.items() if name.startswith(OPENMP)},
        "command": command_line(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
