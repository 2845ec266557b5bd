"""Sample strips as PNG and back."""

import numpy as np
import pytest
import torch
from draws import seeded

from benchmark.metrics.samples import as_png, from_png


@pytest.mark.parametrize("channels", [1, 3])
def test_png_round_trip(channels):
    images = torch.randint(0, 256, (5, channels, 6, 4), generator=seeded(0), dtype=torch.uint8)
    picture = from_png(as_png(images))
    assert picture.size == (5 * 4, 6)
    assert picture.mode == {1: "L", 3: "RGB"}[channels]
    pixels = torch.from_numpy(np.array(picture)).reshape(6, 5, 4, channels)
    assert torch.equal(pixels.permute(1, 3, 0, 2), images)
