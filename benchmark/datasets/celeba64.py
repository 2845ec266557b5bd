"""CelebA faces at 64x64, and a preview of 10,000 of them for machines without the 202,599."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Literal

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from benchmark.datasets.api import Dataset, DatasetConfig, Images, hookimpl
from benchmark.datasets.image_files import LARGEST_FILE, Unreadable, open_image, require_regular
from benchmark.datasets.npz import read_npz
from benchmark.datasets.splits import SPLITS
from benchmark.errors import UsageError
from benchmark.progress import say, track
from benchmark.store.places import cache_root
from benchmark.store.sealed import content_hash, write_atomic

PARTITION = dict(zip("012", SPLITS))
COUNTS = (162_770, 19_867, 19_962)
ARCHIVE, FOLDER = "img_align_celeba.zip", "img_align_celeba"
#: the authors' list, and Kaggle's
LIST, LISTS = "list_eval_partition.txt", ("list_eval_partition.txt", "list_eval_partition.csv")
LARGEST_LIST = 2**26  # bytes; the whole has 3 million
NPZ, PREVIEW = "celeba64.npz", "celeba64-preview.npz"
SIDE = 64

#: an image's name -> its file, opened
Opener = Callable[[str], IO[bytes]]


class CelebA64Config(DatasetConfig):
    """`crop`: side of the central square of the 178x218 image that is resized to 64x64; papers use both."""

    crop: Literal[148, 140] = 148


class CelebA64(Dataset):
    """The aligned images in their official partition, cropped to the central square and resized (bilinear).

    Taken from `img_align_celeba.zip` or a folder `img_align_celeba` (or one in another, as Kaggle has it), beside
    `list_eval_partition.txt` or Kaggle's `.csv`, in a data folder or in `celeba/` under it (torchvision's layout); or
    from `celeba64.npz` with arrays `train`, `val`, `test` of 64x64x3, which are used as they are. The first are
    prepared once and kept in the cache.
    """

    name = "celeba64"
    extractor = "efficientnet-lite0"
    terms = "CelebA (Liu et al. 2015), non-commercial research only"
    preview = "celeba64-preview"
    counts = COUNTS
    Config = CelebA64Config
    config: CelebA64Config

    def load(self, roots: list[Path]) -> Images:
        found = self._load_prepared(roots) or self._load_arrays(roots)
        if found is None:
            self._download(roots)
            found = self._load_prepared(roots)
        if found is None:
            raise UsageError(f"{self.name}: the download into {roots[-1]} left no {ARCHIVE} there; fetch it by hand")
        return found

    def _load_arrays(self, roots: list[Path]) -> Images | None:
        for path in (root / NPZ for root in roots):
            if path.is_file():
                if self.config.crop != 148:
                    raise UsageError(f"{path} is taken to be cropped to 148: {self.label} needs {ARCHIVE} and {LIST}")
                images = _read_whole(path)
                if images.counts != COUNTS or images.shape != (3, SIDE, SIDE):
                    held = f"{'/'.join(map(str, images.counts))} images of {'x'.join(map(str, images.shape))}"
                    raise UsageError(
                        f"{path} holds {held}, not CelebA's {'/'.join(map(str, COUNTS))} of 3x64x64: use it as "
                        f"--dataset {path}, or --dataset {self.preview} if it is that"
                    )
                return images
        return None

    def _load_prepared(self, roots: list[Path]) -> Images | None:
        for folder in (folder for root in roots for folder in (root, root / "celeba")):
            here = [folder / ARCHIVE, folder / FOLDER / FOLDER, folder / FOLDER]
            source = next((path for path in here if path.is_dir() or path.is_file()), None)
            if source is None:
                continue
            partition = next((folder / name for name in LISTS if (folder / name).is_file()), None)
            if partition is None:
                raise UsageError(
                    f"{source} is there, but not {folder / LIST} (or .csv), which says how its images are split"
                )
            kept = self._prepare_once(source, partition)
            how = f"central {self.config.crop} of 178x218, resized to 64x64 (bilinear); official partition"
            count = sum(map(len, kept.values()))
            if count != sum(COUNTS):
                how += f", of which {count:,} of {sum(COUNTS):,} images"
            return Images(**kept, preparation=how)
        return None

    def _prepare_once(self, source: Path, partition: Path) -> dict[str, Tensor]:
        """The prepared images from the cache, made where they are not there, damaged, or of files that have changed."""
        states = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in (source, partition)]
        key = content_hash([self.config.crop, states])[:16]
        kept = cache_root() / "prepared" / f"{self.name}-crop{self.config.crop}-{key}.safetensors"
        if kept.exists():
            try:
                prepared = load_file(kept)
                return {split: prepared[split] for split in SPLITS}
            except (SafetensorError, OSError, KeyError):
                say(f"{kept} is damaged and will be made again")
        say(f"preparing {source}, once")
        prepared = self._prepare(source, partition)
        try:
            write_atomic(kept, save(prepared))
        except OSError as error:
            say(f"{kept} cannot be written ({error.strerror}): the images will be prepared again")
        return prepared

    def _prepare(self, source: Path, partition: Path) -> dict[str, Tensor]:
        names: dict[str, list[str]] = {split: [] for split in SPLITS}
        try:
            require_regular(partition, LARGEST_LIST)
            lines = partition.read_text(encoding="utf-8-sig").replace(",", " ").splitlines()
            for line in lines[1:] if lines[:1] == ["image_id partition"] else lines:
                name, part = line.split()
                if name != PurePosixPath(name).name or "\\" in name:
                    raise ValueError(f"{name} is no name of a file in {source.name}")
                names[PARTITION[part]].append(name)
            if not all(names.values()):
                raise ValueError("a part of it has no image")
        except (ValueError, KeyError, Unreadable) as error:
            raise UsageError(f"{partition}: not CelebA's partition list ({error}); fetch it again") from error
        total, done = sum(map(len, names.values())), 0
        parts: dict[str, Tensor] = {}
        with _open_source(source) as opener, track(self.name) as progress:
            for split, listed in names.items():
                parts[split] = torch.empty(len(listed), 3, SIDE, SIDE, dtype=torch.uint8)
                for row, name in enumerate(listed):
                    parts[split][row] = self._read_face(opener, name, source)
                    done += 1
                    if done % 1_000 == 0:
                        progress(done, total)
        return parts

    def _read_face(self, opener: Opener, name: str, source: Path) -> Tensor:
        try:
            with opener(name) as file, open_image(file) as image:
                left, top = (image.width - self.config.crop) // 2, (image.height - self.config.crop) // 2
                if left < 0 or top < 0:
                    raise ValueError(f"{image.width}x{image.height} pixels, expected 178x218")
                square = image.convert("RGB").crop((left, top, left + self.config.crop, top + self.config.crop))
                face = square.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        except UsageError:
            raise
        except Exception as error:  # readers of damaged zips and images may raise anything
            raise UsageError(f"{source}: {name}, which its partition list names, cannot be read ({error})") from error
        return torch.from_numpy(np.asarray(face).copy()).permute(2, 0, 1)

    def _download(self, roots: list[Path]) -> None:
        """torchvision's, which has failed for years: then `UsageError` says what to fetch by hand."""
        import torchvision  # which takes as long as torch to import, and only a download needs it

        try:
            torchvision.datasets.CelebA(str(roots[-1]), download=True)
        except Exception as error:  # of every kind: no gdown, no network, a quota page in place of a file
            reason = " ".join(str(error).split())
            raise UsageError(
                f"{self.name} is not in {', '.join(map(str, roots))} and could not be downloaded ({reason}); fetch "
                f"{ARCHIVE} and {LIST} by hand from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (Align&Cropped "
                f"Images, Train/Val/Test Partitions) and put both into {roots[0] / 'celeba'}"
            ) from error


