"""scikit-learn's handwritten digits: 1,797 real 8x8 images inside the package, so nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from benchmark.datasets.api import Dataset, Images, hookimpl, random_split


class Digits(Dataset):
    """Enlarged to 20x20 and padded to 32x32, the size of MNIST's digits: digit-cnn, trained on those, reads 93 %."""

    name = "digits"
    extractor = "digit-cnn"
    counts = (1_097, 200, 500)
    terms = "UCI Optical Recognition of Handwritten Digits (CC BY 4.0), as shipped in scikit-learn"

    def load(self, roots: list[Path]) -> Images:
        from sklearn.datasets import load_digits  # slow to import, and only this source needs it

        small = torch.from_numpy(load_digits().images).float()[:, None] * (255 / 16)
        large = F.interpolate(small, size=20, mode="bicubic", align_corners=False)
        images = F.pad(large, (6, 6, 6, 6)).round().clamp(0, 255).to(torch.uint8)
        train, val, test = random_split(images, 1097, 200, 500)
        return Images(train, val, test, "8x8 enlarged to 20x20 (bicubic), padded to 32x32; random split 1097/200/500")


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [Digits]
