"""Bundles that cannot be mistaken: written whole, damage named, every bit kept or halved on purpose."""

from pathlib import Path

import pytest
import torch
from draws import CPU, seeded
from images import SPLITS, as_images, splits_of
from safetensors.torch import load_file
from vaes import BACKBONES, DATASETS, bright_squares, pictures, tiny, untrained

import backbones
from backbones.conv_vae import ConvVAE
from backbones.training import posterior
from benchmark.bundles.bundle import PARTS, SCHEMA, open_bundle, round_weights, write_bundle
from benchmark.bundles.find import SHIPPED
from benchmark.bundles.reference import SUBSAMPLE, find_reference
from benchmark.registry import Registry
from benchmark.store.sealed import Damaged, read_sealed, write_sealed


def card_of(name, images):
    """What pretrain says of these images, by split."""
    dataset = {
        "name": name,
        "image_shape": list(images["train"].shape[1:]),
        "counts": {split: len(part) for split, part in images.items()},
        "preparation": "made up",
        "sha256": "0" * 64,
        "extractor": "digit-cnn",
    }
    return {"dataset": dataset, "training": {"seed": 0}}


@pytest.fixture
def written(tmp_path):
    """A bundle on disk, with what it was made from."""
    backbone = tiny(ConvVAE, nz=5)
    images = {"train": bright_squares(12), "val": bright_squares(4, seed=1), "test": bright_squares(6, seed=2)}
    posteriors = {split: posterior(backbone, part) for split, part in images.items()}
    return write_bundle(tmp_path / "bundle", card_of("squares", images), backbone, posteriors), backbone, posteriors


def test_bundle_round_trip(written):
    bundle, backbone, posteriors = written
    opened = open_bundle(bundle.path)
    assert opened.id == bundle.id
    assert opened.card == bundle.card
    assert (opened.dataset, opened.backbone_name, opened.latent_shape) == ("squares", "conv_vae", (5,))
    assert opened.card["posterior_counts"] == {"train": 12, "val": 4, "test": 6}
    assert opened.card["backbone"]["parameters"] == sum(p.numel() for p in backbone.parameters())
    restored, x = opened.backbone(ConvVAE, CPU), pictures(DATASETS["mnist"], 3)
    assert not restored.training
    assert not any(p.requires_grad for p in restored.parameters())
    assert restored.config == backbone.config
    z = torch.randn(3, 5, generator=seeded())
    assert torch.equal(restored.decode(z), backbone.decode(z))
    assert all(torch.equal(a, b) for a, b in zip(restored.encode(x), backbone.encode(x)))
    for split, pair in posteriors.items():
        for read, made in zip(opened.posterior(split, CPU), pair):
            assert read.dtype == torch.float32
            assert torch.allclose(read, made, rtol=2**-10, atol=1e-7), "float16 keeps 11 bits"


def test_bundle_id_tells_contents_apart(written, tmp_path):
    """Same content, same id, wherever it lies; one number changed, another id."""
    bundle, backbone, posteriors = written
    card = {"dataset": bundle.card["dataset"], "training": bundle.card["training"]}
    assert write_bundle(tmp_path / "copy", card, backbone, posteriors).id == bundle.id
    posteriors["test"][0][0, 0] += 1
    assert write_bundle(tmp_path / "other", card, backbone, posteriors).id != bundle.id


def test_bundle_is_written_as_a_whole_or_not_at_all(written, tmp_path):
    bundle, backbone, posteriors = written
    card = {"dataset": bundle.card["dataset"], "training": {}}
    with pytest.raises(FileExistsError, match="bundle"):
        write_bundle(bundle.path, card, backbone, posteriors)
    assert open_bundle(bundle.path).id == bundle.id
    with pytest.raises(KeyError):
        write_bundle(tmp_path / "half", card, backbone, {"train": posteriors["train"]})
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def edit(path):
    path.write_text(path.read_text().replace("squares", "circles"))


def edit_a_setting(path):
    path.write_text(path.read_text().replace('"nz": 5', '"nz": 6'))


def empty(path):
    path.write_bytes(b"")


def binary(path):
    path.write_bytes(bytes(range(256)))


def another_schema(path):
    write_sealed(path, {**read_sealed(path), "schema": SCHEMA + 1})


