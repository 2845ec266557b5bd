"""MNIST and Fashion-MNIST through torchvision, 28x28 padded to 32x32."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.datasets.api import Dataset, DatasetConfig, Images, hookimpl, random_split
from benchmark.errors import UsageError


class MNISTConfig(DatasetConfig):
    """`binarised`: each pixel drawn once, white with its grey value as probability (static binarisation)."""

    binarised: bool = False


class MNIST(Dataset):
    """The source's 60,000 training images are split at random into 50,000 to train and 10,000 to validate."""

    name = "mnist"
    extractor = "digit-cnn"
    Config = MNISTConfig
    config: MNISTConfig
    counts = (50_000, 10_000, 10_000)
    terms = "MNIST (LeCun, Cortes, Burges), CC BY-SA 3.0"
    source_name: ClassVar[str] = "MNIST"  # of torchvision's class

    @property
    def source(self) -> Any:
        import torchvision  # which takes as long as torch to import, and only images need it

        return getattr(torchvision.datasets, self.source_name)

    def load(self, roots: list[Path]) -> Images:
        source = self.source
        root = next((root for root in roots if self._has_files(root)), roots[-1])
        try:
            train = source(str(root), train=True, download=True).data
            test = source(str(root), train=False, download=True).data
        except Exception as error:  # of every kind: no mirror answered, or a file is damaged
            files = ", ".join(name for name, _ in source.resources)
            raise UsageError(
                f"{self.name} is not whole in {', '.join(map(str, roots))} and could not be downloaded ({error}); "
                f"fetch {files} from {source.mirrors[0]} "
                f"into {source.__name__}/raw/ under any of these folders"
            ) from error
        train, val = random_split(F.pad(train, (2, 2, 2, 2))[:, None], 50_000, 10_000)
        test, how = F.pad(test, (2, 2, 2, 2))[:, None], "28x28 padded to 32x32"
        if self.config.binarised:
            train, val, test = (_binarise(images, seed) for seed, images in enumerate((train, val, test)))
            how = f"{how}, statically binarised"
        return Images(train, val, test, f"{how}; training file split at random 50000/10000")

    def _has_files(self, root: Path) -> bool:
        """All four files are there, packed or unpacked (torchvision checks their md5 and unpacks them)."""
        raw = root / self.source_name / "raw"
        names = [name for name, _ in self.source.resources]
        return all((raw / name).is_file() or (raw / name).with_suffix("").is_file() for name in names)


def _binarise(images: Tensor, seed: int) -> Tensor:
    """uint8 images with 255 where a uniform draw of 0 to 254 is below the pixel, else 0: the same in every call."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(0, 255, images.shape, generator=generator, dtype=torch.uint8)
    return (draws < images) * torch.tensor(255, dtype=torch.uint8)


class FashionMNIST(MNIST):
    name = "fashion_mnist"
    terms = "Fashion-MNIST (Zalando), MIT"
    source_name = "FashionMNIST"


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [MNIST, FashionMNIST]
