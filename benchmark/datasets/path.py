"""Your own images at a path: an .npz with train / val / test arrays, a folder of images or of Hugging Face's."""

from __future__ import annotations

from pathlib import Path

from benchmark.datasets.arrays import make_square
from benchmark.datasets.folders import read_folder
from benchmark.datasets.hugging_face import is_saved, load_saved
from benchmark.datasets.npz import read_npz
from benchmark.datasets.objects import read_parts, split_parts
from benchmark.datasets.own import OwnDataset, Read
from benchmark.datasets.sizes import SizeConfig
from benchmark.errors import UsageError
from benchmark.progress import track


class PathDataset(OwnDataset):
    """Images from a path. Its name is the path's last part in lower case, other characters as `_`.

    `.npz`: arrays `train`, `val`, `test` of shape (n, H, W) or (n, H, W, C) with C = 1 or 3.
    Folder: sub-folders `train`, `val`, `test`, or images that are split at random 80 / 10 / 10.
    Folder that Hugging Face's `save_to_disk` wrote, with splits or without.
    Of each, where `val` alone is missing, a random tenth of train is taken for it.
    """

    def __init__(self, path: Path, config: SizeConfig | None = None) -> None:
        super().__init__(path.stem, str(path), config)
        self.path = path

    @property
    def label(self) -> str:
        """What was typed, so that a command that is suggested finds it again."""
        return f"{self._typed}{super().label.removeprefix(self.name)}"

    @property
    def _typed(self) -> str:
        """The path, with a separator in it where it would be taken for a name."""
        typed = str(self.path)
        return typed if len(self.path.parts) > 1 or typed.endswith(".npz") else f"./{typed}"

    def with_size(self, side: int) -> PathDataset:
        """The same images, made another size."""
        return PathDataset(self.path, SizeConfig(**{**self.config.model_dump(exclude_unset=True), "size": side}))

    def _read(self) -> Read:
        if not self.path.exists():
            raise UsageError(f"{self.path}: no such file or folder")
        if self.path.is_dir():
            with track(f"reading {self.name}") as progress:
                if is_saved(self.path):
                    parts, left_out = split_parts(load_saved(self.path), self._typed, "folder")
                    return read_parts(parts, left_out, self.where, self.config, progress)
                return read_folder(self.path, self._typed, self.config, progress)
        images, remarks = read_npz(self.path)
        return make_square(images, remarks, self.config, self._typed)