@pytest.mark.parametrize(
    "name, harm",
    [
        ("weights.safetensors", truncate),
        ("weights.safetensors", flip_a_bit),
        ("weights.safetensors", lambda path: path.unlink()),
        ("posterior.safetensors", truncate),
        ("posterior.safetensors", flip_a_bit),
        ("posterior.safetensors", lambda path: path.unlink()),
        ("bundle.json", truncate),
        ("bundle.json", edit),
        ("bundle.json", edit_a_setting),
        ("bundle.json", empty),
        ("bundle.json", binary),
        ("bundle.json", another_schema),
        ("bundle.json", lambda path: path.unlink()),
    ],
)
def test_damage_is_named(written, name, harm):
    path = written[0].path / name
    before = path.read_bytes()
    harm(path)
    assert not path.exists() or path.read_bytes() != before
    with pytest.raises(Damaged, match=name.replace(".", r"\.")):
        open_bundle(written[0].path)


def test_parts_of_another_bundle_are_refused(written, tmp_path):
    """Each part is whole, but they do not belong together."""
    bundle, _, posteriors = written
    card = {"dataset": bundle.card["dataset"], "training": bundle.card["training"]}
    other = write_bundle(tmp_path / "other", card, tiny(ConvVAE, nz=5, init=1), posteriors)
    (other.path / "weights.safetensors").replace(bundle.path / "weights.safetensors")
    with pytest.raises(Damaged, match="weights"):
        open_bundle(bundle.path)


def test_nothing_in_a_bundle_can_run_code(written):
    assert {path.name for path in written[0].path.iterdir()} == {*PARTS, "bundle.json"}
    assert all(load_file(written[0].path / part) for part in PARTS)


def test_shipped_bundles_are_whole_and_small():
    root = Path(backbones.__file__).parent / "pretrained"
    found = [path for path in root.iterdir() if path.is_dir()]
    assert "digits-conv_vae" in {path.name for path in found}
    for path in found:
        bundle = open_bundle(path)
        assert path.name.startswith(f"{bundle.dataset}-")
        assert f"-{bundle.backbone_name}" in path.name
        assert (
            sum(file.stat().st_size for file in path.iterdir() if file.is_file()) < 12e6
        )  # references stand beside it
        backbone = bundle.backbone(BACKBONES[bundle.backbone_name], CPU)
        for split, count in bundle.card["posterior_counts"].items():
            mean, std = bundle.posterior(split, CPU)
            assert mean.shape == std.shape == (count, *backbone.latent_shape)
            assert mean.isfinite().all()
            assert (std > 0).all()


def test_every_shipped_bundle_has_features_of_its_training_and_held_out_images():
    """By its own extractor, beside it or beside another bundle of the same images: memorisation is told of all."""
    registry = Registry()
    for path in sorted(path for path in SHIPPED.iterdir() if path.is_dir()):
        bundle = open_bundle(path)
        extractor = registry.get("extractor", bundle.card["dataset"]["extractor"])()
        for split in ("train", "val", "test"):
            reference = find_reference(bundle, extractor, split)
            assert reference is not None, f"{path.name}, {split}"
            kept = min(SUBSAMPLE, bundle.card["dataset"]["counts"][split])
            assert len(reference.subsample(CPU)) == kept


# Weights of half the size


def stored(bundle):
    return load_file(bundle.path / "weights.safetensors")


def test_rounding_takes_matrices_to_float16_and_leaves_vectors(tmp_path):
    backbone = untrained((3, 64, 64), width=2)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    round_weights(backbone)
    matrices = {name for name, value in backbone.named_parameters() if value.ndim > 1}
    assert 0 < len(matrices) < len(list(backbone.parameters()))
    for name, value in backbone.state_dict().items():
        assert value.dtype == before[name].dtype
        if name in matrices:
            assert torch.equal(value, before[name].half().float())
            assert not torch.equal(value, before[name])
        else:
            assert torch.equal(value, before[name])


@pytest.mark.parametrize("rounded", [True, False])
def test_a_bundle_keeps_every_bit_of_its_weights_and_halves_those_that_are_rounded(rounded, tmp_path):
    backbone = untrained((3, 64, 64), width=4)
    with torch.no_grad():
        for name, value in backbone.state_dict().items():
            if name.endswith("running_var"):
                value.copy_(1e6 * torch.rand(value.shape) + 1e5)  # out of float16's range
    if rounded:
        round_weights(backbone)
    images = as_images(splits_of(2, 2, 2), "")
    posteriors = {split: posterior(backbone, getattr(images, split)) for split in SPLITS}
    card = card_of("blocks", {split: getattr(images, split) for split in SPLITS})
    bundle = write_bundle(tmp_path / "bundle", card, backbone, posteriors)
    loaded = bundle.backbone(ConvVAE, CPU).state_dict()
    for name, value in backbone.state_dict().items():
        assert loaded[name].dtype == value.dtype
        assert torch.equal(loaded[name], value)
    matrices = [name for name, value in backbone.named_parameters() if value.ndim > 1]
    halves = [name for name in matrices if stored(bundle)[name].dtype == torch.float16]
    assert halves == (matrices if rounded else [])
