"""A bundle: a frozen backbone with all that stage 2 needs of it, so that stage 2 opens no image file.

    bundle.json               the card (sealed): data set, backbone, config, training log, sha256 of each part
    weights.safetensors       encoder and decoder, float16 where that loses nothing (see `round_weights`)
    posterior.safetensors     mean and std of q(z|x) for train, val and test images, float16 where that is harmless
    prior.safetensors         the prior that was trained with the backbone, where one was

Draws of further latent groups of a hierarchy may lie beside it (`benchmark/bundles/groups.py`).
Its id is the seal of its card, which holds the hash of every part. Nothing in it can run code.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from backbones.api import Backbone
from benchmark.bundles.card import BundleCard, check_card
from benchmark.bundles.groups import GroupDecoder, Groups
from benchmark.bundles.prior_file import load_prior_file, read_facts
from benchmark.datasets.api import USER_SUPPLIED
from benchmark.errors import UsageError
from benchmark.progress import say
from benchmark.registry import Registry
from benchmark.settings import construct
from benchmark.store.sealed import Damaged, file_hash, read_sealed, write_sealed
from priors.api import LatentPrior, PosteriorSplit, Split

SCHEMA = 1
PARTS = ("weights.safetensors", "posterior.safetensors")
PRIOR = "prior.safetensors"
SPLITS = ("train", "val", "test")
#: what N(0, I) is to an encoder that is deterministic
NO_PART = "was no part of its training, unless by a penalty on its codes (WAE, adversarial)"
#: float16 may move a mean by this share of its standard deviation, in nearly all posteriors
ROUNDING, MOST = 0.1, 0.99
#: latents that are probed, the sides of what is kept of their images, and how far two processors may part
PROBED, COARSE, AGREES = 4, (4, 4), 1e-3


@dataclass(frozen=True)
class Bundle:
    """An opened, verified bundle. `card` is bundle.json; tensors are read when asked for.

    `groups`: those of its latent groups that are its latents; None for the top one, z, whose posteriors it holds.
    """

    path: Path
    card: dict[str, Any]
    groups: Groups | None = None

    @property
    def id(self) -> str:
        return self.card["seal"]

    @property
    def dataset(self) -> str:
        return self.card["dataset"]["name"]

    @property
    def is_own(self) -> bool:
        """Made from somebody's images at a path: its data set's name is no registered one, whatever it says."""
        return self.card["dataset"].get("terms") == USER_SUPPLIED

    @property
    def backbone_name(self) -> str:
        return self.card["backbone"]["name"]

    @property
    def backbone_class(self) -> str:
        """The name that its class is registered by; a VAE that was wrapped as a program has a name of its own."""
        return self.card["backbone"].get("class", self.backbone_name)

    @property
    def is_deterministic(self) -> bool:
        """Whether its encoder gives points: no KL term then pulled its posteriors to N(0, I)."""
        return self.card["backbone"].get("reading", {}).get("spread") == "none"

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return tuple(self.card["latent_shape"]) if self.groups is None else self.groups.latent_shape

    @property
    def counts(self) -> dict[str, int]:
        """Split -> of how many images it has posteriors, or draws."""
        return self.card["posterior_counts"] if self.groups is None else self.groups.card["counts"]

    def backbone(self, cls: type[Backbone], device: torch.device) -> Backbone:
        """The frozen backbone in evaluation mode, built by the class that the card names.

        Raises `Damaged` where the weights are not its, `UsageError` where it has no such settings, or, wrapped, decodes
        to something else than it did.
        """
        made_by = self.card["backbone"].get("source")
        if made_by not in (None, cls.source):
            say(
                f"{self.path.name} was made by another source of the backbone {cls.name}: its images may be other "
                "ones than were recorded; put the file back, or train again"
            )
        backbone = self.build(cls).eval().requires_grad_(False)
        if (probed := self.card["backbone"].get("probe")) is not None and not agrees(probe(backbone), probed):
            raise UsageError(
                f"{self.path.name}: {cls.name} decodes to other images than when it was wrapped: its file, or what "
                "that imports, was changed; put it back, or wrap the VAE again"
            )
        backbone = backbone.to(device)
        return backbone if self.groups is None else GroupDecoder(backbone, self.groups)

    def open_backbone(self, registry: Registry, device: torch.device) -> Backbone:
        """The same, by the class that the registry has for it; raises `UsageError` where it has none."""
        return self.backbone(registry.get("backbone", self.backbone_class), device)

    def build(self, cls: type[Backbone]) -> Backbone:
        """A backbone of that class with the settings and weights that are here; raises as `backbone` does."""
        config = construct(cls.Config, self.card["backbone"]["config"], f"{cls.name} in {self.path / 'bundle.json'}")
        weights = self.path / "weights.safetensors"
        try:
            backbone = cls(tuple(self.card["dataset"]["image_shape"]), config)
            backbone.load_state_dict(load_file(weights))
        except (RuntimeError, ValueError, SafetensorError) as error:
            said = " ".join(str(error).split())[:200]
            raise Damaged(f"{weights}: not the weights of the {cls.name} in bundle.json ({said})") from error
        return backbone

    @property
    def prior_path(self) -> Path | None:
        """The file of the prior that was trained with the backbone; None where none was."""
        return self.path / PRIOR if PRIOR in self.card["parts"] else None

    def open_prior(self, registry: Registry, device: torch.device) -> LatentPrior:
        """That prior, frozen. Raises `UsageError` where there is none, or its class is not here."""
        if self.prior_path is None:
            raise UsageError(f"{self.path.name}: its backbone was trained without a prior")
        cls = registry.get("prior", read_facts(self.prior_path)["prior"])
        return load_prior_file(self.prior_path, cls).to(device)

    def split(self, name: str, device: torch.device) -> Split:
        """The aggregate posterior of `train`, `val` or `test`, on the device."""
        if self.groups is not None:
            return self.groups.split(name, device)
        return PosteriorSplit(*self.posterior(name, device))

    def posterior(self, split: str, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and std of q(z|x), float32, each (n, *latent_shape); of several groups a draw each, and zero."""
        if self.groups is not None:
            drawn = self.groups.split(split, device).first()
            return drawn, torch.zeros_like(drawn)
        path = self.path / "posterior.safetensors"
        parts = load_file(path)
        mean, std = parts[f"{split}.mean"].float(), parts[f"{split}.std"].float()
        if not (mean.isfinite().all() and std.isfinite().all() and (std >= 0).all()):
            raise Damaged(f"{path}: means and deviations of {split} images that are not finite, or below zero")
        return mean.to(device), std.to(device)


