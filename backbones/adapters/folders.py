"""Which library wrote a model's folder, by the files that are in it."""

from __future__ import annotations

from pathlib import Path

from backbones.adapters import autoencoder_kl, pythae_vae
from backbones.trained import TrainedVAE

LIBRARIES = (pythae_vae, autoencoder_kl)


def runs_code(folder: Path) -> str | None:
    """The files whose code its library's loader runs when it opens the folder; None where there are none."""
    return next((library.runs_code(folder) for library in LIBRARIES if library.wrote(folder)), None)


def open_folder(folder: Path, name: str | None, value_range: tuple[float, float] | None) -> TrainedVAE:
    """The VAE in the folder, called `name` (None: as the folder is). Raises ValueError."""
    for library in LIBRARIES:
        if library.wrote(folder):
            if value_range is None:
                raise ValueError(f"{folder}: say with --range which pixels it takes and gives: {library.RANGE}")
            return library.open_model(folder, name or folder.resolve().name, value_range)
    raise ValueError(
        f"{folder}: not the model folder of pythae (model_config.json) or of diffusers' AutoencoderKL (config.json); "
        "of any other library name a Python file, see docs/own-vae.md"
    )
