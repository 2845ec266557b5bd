"""The faces preview as arrays, from a zip of the aligned images at half size (89x109), the first 10,000 by name.

    python tools/gpu/faces.py ARCHIVE FOLDER

writes FOLDER/celeba64-preview.npz: 7,000, 1,000 and 2,000 images of 64x64, of the square that is the central 148 of
178x218. A zip of JPEGs is a quarter of the arrays, which is what a machine takes that is lent for minutes.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

COUNTS = (7_000, 1_000, 2_000)
SQUARE = (7.5, 17.5, 81.5, 91.5)  # at half size
SIDE = 64


def main() -> None:
    archive, folder = map(Path, sys.argv[1:])
    with zipfile.ZipFile(archive) as packed:
        names = sorted(name for name in packed.namelist() if name.endswith(".jpg"))
        faces = np.stack([_read_face(packed, name) for name in names[: sum(COUNTS)]])
    train, val, test = np.split(faces, np.cumsum(COUNTS[:-1]))
    np.savez(folder / "celeba64-preview.npz", train=train, val=val, test=test)


def _read_face(packed: zipfile.ZipFile, name: str) -> np.ndarray:
    with packed.open(name) as file, Image.open(file) as image:
        return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=SQUARE))


if __name__ == "__main__":
    main()
