"""Tensors that are dear to make again, kept in the cache under the identity of what made them.

Drawing by SIR and extracting features cost more than most fits: a metric that is added later finds them here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from benchmark.progress import say
from benchmark.store.places import made_root
from benchmark.store.sealed import content_hash, write_atomic

_keeping = True


def keep_nothing() -> None:
    """From now on this process makes what it does not find for itself alone: a stranger's code runs in it."""
    global _keeping
    _keeping = False


def load_or_make(kind: str, identity: dict[str, Any], device: torch.device, make: Callable[[], Tensor]) -> Tensor:
    """The tensor of that identity, on the device: from `<kind>/` of the cache, else made now and kept.

    A damaged file is named and made again.
    """
    value = load(kind, identity, device)
    if value is not None:
        return value
    value = make()
    if not _keeping:
        return value
    on_cpu = value.cpu().contiguous()
    write_atomic(_path(kind, identity), save({"value": on_cpu}, metadata={"sha256": _sha256(on_cpu)}))
    return value


def load(kind: str, identity: dict[str, Any], device: torch.device) -> Tensor | None:
    """The tensor of that identity, on the device; None where the cache has none, or a damaged one, which is named."""
    path = _path(kind, identity)
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            value, sha256 = file.get_tensor("value"), file.metadata()["sha256"]
        if _sha256(value) == sha256:
            return value.to(device)
    except (SafetensorError, KeyError, TypeError):
        pass
    say(f"{path} is damaged and will be made again")
    return None


def _path(kind: str, identity: dict[str, Any]) -> Path:
    return made_root() / kind / f"{content_hash(identity)}.safetensors"


def _sha256(value: Tensor) -> str:
    return hashlib.sha256(value.numpy().tobytes()).hexdigest()
