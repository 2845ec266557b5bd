"""A prior fitted from scratch, in whichever process imports its class: what the record says, and the state."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmark.bundles.prior_file import state_of
from benchmark.jobs.contract import check_facts
from benchmark.jobs.failures import Broken, call_theirs, describe_error, is_machine_fault
from benchmark.settings import validate
from benchmark.streams import drawing, seeded_globals
from priors.api import AggregatePosterior, Diverged, Hierarchy, LatentPrior

LOG_POINTS = 60


@dataclass(frozen=True)
class Specimen:
    """What a prior is built from, beside its class.

    `hierarchy`: for one that needs it; set where it is built, as it is no plain data.
    """

    config: dict[str, Any]
    latent_shape: tuple[int, ...]
    seed: int
    device: torch.device
    hierarchy: Hierarchy | None = None

    def build(self, cls: type[LatentPrior]) -> LatentPrior:
        """A prior that is not fitted, on the CPU."""
        config = validate(cls.Config, self.config, f"prior {cls.name}")
        with seeded_globals(self.device, "initialisation", self.seed):
            if cls.needs_hierarchy:
                return cls(self.latent_shape, config, self.hierarchy)  # type: ignore[call-arg]
            return cls(self.latent_shape, config)

    def load(self, cls: type[LatentPrior], state: dict[str, Tensor]) -> LatentPrior:
        """The fitted prior, frozen, on the device."""
        prior = self.build(cls)
        prior.load_state_dict(state)
        return prior.to(self.device).eval().requires_grad_(False)


def fit_prior(
    cls: type[LatentPrior], of: Specimen, posterior: AggregatePosterior, show: Callable[..., None]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Fit from scratch: what the record is to say, and the state, which is empty where the fit did not succeed.

    `show` is told of progress. A fault of the machine, which is not to be recorded, has the status `fault`.
    """
    import torch._dynamo  # before the clock starts: a process's first optimiser imports it, which takes a second

    log = FitLog(show=show)
    start = time.perf_counter()
    try:
        with drawing(of.device, "fit", of.seed) as generator:
            prior = call_theirs(of.build, cls).to(of.device).train()
            facts = call_theirs(prior.fit, posterior, generator, log)
        if of.device.type == "cuda":
            torch.cuda.synchronize(of.device)
        seconds = time.perf_counter() - start
        facts = call_theirs(check_facts, facts)
        state = call_theirs(state_of, prior)
        bad = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
        if bad:
            raise Diverged(f"{bad[0]} is not finite after the fit")
        _require_loadable(state, call_theirs(of.build, cls))
    except (Exception, SystemExit) as error:
        status = "fault" if is_machine_fault(error) else "diverged" if isinstance(error, Diverged) else "failed"
        return {"status": status, "reason": describe_error(error), "log": log.points}, {}
    parameters = sum(parameter.numel() for parameter in prior.parameters())
    values = {**facts, "fit_seconds": seconds}
    return {"status": "ok", "values": values, "parameters": parameters, "log": log.points}, state


def _require_loadable(state: dict[str, Tensor], fresh: LatentPrior) -> None:
    """Whoever finds a fit in the cache loads it into a fresh prior. Raises `Broken` where that fails."""
    try:
        fresh.load_state_dict(state)
    except RuntimeError as error:
        raise Broken(f"the fitted state needs every parameter and buffer from __init__ on: {error}") from error


@dataclass
class FitLog:
    """The `progress` handed to a fit: shows it, and keeps an even selection of what it was told."""

    points: list[dict[str, float]] = field(default_factory=list)
    show: Callable[..., None] = lambda *_, **__: None

    def __call__(self, step: int, total: int, **values: float) -> None:
        values = {name: float(value) for name, value in values.items()}
        self.show(step, total, **values)
        due = not self.points or step - self.points[-1]["step"] >= total / LOG_POINTS or step == total
        if values and due and all(math.isfinite(value) for value in values.values()):
            self.points.append({"step": step, **values})
