"""The arms of a comparison by their names, and where their records lie: what training, scoring and the page share."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

Arm = Literal["two-stage", "joint", "two-stage, then joint", "joint, prior refitted"]
ARMS: tuple[Arm, ...] = get_args(Arm)
TWO_STAGE, JOINT, THEN_JOINT, REFITTED = ARMS


def records_in(results: Path) -> Path:
    """The folder of a results folder in which records of arms lie."""
    return results / "joint" / "records"