def open_bundle(path: Path) -> Bundle:
    """Read a bundle's card and check every part against it. Raises `Damaged`, naming the file."""
    card = read_sealed(path / "bundle.json")
    if card.get("schema") != SCHEMA:
        raise Damaged(f"{path / 'bundle.json'}: schema {card.get('schema')}, this version reads {SCHEMA}")
    check_card(path / "bundle.json", card, BundleCard)
    for part in PARTS:
        if part not in card["parts"]:
            raise Damaged(f"{path / 'bundle.json'}: parts: no {part}")
    for part in parts_of(card):
        if not (path / part).is_file():
            raise Damaged(f"{path / part}: missing from the bundle")
        if _hash(path / part) != card["parts"][part]:
            raise Damaged(f"{path / part}: does not match its hash in bundle.json (truncated or edited)")
    shapes = {
        f"{split}.{name}": [card["posterior_counts"][split], *card["latent_shape"]]
        for split in SPLITS
        for name in ("mean", "std")
    }
    require_tensors(path / "posterior.safetensors", shapes)
    return Bundle(path, card)


def parts_of(card: dict[str, Any]) -> list[str]:
    """The files that a card answers for."""
    return [*PARTS, *([PRIOR] if PRIOR in card["parts"] else [])]


def _hash(path: Path) -> str:
    try:
        return file_hash(path)
    except OSError as error:
        raise Damaged(f"{path}: not readable ({error.strerror or error})") from error


