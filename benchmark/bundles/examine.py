"""What a VAE from elsewhere is held to before anything is written: that it is read as it was trained.

Each check raises `Misread` with one line: what was seen, and the likely cause.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, get_args

import torch
from torch import Tensor

from backbones.api import Backbone
from backbones.training import as_input
from backbones.wrapped import Channels, Likelihood, Spread, Unreadable, WrappedVAE
from benchmark.datasets.api import Images
from benchmark.errors import words_of

#: images of each split that are looked at
LOOKED_AT = 256
#: test images on which what is kept is held against what was examined
HELD = 64
#: of differences between two calls that should agree, and of their scale: above the rounding of float16 and TF32
AGREES = 5e-3
#: a decoder without a last sigmoid has fewer pixels than this share outside its range by more than this part of it
OUTSIDE, BEYOND = 0.02, 0.25
#: another reading of the VAE is named where it brings the reconstruction error below this share
BETTER = 0.5
#: ranges of pixels that are usual
RANGES = ((0.0, 1.0), (-1.0, 1.0), (-0.5, 0.5), (0.0, 255.0))


class Misread(ValueError):
    """What of a VAE is not as it is said to be, and why that may be."""


def require_reading(vae: WrappedVAE) -> None:
    """Raise `Misread` where it is not said, or not in words that are known, how the VAE is to be read."""
    for name, known in (("spread", get_args(Spread)), ("channels", get_args(Channels))):
        said = getattr(vae, name, None)
        if said not in known:
            raise Misread(f"{name} is {said!r}; expected one of {', '.join(map(repr, known))}")
    if vae.likelihood not in (None, *get_args(Likelihood)):
        words = ", ".join(map(repr, get_args(Likelihood)))
        raise Misread(f"likelihood is {vae.likelihood!r}; expected one of {words}, or None")
    low_high = getattr(vae, "value_range", None)
    try:
        low, high = map(float, low_high)  # type: ignore[arg-type]  # which raises of anything else
        right = low < high
    except (TypeError, ValueError):
        right = False
    if not right:
        raise Misread(
            f"value_range is {low_high!r}; expected the lowest and the highest pixel that it takes and gives, "
            "for example (0, 1) or (-1, 1)"
        )
    if not (isinstance(vae.std, (int, float)) and 0 <= vae.std < float("inf")) or (vae.std and vae.spread != "none"):
        raise Misread(f"std is {vae.std!r}; it is 0 or more, and that of an encoder with spread = 'none'")


@torch.no_grad()
def examine(vae: WrappedVAE, images: Images, device: torch.device) -> float:
    """Raise `Misread` where the VAE, in the mode it is in, is not what it is said to be; see each check.

    Returns the error of its reconstructions of test images, as a share of the images' variance about their mean image.
    """
    test = as_input(images.test[:LOOKED_AT].to(device))
    mean, spread = _encoded(vae, test)
    _require_spread(vae, spread)
    _require_same_of_each(vae, test, mean, spread)
    z, raw = _decoded(vae, test)
    _require_same_images(vae, z, raw)
    return _require_reconstructions(vae, test, raw)


@torch.no_grad()
def require_kept(vae: WrappedVAE, kept: Backbone, images: Images, device: torch.device) -> None:
    """Raise `Misread` where what a bundle keeps of the VAE does not do what was examined."""
    x = as_input(images.test[:HELD].to(device))
    mean, std = vae.encode(x)
    pairs = [*zip(kept.encode(x), (mean, std)), (kept.decode(mean, _noise(device)), vae.decode(mean, _noise(device)))]
    if not all(torch.allclose(each, own, rtol=1e-3, atol=1e-4) for each, own in pairs):
        raise Misread(
            "what a bundle keeps of it encodes or decodes otherwise than it does here: all that it needs is to be in "
            "its state_dict (no buffer with persistent=False, no attribute that load_weights sets), or to follow from "
            "its settings"
        )


def _encoded(vae: WrappedVAE, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """What the encoder gives of images, which it takes, and which is finite."""
    try:
        mean, spread = vae.read_encoder(x)
    except Unreadable as error:
        raise Misread(f"{error}") from error
    except Exception as error:
        other = copy.copy(vae)
        other.channels = "last" if vae.channels == "first" else "first"
        fits = _works(other, x)
        shape = "x".join(map(str, vae.image_shape))
        hint = f"with channels = '{other.channels}' it does" if fits else "was it trained on images of this shape?"
        raise Misread(
            f"its encoder does not take images {shape} (channels {vae.channels}): {_first_line(error)}; {hint}"
        ) from error
    if len(mean) != len(x):
        raise Misread(f"encode gives {len(mean)} means for {len(x)} images; expected one each")
    for name, each in (("mean", mean), (vae.spread, spread)):
        if each is not None and not each.isfinite().all():
            bad = int((~each.flatten(1).isfinite().all(1)).sum())
            raise Misread(
                f"the {name} of {bad} of {len(x)} images is not finite: is the checkpoint whole, and was it loaded?"
            )
    return mean, spread


def _works(vae: WrappedVAE, x: Tensor) -> bool:
    try:
        vae.read_encoder(x)
    except Exception:
        return False
    return True


def _require_spread(vae: WrappedVAE, spread: Tensor | None) -> None:
    """A log-variance is below 0 wherever an image tells something, a standard deviation nowhere."""
    if spread is None:
        return
    if vae.spread == "std" and (spread < 0).any():
        share = (spread < 0).float().mean()
        raise Misread(
            f"{share:.0%} of its standard deviations are below 0, down to {spread.min():.3g}: they look like "
            "log-variances: spread = 'log_variance' (of a log-deviation give its .exp())"
        )
    if vae.spread == "log_variance" and (spread > 0).all():
        raise Misread(
            f"all its log-variances are above 0 ({spread.min():.3g} to {spread.max():.3g}), as if no image told "
            "anything: they look like standard deviations: spread = 'std'"
        )
    if vae.spread == "log_variance" and not (spread / 2).exp().isfinite().all():
        raise Misread(f"a log-variance of {spread.max():.3g} is no number's: was the checkpoint loaded?")


def _require_same_of_each(vae: WrappedVAE, x: Tensor, mean: Tensor, spread: Tensor | None) -> None:
    """What is told of an image hangs on that image alone, and is the same in every call."""

    def agree_with(first: tuple[Tensor, Tensor | None], count: int) -> bool:
        return all(a is None or b is None or _agree(a[:count], b) for a, b in zip((mean, spread), first))

    if not agree_with(vae.read_encoder(x), len(x)):
        raise Misread(
            "encoding the same images twice gives other posteriors: it is in training mode (dropout or batch "
            "norm), or draws: call .eval() on the module, and give the mean and the spread instead of a draw"
        )
    for count in (max(len(x) // 8, 2), 1):
        if not agree_with(_in_batch_of(count, lambda count: vae.read_encoder(x[:count]), "encode"), count):
            raise Misread(
                "the posterior of an image hangs on the others of its batch: batch norm in training mode: call "
                ".eval() on the module"
            )


def _in_batch_of(count: int, call: Callable[[int], Any], what: str) -> Any:
    """What it gives of fewer; raises `Misread` where it takes a whole batch alone."""
    try:
        return call(count)
    except Exception as error:
        raise Misread(
            f"{what} fails for a batch of {count}: {_first_line(error)}: batch norm in training mode (call .eval() on "
            "the module), or a batch size that is written into it"
        ) from error


def _decoded(vae: WrappedVAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """A draw of each image's posterior, and what is decoded of it."""
    mean, std = vae.encode(x)
    z = mean + std * torch.randn(mean.shape, generator=_noise(x.device), device=x.device)
    try:
        raw = vae.read_decoder(z, _noise(x.device))
    except Unreadable as error:
        raise Misread(f"{error}") from error
    except Exception as error:
        raise Misread(f"its decoder does not take latents {tuple(z.shape)}: {_first_line(error)}") from error
    if raw.shape != x.shape:
        raise Misread(f"decode gives {tuple(raw.shape)} (channels {vae.channels}), expected images {tuple(x.shape)}")
    if not raw.isfinite().all():
        bad = int((~raw.flatten(1).isfinite().all(1)).sum())
        raise Misread(f"{bad} of {len(x)} decoded images are not finite: is the checkpoint whole?")
    return z, raw


