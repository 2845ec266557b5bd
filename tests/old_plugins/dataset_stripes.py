"""A data set that is drawn, not read: grey stripes of 16 x 16, upright or across."""

import torch

from benchmark.datasets.api import Dataset, DatasetConfig, Images, hookimpl, random_split


class StripesConfig(DatasetConfig):
    upright: bool = True


class Stripes(Dataset):
    name = "stripes"
    extractor = "digit-cnn"
    terms = "drawn by this file, public domain"
    Config = StripesConfig

    def load(self, roots):
        levels = torch.randint(0, 256, (120, 1, 1, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        images = levels.repeat_interleave(2, 3).expand(-1, -1, 16, -1)
        if not self.config.upright:
            images = images.transpose(2, 3)
        return Images(*random_split(images.contiguous(), 60, 20, 40), "16x16, random split 60/20/40")


@hookimpl
def register_datasets():
    return [Stripes]
