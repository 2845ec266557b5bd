"""The most memory that a call holds at one time."""

import torch
from draws import CPU

from benchmark.machine.peak_memory import peak_memory


def test_peak_memory_counts_what_lives_at_once():
    kept = torch.ones(1000)

    def run():
        one = kept + 1  # 4,000 bytes
        two = one.double()  # 8,000 more: the peak
        del one
        view = two[:500].reshape(5, 100)  # no storage of its own
        view.add_(1)
        return two.float()  # 8,000 + 4,000 again

    assert peak_memory(run, CPU) == 12_000
    assert peak_memory(lambda: [torch.zeros(250) for _ in range(3)], CPU) == 3_000
    assert peak_memory(lambda: [torch.zeros(250).sum() for _ in range(3)][-1], CPU) == 1_000 + 3 * 4
    assert peak_memory(lambda: kept.mul_(1), CPU) == 0
