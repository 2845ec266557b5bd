"""Images from Python objects are those of the same pixels in a file; what is no image ends in one line."""

import io

import numpy as np
import pytest
import torch
from images import SPLITS, check_images, colours, counts, refused
from PIL import Image
from torch.utils.data import IterableDataset, Subset, TensorDataset

from benchmark.datasets.api import USER_SUPPLIED
from benchmark.datasets.content import last_seen, load_images
from benchmark.datasets.objects import as_dataset
from benchmark.datasets.path import PathDataset
from benchmark.datasets.sizes import SizeConfig
from benchmark.errors import UsageError
from benchmark.names import find_dataset, set_apart
from benchmark.registry import Registry

ARRAYS = {split: colours(n, 16, seed) for seed, (split, n) in enumerate(zip(SPLITS, (8, 3, 4)))}
GREY = {split: array[..., 0] for split, array in ARRAYS.items()}


class Items(torch.utils.data.Dataset):
    """A map-style data set of somebody's."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, number):
        item = self.items[number]
        return item() if callable(item) else item


class Stream(IterableDataset):
    def __iter__(self):
        return iter(GREY["val"])


def as_npz(folder, arrays):
    np.savez(folder / "same.npz", **arrays)
    return PathDataset(folder / "same.npz").load([])


def as_folder(folder, pictures, **settings):
    for split, images in pictures.items():
        (folder / split).mkdir(parents=True)
        for number, image in enumerate(images):
            image.save(folder / split / f"{number:03}.png")
    return PathDataset(folder, SizeConfig(**settings)).load([])


def first(array):
    return torch.from_numpy(array).permute(0, 3, 1, 2)


ARRAY_FORMS = {
    "arrays": lambda array: array,
    "tensors, channels first": first,
    "floats in [0, 1]": lambda array: first(array) / 255,
    "floats in [-1, 1]": lambda array: first(array) / 127.5 - 1,
    "a TensorDataset": lambda array: TensorDataset(first(array), torch.arange(len(array))),
    "a list of arrays": list,
    "items with labels": lambda array: Items([(image, 3) for image in first(array)]),
    "items alone": lambda array: Items(list(first(array) / 255)),
    "a part of a data set": lambda array: Subset(Items(list(np.concatenate([array, array]))), range(len(array))),
}


@pytest.mark.parametrize("form", ARRAY_FORMS)
def test_arrays_are_the_images_of_the_same_npz(form, tmp_path, capsys):
    dataset = as_dataset({split: ARRAY_FORMS[form](array) for split, array in ARRAYS.items()}, "My Owls")
    images = dataset.load([])
    check_images(images)
    assert images.content_hash() == as_npz(tmp_path, ARRAYS).content_hash()
    assert (dataset.name, dataset.terms, dataset.extractor) == ("my_owls", USER_SUPPLIED, "efficientnet-lite0")
    assert "my_owls: 15 colour images, " in capsys.readouterr().err


PICTURES = {
    "colour": lambda array: [Image.fromarray(image) for image in array],
    "grey": lambda array: [Image.fromarray(image[..., 0]) for image in array],
    "grey among colour": lambda array: [
        Image.fromarray(image if number else image[..., 0]) for number, image in enumerate(array)
    ],
    "transparent": lambda array: [Image.fromarray(image).convert("RGBA") for image in array],
    "16 bits": lambda array: [Image.fromarray(image[..., 0].astype(np.uint16) * 250) for image in array],
    "to be padded": lambda array: [Image.fromarray(image[:10]) for image in array],
}


@pytest.mark.parametrize("kind", PICTURES)
def test_pil_images_are_the_images_of_the_same_folder(kind, tmp_path):
    pictures = {split: PICTURES[kind](array) for split, array in ARRAYS.items()}
    given = {split: Items([(image, "owl") for image in part]) for split, part in pictures.items()}
    images, files = as_dataset(given, "owls").load([]), as_folder(tmp_path / "owls", pictures)
    check_images(images)
    assert images.content_hash() == files.content_hash()
    assert images.preparation == files.preparation


def test_pil_images_of_several_sizes_are_made_one_as_in_a_folder(tmp_path):
    pictures = {
        split: [Image.fromarray(image[: 16 - number % 2]) for number, image in enumerate(array)]
        for split, array in ARRAYS.items()
    }
    made = as_folder(tmp_path / "owls", pictures, size=16)
    images = as_dataset(pictures, "owls", SizeConfig(size=16)).load([])
    assert images.content_hash() == made.content_hash()
    line = refused(as_dataset(pictures, "owls"))
    assert "'train': item 1 is 16x15, those before are 16x16" in line
    assert "SizeConfig(size=64" in line


def test_large_squares_stay_as_they_are():
    assert as_dataset(PICTURES["colour"](colours(6, 128)), "owls").load([]).shape == (3, 128, 128)


def test_one_object_is_split_at_random_as_a_folder_is(tmp_path):
    array = colours(60, 16)
    (tmp_path / "owls").mkdir()
    for number, image in enumerate(array):
        Image.fromarray(image).save(tmp_path / "owls" / f"{number:02}.png")
    images = as_dataset(array, "owls").load([])
    assert counts(images) == [48, 6, 6]
    assert images.content_hash() == PathDataset(tmp_path / "owls").load([]).content_hash()


@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_where_val_is_missing_it_is_a_tenth_of_train(kind, tmp_path):
    arrays = {"train": GREY["train"], "test": GREY["test"]}
    given = arrays if kind == "dict" else (GREY["train"], None, GREY["test"])
    assert as_dataset(given, "owls").load([]).content_hash() == as_npz(tmp_path, arrays).content_hash()


def test_what_is_beside_the_splits_is_said_to_be_left_out(capsys):
    as_dataset({**GREY, "unsupervised": GREY["train"]}, "owls").load([])
    assert "left out: 'unsupervised', which are no split" in capsys.readouterr().err


def fail(words):
    raise OSError(words)


def truncated():
    buffer = io.BytesIO()
    Image.fromarray(ARRAYS["train"][0]).save(buffer, "PNG")
    return Image.open(io.BytesIO(buffer.getvalue()[:-60]))


BAD = {
    "text": ("owls", "owls': a str; expected a tensor"),
    "a number": (3, "': a int, which does not say how many there are; expected a tensor, an array"),
    "a generator": ((image for image in GREY["train"]), "': a generator, which does not say how many"),
    "an iterable data set": ({**GREY, "val": Stream()}, "'val': a Stream, which does not say"),
    "a set": ({**GREY, "val": {1, 2}}, "'val': a set; expected a tensor"),
    "nothing": ([], "my owls': fewer than 2 images"),
    "an empty split": ({**GREY, "val": []}, "'val': fewer than 2 images"),
    "an empty tensor": ({**GREY, "val": torch.empty(0, 16, 16)}, "'val' has fewer than 2 images"),
    "too few": (GREY["train"][:5], "5 images are too few to split: 6 are needed"),
    "a tuple of two": ((GREY["train"], GREY["test"]), "a tuple of 2; expected three, (train, val, test)"),
    "no splits": ({"a": GREY["train"]}, "no split named train, val, test, but 'a'"),
    "train alone": ({"train": GREY["train"]}, "give what is 'train' alone to have that split at random"),
    "validation": ({**GREY, "val": None, "validation": GREY["val"]}, "rename 'validation' to 'val'"),
    "a dict as item": (Items([{"pixels": 1}] * 9), "item 0 is a dict; expected"),
    "no image later": ([*GREY["train"], None], "owls': item 8 is a NoneType; expected"),
    "an item that fails": (
        Items([*GREY["train"], lambda: fail("no such\nfile")]),
        "owls': item 8 cannot be read (OSError: no such file)",
    ),
    "a truncated image": (Items([*PICTURES["colour"](ARRAYS["train"]), truncated]), "item 8 cannot be read ("),
    "32-bit floats": (Items([Image.fromarray(np.zeros((16, 16), np.float32))] * 9), "item 0 cannot be read (mode F"),
    "an array among images": (Items([*PICTURES["grey"](ARRAYS["train"]), GREY["train"][0]]), "item 8 is an array"),
    "an image among arrays": (Items([*GREY["train"], Image.new("L", (16, 16))]), "item 8 is a PIL image, others"),
    "images beside arrays": ({**GREY, "val": PICTURES["grey"](ARRAYS["val"])}, "'val': item 0 is a PIL image"),
    "arrays of two shapes": ([*GREY["train"], GREY["train"][0][:8]], "item 8 is uint8 (8, 16), the first is uint8"),
    "arrays of two kinds": ([*GREY["train"], GREY["train"][0] / 255], "item 8 is float64 (16, 16), the first is"),
    "standardised": ({split: array / 64.0 - 2 for split, array in GREY.items()}, "nobody knows what is black"),
    "four channels": (torch.zeros(9, 4, 16, 16), "'images' is float32 (9, 4, 16, 16); expected 0 to 255"),
    "vectors": (Items([torch.zeros(5)] * 9), "'images' is float32 (9, 5); expected"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_gives_no_images_is_one_line_with_what_was_expected(case):
    given, words = BAD[case]
    with pytest.raises(UsageError) as error:
        as_dataset(given, "my owls").load([])
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("images 'my owls'")
    assert words in str(error.value)


def test_images_of_objects_are_found_again_by_those_who_never_had_the_objects():
    """Also of a size that backbones would not be given unasked, and under a name that is a registered data set's."""
    dataset = as_dataset({split: array[:, :10, :10] for split, array in GREY.items()}, "MNIST", SizeConfig(size=10))
    set_apart(Registry(), dataset)
    images, sha256 = load_images(dataset, [])
    found = find_dataset(Registry(), last_seen(sha256))
    assert found.name == dataset.name == "own_mnist"
    again = found.load([])
    assert again.content_hash() == sha256 == images.content_hash()
    assert again.shape == (1, 10, 10)


def test_a_cache_that_cannot_be_written_is_said_and_loses_nothing(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LATENT_PRIOR_CACHE", str(tmp_path / "file"))
    images, _ = load_images(as_dataset(GREY, "owls"), [])
    assert counts(images) == [8, 3, 4]
    assert "images 'owls' cannot be kept in the cache (" in capsys.readouterr().err


def test_reading_many_items_shows_progress(monkeypatch):
    told = []
    from benchmark.datasets import objects

    monkeypatch.setattr(objects, "EVERY", 4)
    parts, _ = objects.split_parts(list(GREY["train"]), "owls", "split")
    objects.read_parts(parts, [], "owls", SizeConfig(), lambda step, total: told.append((step, total)))
    assert told == [(0, 8), (4, 8)]
