"""A stranger's prior, constructed, fitted and sampled in a process of its own, which gives back state and latents.

Whatever its code does to the process that it runs in (switches of torch and Python, tensors changed in place, patches,
threads, signals, an end), no other row is in that process. The process takes on the generators of its caller for each
call, so that it draws what the caller would. A fit and the draws of what it fitted run in different processes: a fit
that is found in the cache, and one that was made just now, are sampled alike.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load, load_file, save
from torch import Tensor

from backbones.api import Backbone
from benchmark.bundles.bundle import Bundle
from benchmark.jobs.contract import check_count, check_density, check_length, check_sample
from benchmark.jobs.failures import Broken, Reported, call_theirs, describe_error, is_machine_fault
from benchmark.jobs.fitting import Specimen, fit_prior
from benchmark.machine.arithmetic import require_float32
from benchmark.machine.runs import Runs, measure_runs
from benchmark.machine.threads import limit_threads
from benchmark.plugin_files import Plugin
from benchmark.processes.child import Answer, Child, Died, Told, tell
from benchmark.progress import say
from benchmark.registry import Registry
from priors.api import AggregatePosterior, Hierarchy, LatentPrior

NETWORK = "network_evaluations"
#: seconds between two words of a fit on its progress
TELL_EVERY = 0.2


@dataclass(frozen=True)
class Foreign:
    """Which class it is: its plugin, its name there, and the hash of the source that its row was planned with."""

    plugin: Plugin
    name: str
    source: str

    def find(self) -> type[LatentPrior]:
        """The class, imported in this process. Raises `RuntimeError` where its file is no longer what it was."""
        registry = Registry(plugins=[self.plugin])
        cls = registry.get("prior", self.name)
        if registry.source(cls) != self.source:
            raise RuntimeError(f"{self.plugin.origin} was edited while the run went on")
        return cls


def fit_apart(foreign: Foreign, of: Specimen, bundle: Bundle, show: Callable[..., None]) -> Answer:
    """As `fit_prior`. A process that dies is given one more chance; then the status is `crashed`."""
    reached = ""

    def follow(message: Told) -> None:
        nonlocal reached
        step, total, values = message.value
        reached = f" after step {step:,} of {total:,}"
        show(step, total, **values)

    for attempt in (1, 2):
        begun = time.perf_counter()
        try:
            with Child(_say_of(foreign)) as child:
                answer = child.call(_in_threads, torch.get_num_threads(), _fit_there, foreign, of, bundle, told=follow)
            return _credible(answer.value, time.perf_counter() - begun), answer.tensors
        except Died as death:
            reason = f"{describe_error(death)}{reached}"
            if attempt == 1:
                say(f"{foreign.name} seed {of.seed}: {reason}; tried once more")
            else:
                return {"status": "crashed", "reason": f"{reason}, twice", "log": [], "output": death.output}, {}
    raise AssertionError("the second attempt returns")


def _credible(content: dict[str, Any], elapsed: float) -> dict[str, Any]:
    """What a record is to say, or the failure that it cannot be believed. `elapsed`: seconds by the clock here."""
    try:
        check_length(content)
    except ValueError as error:
        reason = f"its process handed in what is no number ({error})"
    except Broken as error:
        reason = str(error)
    else:
        if content["status"] == "ok" and not 0 <= content["values"]["fit_seconds"] <= elapsed:
            reason = f"its process's clock says {content['values']['fit_seconds']} s of a fit that took {elapsed:.1f} s"
        else:
            return content
    return {"status": "failed", "reason": reason, "log": []}


class ForeignSource:
    """A fitted prior in a process of its own, started when it is first asked, and again where it died.

    Has of a `LatentPrior` what a metric may ask for. Raises `Reported` where its code raises, `Died` where it ends.
    `bundle`: whose hierarchy it walks down, where it does.
    """

    def __init__(self, foreign: Foreign, of: Specimen, state: Path, bundle: Bundle | None = None) -> None:
        self._foreign, self._of, self._state, self._bundle = foreign, of, state, bundle
        self._child: Child | None = None
        self._facts: dict[str, Any] = {}

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        _, tensors = self._call(_sample_there, n, _read_generators(generator))
        generator.set_state(tensors["generator"])
        return tensors["z"].to(self._of.device)

    def log_prob(self, z: Tensor) -> Tensor | None:
        return self._density("log_prob", z)

    def energy(self, z: Tensor) -> Tensor | None:
        return self._density("energy", z)

    def diagnostics(self, generator: torch.Generator) -> dict[str, float]:
        return self._call(_diagnose_there, _read_generators(generator))[0]

    def measure_draws(self, n: int, generator: torch.Generator, repeats: int, seconds: float) -> Runs:
        """Timed where the prior is: messages between the processes are not part of it."""
        return Runs(*self._call(_measure_there, n, _read_generators(generator), repeats, seconds)[0])

    def parameters(self) -> list[Tensor]:
        """Their shapes, without numbers."""
        self._started()
        return [torch.empty(shape, device="meta") for shape in self._facts["parameters"]]

    @property
    def network_evaluations(self) -> int:
        self._started()
        return check_count(self._facts[NETWORK], NETWORK)

    def close(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def _density(self, name: str, z: Tensor) -> Tensor | None:
        _, tensors = self._call(_density_there, name, save({"z": z.cpu().contiguous()}))
        return check_density(tensors["value"].to(z.device), z, name) if tensors else None

    def _call(self, function: Callable[..., Answer], *arguments: Any) -> Answer:
        return self._ask(self._started(), function, *arguments)

    def _started(self) -> Child:
        if self._child is None:
            self._child = Child(_say_of(self._foreign))
            try:
                self._facts, _ = self._ask(self._child, _load_there, self._foreign, self._of, self._state, self._bundle)
            except Reported:  # the next question starts anew, and hears the same
                self.close()
                raise
        return self._child

    def _ask(self, child: Child, function: Callable[..., Answer], *arguments: Any) -> Answer:
        try:
            answer = child.call(_in_threads, torch.get_num_threads(), _in_words, function, *arguments)
        except BaseException:  # dead, or still at it: nothing more can be asked of it
            self.close()
            raise
        if "error" in answer.value:
            raise Reported(answer.value["error"], answer.value["fault"])
        return answer.value["value"], answer.tensors


def _say_of(foreign: Foreign) -> Callable[[str], None]:
    return lambda line: say(f"{foreign.name}: {line}")


def _read_generators(generator: torch.Generator) -> dict[str, Any]:
    """The states of a generator, and of the global ones, which an evaluation seeds around a draw."""
    states = {"given": generator.get_state().numpy(), "torch": torch.get_rng_state().numpy()}
    if generator.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(generator.device).numpy()
    return {**states, "numpy": np.random.get_state(), "python": random.getstate()}  # noqa: NPY002


# What follows runs in the child.

_held: tuple[LatentPrior, Specimen] | None = None


def _in_threads(threads: int, function: Callable[..., Answer], *arguments: Any) -> Answer:
    """With as many threads as its caller has."""
    with limit_threads(threads):
        return function(*arguments)


def _in_words(function: Callable[..., Answer], *arguments: Any) -> Answer:
    """What a function returns, or its error in words."""
    try:
        value, tensors = function(*arguments)
        json.dumps(value, allow_nan=False)  # raises where it cannot be handed over
    except BaseException as error:  # an interrupt, too, is one of the errors of foreign code
        return {"error": describe_error(error), "fault": is_machine_fault(error)}, {}
    return {"value": value}, tensors


def _fit_there(foreign: Foreign, of: Specimen, bundle: Bundle) -> Answer:
    told = 0.0

    def show(step: int, total: int, **values: float) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= TELL_EVERY:
            told = now
            tell("progress", [step, total, values])

    try:
        _prepare(of.device)
        cls = foreign.find()
        train, val = (bundle.split(split, of.device) for split in ("train", "val"))
        backbone = _backbone(foreign, bundle, of.device) if cls.needs_backbone else None
        of = _with_hierarchy(of, cls, foreign, bundle)
        return fit_prior(cls, of, AggregatePosterior(train, val, backbone), show)
    except BaseException as error:
        status = "fault" if is_machine_fault(error) else "failed"
        return {"status": status, "reason": describe_error(error), "log": []}, {}


def _backbone(foreign: Foreign, bundle: Bundle, device: torch.device) -> Backbone:
    """A bundle's backbone: a built-in one, or of the plugin that the prior is of."""
    return bundle.open_backbone(Registry(plugins=[foreign.plugin]), device)


