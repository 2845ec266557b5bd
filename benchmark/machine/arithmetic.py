"""What a GPU does to win time at the price of comparable numbers, turned off.

TF32 rounds the inputs of convolutions to 10 bits (PyTorch's default on CUDA), while shipped references were made in
float32; and a convolution's fastest gradient may add in any order, so that no training could be repeated.
"""

from __future__ import annotations

from typing import Any

import torch


def require_float32() -> None:
    """No TF32, and algorithms that give the same bits each time."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True


def describe_arithmetic() -> dict[str, Any]:
    """What is in force, for the record."""
    return {
        "tf32": torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32,
        "deterministic": torch.backends.cudnn.deterministic,
        "cudnn": torch.backends.cudnn.version(),
    }
