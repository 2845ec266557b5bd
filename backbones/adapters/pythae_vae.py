"""The model folder of pythae, as its `save` writes it.

It is opened by pythae's own `AutoModel.load_from_folder`. Networks that are not pythae's default ones lie in the folder
as pickles, which that loader opens, and whose code so runs: `runs_code` says it before.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from backbones.adapters.devices import beside
from backbones.trained import TrainedVAE
from backbones.wrapped import Likelihood, Spread

#: which pixels its models take
RANGE = "0,1 where images were divided by 255, as its examples have it"
INSTALL = "pip install pythae==0.1.2"

WEIGHTED = (
    "its bound is importance-weighted, so that its encoder is a proposal, and N(0, I) may be far from the aggregate of "
    "these though the bound is tight"
)
#: config -> what its user is to know; each has a diagonal Gaussian q(z|x), by mean and log-variance
GAUSSIAN: dict[str, str | None] = {
    "VAEConfig": None,
    "BetaVAEConfig": None,
    "BetaTCVAEConfig": None,
    "DisentangledBetaVAEConfig": None,
    "FactorVAEConfig": None,
    "INFOVAE_MMD_Config": None,
    "MSSSIM_VAEConfig": None,
    "VAEGANConfig": None,
    "IWAEConfig": WEIGHTED,
    "MIWAEConfig": WEIGHTED,
    "PIWAEConfig": WEIGHTED,
    "CIWAEConfig": WEIGHTED,
    "VAMPConfig": "its own prior is a mixture of posteriors, and N(0, I), the 0 % line, was no part of its training",
    "Adversarial_AE_Config": "N(0, I) was what its discriminator drew its aggregate posterior to; no KL term did",
}
#: config -> the same, of encoders that are deterministic
DETERMINISTIC: dict[str, str | None] = {
    "AEConfig": None,
    "RAE_GP_Config": None,
    "RAE_L2_Config": None,
    "WAE_MMD_Config": "N(0, I) was what an MMD penalty drew its aggregate posterior to; no KL term did",
}
#: config -> what its posterior is
REFUSED = {
    "SVAEConfig": "a von Mises-Fisher distribution on a sphere",
    "PoincareVAEConfig": "a normal distribution on a Poincaré ball",
    "VQVAEConfig": "a choice among the vectors of a codebook",
    "VAE_IAF_Config": "a Gaussian carried through an inverse autoregressive flow",
    "VAE_LinNF_Config": "a Gaussian carried through planar and radial flows",
    "HVAEConfig": "a Gaussian moved by Hamiltonian steps that see the image",
    "RHVAEConfig": "a Gaussian moved by Riemannian Hamiltonian steps that see the image",
}
#: of models whose loss is no such likelihood of the pixels, whatever their config inherits
NO_LIKELIHOOD = ("MSSSIM_VAEConfig", "VAEGANConfig")
LIKELIHOODS: dict[str, Likelihood] = {"bce": "bernoulli", "mse": "squared_error"}


def wrote(folder: Path) -> bool:
    """Whether it is a folder of this library."""
    return (folder / "model_config.json").exists()


def runs_code(folder: Path) -> str | None:
    """Which files run code when the folder is opened; None where none does."""
    return ", ".join(sorted(path.name for path in folder.glob("*.pkl"))) or None


def open_model(folder: Path, name: str, value_range: tuple[float, float]) -> TrainedVAE:
    """The VAE in the folder. Raises ValueError."""
    config = _read_config(folder)
    kind = config["name"]
    try:
        from pythae.models import AutoModel
    except ImportError as error:
        raise ValueError(f"{folder}: a model of pythae, which cannot be imported ({error}): {INSTALL}") from error
    try:
        model: Any = AutoModel.load_from_folder(str(folder))
    except Exception as error:  # of every kind: whatever its loader, and pickles of theirs, make of damaged files
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"{folder}: pythae does not load it: {type(error).__name__}: {said}") from error
    model.float().eval().requires_grad_(False)
    points = kind in DETERMINISTIC or config.get("deterministic_posterior", False)
    spread: Spread = "none" if points else "log_variance"
    image_shape = tuple(model.input_dim or ())

    def encode(x: Tensor) -> Any:
        if image_shape and tuple(x.shape[1:]) != image_shape:
            raise ValueError(f"it was trained on images {'x'.join(map(str, image_shape))}")
        given = beside(model, x).encoder(x)
        return given.embedding if points else (given.embedding, given.log_covariance)

    def decode(z: Tensor) -> Tensor:
        given = beside(model, z).decoder(z).reconstruction
        return given.reshape(z.shape[0], *image_shape) if image_shape else given  # its losses take flat images, too

    return TrainedVAE(
        encode,
        decode,
        name,
        value_range,
        spread,
        likelihood=None if kind in NO_LIKELIHOOD or points else LIKELIHOODS.get(config.get("reconstruction_loss", "")),
        note=(note := (GAUSSIAN | DETERMINISTIC)[kind]) and f"{name} ({_model(kind)} of pythae): {note}",
    )


def _read_config(folder: Path) -> dict[str, Any]:
    """What model_config.json says. Raises ValueError where the model is not one whose posterior we can have."""
    path = folder / "model_config.json"
    try:
        config = json.loads(path.read_bytes())
        kind = str(config["name"])
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path}: not the config of a pythae model") from error
    if kind in REFUSED:
        raise ValueError(
            f"{folder}: a posterior of pythae's {_model(kind)} is {REFUSED[kind]}; expected a diagonal Gaussian, which "
            "its VAE and most of its other models have, or a deterministic encoder"
        )
    if kind not in (known := GAUSSIAN | DETERMINISTIC):
        models = ", ".join(map(_model, known))
        raise ValueError(f"{folder}: pythae's {kind} is the config of no VAE that is known here; known: {models}")
    return config


def _model(kind: str) -> str:
    """The name of a model, by that of its config."""
    return kind.removesuffix("Config").removesuffix("_")
