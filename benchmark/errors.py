"""Bad input, told in one line: what is wrong, what would be right, the nearest name."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

#: what the system says of a disk that is full
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
#: what it raises where a path that was named cannot be used
UNUSABLE_PATH = (FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)


class UsageError(Exception):
    """Shown to the user as one line, whatever it quotes; the command ends with exit code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(line.strip() for line in message.splitlines() if line.strip()))


def words_of(error: BaseException) -> str:
    """What an error says; a stranger's class may fail even at that."""
    try:
        return str(error)
    except BaseException:
        return "(its message cannot be read)"


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that does not exist, with the nearest one that does."""
    known = sorted(known)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean '{nearest[0]}'?" if nearest else ""
    return UsageError(f"unknown {kind} '{name}'{hint} (known: {', '.join(known) or 'none'})")
