"""The plans for a lent GPU: what they ask for is there, which is to be known before a machine is lent."""

from pathlib import Path

import pytest

from benchmark.bundles.find import SHIPPED

PLANS = sorted((Path(__file__).parents[1] / "tools" / "gpu").glob("*.plan"))


def commands_of(plan):
    """The commands of a plan as lanes.sh reads them."""
    lines = [line for line in plan.read_text().splitlines() if line and not line.startswith(("#", "alone "))]
    return list(dict.fromkeys(command for line in lines for command in line.split(" ; ")))


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.stem)
def test_a_plan_asks_for_what_is_there(plan, tmp_path, cli):
    asked = [
        command.replace("RESULTS", str(tmp_path)).replace("--device cuda", "--device cpu").split()
        for command in commands_of(plan)
        if command.startswith("benchmark ")
    ]
    assert asked
    for _, *words in asked:
        if words[0] == "groups":
            assert (SHIPPED / words[words.index("--bundle") + 1]).is_dir()
            continue
        done = cli(*words, "--dry-run")
        assert done.code == 0 or "no tuning of it" in done.err, done.err


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.stem)
def test_what_shares_a_gpu_says_with_how_many(plan):
    for command in commands_of(plan):
        words = command.split()
        if "--per-gpu" in words:
            assert words[words.index("--per-gpu") + 1] == words[words.index("--workers") + 1]
