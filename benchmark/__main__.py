"""`python -m benchmark`, and the command `latent-priors`: what is to be right before anything is imported."""

import os
import sys


def main() -> None:
    """Run a command."""
    taken = leave_out_current_folder()
    if taken:
        print(f"error: {taken} is imported in place of a module of that name: rename it", file=sys.stderr)
        sys.exit(2)
    from benchmark.progress import prepare_streams

    prepare_streams()
    from benchmark.cli.app import main as run_command

    run_command()


def leave_out_current_folder() -> str | None:
    """Let no file of the folder that a command is typed in stand for a module: neither `torch.py` nor `priors/`.

    `python -m` looks there first. Returns a file that was imported from there before this could be helped.
    """
    try:
        here = os.getcwd()
    except OSError:  # which has been removed meanwhile
        return None
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if sys.path[:1] not in ([""], [here]) or os.path.realpath(here) == os.path.realpath(root):
        return None
    del sys.path[0]
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    return next((file for file in files if file and os.path.dirname(os.path.abspath(file)) == here), None)


if __name__ == "__main__":
    main()
