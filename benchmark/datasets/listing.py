"""What a folder of images holds: image files in their splits, and what is left out, each with a reason."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.datasets.image_files import SUFFIXES
from benchmark.datasets.splits import choose_splits, meanings
from benchmark.errors import UsageError

#: what systems and editors put beside images; names that begin with a dot are hidden anyway
HIDDEN = {"__macosx", "@eadir", "thumbs.db", "desktop.ini", "$recycle.bin"}
#: so many names stand in a line; of more it says how many
NAMED = 3


@dataclass
class Found:
    """Visible files below a folder, each folder read once; links to folders are followed."""

    images: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)
    #: links to a folder that was read already, or to one around it
    again: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)

    def add(self, other: Found) -> None:
        for name in vars(self):
            getattr(self, name).extend(getattr(other, name))


@dataclass
class Listing:
    """Image files by split (all under None where there are no splits), sorted, and in words what is left out."""

    files: dict[str | None, list[Path]]
    left_out: list[str]


def list_images(folder: Path, label: str) -> Listing:
    """The images of a folder, in its splits if it has any. Raises `UsageError` for near misses and empty splits."""
    top = _walk(folder, deep=False)
    names = {path.name: path for path in top.folders}
    splits = choose_splits(names, "folder", label)
    if splits:
        parts: dict[str | None, Found] = {split: _walk(names[split]) for split in splits}
        beside = [*top.images, *(path for name, path in names.items() if name not in splits)]
        found = Found(others=top.others, hidden=top.hidden)
    else:
        parts, beside, found = {None: _walk(folder)}, [], Found()
        below = {path.relative_to(folder).as_posix(): path.name for path in parts[None].folders}
        kinds = meanings(set(below.values()))
        if len(set(kinds.values())) > 1:
            like = sorted(path for path, name in below.items() if name in kinds)
            raise UsageError(
                f"{label}: {show_names(map(Path, like))} look like splits, but below other folders; name the folder "
                "that holds train, val and test itself, or rename these"
            )
    for split, part in parts.items():
        if not part.images:
            others = f", but {show_names(part.others, folder)}" if part.others else ""
            raise UsageError(f"{folder / (split or '')}: no images here ({', '.join(SUFFIXES)}){others}")
        found.add(part)
    left_out = [
        f"{words} ({show_names(paths, folder)})"
        for paths, words in (
            (found.others, f"{len(found.others):,} other file{'s' * (len(found.others) > 1)}"),
            (beside, "what is beside the splits"),
            (found.hidden, "what is hidden"),
            (found.again, "links to what is read already"),
        )
        if paths
    ]
    return Listing({split: sorted(part.images) for split, part in parts.items()}, left_out)


def show_names(paths: Iterable[Path], below: Path | None = None, most: int = NAMED) -> str:
    """Names of files, relative to a folder, as any terminal can show them; how many more where they are many."""
    names = sorted((path.relative_to(below) if below else path).as_posix() for path in paths)
    shown = [show_name(name) for name in names[:most]]
    return ", ".join(shown) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def show_name(name: str) -> str:
    """A file's name with bytes that are no text, and control characters, as escapes."""
    text = name.encode(errors="backslashreplace").decode()
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _walk(top: Path, deep: bool = True) -> Found:
    """Everything below `top`; not deep: in `top` alone. Links wait until what really lies there is read."""
    found = Found()
    around = [top.resolve(), *top.resolve().parents]
    read = {_identity(folder) for folder in around}
    waiting, links = [top], list[Path]()
    while waiting or links:
        folder = waiting.pop() if waiting else links.pop(0)
        if folder != top:
            if (identity := _identity(folder)) in read:
                found.again.append(folder)
                continue
            read.add(identity)
            found.folders.append(folder)
        if folder == top or deep:
            for path in _entries(folder):
                if path.name.startswith(".") or path.name.casefold() in HIDDEN:
                    found.hidden.append(path)
                elif os.path.isdir(path):  # which no link can make fail
                    (links if path.is_symlink() else waiting).append(path)
                else:
                    (found.images if path.suffix.lower() in SUFFIXES else found.others).append(path)
    return found


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir(), reverse=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read ({(error.strerror or str(error)).lower()})") from error


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
