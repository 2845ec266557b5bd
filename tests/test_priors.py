"""Priors together: convolutions for blocks, perceptrons for vectors, what a budget may cap, and what `tune` may try."""

import pytest
from draws import CPU, seeded
from torch import nn

from benchmark.check.contract import learning
from benchmark.check.targets import TARGETS
from benchmark.jobs.plan import resolve_config
from benchmark.registry import Registry
from priors.api import Between, OneOf

pytestmark = pytest.mark.usefixtures("seeded_modules")
LEARNED = ["evalp", "latent_flow", "mcmc_ebm", "ncp"]
PRIORS = {name: Registry().get("prior", name) for name in Registry().at_hand("prior")}
#: priors with settings, of which `tune` tries none, and why
UNTUNED = {
    "kde": "the fit chooses its bandwidth, and more latents only cost more",
    "marginal": "a rotation by ICA is out of reach for large blocks, and more draws only cost more",
    "radial": "more draws only cost more",
    "tilted": "more draws only cost more",
}


@pytest.mark.parametrize("dataset", ["mnist", "celeba64", "cifar10"])
@pytest.mark.parametrize("name", [*LEARNED, "lars"])
def test_a_block_gets_convolutions_and_a_vector_does_not(name, dataset):
    cls = Registry().get("prior", name)
    for shape, form in (((8, 4, 4), "conv"), ((128,), "mlp")):
        config, _, _ = resolve_config(cls, {}, dataset, shape, "full")
        prior = cls(shape, config)
        assert config.network == form
        assert any(isinstance(module, nn.Conv2d) for module in prior.modules()) == (form == "conv")
    config, _, _ = resolve_config(cls, {"network": "mlp"}, dataset, (8, 4, 4), "quick")
    prior = cls((8, 4, 4), config)
    assert not any(isinstance(module, nn.Conv2d) for module in prior.modules())
    assert prior.sample(3, seeded()).shape == (3, 8, 4, 4)


@pytest.mark.parametrize("name", [*LEARNED, "lars"])
def test_quick_budget_on_a_block_is_no_dearer_than_the_recipe(name):
    cls = Registry().get("prior", name)
    full, quick = (resolve_config(cls, {}, "mnist", (8, 4, 4), budget)[0] for budget in ("full", "quick"))
    assert quick.steps < full.steps
    assert quick.network == full.network == "conv"
    assert all(getattr(quick, field) <= cap for field, cap in cls.quick_caps((8, 4, 4)).items())


@pytest.mark.parametrize("name", LEARNED)
def test_what_was_added_for_blocks_leaves_the_identity_of_vectors_alone(name):
    """Records of vector latents were made before these settings existed, and stay valid."""
    cls = Registry().get("prior", name)
    config, _, _ = resolve_config(cls, {}, "mnist", (16,), "full")
    assert not {"network", "conv_widths", "sampler_learning_rate"} & set(config.fit_settings())
    block, _, _ = resolve_config(cls, {}, "mnist", (8, 4, 4), "full")
    assert block.fit_settings()["network"] == "conv"
    other = block.model_copy(update={"network": "mlp"})
    assert other.fit_settings() != block.fit_settings()


@pytest.mark.parametrize("name", [pytest.param("latent_flow", marks=pytest.mark.slow), "ncp"])
def test_a_block_is_learnt_at_the_quick_budget_by_those_that_promise_it(name):
    cls, target = Registry().get("prior", name), TARGETS["block"]()
    config, _, _ = resolve_config(cls, {}, "synthetic", target.shape, "quick")
    prior = cls(target.shape, config)
    prior.train().fit(target.posterior(CPU), seeded(), lambda *_, **__: None)
    assert learning(prior.eval(), target, CPU).held is True


def test_a_prior_has_a_space_or_a_reason_to_have_none():
    assert {name for name, cls in PRIORS.items() if cls.Config.model_fields and not cls.space} == set(UNTUNED)


def corners(space):
    """Each setting alone at each of its values, or ends; all at their first, all at their last."""
    ends = {k: (way.low, way.high) if isinstance(way, Between) else way.values for k, way in space.items()}
    yield from ({setting: value} for setting, values in ends.items() for value in values)
    yield from ({setting: values[end] for setting, values in ends.items()} for end in (0, -1))


@pytest.mark.parametrize("name", [name for name, cls in PRIORS.items() if cls.space])
def test_a_space_is_few_settings_with_reasons_whose_corners_all_are_priors_at_most_four_times_as_dear(name):
    cls = PRIORS[name]
    assert len(cls.space) <= 5
    for setting, way in cls.space.items():
        assert setting in cls.Config.model_fields
        assert way.why
        assert not any(dataset in way.why.lower() for dataset in ("mnist", "cifar", "celeba", "digits", "faces"))
        if isinstance(way, Between):
            assert 0 < way.low < way.high
            assert type(way.low) is type(way.high)
            assert setting not in cls.Config.sampling_names()
        else:
            assert isinstance(way, OneOf)
            assert len(set(way.values)) == len(way.values) >= 2
            assert len(way.values) <= 4 or setting not in cls.Config.sampling_names()
    for shape, recipes in (((16,), cls.recipes), ((4, 4, 4), cls.block_recipes)):
        made = {}
        for dataset in recipes or ["mnist"]:
            _, default, _ = resolve_config(cls, {}, dataset, shape, "full")
            for settings in ({}, *corners(cls.space)):
                resolve_config(cls, settings, dataset, shape, "quick")
                config, _, _ = resolve_config(cls, settings, dataset, shape, "full")
                if config not in made:
                    made[config] = cls(shape, config).network_evaluations
                assert made[config] <= 4 * made[default]
