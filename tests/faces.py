"""Nine faces as people have CelebA: an archive or a folder of JPEG files, and the list of their parts."""

import io
import zipfile
from types import SimpleNamespace

from PIL import Image

#: name -> part, in an order that is not theirs
PARTITION = {f"{number:06}.jpg": part for number, part in zip((1, 2, 4, 3, 7, 5, 9, 8, 6), (0, 2, 0, 1, 0, 1, 2, 2, 0))}
FACES = SimpleNamespace(ARCHIVE="img_align_celeba.zip", FOLDER="img_align_celeba", LIST="list_eval_partition.txt")
LAYOUTS = ["zip", "folder", "zip in celeba", "folder in celeba"]


def jpeg(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def lay(root, faces, layout="zip", compression=zipfile.ZIP_DEFLATED, partition=None):
    """The faces as people have them; returns the archive or folder."""
    home = root / "celeba" if layout.endswith("in celeba") else root
    home.mkdir(parents=True, exist_ok=True)
    lines = [f"{name} {part}\n" for name, part in PARTITION.items()]
    (home / FACES.LIST).write_bytes("".join(lines).encode() if partition is None else partition)
    if layout.startswith("folder"):
        for name, content in faces.items():
            (home / FACES.FOLDER).mkdir(exist_ok=True)
            (home / FACES.FOLDER / name).write_bytes(content)
        return home / FACES.FOLDER
    with zipfile.ZipFile(home / FACES.ARCHIVE, "w", compression) as archive:
        archive.mkdir(FACES.FOLDER)
        for name, content in faces.items():
            archive.writestr(f"{FACES.FOLDER}/{name}", content)
    return home / FACES.ARCHIVE
