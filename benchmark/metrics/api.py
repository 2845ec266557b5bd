"""What a metric is, and what it may look at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import pluggy

if TYPE_CHECKING:
    from benchmark.evaluation import Evaluation
    from benchmark.job import Workspace
    from benchmark.plan import Job

hookimpl = pluggy.HookimplMarker("latent_prior_benchmark")

#: what decides the features of generated and of real images
IMAGE_SETTINGS = ("split", "reference_split", "extractor", "generated", "rounding")
#: the reference rows that have images
IMAGE_ROWS = ("aggregate_posterior", "reconstruction", "full_reconstruction")
#: what decides the pairs of latents that two-sample metrics compare
LATENT_SETTINGS = ("split", "mmd_latents")


class Metric(ABC):
    """One measurement of one fitted prior.

    `version`: raised when its value would be another, as with any constant of its module that decides it.
    `reads`: the fields of the protocol that decide its value, and so its identity.
    `reference_rows`: the reference rows that have it too.
    `machine_bound`: its value belongs to a device, a thread count and a dtype (timings).
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]]
    reference_rows: ClassVar[tuple[str, ...]] = ()
    machine_bound: ClassVar[bool] = False

    def applies(self, job: Job, work: Workspace) -> bool:
        """Whether this job is to have it and can; where not, nothing is recorded and a later run asks again."""
        return True

    @abstractmethod
    def measure(self, evaluation: Evaluation) -> dict[str, Any]:
        """Named values (JSON-able: finite numbers, lists, strings); none where the row itself has no such thing."""
