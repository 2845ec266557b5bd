"""What a prior and a metric owe: everything that they return is checked, in whichever process it was made."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import torch
from torch import Tensor

from benchmark.jobs.claims import OF_THE_SUITE
from benchmark.jobs.failures import Broken, in_one_line
from priors.api import Diverged

#: characters of what a stranger's code may have recorded
LONGEST_RECORD = 1_000_000


class BadSample(Broken):
    """A prior's `sample` broke its contract; the message says how."""


def check_sample(z: Any, n: int, latent_shape: tuple[int, ...], device: torch.device) -> Tensor:
    """The latents, if they are n finite ones (n, *latent_shape), float32, on the device. Raises `BadSample`."""
    expected = (n, *latent_shape)
    if not isinstance(z, Tensor):
        raise BadSample(f"sample({n}) returned a {type(z).__name__}, expected a tensor {expected}")
    if tuple(z.shape) != expected:
        raise BadSample(f"sample({n}) returned shape {tuple(z.shape)}, expected {expected}")
    if z.dtype != torch.float32 or z.device.type != device.type:
        raise BadSample(f"sample({n}) returned {z.dtype} on {z.device}, expected torch.float32 on {device}")
    bad = int((~z.flatten(1).isfinite().all(1)).sum())
    if bad:
        raise BadSample(f"{bad} of {n} samples are not finite")
    return z


def check_density(value: Any, z: Tensor, name: str) -> Tensor | None:
    """A log-density or energy, if it is a number each of the latents z (n, ...), or None. Raises `Broken`."""
    if value is None:
        return None
    if not isinstance(value, Tensor):
        raise Broken(f"{name} returned a {type(value).__name__}, expected a tensor ({len(z)},) or None")
    if tuple(value.shape) != (len(z),) or not value.is_floating_point():
        raise Broken(
            f"{name} of {len(z)} latents returned {tuple(value.shape)} {value.dtype}, expected a float each: "
            "a density of all of a latent's coordinates together"
        )
    bad = int(value.isnan().sum())
    if bad:
        raise Broken(f"{name} of {len(z)} latents: {bad} are no numbers")
    return value


def check_count(value: Any, name: str) -> int:
    """A number from 0 on, without what is behind its point. Raises `Broken`."""
    if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise Broken(f"{name} is {in_one_line(repr(value))}, expected a number from 0 on")
    return int(value)


def check_facts(facts: Any) -> dict[str, Any]:
    """What a fit says of itself, as a record can have it: finite numbers and sentences. Raises `Broken`, `Diverged`."""
    if facts is None:
        return {}
    if not isinstance(facts, dict):
        raise Broken(f"fit returned {type(facts).__name__}; expected None or a dict of numbers and sentences")
    _check_names("fit", facts)
    if taken := [name for name in facts if name in OF_THE_SUITE]:
        raise Broken(f"fit returned {taken[0]}, which is the suite's own name: call it otherwise")
    facts = {name: value.item() if hasattr(value, "item") else value for name, value in facts.items()}
    for name, value in facts.items():
        if not isinstance(value, (float, str)) and not (isinstance(value, int) and _is_plain(value)):
            raise Broken(f"fit returned {name} of type {type(value).__name__}; expected a number or a sentence")
    facts = {name: in_one_line(value) if isinstance(value, str) else value for name, value in facts.items()}
    bad = [name for name, value in facts.items() if not isinstance(value, str) and not math.isfinite(value)]
    if bad:
        raise Diverged(f"fit returned {bad[0]}={facts[bad[0]]}")
    return facts


def check_values(values: Any) -> dict[str, Any]:
    """What a metric returned, as it will be read from its record. Raises `Broken`."""
    if not isinstance(values, dict):
        raise Broken(f"measure returned {type(values).__name__}, expected a dict of named values")
    _check_names("measure", values)
    bad = [name for name, value in values.items() if isinstance(value, float) and not math.isfinite(value)]
    if bad:
        raise Broken(f"{', '.join(bad)} not finite")
    read = {}
    for name, value in values.items():
        try:
            read[name] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise Broken(
                f"measure returned {name} of type {type(value).__name__}, which a record cannot hold ({error}): "
                "expected finite numbers, sentences, and lists of them"
            ) from error
        if not _is_plain(read[name]):
            raise Broken(
                f"measure returned {name}={value!r:.60}: expected finite numbers, sentences, and lists of them"
            )
    return read


def check_length(content: dict[str, Any]) -> None:
    """Raise `Broken` where a record of this would be longer than anybody reads, `ValueError` where it is no JSON."""
    length = len(json.dumps(content, allow_nan=False))
    if length > LONGEST_RECORD:
        raise Broken(f"its record would be {length:,} characters long, of at most {LONGEST_RECORD:,}")


def _is_plain(value: Any) -> bool:
    """Whether a value is one that tables and means can use: an integer beyond all floats is not."""
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return isinstance(value, str) or (isinstance(value, (int, float)) and abs(value) <= sys.float_info.max)


def _check_names(of: str, values: dict[Any, Any]) -> None:
    for name in values:
        if not isinstance(name, str) or not name or in_one_line(name) != name:
            raise Broken(f"{of} returned a value called {in_one_line(repr(name))}: names of values are words")
