"""A checkout that travels light: the code, and of the shipped bundles those that are named.

What goes to a lent GPU is often bounded in size, and `results/` with the bundles is over a hundred megabytes. Sets a
sparse checkout of this worktree; `--restore` takes it back. Refuses where the checkout, with the folders of `--with`
that travel beside it, is larger than `--limit` MiB.

    python tools/gpu/thin.py mnist-conv_vae mnist-nvae --with .whl
    python tools/gpu/thin.py --restore
"""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUNDLES = "backbones/pretrained"
LEFT_OUT = ("results", BUNDLES)


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def megabytes(names: list[str], beside: list[Path]) -> float:
    """Of the tracked files that are there, and of folders beside them, in MiB."""
    there = [path for name in names if (path := ROOT / name).is_file()]
    there += [path for folder in beside for path in folder.rglob("*") if path.is_file()]
    return sum(os.path.getsize(path) for path in there) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="*", help="shipped bundles that are to travel")
    parser.add_argument(
        "--with", dest="beside", action="append", type=Path, default=[], help="a folder that goes along"
    )
    parser.add_argument("--limit", type=float, default=60, help="MiB in all")
    parser.add_argument("--restore", action="store_true", help="the whole checkout again")
    asked = parser.parse_args()
    if asked.restore:
        git("sparse-checkout", "disable")
        return
    tracked = git("ls-files", "-z").split("\0")
    shipped = {name.split("/")[2] for name in tracked if name.startswith(BUNDLES + "/")}
    unknown = sorted(set(asked.bundles) - shipped)
    if unknown:
        parser.error(f"no shipped bundle {', '.join(unknown)}; there are {', '.join(sorted(shipped))}")
    patterns = ["/*", *(f"!/{folder}" for folder in LEFT_OUT), *(f"/{BUNDLES}/{name}" for name in asked.bundles)]
    git("sparse-checkout", "set", "--no-cone", *patterns)
    size = megabytes(tracked, asked.beside)
    print(f"{size:.1f} MiB in all")
    if size > asked.limit:
        git("sparse-checkout", "disable")
        parser.error(f"{size:.1f} MiB are more than {asked.limit:g}: name fewer bundles")


if __name__ == "__main__":
    main()
