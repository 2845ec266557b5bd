"""Latent groups of a hierarchy in whitened coordinates: draws, decoding, what is drawn where nobody chose."""

import pytest
import torch
from draws import seeded
from torch.distributions import Normal
from vaes import SMALL, binary, hierarchy, untrained

pytestmark = pytest.mark.usefixtures("seeded_modules")


def recorded(model, eps, groups=None):
    """What `walk` says of each group while it is given eps."""
    seen = []

    def choose(number, above):
        seen.append(above)
        return above.at(eps[number])

    with torch.no_grad():
        model.walk(choose, len(eps[0]), None, groups)
    return seen


def test_a_hierarchy_names_the_shapes_of_its_groups_and_of_what_is_above_them():
    model = hierarchy()
    assert model.group_shapes == ((3, 2, 2), (3, 4, 4), (3, 4, 4))
    eps = [torch.randn(2, *shape, generator=seeded(i)) for i, shape in enumerate(model.group_shapes)]
    above = recorded(model, eps)
    assert [tuple(each.features.shape[1:]) for each in above] == list(model.context_shapes)
    assert [tuple(each.mean.shape[1:]) for each in above] == list(model.group_shapes)
    assert sum(shape.numel() for shape in map(torch.Size, model.group_shapes)) == int(model._sizes.sum())


def test_decoding_the_noise_of_decode_is_decode_bit_for_bit():
    model, n = hierarchy(), 5
    noise = seeded(7)
    z = torch.randn(n, *model.latent_shape, generator=seeded(1))
    eps = [z, *(torch.randn(n, *shape, generator=noise) for shape in model.group_shapes[1:])]
    with torch.no_grad():
        assert torch.equal(model.decode_all(eps), model.decode(z, seeded(7)))
        assert torch.equal(model.decode_all([z, None, None], seeded(7)), model.decode(z, seeded(7)))


def test_what_is_not_given_is_drawn_at_the_temperature_of_the_setting_and_what_is_given_is_taken_as_it_is():
    cold = hierarchy(temperature=0.0)
    eps = [torch.randn(4, *shape, generator=seeded(i)) for i, shape in enumerate(cold.group_shapes)]
    with torch.no_grad():
        assert torch.equal(cold.decode_all([eps[0], None, None], seeded(1)), cold.decode(eps[0], seeded(2)))
        zeros = [eps[0], *(torch.zeros_like(each) for each in eps[1:])]
        assert torch.equal(cold.decode_all(zeros), cold.decode(eps[0], seeded(1)))
        assert not torch.equal(cold.decode_all(eps), cold.decode_all(zeros))
        drawn = [cold.decode_all([None, eps[1], None], seeded(seed)) for seed in (1, 2)]
    assert not torch.equal(*drawn)  # the top one, from N(0, I)


def test_decoding_a_draw_of_all_groups_is_the_reconstruction():
    model, x = hierarchy(), binary(6)
    with torch.no_grad():
        eps = model.draw_all(x, seeded(3))
        assert [tuple(each.shape[1:]) for each in eps] == list(model.group_shapes)
        assert torch.allclose(model.decode_all(eps), model.reconstruct(x, seeded(3)), atol=1e-5)


def test_log_ratios_are_the_same_numbers_in_eps():
    """log q - log p of z, the cost of each group, is log q(eps) - log N(eps; 0, I): the Jacobian cancels."""
    model, x = hierarchy(), binary(6)
    with torch.no_grad():
        _, eps, costs = model._infer(x, seeded(3))
        above = recorded(model, eps)
        rising = model._bottom_up(x)
        for number in (1, 2):
            _, again, _ = model._group(number).infer(above[number], rising[-1 - number], seeded(0))
            merged = model._group(number).merge(torch.cat([above[number].features, rising[-1 - number]], 1))
            shift, log_ratio = (
                part for part in (5 * torch.tanh(model._group(number).posterior(merged) / 5)).chunk(2, dim=1)
            )
            q = Normal(shift / above[number].std, log_ratio.exp())
            expected = (q.log_prob(eps[number]) - Normal(0.0, 1.0).log_prob(eps[number])).flatten(1).sum(1)
            assert torch.allclose(expected, costs[number][1], rtol=1e-3, atol=1e-3)
            assert again.shape == eps[number].shape


def test_a_walk_ends_after_so_many_groups():
    model = hierarchy()
    eps = [torch.randn(2, *shape, generator=seeded(i)) for i, shape in enumerate(model.group_shapes)]
    for groups in (1, 2, 3):
        assert len(recorded(model, eps, groups)) == groups


@pytest.mark.parametrize("groups", [(1,), (2, 1), (1, 1, 2)])
def test_any_number_of_groups_on_a_scale(groups):
    model = hierarchy(**{**SMALL, "groups": groups, "top_side": 2})
    eps = [torch.randn(2, *shape, generator=seeded(i)) for i, shape in enumerate(model.group_shapes)]
    assert len(eps) == sum(groups)
    with torch.no_grad():
        assert model.decode_all(eps).shape == (2, 1, 16, 16)
        assert len(model.draw_all(binary(2), seeded())) == len(eps)


def test_a_vae_without_a_hierarchy_has_one_group():
    model = untrained((1, 16, 16))
    assert model.group_shapes == (model.latent_shape,)
    z = torch.randn(4, *model.latent_shape, generator=seeded())
    with torch.no_grad():
        assert torch.equal(model.decode_all([z]), model.decode(z))
        (eps,) = model.draw_all(binary(4), seeded(1))
        mean, std = model.encode(binary(4))
        assert torch.equal(eps, mean + std * torch.randn(mean.shape, generator=seeded(1)))
    with pytest.raises(ValueError, match="eps of 1 groups"):
        model.decode_all([None])
