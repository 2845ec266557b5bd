"""torch-fidelity's distance between two sets of images, by any of its registered extractors."""

import torch
import torch_fidelity
from torch.utils.data import Dataset


class InMemory(Dataset):
    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.images[index]


def of_torch_fidelity(extractor: str, generated: torch.Tensor, reference: torch.Tensor, **options) -> float:
    metrics = torch_fidelity.calculate_metrics(
        input1=InMemory(generated),
        input2=InMemory(reference),
        fid=True,
        feature_extractor=extractor,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
        **options,
    )
    return metrics["frechet_inception_distance"]
