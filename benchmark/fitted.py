"""A fitted prior: draws of it, and the files with which it leaves the suite.

    .safetensors   its state, and in the metadata what it is built from: `priors` alone draws from it
    .pt2           a program of torch.export that takes a tensor of n numbers, whatever they are, and returns n latents
                   drawn by torch's global generator: torch alone runs it

A program is recorded once, for any n. So it cannot hold a loop that asks the draws when to end; a prior with one is
refused, and its state kept instead.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.overrides import TorchFunctionMode

from backbones.api import Backbone
from benchmark.bundles.decoding import decode_images
from benchmark.bundles.prior_file import FACTS, describe_prior, prior_bytes
from benchmark.errors import UsageError, words_of
from benchmark.store.sealed import write_atomic
from benchmark.streams import drawing, stream
from priors.api import LatentPrior

#: numbers of latents for which a program is recorded, and held against `sample`
RECORDED_FOR, COMPARED_FOR = 3, 5


@dataclass(frozen=True, eq=False)
class FittedPrior:
    """A fitted prior with the decoder that it was fitted for, frozen, on one device.

    `bundle` is the id of the bundle, `seed` that of the fit, `groups` which of a hierarchy's latent groups, and of what
    draws, it was fitted to; None is the top one.
    """

    prior: LatentPrior
    backbone: Backbone
    device: torch.device
    bundle: str
    seed: int
    groups: dict[str, Any] | None = None

    @torch.no_grad()
    def sample(self, n: int, seed: int = 0) -> Tensor:
        """n latents (n, *latent_shape); the seed decides them."""
        with drawing(self.device, "loaded prior", seed) as generator:
            return self.prior.sample(n, generator)

    def images(self, n: int, seed: int = 0) -> Tensor:
        """What `sample(n, seed)` decodes to: uint8 (n, C, H, W)."""
        return decode_images(self.backbone, self.sample(n, seed), stream(self.device, "loaded prior decode", seed))

    def save(self, path: str | Path) -> None:
        """Write a `.safetensors` file: the state, with what the prior is built from under `prior.json`."""
        path = _require_suffix(path, ".safetensors")
        write_atomic(path, prior_bytes(self.prior, **self._origin()))

    def export(self, path: str | Path) -> None:
        """Write a `.pt2` file: `torch.export.load(path).module()(torch.empty(n))` are n latents, on the CPU.

        Raises `UsageError` for a prior whose sampling is no such program.
        """
        path = _require_suffix(path, ".pt2")
        program, content = record_sampling(self.prior), io.BytesIO()
        facts = json.dumps(describe_prior(self.prior, **self._origin()))
        torch.export.save(program, content, extra_files={FACTS: facts})
        write_atomic(path, content.getvalue())

    def _origin(self) -> dict[str, Any]:
        """What its files say of where it comes from."""
        origin = {"bundle": self.bundle, "seed": self.seed}
        return origin if self.groups is None else {**origin, "groups": self.groups}


def _require_suffix(path: str | Path, suffix: str) -> Path:
    path = Path(path)
    if path.suffix != suffix:
        raise UsageError(f"{path}: expected a name that ends in {suffix}")
    return path


def record_sampling(prior: LatentPrior) -> ExportedProgram:
    """The program that takes a tensor (n,) and returns n latents of `prior.sample`, drawn by the global generator.

    With a seed of it the latents are those of `sample` with a generator of that seed, but where `sample` works in
    parts. Raises `UsageError` where `torch.export` cannot record it, or what it records draws otherwise.
    """
    if prior.needs_hierarchy:
        raise _refusal(prior, "the walk down a network that is not its own")
    prior = copy.deepcopy(prior).to("cpu").eval().requires_grad_(False)
    count = {"template": {0: Dim("n", min=1)}}
    try:
        with torch.no_grad(), _quiet():
            recorded = torch.export.export(
                _Sampling(prior), (torch.empty(RECORDED_FOR),), dynamic_shapes=count, strict=False
            )
            drawn = _seeded(lambda: recorded.module()(torch.empty(COMPARED_FOR)))
            wanted = _seeded(lambda: prior.sample(COMPARED_FOR, torch.Generator().manual_seed(0)))
    except Exception as error:  # of many kinds, which change with torch's version
        raise _refusal(prior, words_of(error).strip().partition("\n")[0][:200]) from error
    if not torch.allclose(drawn, wanted, rtol=1e-4, atol=1e-5):
        raise _refusal(prior, "what it recorded draws other latents")
    for node in recorded.graph.nodes:
        node.meta.pop("stack_trace", None)  # lines of this machine's files
    return recorded


def _refusal(prior: LatentPrior, why: str) -> UsageError:
    return UsageError(
        f"{prior.name} cannot be a .pt2 file: torch.export does not record how it samples ({why}); write a "
        ".safetensors file instead, by save"
    )


def _seeded(draw: Callable[[], Tensor]) -> Tensor:
    """What is drawn with the global generator at the start of seed 0, which is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return draw()


class _Sampling(nn.Module):
    """The sampling of a prior as a function of how many."""

    def __init__(self, prior: LatentPrior) -> None:
        super().__init__()
        self.prior = prior
        self._generator = torch.Generator()  # which says that draws are on the CPU

    def forward(self, template: Tensor) -> Tensor:
        with _GlobalGenerator():
            return self.prior.sample(template.shape[0], self._generator)


class _GlobalGenerator(TorchFunctionMode):
    """Draws are of the global generator, whichever is handed in: a program has no other."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*args, **{name: value for name, value in (kwargs or {}).items() if name != "generator"})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing is printed, warned of or logged: of a program that cannot be recorded torch tells at length."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
