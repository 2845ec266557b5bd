"""One contract for every registered backbone; bundles that cannot be mistaken; training that survives a kill."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributions import Normal, kl_divergence

import backbones
from backbones.api import Backbone, BackboneConfig
from backbones.conv_vae import ConvVAE, ConvVAEConfig
from backbones.training import TrainingDiverged, TrainingLog, as_input, posterior, train, validation_loss
from benchmark.bundles.bundle import PARTS, SCHEMA, open_bundle, write_bundle
from benchmark.registry import Registry
from benchmark.store.sealed import Damaged, read_sealed, write_sealed

CPU = torch.device("cpu")
BACKBONES = Registry().all("backbone")
#: settings that make a backbone's network small
TINY = {"conv_vae": {"width": 4}}
DATASETS = {"mnist": (1, 32, 32), "cifar10": (3, 32, 32), "celeba64": (3, 64, 64)}

every_backbone = pytest.mark.parametrize("cls", BACKBONES.values(), ids=BACKBONES)
every_dataset = pytest.mark.parametrize("dataset", DATASETS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny(cls: type[Backbone], dataset: str = "mnist", init: int = 0, **settings) -> Backbone:
    """A small one with its recipe, in evaluation mode, its buffers moved off their initial values."""
    shape = DATASETS[dataset]
    config = cls.Config(**{**cls.recipe(dataset, shape)[0], **TINY.get(cls.name, {}), **settings})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(init)
        backbone = cls(shape, config)
        with torch.no_grad():
            for _ in range(3):
                backbone.loss(pictures(shape, 8), seeded())
    return backbone.eval()


def pictures(shape, n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, *shape, generator=seeded(seed))


def uint8_pictures(n: int, seed: int = 0, shape=DATASETS["mnist"]) -> torch.Tensor:
    """Bright squares at random places: something to learn."""
    images = torch.zeros(n, *shape, dtype=torch.uint8)
    for image, (row, column) in zip(images, torch.randint(0, 24, (n, 2), generator=seeded(seed)).tolist()):
        image[:, row : row + 8, column : column + 8] = 255
    return images


# The contract


@every_backbone
@every_dataset
def test_shapes_and_ranges(cls, dataset):
    backbone, shape = tiny(cls, dataset), DATASETS[dataset]
    mean, std = backbone.encode(pictures(shape, 3))
    assert mean.shape == std.shape == (3, *backbone.latent_shape)
    assert (std > 0).all() and mean.isfinite().all() and std.isfinite().all()
    images = backbone.decode(10 * torch.randn(3, *backbone.latent_shape, generator=seeded()), seeded())
    assert images.shape == (3, *shape)
    assert images.min() >= 0 and images.max() <= 1 and images.std() > 1e-3


@every_backbone
@every_dataset
def test_every_parameter_gets_a_gradient(cls, dataset):
    backbone = tiny(cls, dataset).train()
    loss, terms = backbone.loss(pictures(DATASETS[dataset], 4), seeded())
    assert loss.shape == () and all(term.shape == () for term in terms.values())
    loss.backward()
    missing = [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not missing
    assert all(p.grad.isfinite().all() for p in backbone.parameters())


@every_backbone
@every_dataset
def test_an_image_is_coded_alike_in_every_batch(cls, dataset):
    backbone, x = tiny(cls, dataset), pictures(DATASETS[dataset], 5)
    mean, std = backbone.encode(x)
    for index in range(5):
        for alone, together in zip(backbone.encode(x[index : index + 1]), (mean, std)):
            assert torch.allclose(alone[0], together[index], atol=1e-5)


@every_backbone
def test_a_latent_is_decoded_alike_in_every_batch(cls):
    """Where decoding draws nothing, that is: a generator that is untouched afterwards."""
    backbone, generator = tiny(cls), seeded()
    z = torch.randn(5, *backbone.latent_shape, generator=seeded(1))
    before = generator.get_state()
    together = backbone.decode(z, generator)
    if not torch.equal(generator.get_state(), before):
        pytest.skip("its decoder draws")
    apart = torch.cat([backbone.decode(part, generator) for part in z.split(1)])
    assert torch.allclose(apart, together, atol=1e-6)


@every_backbone
def test_the_generator_decides_every_draw(cls):
    """Same generator, same loss and images, whatever the global generator does; another one, another loss."""
    backbone, x = tiny(cls), pictures(DATASETS["mnist"], 4)
    z = torch.randn(4, *backbone.latent_shape, generator=seeded(1))

    def once(seed: int, global_seed: int):
        torch.manual_seed(global_seed)
        loss, _ = backbone.loss(x, seeded(seed))
        return loss.item(), backbone.decode(z, seeded(seed))

    with torch.no_grad():
        (loss, images), (again, same_images), (other, _) = once(0, 0), once(0, 1), once(1, 0)
    assert loss == again and torch.equal(images, same_images)
    assert loss != other


@every_backbone
@pytest.mark.parametrize("shape", [(1, 32, 16), (3, 20, 20), (1, 64, 32)])
def test_sizes_that_it_cannot_take_are_named(cls, shape):
    config = cls.Config(**{**cls.recipe("mnist", shape)[0], **TINY.get(cls.name, {})})
    with pytest.raises(ValueError, match=f"{cls.name}.*{shape[1]}x{shape[2]}"):
        cls(shape, config)


@every_backbone
def test_unknown_data_takes_the_recipe_of_the_nearest_image_size(cls):
    if not cls.recipes:
        pytest.skip("it has no recipes")
    for dataset, shape in DATASETS.items():
        if dataset in cls.recipes:
            assert cls.recipe(dataset, shape) == (cls.recipes[dataset][1], None)
            settings, note = cls.recipe("unheard_of", shape)
            assert settings == cls.recipes[dataset][1]
            assert cls.name in note and "unheard_of" in note and dataset in note


# conv_vae


def test_conv_vae_loss_is_what_its_docstring_says():
    """Squared error summed over pixels and averaged over channels; KL as torch.distributions has it."""
    backbone, x = tiny(ConvVAE, "cifar10"), pictures(DATASETS["cifar10"], 6)
    with torch.no_grad():
        loss, terms = backbone.loss(x, seeded(3))
        mean, std = backbone.encode(x)
        z = mean + std * torch.randn(mean.shape, generator=seeded(3))
        squares = (backbone.decode(z) - x).square()
    error = sum(squares[i, c].sum().item() for i in range(6) for c in range(3)) / (6 * 3)
    kl = kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).sum(1).mean().item()
    assert terms["kl"].item() == pytest.approx(kl, rel=1e-5)
    assert terms["squared_error"].item() == pytest.approx(error, rel=1e-5)
    assert loss.item() == pytest.approx(error + 0.006 * kl, rel=1e-5)


@pytest.mark.parametrize(
    "dataset, nz, kl_weight, kernel",
    [("mnist", 16, 0.312, 4), ("cifar10", 128, 0.006, 4), ("celeba64", 64, 0.05024, 5)],
)
def test_conv_vae_recipes_are_those_of_the_release(dataset, nz, kl_weight, kernel):
    backbone = tiny(ConvVAE, dataset)
    assert backbone.latent_shape == (nz,) and backbone.config.kl_weight == kl_weight
    kernels = [layer.kernel_size[0] for layer in backbone.encoder if isinstance(layer, nn.Conv2d)]
    assert kernels == [kernel] * 4


@pytest.mark.parametrize("kernel", [3, 4, 5])
@pytest.mark.parametrize("side", [16, 32, 64])
def test_conv_vae_takes_every_kernel_at_every_size(kernel, side):
    backbone = ConvVAE((1, side, side), ConvVAEConfig(width=1, nz=3, kernel=kernel)).eval()
    mean, _ = backbone.encode(torch.rand(2, 1, side, side))
    assert backbone.decode(mean).shape == (2, 1, side, side)


# Bundles


@pytest.fixture
def written(tmp_path):
    """A bundle on disk, with what it was made from."""
    backbone = tiny(ConvVAE, nz=5)
    images = {"train": uint8_pictures(12), "val": uint8_pictures(4, seed=1), "test": uint8_pictures(6, seed=2)}
    posteriors = {split: posterior(backbone, part) for split, part in images.items()}
    card = {"dataset": {"name": "squares", "image_shape": [1, 32, 32]}, "training": {"seed": 0}}
    return write_bundle(tmp_path / "bundle", card, backbone, posteriors), backbone, posteriors


def test_bundle_round_trip(written):
    bundle, backbone, posteriors = written
    opened = open_bundle(bundle.path)
    assert opened.id == bundle.id and opened.card == bundle.card
    assert (opened.dataset, opened.backbone_name, opened.latent_shape) == ("squares", "conv_vae", (5,))
    assert opened.card["posterior_counts"] == {"train": 12, "val": 4, "test": 6}
    assert opened.card["backbone"]["parameters"] == sum(p.numel() for p in backbone.parameters())
    restored, x = opened.backbone(ConvVAE, CPU), pictures(DATASETS["mnist"], 3)
    assert not restored.training and not any(p.requires_grad for p in restored.parameters())
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
        assert path.name.startswith(f"{bundle.dataset}-") and f"-{bundle.backbone_name}" in path.name
        assert (
            sum(file.stat().st_size for file in path.iterdir() if file.is_file()) < 12e6
        )  # references stand beside it
        backbone = bundle.backbone(BACKBONES[bundle.backbone_name], CPU)
        for split, count in bundle.card["posterior_counts"].items():
            mean, std = bundle.posterior(split, CPU)
            assert mean.shape == std.shape == (count, *backbone.latent_shape)
            assert mean.isfinite().all() and (std > 0).all()


# Training


class Interrupted(Exception):
    pass


def run(cls, checkpoint, init=0, stop_at=None, **settings) -> tuple[Backbone, TrainingLog, list]:
    """Train a tiny one on squares. `stop_at`: (epoch, whether it had ended) at which progress raises."""
    told = []
    settings = {"epochs": 4, "batch_size": 8} | settings

    def progress(step, total, **values):
        told.append((step, total, values))
        if stop_at == (values["epoch"], "val_loss" in values):
            raise Interrupted

    backbone = tiny(cls, init=init, **settings)
    log = train(backbone, uint8_pictures(30), uint8_pictures(10, seed=1), 7, checkpoint, progress)
    return backbone, log, told


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    state = other.state_dict()
    return all(torch.equal(value, state[name]) for name, value in one.state_dict().items())


def without_seconds(log: TrainingLog) -> dict:
    return {name: value for name, value in vars(log).items() if name != "seconds"}


@every_backbone
@pytest.mark.parametrize(
    "stops", [[(1, True)], [(3, False)], [(2, True), (3, False)], [(4, True)]], ids=["epoch", "middle", "twice", "last"]
)
def test_an_interrupted_run_ends_like_an_uninterrupted_one(cls, stops, tmp_path):
    """Exactly: weights, buffers and log, though the process that resumes starts from other weights and global seeds."""
    whole, log, _ = run(cls, tmp_path / "whole.pt")
    checkpoint = tmp_path / "cut.pt"
    for attempt, stop in enumerate(stops):
        with pytest.raises(Interrupted):
            run(cls, checkpoint, init=10 + attempt if attempt else 0, stop_at=stop)
        torch.manual_seed(100 + attempt)
    resumed, its_log, told = run(cls, checkpoint, init=99)
    assert same_weights(whole, resumed)
    assert without_seconds(its_log) == without_seconds(log)
    done = stops[-1][0] - (not stops[-1][1])
    assert sum("val_loss" in values for _, _, values in told) == 4 - done, "finished epochs are not repeated"
    assert {path.name for path in tmp_path.iterdir()} == {"whole.pt", "cut.pt"}


@every_backbone
def test_training_learns_and_is_decided_by_its_seed(cls, tmp_path):
    """The loss falls; the seed decides the order and the noise, so that another one gives other weights."""
    backbone, log, told = run(cls, tmp_path / "a.pt", epochs=8)
    assert log.val_loss[log.best_epoch - 1] < 0.9 * log.val_loss[0] and log.train_loss[-1] < log.train_loss[0]
    assert told[-1][0] == told[-1][1] and len(log.train_loss) == len(log.val_loss) == 8
    other = tiny(cls, epochs=8, batch_size=8)
    train(other, uint8_pictures(30), uint8_pictures(10, seed=1), 8, tmp_path / "b.pt", lambda *_, **__: None)
    assert not same_weights(backbone, other)


class Overshooting(Backbone):
    """One number: training drives it from 0 past 1, where the validation loss, (number - 1)^2, is lowest."""

    name = "overshooting"
    latent_shape = (1,)

    def __init__(self, image_shape, config) -> None:
        super().__init__(image_shape, config)
        self.number = nn.Parameter(torch.zeros(()))
        self.modes = []

    def encode(self, x):
        return self.number.expand(len(x), 1), torch.ones(len(x), 1)

    def decode(self, z, generator=None):
        return z.sigmoid()[:, :, None, None].expand(-1, *self.image_shape)

    def loss(self, x, generator, progress=1.0):
        self.modes.append(self.training)
        target = 50.0 if self.training else 1.0
        return (self.number - target).square(), {}


def test_selection_takes_the_epoch_with_the_lowest_validation_loss(tmp_path):
    backbone = Overshooting((1, 4, 4), BackboneConfig(epochs=8, batch_size=2, learning_rate=0.2))
    images = torch.zeros(4, 1, 4, 4, dtype=torch.uint8)
    log = train(backbone, images, images, 0, tmp_path / "c.pt", lambda *_, **__: None)
    assert backbone.modes == 8 * [True, True, False], "two steps of training, one batch of validation"
    assert log.best_epoch == 1 + min(range(8), key=log.val_loss.__getitem__)
    assert 1 < log.best_epoch < 8 and log.val_loss[-1] > 2 * min(log.val_loss)
    assert validation_loss(backbone, images)[0] == pytest.approx(min(log.val_loss))
    assert backbone.number.item() == pytest.approx(1.0, abs=0.25)


@every_backbone
def test_validation_loss_is_the_same_in_every_call(cls):
    """Its noise is fixed, and it is the mean over images whatever their number in the last batch."""
    backbone, images = tiny(cls), uint8_pictures(10)
    first = validation_loss(backbone.train(), images)
    torch.manual_seed(1)
    assert validation_loss(backbone, images) == first and not backbone.training


def test_validation_loss_is_the_mean_over_images():
    """Without posterior noise, the last, smaller batch weighs as many images as it has."""
    backbone, images = tiny(ConvVAE), uint8_pictures(10)
    with torch.no_grad():
        backbone.to_posterior.bias[backbone.config.nz :] = -1e9
        alone = [backbone.loss(as_input(image[None]), seeded())[0].item() for image in images]
    assert validation_loss(backbone, images, batch_size=4)[0] == pytest.approx(sum(alone) / 10, rel=1e-4)


@every_backbone
def test_a_loss_that_is_not_finite_is_told_with_its_epoch(cls, tmp_path):
    with pytest.raises(TrainingDiverged, match="epoch 1"):
        run(cls, tmp_path / "c.pt", learning_rate=1e30)
    assert not (tmp_path / "c.pt").exists(), "nothing to resume from"


def test_too_few_images_for_a_batch_are_told(tmp_path):
    with pytest.raises(ValueError, match="batch_size 31.*30"):
        run(ConvVAE, tmp_path / "c.pt", batch_size=31)


@every_backbone
def test_posterior_is_taken_in_evaluation_mode_in_any_batch_size(cls):
    backbone, images = tiny(cls).train(), uint8_pictures(7)
    mean, std = posterior(backbone, images, batch_size=3)
    expected = backbone.eval().encode(images / 255)
    assert not mean.requires_grad
    assert torch.allclose(mean, expected[0], atol=1e-5) and torch.allclose(std, expected[1], atol=1e-5)


def test_as_input_maps_bytes_to_the_unit_interval():
    assert as_input(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0.0, 0.2, 1.0])
