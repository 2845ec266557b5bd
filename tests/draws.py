"""Random numbers that tests share: generators, and samples whose distribution is known."""

import pytest
import torch

CPU = torch.device("cpu")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def silent(*_: object, **__: object) -> None:
    pass


def normal(n: int, d: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(n, d, generator=seeded(seed))


def clustered(n: int, d: int, seed: int) -> torch.Tensor:
    """As features of a rectifier are: ten clusters, many exact zeros, a mean away from zero."""
    centres = 3 * torch.randn(10, d, generator=seeded(99))
    of = torch.randint(10, (n,), generator=seeded(seed))
    return (centres[of] + 0.7 * normal(n, d, seed + 1)).relu() + 0.5 * (centres[0] > 0)


KINDS = pytest.mark.parametrize("kind", [normal, clustered], ids=lambda kind: kind.__name__)
