"""What the allocator keeps: pages of a freed block are there for the next one, and a process is no larger for it."""

import os
import subprocess
import sys

import pytest
import torch

from benchmark.machine.allocator import give_back_freed_memory, keep_freed_memory

PROGRAM = """
import resource, sys
import torch
from benchmark.machine.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
block = torch.ones(10_000_000)
del block
before = resource.getrusage(resource.RUSAGE_SELF)
for _ in range(30):
    block = torch.ones(10_000_000)
    del block
after = resource.getrusage(resource.RUSAGE_SELF)
print(after.ru_minflt - before.ru_minflt, after.ru_maxrss - before.ru_maxrss)
"""


@pytest.mark.skipif(not keep_freed_memory(), reason="not glibc")
def test_a_freed_block_is_used_again_without_a_page_fault_and_without_growing():
    """Thirty blocks of 40 MB, each 9,766 pages of 4 kB: all are faulted in anew, or but a few, which are kept."""
    # glibc reads the same settings from MALLOC_*: where somebody has set them, "leave" would keep as well
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}

    def faults(mode):
        command = [sys.executable, "-c", PROGRAM, mode]
        done = subprocess.run(command, env=plain, capture_output=True, text=True, check=True)
        return map(int, done.stdout.split())

    (kept, growth), (usual, _) = faults("keep"), faults("leave")
    assert kept < 10 * 9_766
    assert growth < 400_000  # kB
    assert usual > 27 * 9_766


def test_what_is_freed_on_a_gpu_is_given_back(monkeypatch):
    """Each of many processes on one GPU would keep what its largest metric once took."""
    given_back = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given_back.append(1))
    give_back_freed_memory(torch.device("cpu"))
    assert not given_back
    give_back_freed_memory(torch.device("cuda"))
    assert given_back
