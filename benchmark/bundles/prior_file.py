"""The file of a fitted prior: its state, and in the metadata what it is built from, so that `priors` alone draws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from benchmark.errors import words_of
from benchmark.store.closure import PLUGIN
from benchmark.store.sealed import Damaged
from benchmark.version import VERSION
from priors.api import LatentPrior

#: the name of the facts in the metadata of a file, and in the archive of a program
FACTS = "prior.json"


def describe_prior(prior: LatentPrior, **more: Any) -> dict[str, Any]:
    """What a fitted prior is built from, with what else is to be known of it."""
    return {
        "prior": prior.name,
        "class": f"{_importable(type(prior).__module__)}.{type(prior).__qualname__}",
        "version": prior.version,
        "settings": prior.config.model_dump(mode="json"),
        "latent_shape": prior.latent_shape,
        **more,
        "suite": VERSION,
    }


def _importable(module: str) -> str:
    """A module's name for whoever has its file: that of a plugin's file has a package of the suite before it."""
    return module.split(".", 1)[1] if module.startswith(PLUGIN) and "." in module else module


def state_of(prior: LatentPrior) -> dict[str, Tensor]:
    """What a file keeps of a prior: clones on the CPU, for tied weights share memory, which a file cannot."""
    return {
        name: value.cpu().clone(memory_format=torch.contiguous_format) for name, value in prior.state_dict().items()
    }


def prior_bytes(prior: LatentPrior, **more: Any) -> bytes:
    """The content of the file; `more`: further facts."""
    return save(state_of(prior), {FACTS: json.dumps(describe_prior(prior, **more))})


def read_facts(path: Path) -> dict[str, Any]:
    """The facts in a file's metadata. Raises `Damaged`."""
    try:
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()[FACTS])
    except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
        raise Damaged(f"{path}: not the file of a fitted prior ({words_of(error)})") from error


def load_prior_file(path: Path, cls: type[LatentPrior]) -> LatentPrior:
    """The fitted prior of a file, by the class that its facts name, on the CPU. Raises `Damaged`."""
    facts = read_facts(path)
    try:
        prior = cls(tuple(facts["latent_shape"]), cls.Config(**facts["settings"]))
        prior.load_state_dict(load_file(path))
    except (KeyError, RuntimeError, ValueError, SafetensorError) as error:
        raise Damaged(f"{path}: not the state of the {cls.name} in its facts ({words_of(error)[:200]})") from error
    return prior.eval().requires_grad_(False)
