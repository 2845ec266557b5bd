"""A folder of image files -> uint8 images in splits, all of one size, and what was left out or changed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from benchmark.datasets.image_files import Unreadable, as_tensor, read_header, read_image
from benchmark.datasets.listing import list_images, show_names
from benchmark.datasets.own import Read
from benchmark.datasets.sizes import SizeConfig, choose_sizing
from benchmark.errors import UsageError
from benchmark.progress import Progress

#: unreadable files are left out up to this share of all and this many; more stop it, and an error names so many
FEW_SHARE, FEW, NAMED = 0.05, 20, 100
#: files between two words of progress
EVERY = 500


def read_folder(folder: Path, label: str, config: SizeConfig, progress: Progress) -> Read:
    """The images of a folder, grey where all are. Raises `UsageError` for what it holds, as `label` where it is long.

    A few files that cannot be read are left out; more stop it, once all have been tried.
    """
    listing = list_images(folder, label)
    files = [file for group in listing.files.values() for file in group]
    unreadable: dict[Path, str] = {}
    headers: dict[Path, tuple[tuple[int, int], bool]] = {}
    for number, file in enumerate(files):
        if number % EVERY == 0:
            progress(number, 2 * len(files))
        try:
            headers[file] = read_header(file)
        except Unreadable as error:
            unreadable[file] = str(error)
    if not headers:
        _refuse(folder, unreadable, len(files))
    sizes = Counter(size for size, _ in headers.values())
    try:
        sizing = choose_sizing(config, sizes, label, prepared=False)
    except UsageError as error:
        usual = sizes.most_common(1)[0][0]
        odd = [file for file, (size, _) in headers.items() if size != usual]
        raise UsageError(f"{error}; not of the usual size: {show_names(odd, folder)}") from error
    grey = all(grey for _, grey in headers.values())
    remarks = Counter({"grey ones made colour": 0 if grey else sum(grey for _, grey in headers.values())})
    read: dict[str | None, list[Tensor]] = {split: [] for split in listing.files}
    for number, (split, file) in enumerate((split, file) for split, group in listing.files.items() for file in group):
        if number % EVERY == 0:
            progress(len(files) + number, 2 * len(files))
        if file not in headers:
            continue
        try:
            image, done = read_image(file, grey)
        except Unreadable as error:
            unreadable[file] = str(error)
            continue
        read[split].append(as_tensor(sizing.apply(image)))
        remarks.update(done)
    if len(unreadable) > min(FEW, FEW_SHARE * len(files)):
        _refuse(folder, unreadable, len(files))
    notes = [f"unreadable: {_name(folder, unreadable)}"] if unreadable else []
    notes += [f"left out: {', '.join(listing.left_out)}"] if listing.left_out else []
    notes += [f"{count:,} {remark}" for remark, count in remarks.items() if count]
    nothing = torch.empty(0, 1 if grey else 3, sizing.side, sizing.side, dtype=torch.uint8)
    parts = {split: torch.stack(images) if images else nothing for split, images in read.items()}
    bad = f", {len(unreadable)} of {len(files):,} files left out as unreadable" if unreadable else ""
    return Read(parts, sizing.describe(sizes) + bad, notes)


def _refuse(folder: Path, unreadable: dict[Path, str], total: int) -> NoReturn:
    raise UsageError(
        f"{folder}: {len(unreadable):,} of {total:,} image files cannot be read, too many to leave out: "
        f"{_name(folder, unreadable)}; mend or remove them"
    )


def _name(folder: Path, unreadable: dict[Path, str]) -> str:
    """The files with their reasons, those of one reason together."""
    by_reason: dict[str, list[Path]] = {}
    for file in sorted(unreadable)[:NAMED]:
        by_reason.setdefault(unreadable[file], []).append(file)
    named = [f"{show_names(files, folder, NAMED)}: {why}" for why, files in by_reason.items()]
    return "; ".join(named) + (f" and {len(unreadable) - NAMED:,} more" if len(unreadable) > NAMED else "")
