"""Images of Hugging Face's library: in memory, and in folders that it saved. But for the first, against the library."""

import sys

import numpy as np
import pytest
from images import SPLITS, colours, counts, refused
from PIL import Image

from benchmark.datasets.objects import as_dataset
from benchmark.datasets.path import PathDataset

ARRAYS = {split: colours(n, 16, seed) for seed, (split, n) in enumerate(zip(SPLITS, (8, 3, 4)))}


@pytest.mark.parametrize("files", [["dataset_dict.json"], ["dataset_info.json", "state.json"]])
def test_a_saved_folder_without_the_library_is_one_line_that_says_what_to_install(files, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    for name in files:
        (tmp_path / name).write_text("{}")
    line = refused(PathDataset(tmp_path))
    assert f"{tmp_path} was saved by Hugging Face's library datasets" in line
    assert "pip install datasets" in line


@pytest.fixture
def library():
    return pytest.importorskip("datasets", reason="needs the extra huggingface")


@pytest.fixture
def table(library):
    """A table of images, with labels."""

    def make(array, **columns):
        rows = {"label": list(range(len(array))), "image": [Image.fromarray(image) for image in array], **columns}
        return library.Dataset.from_dict(rows).cast_column("image", library.Image())

    return make


@pytest.fixture
def the_hash(tmp_path):
    """The content hash of the same pixels in an .npz."""
    np.savez(tmp_path / "same.npz", **ARRAYS)
    return PathDataset(tmp_path / "same.npz").load([]).content_hash()


@pytest.mark.adapters
@pytest.mark.parametrize("val", ["val", "validation"])
def test_a_dict_of_tables_is_the_same_images_in_memory_and_saved(val, library, table, the_hash, tmp_path):
    tables = library.DatasetDict({val if split == "val" else split: table(array) for split, array in ARRAYS.items()})
    assert as_dataset(tables, "owls").load([]).content_hash() == the_hash
    tables.save_to_disk(str(tmp_path / "saved"))
    assert PathDataset(tmp_path / "saved").load([]).content_hash() == the_hash


@pytest.mark.adapters
def test_one_table_is_split_at_random_in_memory_and_saved(table, tmp_path):
    one = table(colours(30, 16))
    images = as_dataset(one, "owls").load([])
    assert counts(images) == [24, 3, 3]
    one.save_to_disk(str(tmp_path / "saved"))
    assert PathDataset(tmp_path / "saved").load([]).content_hash() == images.content_hash()


@pytest.mark.adapters
def test_a_saved_folder_with_train_alone_says_what_to_name(library, table, tmp_path):
    library.DatasetDict({"train": table(colours(30, 16))}).save_to_disk(str(tmp_path / "saved"))
    assert f"name {tmp_path}/saved/train to have that split" in refused(PathDataset(tmp_path / "saved"))
    assert counts(PathDataset(tmp_path / "saved" / "train").load([])) == [24, 3, 3]


@pytest.mark.adapters
@pytest.mark.parametrize("form", ["torch", "numpy"])
def test_a_format_changes_nothing(form, table, the_hash):
    given = {split: table(array).with_format(form) for split, array in ARRAYS.items()}
    assert as_dataset(given, "owls").load([]).content_hash() == the_hash


@pytest.mark.adapters
def test_tables_that_do_not_say_which_images_are_one_line(library, table):
    plain = library.Dataset.from_dict({"pixels": [[0, 1]] * 9, "label": [0] * 9})
    line = refused(as_dataset(plain, "owls"))
    assert "no column of images, but 'pixels', 'label'" in line
    assert "datasets.Image()" in line
    two = table(colours(9, 16), mask=[Image.new("L", (4, 4))] * 9).cast_column("mask", library.Image())
    assert "several columns of images, 'image', 'mask': choose one by select_columns" in refused(as_dataset(two, "o"))
    changed = table(colours(9, 16)).with_transform(lambda rows: rows)
    assert "go through a transform: apply it by map" in refused(as_dataset(changed, "owls"))


@pytest.mark.adapters
def test_a_damaged_image_is_named(library):
    bad = library.Dataset.from_dict({"image": [{"bytes": b"an owl", "path": None}] * 9})
    assert "item 0 cannot be read (" in refused(as_dataset(bad.cast_column("image", library.Image()), "owls"))


@pytest.mark.adapters
def test_a_damaged_folder_is_one_line(table, tmp_path):
    table(colours(9, 16)).save_to_disk(str(tmp_path / "saved"))
    for file in (tmp_path / "saved").glob("*.arrow"):
        file.write_bytes(b"an owl")
    assert "not a whole data set of Hugging Face's (" in refused(PathDataset(tmp_path / "saved"))


@pytest.mark.adapters
def test_a_saved_folder_is_a_data_set_of_the_command_line(library, table, tmp_path, cli):
    tables = {"train": table(colours(40, 16)), "test": table(colours(9, 16, 1))}
    library.DatasetDict(tables).save_to_disk(str(tmp_path / "owls"))
    tiny = [word for each in ("epochs=1", "width=1", "batch_size=8", "nz=3") for word in ("--set", each)]
    done = cli("pretrain", "--dataset", tmp_path / "owls", *tiny, "--device", "cpu", "--out", tmp_path / "mine")
    assert done.code == 0, done.err
    assert cli("reference", "--dataset", tmp_path / "owls", "--device", "cpu").code == 0