def _require_same_images(vae: WrappedVAE, z: Tensor, raw: Tensor) -> None:
    """The generator decides what is drawn, and of a decoder that draws nothing each image hangs on its latent alone."""
    if not _agree(raw, vae.read_decoder(z, _noise(z.device))):
        raise Misread(
            "decoding the same latents twice gives other images: it is in training mode, or draws: call "
            ".eval() on the module, and take the mean of the decoder's distribution"
        )
    draws = not _agree(raw, vae.read_decoder(z, _noise(z.device, seed=1)))
    for count in (max(len(z) // 8, 2), 1):
        fewer = _in_batch_of(count, lambda count: vae.read_decoder(z[:count], _noise(z.device)), "decode")
        if not draws and not _agree(raw[:count], fewer):
            raise Misread(
                "what a latent is decoded to hangs on the others of its batch: batch norm in training mode: call "
                ".eval() on the module"
            )


def _require_reconstructions(vae: WrappedVAE, test: Tensor, raw: Tensor) -> float:
    """Reconstructions are in their range, nearer to the images than one image for all, and not far better otherwise."""
    error = _error(vae, test)
    others = {words: found for words, other in _readings(vae) if (found := _try(other, test)) is not None}
    best = min(others, key=lambda words: others[words], default="")
    better = best if best and others[best] < min(BETTER * error, 1) else None
    low, high = vae.value_range
    margin = BEYOND * (high - low)
    if ((raw < low - margin) | (raw > high + margin)).float().mean() > OUTSIDE:
        hint = better or "does a last sigmoid or tanh stand in its loss instead of its decoder?"
        raise Misread(
            f"it decodes to values from {raw.min():.3g} to {raw.max():.3g}, outside its value range {low:g} to "
            f"{high:g}: {hint}"
        )
    if better is not None:
        raise Misread(
            f"reconstructions differ from the images by {error:.0%} of their variance, and with {better} by "
            f"{others[better]:.0%}: it was trained so"
        )
    if error >= 1:
        raise Misread(
            f"reconstructions are no nearer to the images than their mean image is (error {error:.0%} of their "
            "variance): were its weights loaded, and are these the images that it was trained on, in that order of "
            "channels and range of values?"
        )
    return error


def _readings(vae: WrappedVAE) -> Iterator[tuple[str, Any]]:
    """Other ways to read the same module, and how each is said."""
    for values in RANGES:
        if values != tuple(map(float, vae.value_range)):
            other = copy.copy(vae)
            other.value_range = values
            yield f"value_range = ({values[0]:g}, {values[1]:g})", other
    if vae.image_shape[0] == 3:
        yield "colours in the order blue, green, red", _Reversed(vae)


class _Reversed:
    """The same VAE with the colours in the other order."""

    def __init__(self, vae: WrappedVAE) -> None:
        self._vae = vae

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._vae.encode(x.flip(1))

    def decode(self, z: Tensor, generator: torch.Generator) -> Tensor:
        return self._vae.decode(z, generator).flip(1)


def _try(vae: Any, test: Tensor) -> float | None:
    try:
        error = _error(vae, test)
    except Exception:
        return None
    return error if error == error else None


def _error(vae: Any, test: Tensor) -> float:
    """Squared error of reconstructions of a draw each, as a share of that of the images' own mean."""
    mean, std = vae.encode(test)
    z = mean + std * torch.randn(mean.shape, generator=_noise(test.device), device=test.device)
    found = (vae.decode(z, _noise(test.device)) - test).square().mean() / (test.mean(0) - test).square().mean()
    return float(found)


def _agree(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() <= AGREES * one.std().clamp(min=1e-6))


def _noise(device: torch.device, seed: int = 0) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def _first_line(error: Exception) -> str:
    return next(iter(words_of(error).strip().splitlines()), type(error).__name__)[:200]
