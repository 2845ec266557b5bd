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


def called(node):
    """Names of the functions and methods that a piece of code calls."""
    calls = [each.func for each in ast.walk(node) if isinstance(each, ast.Call)]
    return {
        each.id if isinstance(each, ast.Name) else each.attr
        for each in calls
        if hasattr(each, "id") or hasattr(each, "attr")
    }


def test_no_step_that_is_recorded_reads_a_value_back():
    """Of every function that a prior hands to `without_python`, and what of the same file that calls for an update."""
    found = {}
    for path in PRIORS.rglob("*.py"):
        tree = ast.parse(path.read_text())
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
        handed = [call.args[0] for call in calls if call.func.id == "without_python"]
        recorded = {name for each in handed for name in ({each.id} if isinstance(each, ast.Name) else called(each))}
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        if "take" in {name for node in functions if node.name in recorded for name in called(node)}:
            recorded.add("take")
        for node in functions:
            if node.name in recorded:
                found[f"{path.name}: {node.name}"] = reads_back(node)
    assert len(found) >= 12
    assert {"evalp.py: take", "latent_flow.py: take", "mcmc_ebm.py: take"} <= set(found)
    assert not any(found.values()), found