def require_tensors(path: Path, shapes: dict[str, list[int]]) -> None:
    """Raise `Damaged` where a safetensors file lacks one of these tensors, or has it in another shape."""
    try:
        with safe_open(path, "pt") as file:
            held = {name: list(file.get_slice(name).get_shape()) for name in list(file.keys())}
    except (SafetensorError, OSError) as error:
        raise Damaged(f"{path}: not readable as tensors ({error})") from error
    for name, shape in shapes.items():
        if held.get(name) != shape:
            raise Damaged(f"{path}: {name} is {held.get(name, 'missing')}, not {shape} as its card says")


@torch.no_grad()
def round_weights(backbone: Backbone) -> None:
    """Round matrices and kernels to float16's values, in place: done before posteriors are taken, nothing is lost.

    Vectors (biases, normalisation) stay as they are: they are few, and running variances may be out of its range.
    """
    for parameter in backbone.parameters():
        if parameter.ndim > 1:
            parameter.copy_(parameter.half())


def _shrink(value: Tensor) -> Tensor:
    half = value.half() if value.is_floating_point() else value
    return (half if torch.equal(half.to(value.dtype), value) else value).contiguous()


def _in_half(mean: Tensor, std: Tensor, value: Tensor) -> Tensor:
    """`value` in float16, unless that moves means by as much as their posteriors are wide: narrow ones stay as is.

    So do those of which some latent is beyond float16's range.
    """
    moved = (mean.half().float() - mean).abs() <= ROUNDING * std
    harmless = bool((moved.float().mean(0) > MOST).all()) and bool(value.half().isfinite().all())
    return value.half() if harmless else value


@torch.no_grad()
def probe(backbone: Backbone) -> list[float]:
    """What a few latents, the same in every call, decode to on the CPU, in short: another decoder has other numbers."""
    noise = torch.Generator().manual_seed(0)
    z = torch.randn(PROBED, *backbone.latent_shape, generator=noise)
    coarse = adaptive_avg_pool2d(backbone.decode(z, noise), COARSE)
    return [round(value, 6) for value in coarse.flatten().tolist()]


def agrees(one: list[float], other: list[float]) -> bool:
    """Whether two probes are of one decoder, processors apart."""
    return len(one) == len(other) and all(abs(a - b) <= AGREES for a, b in zip(one, other))


def write_bundle(
    path: Path,
    card: dict[str, Any],
    backbone: Backbone,
    posterior: dict[str, tuple[Tensor, Tensor]],
    prior: bytes | None = None,
    finish: Callable[[Bundle], None] | None = None,
) -> Bundle:
    """Write a bundle as a whole: it appears at `path` complete or not at all.

    `card` gives `dataset` (with `name` and `image_shape`), `training`, and of the `backbone` what its class does not
    say; the rest is filled in here. `prior`: the file of one that was trained with it. `finish` adds to the bundle what
    nobody can add later: it is given it where it is put together, and so is a part of the whole.
    Raises FileExistsError where `path` is taken.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        # cloned: tied weights share memory, which a file cannot
        weights = {name: _shrink(value.detach()).cpu().clone() for name, value in backbone.state_dict().items()}
        save_file(weights, temporary / "weights.safetensors")
        halves = {
            f"{split}.{name}": _in_half(*posterior[split], value).cpu().contiguous()
            for split in SPLITS
            for name, value in zip(("mean", "std"), posterior[split])
        }
        save_file(halves, temporary / "posterior.safetensors")
        if prior is not None:
            (temporary / PRIOR).write_bytes(prior)
        parts = [*PARTS, *([] if prior is None else [PRIOR])]
        write_sealed(
            temporary / "bundle.json",
            {
                "schema": SCHEMA,
                **card,
                "backbone": {
                    "name": backbone.name,
                    "version": backbone.version,
                    **({} if backbone.source is None else {"source": backbone.source}),
                    "config": backbone.config.model_dump(),
                    "parameters": sum(p.numel() for p in backbone.parameters()),
                    **card.get("backbone", {}),
                },
                "latent_shape": list(backbone.latent_shape),
                "posterior_counts": {split: len(posterior[split][0]) for split in SPLITS},
                "parts": {part: file_hash(temporary / part) for part in parts},
            },
        )
        os.chmod(temporary, 0o755)
        for part in parts:
            os.chmod(temporary / part, 0o644)
        if finish is not None:
            finish(open_bundle(temporary))
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return open_bundle(path)
