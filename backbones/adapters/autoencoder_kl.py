"""The model folder of diffusers' AutoencoderKL, the VAE of latent diffusion (Rombach et al. 2022, arXiv 2112.10752).

    z = (z_raw - shift) * scale,      z_raw = z / scale + shift

so that z, a block (C, H, W), is what a diffusion model of its library works in: shift and scale are the config's
`shift_factor` and `scaling_factor`, or, where it has them for each channel, `latents_mean` and the `scaling_factor`
over `latents_std`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.adapters.devices import beside
from backbones.trained import TrainedVAE

#: which pixels its models take
RANGE = "-1,1 is what diffusers' own pipelines give it"
INSTALL = "pip install diffusers"
NOTE = (
    "is an AutoencoderKL, whose KL term is usually weighted by 1e-6: its aggregate posterior is nearly the set of "
    "its means, which a prior learns as a latent diffusion model does, and N(0, I), the 0 % line, is a convention"
)
WEIGHTS = "diffusion_pytorch_model"


def wrote(folder: Path) -> bool:
    """Whether it is a folder of this library, of a model or of a whole pipeline."""
    return (folder / "config.json").exists() or (folder / "model_index.json").exists()


def runs_code(folder: Path) -> str | None:
    """None: weights are read as numbers alone."""
    return None


def open_model(folder: Path, name: str, value_range: tuple[float, float]) -> TrainedVAE:
    """The VAE in the folder, in float32 whatever its weights are in. Raises ValueError."""
    _read_config(folder)
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise ValueError(f"{folder}: a model of diffusers, which cannot be imported ({error}): {INSTALL}") from error
    variants = [path.name.split(".")[1] for path in folder.glob(f"{WEIGHTS}.*.*") if not path.name.endswith(".json")]
    whole = any((folder / f"{WEIGHTS}.{ending}").exists() for ending in ("safetensors", "bin"))
    try:
        model, found = AutoencoderKL.from_pretrained(
            str(folder),
            variant=None if whole or not variants else variants[0],  # a half-precision copy, e.g. of the variant fp16
            torch_dtype=torch.float32,
            low_cpu_mem_usage=False,  # which needs no further library
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # of every kind: whatever its loader makes of damaged files
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"{folder}: diffusers does not load it: {type(error).__name__}: {said}") from error
    if missing := found["missing_keys"]:
        raise ValueError(f"{folder}: its weights lack {len(missing)} tensors, {min(missing)} among them")
    model.eval().requires_grad_(False)
    _without_branches(model.decoder)
    shift, scale = _read_scaling(model.config)

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        posterior = beside(model, x).encode(x).latent_dist
        return (posterior.mean - shift.to(x.device)) * scale.to(x.device), posterior.std * scale.to(x.device)

    def decode(z: Tensor) -> Tensor:
        given = beside(model, z).decode(z / scale.to(z.device) + shift.to(z.device)).sample
        return given.clamp(-1, 1) if value_range == (-1, 1) else given  # as its library's pipelines do

    return TrainedVAE(encode, decode, name, value_range, "std", note=f"{name} {NOTE}")


class _Upsample(nn.Module):
    """What diffusers' Upsample2D computes, without its branch at batches of 64, which a program cannot have."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, *_: Any) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _without_branches(decoder: nn.Module) -> None:
    """Let the decoder go the same way whatever the size of a batch, so that it can be exported."""
    from diffusers.models.upsampling import Upsample2D

    for block in list(decoder.modules()):
        for name, part in list(block.named_children()):
            if isinstance(part, Upsample2D) and part.norm is None and isinstance(part.conv, nn.Conv2d):
                setattr(block, name, _Upsample(part.conv))


def _read_scaling(config: Any) -> tuple[Tensor, Tensor]:
    """Shift and scale, each (1 or C, 1, 1)."""
    scale = torch.tensor([float(config.scaling_factor)])
    if config.latents_mean is not None and config.latents_std is not None:
        shift, scale = torch.tensor(config.latents_mean), scale / torch.tensor(config.latents_std)
    else:
        shift = torch.tensor([float(config.shift_factor or 0)])
    return shift[:, None, None], scale[:, None, None]


def _read_config(folder: Path) -> None:
    """Raise ValueError where the folder is not an AutoencoderKL's, with what it is."""
    if not (folder / "config.json").exists():
        raise ValueError(f"{folder}: a whole pipeline of diffusers; name the folder of its VAE, {folder / 'vae'}")
    try:
        kind = json.loads((folder / "config.json").read_bytes())["_class_name"]
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{folder / 'config.json'}: not the config of a diffusers model (no _class_name)") from error
    if kind != "AutoencoderKL":
        raise ValueError(
            f"{folder}: a {kind} of diffusers, of whose classes AutoencoderKL alone is read; of a VAE of another one "
            "give a Python file, see docs/own-vae.md"
        )
