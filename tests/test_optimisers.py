"""Lean optimisers against `torch.optim`, bit by bit."""

import pytest
import torch
from draws import seeded

from priors.parts.optimisers import Adam, RMSprop

SHAPES = [(7, 3), (7,), (128, 128), (1, 33), (4, 2, 3, 3)]


def made(dtype: torch.dtype, seed: int = 0) -> list[torch.Tensor]:
    generator = seeded(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in SHAPES]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "ours, theirs",
    [
        (
            lambda parameters: Adam(parameters, 3e-3, (0.5, 0.999)),
            lambda parameters: torch.optim.Adam(parameters, 3e-3, (0.5, 0.999), fused=True),
        ),
        (lambda parameters: RMSprop(parameters, 3e-3), lambda parameters: torch.optim.RMSprop(parameters, 3e-3)),
    ],
    ids=["adam", "rmsprop"],
)
def test_steps_are_those_of_torch(ours, theirs, dtype):
    """Also for a gradient whose memory lies otherwise than its parameter's, as autograd may hand it out."""
    lean, usual = made(dtype), [torch.nn.Parameter(each) for each in made(dtype)]
    one, other = ours(lean), theirs(usual)
    for step in range(20):
        gradients = made(dtype, seed=step + 1)
        gradients[0] = gradients[0].T.contiguous().T
        for parameter, gradient in zip(usual, gradients):
            parameter.grad = gradient.contiguous()
        one.step(gradients)
        other.step()
        assert all(torch.equal(a, b) for a, b in zip(lean, usual))
    assert all((a - b).abs().mean() > 1e-3 for a, b in zip(lean, made(dtype)))
