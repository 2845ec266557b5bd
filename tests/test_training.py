"""Stage 1's loop: a kill that changes nothing, the epoch that is kept, and losses that are not finite."""

import pytest
import torch
from draws import seeded
from torch import nn
from vaes import bright_squares, every_backbone, tiny

from backbones.api import Backbone, BackboneConfig
from backbones.conv_vae import ConvVAE
from backbones.training import TrainingDiverged, TrainingLog, as_input, posterior, train, validation_loss

#: settings that make steps short where nothing but the loop is looked at
SHORT = {"nvae": {"width": 16, "groups": (1, 2)}}


class Interrupted(Exception):
    pass


def run(cls, checkpoint, init=0, stop_at=None, **settings) -> tuple[Backbone, TrainingLog, list]:
    """Train a tiny one on squares. `stop_at`: (epoch, whether it had ended) at which progress raises."""
    told = []
    settings = {"epochs": 4, "batch_size": 8} | SHORT.get(cls.name, {}) | settings

    def progress(step, total, **values):
        told.append((step, total, values))
        if stop_at == (values["epoch"], "val_loss" in values):
            raise Interrupted

    backbone = tiny(cls, init=init, **settings)
    log = train(backbone, bright_squares(30), bright_squares(10, seed=1), 7, checkpoint, progress)
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
    assert log.val_loss[log.best_epoch - 1] < 0.9 * log.val_loss[0]
    assert log.train_loss[-1] < log.train_loss[0]
    assert told[-1][0] == told[-1][1]
    assert len(log.train_loss) == len(log.val_loss) == 8
    other = tiny(cls, epochs=8, batch_size=8, **SHORT.get(cls.name, {}))
    train(other, bright_squares(30), bright_squares(10, seed=1), 8, tmp_path / "b.pt", lambda *_, **__: None)
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
    assert 1 < log.best_epoch < 8
    assert log.val_loss[-1] > 2 * min(log.val_loss)
    assert validation_loss(backbone, images)[0] == pytest.approx(min(log.val_loss))
    assert backbone.number.item() == pytest.approx(1.0, abs=0.25)


@every_backbone
def test_validation_loss_is_the_same_in_every_call(cls):
    """Its noise is fixed, and it is the mean over images whatever their number in the last batch."""
    backbone, images = tiny(cls), bright_squares(10)
    first = validation_loss(backbone.train(), images)
    torch.manual_seed(1)
    assert validation_loss(backbone, images) == first
    assert not backbone.training


def test_validation_loss_is_the_mean_over_images():
    """Without posterior noise, the last, smaller batch weighs as many images as it has."""
    backbone, images = tiny(ConvVAE), bright_squares(10)
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
    with pytest.raises(ValueError, match=r"batch_size 31.*30"):
        run(ConvVAE, tmp_path / "c.pt", batch_size=31)


@every_backbone
def test_posterior_is_taken_in_evaluation_mode_in_any_batch_size(cls):
    backbone, images = tiny(cls).train(), bright_squares(7)
    mean, std = posterior(backbone, images, batch_size=3)
    expected = backbone.eval().encode(images / 255)
    assert not mean.requires_grad
    assert torch.allclose(mean, expected[0], atol=1e-5)
    assert torch.allclose(std, expected[1], atol=1e-5)


def test_as_input_maps_bytes_to_the_unit_interval():
    assert as_input(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0.0, 0.2, 1.0])
