"""Adam and RMSprop for many small steps: those of `torch.optim`, number for number, from gradients handed in.

Networks of a few ten thousand weights make steps so short that `torch.optim` spends most of one on its own
bookkeeping: groups, hooks, a counter for each tensor. Here one call updates all parameters in place.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class Adam:
    """Kingma & Ba (2015), by the kernel of `torch.optim.Adam(fused=True)`."""

    EPSILON = 1e-8

    def __init__(self, parameters: Iterable[Tensor], learning_rate: float, betas: tuple[float, float]) -> None:
        self._parameters, self._learning_rate, self._betas = list(parameters), learning_rate, betas
        self._mean, self._square = ([torch.zeros_like(each) for each in self._parameters] for _ in range(2))
        self._steps = torch.zeros((), device=self._parameters[0].device, dtype=torch.float32)

    @torch.no_grad()
    def step(self, gradients: list[Tensor] | tuple[Tensor, ...]) -> None:
        """One step against gradients given in the parameters' order."""
        self._steps += 1
        torch._fused_adam_(
            self._parameters,
            [gradient.contiguous() for gradient in gradients],
            self._mean,
            self._square,
            [],
            [self._steps] * len(self._parameters),
            lr=self._learning_rate,
            beta1=self._betas[0],
            beta2=self._betas[1],
            weight_decay=0.0,
            eps=self.EPSILON,
            amsgrad=False,
            maximize=False,
        )

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self._mean, "square": self._square, "steps": self._steps}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        _put(state["mean"], self._mean)
        _put(state["square"], self._square)
        self._steps.copy_(state["steps"])


class RMSprop:
    """Tieleman & Hinton (2012), as in `torch.optim.RMSprop`."""

    SMOOTHING, EPSILON = 0.99, 1e-8

    def __init__(self, parameters: Iterable[Tensor], learning_rate: float) -> None:
        self._parameters, self._learning_rate = list(parameters), learning_rate
        self._square = [torch.zeros_like(each) for each in self._parameters]

    @torch.no_grad()
    def step(self, gradients: list[Tensor] | tuple[Tensor, ...]) -> None:
        """One step against gradients given in the parameters' order."""
        torch._foreach_mul_(self._square, self.SMOOTHING)
        torch._foreach_addcmul_(self._square, gradients, gradients, value=1 - self.SMOOTHING)
        root = torch._foreach_sqrt(self._square)
        torch._foreach_add_(root, self.EPSILON)
        torch._foreach_addcdiv_(self._parameters, gradients, root, value=-self._learning_rate)

    def state_dict(self) -> dict[str, Any]:
        return {"square": self._square}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        _put(state["square"], self._square)


def _put(kept: list[Tensor], there: list[Tensor]) -> None:
    for one, other in zip(kept, there, strict=True):
        other.copy_(one)


def fused_adam(parameters: Iterable[Tensor], learning_rate: float, **options: Any) -> torch.optim.Adam:
    """`torch.optim.Adam(fused=True)`, whose step can be part of a CUDA graph.

    Its rate, which schedules change, is a tensor on the GPU then: a number would stay what it was when recorded.
    """
    parameters = list(parameters)
    if parameters[0].device.type != "cuda":
        return torch.optim.Adam(parameters, learning_rate, fused=True, **options)
    rate = torch.tensor(learning_rate, device=parameters[0].device)
    return torch.optim.Adam(parameters, rate, fused=True, capturable=True, **options)
