"""Data sets of Hugging Face's library `datasets`: folders that it saved, and the images in their rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.errors import UsageError, words_of


def is_saved(folder: Path) -> bool:
    """Whether a folder was written by `save_to_disk`, of a `Dataset` or of a `DatasetDict`."""
    return (folder / "dataset_dict.json").is_file() or all(
        (folder / name).is_file() for name in ("dataset_info.json", "state.json")
    )


def load_saved(folder: Path) -> Any:
    """What `save_to_disk` had written. Raises `UsageError`, also where the library is missing."""
    try:
        import datasets
    except ImportError as error:
        raise UsageError(
            f"{folder} was saved by Hugging Face's library datasets, which is not installed here: pip install datasets"
        ) from error
    try:
        return datasets.load_from_disk(str(folder))
    except Exception as error:  # readers of damaged tables may raise anything
        raise UsageError(f"{folder}: not a whole data set of Hugging Face's ({words_of(error)[:200]})") from error


def is_table(part: object) -> bool:
    """Whether an object is a `datasets.Dataset`, told without importing the library."""
    return any((cls.__module__, cls.__name__) == ("datasets.arrow_dataset", "Dataset") for cls in type(part).__mro__)


@dataclass(frozen=True)
class ImageColumn:
    """The images of a table, decoded as they are asked for."""

    table: Any
    name: str

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, number: int) -> Any:
        return self.table[number][self.name]


def image_column(table: Any, of: str) -> ImageColumn:
    """The one column whose feature is an image. Raises `UsageError` where there is none, or several.

    A format (`with_format("torch")`) changes nothing, since it is set aside; a transform would be, so it is refused.
    """
    if table.format["type"] == "custom":
        raise UsageError(f"{of}: its images go through a transform: apply it by map, or take it off by reset_format")
    columns = [name for name, feature in table.features.items() if type(feature).__name__ == "Image"]
    if len(columns) != 1:
        there = ", ".join(f"'{name}'" for name in columns or table.column_names)
        found = (
            f"several columns of images, {there}: choose one by select_columns"
            if columns
            else (
                f"no column of images, but {there}: cast the one that holds them, cast_column(name, datasets.Image())"
            )
        )
        raise UsageError(f"{of}: {found}")
    return ImageColumn(table.with_format(None).select_columns(columns), columns[0])
