"""Train `digit-cnn` on MNIST and write its weights beside it: `python tools/train_digit_cnn.py`.

Twelve epochs of cross-entropy with random affine distortions, Adam with a one-cycle learning rate, seed 0.
All 60,000 training images are used and nothing is selected, so the test accuracy that it prints is an honest one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file

from benchmark.extractors.digit_cnn import WEIGHTS, DigitClassifier
from benchmark.progress import say, track
from benchmark.registry import Registry
from benchmark.store.places import data_roots

EPOCHS, BATCH = 12, 250


def _load_labelled(train: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """MNIST in its own order, padded as the data set `mnist` is, with labels (which no other part needs)."""
    Registry().get("dataset", "mnist")().load(data_roots())  # finds or downloads the files
    for root in data_roots():
        try:
            source = torchvision.datasets.MNIST(str(root), train=train)
        except RuntimeError:  # not in this folder
            continue
        return F.pad(source.data, (2, 2, 2, 2))[:, None].float() / 255, source.targets
    raise FileNotFoundError("MNIST")


def _distort(images: torch.Tensor) -> torch.Tensor:
    """Each image rotated, scaled and shifted a little at random."""
    n = len(images)
    angle, scale = (torch.rand(n) - 0.5) * 0.5, 1 + (torch.rand(n) - 0.5) * 0.3
    shift = (torch.rand(n, 2) - 0.5) * 0.3
    rows = (
        torch.stack([angle.cos() * scale, -angle.sin() * scale, shift[:, 0]], 1),
        torch.stack([angle.sin() * scale, angle.cos() * scale, shift[:, 1]], 1),
    )
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def main() -> None:
    """Train, write the weights, say the test accuracy."""
    torch.manual_seed(0)
    images, labels = _load_labelled(train=True)
    model = DigitClassifier().to(memory_format=torch.channels_last)
    steps = len(images) // BATCH
    optimiser = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.01, EPOCHS * steps)
    with track("digit-cnn") as progress:
        for epoch in range(EPOCHS):
            for step, index in enumerate(torch.randperm(len(images))[: steps * BATCH].split(BATCH)):
                batch = _distort(images[index]).to(memory_format=torch.channels_last)
                loss = F.cross_entropy(model(batch), labels[index])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                progress(epoch * steps + step + 1, EPOCHS * steps, loss=loss.item())
    model.eval()
    images, labels = _load_labelled(train=False)
    with torch.no_grad():
        accuracy = (model(images).argmax(1) == labels).float().mean().item()
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, WEIGHTS)
    say(f"digit-cnn: test accuracy {accuracy:.2%}, {WEIGHTS.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
