"""A library's model, moved to where its inputs are."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def beside(model: Any, x: Tensor) -> Any:
    """The model on the device of x. One that is there is not touched: a move of every weight would be exported, too."""
    return model if next(model.parameters()).device == x.device else model.to(x.device)
