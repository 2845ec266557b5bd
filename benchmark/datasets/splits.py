"""Which splits names stand for: train, val and test, train and test alone, or none; a near miss is an error."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable

from benchmark.errors import UsageError

SPLITS = ("train", "val", "test")
#: images that each has at least
FEWEST = 2
#: words of names that mean a split though they are not called so
MEANING = {
    "train": re.compile(r"(train|trainval)(ing|set|images|data)?"),
    "val": re.compile(r"val(id|idate|idation)?(set|images|data)?|dev|devel|eval|evaluation|holdout"),
    "test": re.compile(r"test(ing|set|images|data|s)?"),
}
#: what a slip of the keys is held against, and how much of it is to be right
SPELT = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
ALIKE = 0.75
#: words that stand beside them and mean nothing
FILLER = {"set", "data", "dataset", "image", "images", "img", "imgs", "split"}


def meanings(names: Iterable[str]) -> dict[str, str]:
    """Name -> the split that it means: by all of its words, or by its first or last where other names mean others so.

    `validation`, `Train`, `test_images` mean one; `train_station` does where there is `test_station` too.
    """
    surely, perhaps = {}, {}
    for name in names:
        words = re.findall(r"[a-z]+", name.casefold())
        kinds = {word: kind for word in words for kind, pattern in MEANING.items() if pattern.fullmatch(word)}
        if len(set(kinds.values())) == 1 and {words[0], words[-1]} & kinds.keys():
            perhaps[name] = next(iter(kinds.values()))
            if set(words) <= kinds.keys() | FILLER:
                surely[name] = perhaps[name]
    return perhaps if len(set(perhaps.values())) > 1 else surely


def _misspelt(names: Collection[str]) -> dict[str, str]:
    """Name -> the split that it nearly spells, where two names or more do so, each another, and there is no other name.

    `trian` and `tset` are splits; `rain` and `snow`, or `brain` alone, are what images are of.
    """
    spelt = {name: difflib.get_close_matches(name.casefold(), SPELT, 1, ALIKE) for name in names}
    meant = {name: SPELT[found[0]] for name, found in spelt.items() if found}
    return meant if len(names) > 1 and len(meant) == len(names) == len(set(meant.values())) else {}


def choose_splits(names: Collection[str], what: str, where: str) -> tuple[str, ...]:
    """Those of train, val and test that are there: all, all but val, or none. Raises `UsageError` for anything else.

    `what` the names are of (`folder`, `array`, `split`), and `where` they were found, for the error.
    """
    there = tuple(split for split in SPLITS if split in names)
    missing = [split for split in SPLITS if split not in there]
    meant = _misspelt(names) | meanings(names)
    near = {name: split for name, split in meant.items() if split in missing and name not in SPLITS}
    if near or (there and set(missing) - {"val"}):
        found = ", ".join(f"'{name}'" for name in [*there, *sorted(near)])
        if near:
            right = f"rename {', '.join(f'{name!r} to {split!r}' for name, split in sorted(near.items()))}"
        elif what == "folder" and len(there) == 1:
            right = f"add the others, or name {where}/{there[0]} to have that split at random"
        elif what == "split" and len(there) == 1:
            right = f"add the others, or give what is '{there[0]}' alone to have that split at random"
        else:
            right = f"add '{missing[-1]}'"
        raise UsageError(
            f"{where}: no {what} named {', '.join(missing)}, but {found}; splits are called train, val and test (where "
            f"val alone is missing, a tenth of train is taken for it): {right}"
        )
    return there