@contextlib.contextmanager
def _open_source(source: Path) -> Iterator[Opener]:
    """Opens images by name, from a folder or from a zip, in whichever folder they lie there."""
    if source.is_dir():

        def open_in_folder(name: str) -> IO[bytes]:
            require_regular(source / name, LARGEST_FILE)
            return (source / name).open("rb")

        yield open_in_folder
        return
    try:
        archive = zipfile.ZipFile(source)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise UsageError(f"{source}: not a whole zip file ({error}); fetch it again") from error
    with archive:
        inside = {os.path.basename(member.filename): member for member in archive.infolist()}

        def open_in_zip(name: str) -> IO[bytes]:
            if inside[name].file_size > LARGEST_FILE:
                raise Unreadable(f"{inside[name].file_size:,} bytes")
            return archive.open(inside[name])

        yield open_in_zip


def _read_whole(path: Path) -> Images:
    """The splits of an .npz; one that is not there has no image."""
    parts, _ = read_npz(path)
    none = parts["train"][:0]
    return Images(parts["train"], parts.get("val", none), parts["test"], "as in the file")


class CelebA64Preview(Dataset):
    """The first 10,000 aligned images at half size: `celeba64-preview.npz` (or such a `celeba64.npz`)."""

    name = "celeba64-preview"
    extractor = "efficientnet-lite0"
    terms = CelebA64.terms
    counts = (7_000, 1_000, 2_000)

    def load(self, roots: list[Path]) -> Images:
        for path in (root / name for root in roots for name in (PREVIEW, NPZ)):
            if path.is_file():
                images = _read_whole(path)
                if (images.counts, images.shape) == (self.counts, (3, SIDE, SIDE)):
                    how = (
                        "preview: 10,000 images at reduced quality, non-commercial research only, not comparable "
                        "with published CelebA-64; central 148 of 178x218, resized to 64x64 (bilinear)"
                    )
                    return Images(images.train, images.val, images.test, how)
        raise UsageError(
            f"{self.name}: no {PREVIEW} with {'/'.join(map(str, self.counts))} images in {', '.join(map(str, roots))}; "
            f"it is not distributed: its bundle and statistics are, and for new ones take --dataset {CelebA64.name}"
        )


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [CelebA64, CelebA64Preview]
