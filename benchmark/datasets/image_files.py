"""One image file -> its pixels as a viewer shows them, or the reason why it gives none."""

from __future__ import annotations

import errno
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from benchmark.errors import UsageError

#: what ends so is read as an image, by one of these readers alone: others run programs (EPS) or fetch other files
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
LARGEST_FILE = 2**29  # bytes
#: modes whose values are 0 to 255, or become so in one way only
GREY_MODES, COLOUR_MODES = ("1", "L", "LA"), ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
#: formats whose mode I has 16 bits; in others it has 32, of which nobody knows which is white
WIDE_FORMATS = ("PNG", "PPM")
#: EXIF's orientations of what is not upright, and of what lies on its side
TURNED, ON_ITS_SIDE = range(2, 9), range(5, 9)
#: what the system says of a file alone; all else it says of the machine
OF_THE_FILE = {None, errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL}


class Unreadable(Exception):
    """Why a file gives no image; its name is the caller's to say."""


def read_header(file: Path) -> tuple[tuple[int, int], bool]:
    """Width and height of the image as it is shown, and whether it is grey. Raises `Unreadable`."""
    with open_image(file) as image:
        grey, (width, height) = is_grey(image), image.size
        # of squares it changes nothing here, and a PNG's may stand behind all of its pixels
        if width == height or image.getexif().get(ExifTags.Base.Orientation) not in ON_ITS_SIDE:
            return (width, height), grey
        # whether a TIFF's size is that of before is another thing in each version of PIL
        return (height, width) if image.format != "TIFF" else ImageOps.exif_transpose(image).size, grey


def read_image(file: Path, grey: bool) -> tuple[Image.Image, list[str]]:
    """The image as it is shown, in mode L or RGB, and what was done to its pixels. Raises `Unreadable`."""
    with open_image(file) as opened:
        is_grey(opened)  # which refuses modes that mean nothing
        return as_shown(opened, grey)


def is_grey(image: Image.Image) -> bool:
    """Whether an image is grey by its mode. Raises `Unreadable` for modes of which nobody knows what is white."""
    if _is_wide(image) or image.mode in GREY_MODES:
        return True
    if image.mode not in COLOUR_MODES:
        raise Unreadable(f"mode {image.mode}, of which nobody knows what is black and white: save it with 8 bits")
    return False


def as_shown(opened: Image.Image, grey: bool) -> tuple[Image.Image, list[str]]:
    """An image as a viewer shows it, in mode L or RGB, and what was done to its pixels. Raises `Unreadable`.

    Upright as its EXIF says, transparency laid on white, 16 bits brought to 8.
    """
    remarks = []
    several = opened.format != "MPO" and getattr(opened, "n_frames", 1) > 1  # a phone's MPO has a preview beside it
    image: Image.Image = opened
    if image.getexif().get(ExifTags.Base.Orientation) in TURNED:
        image = ImageOps.exif_transpose(image)
        remarks.append("turned upright as EXIF says")
    if _is_wide(opened):
        if opened.has_transparency_data:
            raise Unreadable("a transparent value among 16 bits")
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))  # PIL itself clips at 255
        remarks.append("of 16 bits brought to 8")
    elif image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        remarks.append("with transparency laid on white")
    if image.mode == "CMYK":
        remarks.append("of CMYK inks made RGB without a profile")
    if several:
        remarks.append("of several frames, of which the first is taken")
    image.load()
    return image.convert("L" if grey else "RGB"), remarks


def as_tensor(image: Image.Image) -> Tensor:
    """An image in mode L or RGB -> uint8 (C, H, W)."""
    array = np.asarray(image)
    return torch.from_numpy(array.copy()).reshape(*array.shape[:2], -1).permute(2, 0, 1)


@contextmanager
def open_image(file: Path | IO[bytes]) -> Iterator[Image.Image]:
    """An image of the known formats, opened. Raises `Unreadable` for whatever its reader meets, also while in use.

    What the machine fails at (a disk, too many open files) is no fault of the file's: `UsageError`.
    """
    try:
        if isinstance(file, Path):
            require_regular(file, LARGEST_FILE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of size, which is fine up to the next level, and of odd metadata
            with Image.open(file, formats=FORMATS) as image:
                yield image
    except (Unreadable, UsageError):
        raise
    except UnidentifiedImageError as error:
        raise Unreadable(f"none of {', '.join(FORMATS)}") from error
    except OSError as error:
        if error.errno not in OF_THE_FILE:
            raise UsageError(f"{file}: cannot be read ({error.strerror})") from error
        raise Unreadable((error.strerror or str(error)).lower()) from error
    except MemoryError as error:
        raise UsageError(f"{file}: there is not enough memory to read it") from error
    except Exception as error:  # a reader of damaged bytes may raise anything
        raise Unreadable(str(error)[:200].rstrip(".") or type(error).__name__) from error


def require_regular(file: Path, largest: int) -> None:
    """Raise `Unreadable` where a file is none that ends (a pipe, a device) or has more bytes than `largest`."""
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise Unreadable("not a regular file")
    if status.st_size > largest:
        raise Unreadable(f"{status.st_size / 2**20:,.0f} MiB, more than {largest / 2**20:,.0f}")


def _is_wide(image: Image.Image) -> bool:
    """Grey of 16 bits."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in WIDE_FORMATS)
