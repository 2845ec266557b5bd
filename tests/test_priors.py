"""The learned priors together: convolutions for blocks, perceptrons for vectors, and what a budget may cap."""

import pytest
from draws import CPU, seeded
from torch import nn

from benchmark.check.contract import learning
from benchmark.check.targets import TARGETS
from benchmark.jobs.plan import resolve_config
from benchmark.registry import Registry

pytestmark = pytest.mark.usefixtures("seeded_modules")
LEARNED = ["evalp", "latent_flow", "mcmc_ebm", "ncp"]


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
