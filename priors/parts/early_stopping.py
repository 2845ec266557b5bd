"""Early stopping on a held-out score: the best state so far, and when to give up looking for a better one."""

from __future__ import annotations

import math

from torch import Tensor, nn

from priors.api import Diverged


class BestState:
    """Keeps the state of `network` at its lowest held-out score; `value` and `step` say which that was."""

    def __init__(self, network: nn.Module, patience: int) -> None:
        self._network, self._patience = network, patience
        self._state: dict[str, Tensor] = {}
        self._waited = 0
        self.value, self.step = math.inf, 0

    def exhausted(self, value: float, step: int, what: str) -> bool:
        """Note a score; true when `patience` of them in a row were no better. Raises `Diverged` on a bad number."""
        if not math.isfinite(value):
            raise Diverged(f"the {what} is not finite after {step} steps")
        if value < self.value:
            self.value, self.step, self._waited = value, step, 0
            self._state = {name: tensor.clone() for name, tensor in self._network.state_dict().items()}
            return False
        self._waited += 1
        return self._waited >= self._patience

    def restore(self) -> None:
        """Put the best state back."""
        self._network.load_state_dict(self._state)
