"""The model folder of diffusers' AutoencoderKL."""

from __future__ import annotations

from pathlib import Path

from backbones.trained import TrainedVAE

#: which pixels its models take
RANGE = "-1,1 is what diffusers' own pipelines give it"


def wrote(folder: Path) -> bool:
    """Whether it is a folder of this library."""
    return (folder / "config.json").exists()


def open_model(folder: Path, name: str, value_range: tuple[float, float]) -> TrainedVAE:
    """The VAE in the folder. Raises ValueError."""
    raise NotImplementedError
