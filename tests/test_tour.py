"""The notebook runs from a fresh kernel, shows a board, samples and the price, and is kept as it ran."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

TOUR = Path(__file__).resolve().parent.parent / "docs" / "tour.ipynb"
#: bytes of the file, pictures included
LARGEST = 600_000


@pytest.fixture(scope="module")
def tour():
    return nbformat.read(TOUR, as_version=4)


def pictures(notebook):
    """How many pictures each cell shows."""
    outputs = [cell.get("outputs", []) for cell in notebook.cells]
    return [sum("image/png" in each.get("data", {}) for each in of_cell) for of_cell in outputs]


#: steps of its two trainings and seeds, and how many are enough to see that all of it runs
FEW = {"range(1000)": "range(100)", "latent_flow[steps=300]": "latent_flow[steps=20]", "seeds=2": "seeds=1"}


def test_the_tour_runs_and_shows_what_it_says(tour, tmp_path):
    fresh = nbformat.from_dict(tour)
    for many, few in FEW.items():
        (cell,) = [cell for cell in fresh.cells if cell.cell_type == "code" and many in cell.source]
        cell.source = cell.source.replace(many, few)
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    NotebookClient(fresh, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert sum(pictures(fresh)) == 3
    shown = [each.get("data", {}).get("text/markdown", "") for cell in fresh.cells for each in cell.get("outputs", [])]
    (board,) = [text for text in shown if text]
    assert all(f"| {row}" in board for row in ("gmm", "latent_flow", "fitted_gaussian", "gaussian"))


def test_the_tour_is_kept_with_what_it_showed(tour):
    """Whoever reads it without running it sees the pictures; nothing in it tells where it ran."""
    assert sum(pictures(tour)) == 3
    assert TOUR.stat().st_size < LARGEST
    said = str([cell.get("outputs") for cell in tour.cells])
    assert "Error" not in said
    assert "/tmp" not in said
    assert "/home" not in said
