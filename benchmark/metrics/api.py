"""What a metric is, and what it may look at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import pluggy

if TYPE_CHECKING:
    from benchmark.evaluation import Evaluation
    from benchmark.protocol import Protocol

hookimpl = pluggy.HookimplMarker("latent_prior_benchmark")


class Metric(ABC):
    """One measurement of one fitted prior. `of_references` says whether reference rows have it too."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    of_references: ClassVar[bool] = True

    @abstractmethod
    def settings(self, protocol: Protocol) -> dict[str, Any]:
        """All that decides the value besides the prior: hashed into the measurement's id."""

    @abstractmethod
    def measure(self, evaluation: Evaluation) -> dict[str, Any]:
        """Named values (JSON-able numbers, lists or strings)."""
