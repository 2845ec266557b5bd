"""The model folder of pythae."""

from __future__ import annotations

from pathlib import Path

from backbones.trained import TrainedVAE

#: which pixels its models take
RANGE = "0,1 where images were divided by 255, as its examples have it"


def wrote(folder: Path) -> bool:
    """Whether it is a folder of this library."""
    return (folder / "model_config.json").exists()


def open_model(folder: Path, name: str, value_range: tuple[float, float]) -> TrainedVAE:
    """The VAE in the folder. Raises ValueError."""
    raise NotImplementedError
