"""Steps that do not wait for Python; that a recorded fit has the eager one's bits is proved on a GPU (test_cuda.py)."""

import ast
from pathlib import Path

import torch

from priors.parts.graphs import without_python

PRIORS = Path(__file__).parents[1] / "priors"


def test_without_a_gpu_a_step_stays_what_it_is():
    def step():
        return 1

    assert without_python(step, torch.Generator()) is step


def reads_back(step):
    """Calls inside a step that would wait for the device, or that Python could not see again when it is replayed."""
    calls = [node.func for node in ast.walk(step) if isinstance(node, ast.Call)]
    return [call.attr for call in calls if isinstance(call, ast.Attribute) and call.attr in ("item", "tolist", "cpu")]


def test_no_step_that_is_recorded_reads_a_value_back():
    """Of every function that a prior hands to `without_python`, by name, in the file where it does."""
    found = {}
    for path in PRIORS.rglob("*.py"):
        tree = ast.parse(path.read_text())
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
        recorded = {call.args[0].id for call in calls if call.func.id == "without_python"}
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name in recorded:
                found[f"{path.name}: {node.name}"] = reads_back(node)
    assert len(found) >= 12
    assert not any(found.values()), found
