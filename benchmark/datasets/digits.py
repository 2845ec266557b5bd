"""scikit-learn's handwritten digits: 1,797 real 8x8 images inside the package, so nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from benchmark.datasets.api import Dataset, Images, hookimpl, random_split


class Digits(Dataset):
    """Enlarged to 24x24 and padded to 32x32: strokes as large as MNIST's, which digit-cnn was trained on."""

    name = "digits"
    extractor = "digit-cnn"
    terms = "UCI Optical Recognition of Handwritten Digits (CC BY 4.0), as shipped in scikit-learn"

    def load(self, roots: list[Path]) -> Images:
        from sklearn.datasets import load_digits  # slow to import, and only this source needs it

        small = torch.from_numpy(load_digits().images).float()[:, None] * (255 / 16)
        large = F.interpolate(small, size=24, mode="bilinear", align_corners=False)
        images = F.pad(large, (4, 4, 4, 4)).round().clamp(0, 255).to(torch.uint8)
        train, val, test = random_split(images, 1097, 200, 500)
        return Images(train, val, test, "8x8 enlarged to 24x24 (bilinear), padded to 32x32; random split 1097/200/500")


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [Digits]
