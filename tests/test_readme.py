"""What the README shows: its prior works as it stands there, and its figures are the leaderboard's."""

import re
from pathlib import Path

import torch

from benchmark.check.contract import check
from benchmark.registry import Registry

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def cells(text):
    """The first table of priors and a score: label -> the other cells."""
    found = re.search(r"^\| prior +\| +FD.*\n((?:\|.*\n)+)", text, re.MULTILINE)
    lines = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in found[1].splitlines()[1:]]
    return {label.partition(",")[0]: others for label, *others in lines}


def test_the_prior_of_the_readme_keeps_the_contract(tmp_path):
    (source,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "moments.py").write_text(source)
    moments = Registry([tmp_path / "moments.py"]).get("prior", "moments")
    findings = list(check(moments, {}, ["narrow"], torch.device("cpu")))
    assert [f"{finding.check}: {finding.detail}" for finding in findings if finding.held is False] == []


def test_the_figures_of_the_readme_are_those_of_the_leaderboard():
    board = (ROOT / "results" / "leaderboard.md").read_text()
    (section,) = [s for s in board.split("\n## ") if s.startswith("mnist, conv_vae seed 0, test split, rae protocol")]
    ranked, references = (cells(part) for part in re.split("\nReference rows", section, maxsplit=1))
    measured = {**references, **ranked}
    shown = cells(README)
    assert len(shown) == 8
    for label, (score, gap, mmd, _) in shown.items():
        same = "aggregate_posterior" if label == "aggregate posterior" else label
        assert (score, mmd) == (measured[same][0], measured[same][2])
        assert float(gap.split()[0]) == float(measured[same][1].split()[0])