def _with_hierarchy(of: Specimen, cls: type[LatentPrior], foreign: Foreign, bundle: Bundle | None) -> Specimen:
    if not cls.needs_hierarchy or bundle is None or bundle.groups is None:
        return of
    return replace(of, hierarchy=cast(Hierarchy, _backbone(foreign, bundle, of.device)))


def _load_there(foreign: Foreign, of: Specimen, state: Path, bundle: Bundle | None) -> Answer:
    global _held
    _prepare(of.device)
    cls = foreign.find()
    of = _with_hierarchy(of, cls, foreign, bundle)
    prior = call_theirs(of.load, cls, load_file(state))
    _held = prior, of
    shapes = [list(parameter.shape) for parameter in prior.parameters()]
    return {"parameters": shapes, "network_evaluations": check_count(prior.network_evaluations, NETWORK)}, {}


@torch.no_grad()
def _sample_there(n: int, generators: dict[str, Any]) -> Answer:
    prior, of = _loaded()
    generator = _take_on(generators, of.device)
    z = check_sample(call_theirs(prior.sample, n, generator), n, of.latent_shape, of.device)
    return None, {"z": z.cpu(), "generator": generator.get_state()}


@torch.no_grad()
def _density_there(name: str, z: bytes) -> Answer:
    prior, of = _loaded()
    latents = load(z)["z"].to(of.device)
    value = call_theirs(getattr(prior, name), latents)
    checked = check_density(value, latents, name)
    return None, {} if checked is None else {"value": checked.cpu()}


@torch.no_grad()
def _diagnose_there(generators: dict[str, Any]) -> Answer:
    prior, of = _loaded()
    return call_theirs(prior.diagnostics, _take_on(generators, of.device)), {}


@torch.no_grad()
def _measure_there(n: int, generators: dict[str, Any], repeats: int, seconds: float) -> Answer:
    prior, of = _loaded()
    generator = _take_on(generators, of.device)
    runs = call_theirs(measure_runs, lambda: prior.sample(n, generator), of.device, repeats, seconds)
    return [runs.peak_bytes, runs.seconds], {}


def _prepare(device: torch.device) -> None:
    if device.type == "cuda":
        require_float32()


def _loaded() -> tuple[LatentPrior, Specimen]:
    assert _held is not None, "_load_there comes first"
    return _held


def _take_on(states: dict[str, Any], device: torch.device) -> torch.Generator:
    """The caller's generator, and in place of the global ones the caller's."""
    torch.set_rng_state(torch.from_numpy(states["torch"]))
    np.random.set_state(states["numpy"])  # noqa: NPY002
    random.setstate(states["python"])
    if "cuda" in states:
        torch.cuda.set_rng_state(torch.from_numpy(states["cuda"]), device)
    generator = torch.Generator(device)
    generator.set_state(torch.from_numpy(states["given"]))
    return generator
