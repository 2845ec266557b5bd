"""One contract for every registered backbone: shapes, gradients, batches and who decides its draws."""

import pytest
import torch
from draws import seeded
from vaes import DATASETS, TINY, every_backbone, pictures, tiny

every_dataset = pytest.mark.parametrize("dataset", DATASETS)


@every_backbone
@every_dataset
def test_shapes_and_ranges(cls, dataset):
    backbone, shape = tiny(cls, dataset), DATASETS[dataset]
    mean, std = backbone.encode(pictures(shape, 3))
    assert mean.shape == std.shape == (3, *backbone.latent_shape)
    assert (std > 0).all()
    assert mean.isfinite().all()
    assert std.isfinite().all()
    images = backbone.decode(10 * torch.randn(3, *backbone.latent_shape, generator=seeded()), seeded())
    assert images.shape == (3, *shape)
    assert images.min() >= 0
    assert images.max() <= 1
    assert images.std() > 1e-3


@every_backbone
@every_dataset
def test_every_parameter_gets_a_gradient(cls, dataset):
    backbone = tiny(cls, dataset).train()
    loss, terms = backbone.loss(pictures(DATASETS[dataset], 4), seeded())
    assert loss.shape == ()
    assert all(term.shape == () for term in terms.values())
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
    assert loss == again
    assert torch.equal(images, same_images)
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
            assert cls.name in note
            assert "unheard_of" in note
            assert dataset in note
