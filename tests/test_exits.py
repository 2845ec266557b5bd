"""A stranger's code that would end the process, with 0 as if all were done: a failure, in one line."""

import os

import pytest
from commands import only_line

from benchmark.machine.exits import refused_exit

DATASET = """
import os, sys
from benchmark.datasets.api import Dataset, hookimpl

class Leaving(Dataset):
    name = "leaving"
    def load(self, roots):
        {leave}(0)

@hookimpl
def register_datasets():
    return [Leaving]
"""


@pytest.mark.parametrize("leave", ["sys.exit", "os._exit"])
def test_a_data_set_that_ends_the_command_is_an_error_that_names_it(leave, cli, tmp_path):
    plugin = tmp_path / "leaving.py"
    plugin.write_text(DATASET.format(leave=leave))
    words = ["pretrain", "--dataset", "leaving", "--plugin", plugin, "--set", "epochs=1"]
    assert "leaving.py" in only_line(cli(*words))


def test_processes_forked_meanwhile_and_this_one_afterwards_are_left_as_ever():
    leave = os._exit
    with refused_exit():
        with pytest.raises(SystemExit, match=r"os\._exit\(0\) in test_exits\.py"):
            os._exit(0)
        child = os.fork()
        if child == 0:
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert os._exit is leave
