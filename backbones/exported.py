"""A VAE as two programs of `torch.export`, for which nobody needs the source that it was written in.

The programs' files, graph and weights, are buffers of bytes, so that a bundle of one is made like any other. Such a
file may hold pickles, and sizes whose text is evaluated: what holds either is refused before torch reads it, so that
opening one runs tensor operations and nothing else.
"""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from backbones.api import Backbone, bernoulli_log_weight, hookimpl
from backbones.wrapped import Likelihood, WrappedConfig, WrappedVAE

#: members of a file of torch.export that hold numbers or JSON
PLAIN = re.compile(
    r"(data/weights/(weight_\d+|\w+_config\.json)|data/constants/(tensor_\d+|\w+_config\.json)|models/\w+\.json"
    r"|data/sample_inputs/\w+\.pt|archive_format|archive_version|\.data/\w+|byteorder)"
)
#: what an expression of sizes is made of, which torch has evaluated: symbols, numbers and sums of them; no attribute
SIZES = re.compile(
    r"('[su]\d+'|Symbol|Integer|Rational|Add|Mul|Pow|FloorDiv|CeilDiv|CleanDiv|Mod|PythonMod|Max|Min|positive|integer"
    r"|nonnegative|True|False|[su]?\d+|int_oo|[-+*/(),=\s])*"
)
EXAMPLES = 3  # in a batch that is traced: not 1, which torch takes for a size that never changes


class Unexportable(ValueError):
    """Why a VAE cannot be written as a program."""


class ExportedConfig(WrappedConfig):
    """Bytes of the two programs, the shape of z, the likelihood of the decoder, and the torch that wrote them."""

    encoder: int = Field(ge=1)
    decoder: int = Field(ge=1)
    latent_shape: tuple[int, ...]
    likelihood: Likelihood | None = None
    torch: str


class Exported(Backbone):
    name = "exported"
    Config = ExportedConfig
    config: ExportedConfig

    def __init__(self, image_shape: tuple[int, int, int], config: ExportedConfig) -> None:
        super().__init__(image_shape, config)
        self.latent_shape = config.latent_shape
        self.register_buffer("encoder", torch.zeros(config.encoder, dtype=torch.uint8))
        self.register_buffer("decoder", torch.zeros(config.decoder, dtype=torch.uint8))
        self._opened: dict[tuple[str, torch.device], nn.Module] = {}

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._program("encoder", x.device)(x)

    def decode(self, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self._program("decoder", z.device)(z)

    def loss(self, x: Tensor, generator: torch.Generator, progress: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
        raise ValueError("a VAE that was wrapped is trained already: it has no loss")

    def log_weight(self, x: Tensor, generator: torch.Generator) -> Tensor | None:
        return bernoulli_log_weight(self, x, generator) if self.config.likelihood == "bernoulli" else None

    def _program(self, name: str, device: torch.device) -> nn.Module:
        """Opened when it is first called, and kept. Raises ValueError where its bytes are no plain program."""
        if (name, device) not in self._opened:
            try:
                self._opened[name, device] = open_program(self.get_buffer(name).cpu().numpy().tobytes(), device)
            except Exception as error:  # whatever torch makes of bytes that another version of it wrote
                raise ValueError(
                    f"the {name}'s program, written by torch {self.config.torch}, is not readable by torch "
                    f"{torch.__version__}: {error}"
                ) from error
        return self._opened[name, device]


def export_vae(vae: WrappedVAE) -> Exported:
    """The same VAE as two programs, on the CPU. Raises `Unexportable`."""
    device = vae.device
    encoder = _export(vae.encode, "encode", torch.rand(EXAMPLES, *vae.image_shape, device=device))
    decoder = _export(vae.decode, "decode", torch.randn(EXAMPLES, *vae.latent_shape, device=device))
    config = ExportedConfig(
        encoder=len(encoder),
        decoder=len(decoder),
        latent_shape=vae.latent_shape,
        likelihood=vae.likelihood,
        torch=torch.__version__,
    )
    exported = Exported(vae.image_shape, config)
    exported.get_buffer("encoder").copy_(torch.frombuffer(bytearray(encoder), dtype=torch.uint8))
    exported.get_buffer("decoder").copy_(torch.frombuffer(bytearray(decoder), dtype=torch.uint8))
    return exported


class _Call(nn.Module):
    """A function as a module of its own; the weights that it reads are constants of its program."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self._function = (function,)  # no submodule, or all of the VAE would be written twice

    def forward(self, x: Tensor) -> Any:
        return self._function[0](x)


def _export(function: Any, name: str, example: Tensor) -> bytes:
    """The file of a program that does what the function does, which is held against it on a batch of another size."""
    size = torch.export.Dim("n")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "No complete tensor found"
            )  # of views, whose values are written all the same
            program = torch.export.export(_Call(function), (example,), dynamic_shapes=({0: size},), strict=False)
            torch.export.save(program, file := io.BytesIO())
        other = torch.rand_like(example.repeat(2, *[1] * (example.dim() - 1)))
        made, wanted = open_program(file.getvalue(), example.device)(other), function(other)
        for each, own in zip(*((both if isinstance(both, tuple) else (both,)) for both in (made, wanted)), strict=True):
            if not torch.allclose(each, own, rtol=1e-4, atol=1e-5):
                raise ValueError("the program that it makes gives other numbers")
    except Exception as error:  # of every kind: whatever of the code cannot be traced
        words = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        if "onstraint" in words or "specializ" in words:
            words = "the number of images is fixed in it: by len(x), where x.shape[0] leaves it open, or by a loop"
        elif "zuf" in words or "data-dependent" in words:
            words = "which way it goes hangs on values of its input"
        raise Unexportable(
            f"{name} cannot be written as a program ({words}); give its class in a file of its own instead, see "
            "docs/own-vae.md"
        ) from error
    return file.getvalue()


def open_program(raw: bytes, device: torch.device) -> nn.Module:
    """The program in the bytes of a file of torch.export, on a device. Raises ValueError where it is not plain."""
    from torch.export.passes import move_to_device_pass

    program = torch.export.load(io.BytesIO(_require_plain(raw)))
    return move_to_device_pass(program, device).module()


def _require_plain(raw: bytes) -> bytes:
    """The same file, written anew from members that were looked at. Raises ValueError."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as file, zipfile.ZipFile(out, "w") as copy:
        for member in file.namelist():
            root, _, inner = member.partition("/")
            content = file.read(member)
            if not re.fullmatch(r"\w+", root) or not PLAIN.fullmatch(inner):
                raise ValueError(f"it holds '{member}', which is neither numbers nor JSON")
            if inner.endswith(".json"):
                _require_plain_json(json.loads(content), member)
            copy.writestr(zipfile.ZipInfo(member), content)
    return out.getvalue()


def _require_plain_json(value: Any, member: str) -> None:
    if isinstance(value, dict):
        if value.get("use_pickle"):
            raise ValueError(f"{member} holds pickles, which can run code")
        for name, each in value.items():
            if name == "expr_str" and not SIZES.fullmatch(str(each)):
                raise ValueError(f"{member} holds a size '{str(each)[:80]}', which can run code")
            _require_plain_json(each, member)
    elif isinstance(value, list):
        for each in value:
            _require_plain_json(each, member)


@hookimpl
def register_backbones() -> list[type[Backbone]]:
    return [Exported]
