"""The generalisation gap of FLD: copies are told from new draws, whose gap is zero within its error."""

import math

import numpy as np
import pytest
import torch
from boards import Results
from draws import KINDS, clustered, normal
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from benchmark.metrics.api import Facts
from benchmark.metrics.fld import LikelihoodGap, generalisation_gap, negative_log_likelihood
from benchmark.scores.mmd import squared_distances


def density(centres, s):
    """The mixture of N(centre, exp(s) I) by torch.distributions."""
    std = (s / 2).exp()[:, None].expand_as(centres)
    return MixtureSameFamily(Categorical(torch.ones_like(s)), Independent(Normal(centres, std), 1))


def by_hand(generated, train, held_out):
    """The gap in float64 by torch.distributions, with gradients by autograd and Adam written out."""
    items = torch.cat([train, held_out]).double()
    mean, std = items.mean(0), items.std(0)
    std[std == 0] = 1
    items, centres = (items - mean) / std, (generated.double() - mean) / std
    d, m = items.shape[1], len(centres)
    nearest = torch.cdist(items, centres, compute_mode="donot_use_mm_for_euclid_dist").square().min(0).values
    s = torch.cat([((nearest + 1e-3) / d).log(), nearest.new_zeros(1)]).requires_grad_()
    broad_distances = 0.81 * items.square().sum(1)
    first, second = nearest.new_zeros(m + 1), nearest.new_zeros(m + 1)
    for step in range(1, 51):
        broad = -(broad_distances * (-s[-1]).exp() + d * s[-1] + d * math.log(2 * math.pi)) / 2
        loss = -torch.logaddexp(density(centres, s[:-1]).log_prob(items), broad).mean() / d
        (gradient,) = torch.autograd.grad(loss, s)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        change = first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        s = (s.detach() - 0.5 * change).clamp(-40, 20).requires_grad_()
    with torch.no_grad():
        nll = -density(centres, s[:-1]).log_prob(items).numpy() / d
    parts = nll[: len(train)], nll[len(train) :]
    error = math.sqrt(sum(part.var(ddof=1) / len(part) for part in parts))
    return 100 * (parts[1].mean() - parts[0].mean()), 100 * error


@pytest.mark.parametrize("d", [1, 7])
def test_the_likelihood_is_that_of_torch_distributions(d):
    centres, items, s = (normal(*shape, seed).double() for seed, shape in enumerate([(9, d), (20, d), (9, 1)]))
    found = negative_log_likelihood(squared_distances(items, centres), s[:, 0], d)
    assert (found * d).tolist() == pytest.approx((-density(centres, s[:, 0]).log_prob(items)).tolist(), rel=1e-9)


@KINDS
def test_the_gap_equals_one_by_autograd_in_double_precision(kind):
    generated, train, held_out = (kind(n, 12, seed) for n, seed in ((40, 0), (60, 2), (50, 4)))
    generated[:5] = train[:5] + 0.03 * normal(5, 12, 6)
    expected = by_hand(generated, train, held_out)
    assert expected[0] > 1
    assert generalisation_gap(generated, train, held_out) == pytest.approx(expected, rel=1e-3)


@KINDS
def test_the_gap_of_new_draws_is_zero_within_its_error(kind):
    found = [generalisation_gap(*(kind(150, 20, 6 * draw + 2 * part) for part in range(3))) for draw in range(40)]
    gaps, errors = np.array(found).T
    assert abs(gaps.mean()) < 3 * gaps.std(ddof=1) / math.sqrt(40)
    assert (gaps / errors).std(ddof=1) == pytest.approx(1, abs=3 / math.sqrt(80))


@KINDS
def test_draws_that_are_worse_but_copy_nothing_have_no_gap_either(kind):
    parts = ([kind(150, 20, 6 * draw + 2 * part) for part in range(3)] for draw in range(30))
    found = [generalisation_gap(0.5 * generated, *others) for generated, *others in parts]
    scores = np.array([gap / error for gap, error in found])
    assert abs(scores.mean()) < 3 / math.sqrt(30)


@KINDS
@pytest.mark.parametrize("copies", [30, 600])
def test_copies_of_training_features_have_a_large_gap_and_those_of_held_out_ones_the_opposite(kind, copies):
    train, held_out = kind(600, 20, 2), kind(600, 20, 4)
    for sign, copied in ((1, train), (-1, held_out)):
        near = copied[:copies] + 0.05 * normal(copies, 20, 6)
        gap, error = generalisation_gap(torch.cat([near, kind(600 - copies, 20, 0)]), train, held_out)
        assert sign * gap > 3 * error


def test_exchanging_the_two_sets_changes_the_sign_alone():
    generated, train, held_out = (clustered(n, 12, seed) for n, seed in ((50, 0), (60, 2), (40, 4)))
    gap, error = generalisation_gap(generated, train, held_out)
    assert generalisation_gap(generated, held_out, train) == pytest.approx((-gap, error), abs=0.01)
    assert abs(gap) > 0.1


def test_units_of_features_do_not_matter_nor_do_features_that_no_image_has():
    parts = [clustered(60, 12, seed) for seed in (0, 2, 4)]
    scale, shift = torch.logspace(-3, 3, 12), 5 * normal(1, 12, 6)
    expected = generalisation_gap(*parts)
    assert generalisation_gap(*(scale * (part + shift) for part in parts)) == pytest.approx(expected, abs=0.01)
    with_constant = generalisation_gap(*(torch.cat([part, torch.full((60, 1), 3.0)], 1) for part in parts))
    assert all(map(math.isfinite, with_constant))


def test_copies_to_the_last_bit_are_finite():
    train = clustered(100, 12, 0)
    gap, error = generalisation_gap(train, train, clustered(100, 12, 2))
    assert gap > 1000
    assert math.isfinite(error)


def test_it_is_measured_of_the_features_that_references_keep(given):
    generated, held_out, train = normal(80, 64, 0), normal(60, 64, 2), normal(70, 64, 4)
    made = given(generated, held_out)
    made.train_reference = type(made.reference)(subsample=lambda device: train)
    values = LikelihoodGap().measure(made)
    assert (values["fld_gap"], values["fld_gap_error"]) == generalisation_gap(generated, train, held_out)
    assert LikelihoodGap().measure(made) == values


def test_it_needs_training_images_and_held_out_ones(given):
    made = given(None, None)
    against_train = made.protocol.model_copy(update={"reference_split": "train"})
    cases = [(made.protocol, True, True), (made.protocol, False, False), (against_train, True, False)]
    for protocol, seen, expected in cases:
        assert LikelihoodGap().applies(Facts("gmm", False, 0, (4,), protocol, seen)) is expected


# In the table


def test_memorisation_stands_beside_the_headline_and_only_where_it_was_measured(tmp_path):
    results = Results(tmp_path)
    results.references()
    assert not [head for head in results.tables()[0][0] if "memorisation" in head or "FLD" in head]
    results.add("gaussian", "latent_memorisation", {"latent_memorisation": 0.25})
    results.add("gaussian", "fld", {"fld_gap": 1.5, "fld_gap_error": 0.3})
    header, _, *rows = results.tables()[0]
    assert header[1:5] == ["FD digit-cnn ↓", "gap closed ↑", "latent memorisation (½)", "FLD gap (digit-cnn)"]
    assert [row[3:5] for row in rows if row[0] == "gaussian"] == [["0.250", "1.50"]]
    beside = results.further("Images beside")
    assert beside == {"*gaussian*": {"FLD gap (digit-cnn), standard error over images": "0.300"}}


def test_where_nobody_has_looked_at_training_images_the_table_has_the_command(tmp_path):
    command = f"`python -m benchmark reference --bundle {'b' * 16} --extractor digit-cnn --split train`"
    results = Results(tmp_path)
    results.references()
    assert command not in results.text, "memorisation was not asked for"
    results.add("gaussian", "latent_memorisation", {"latent_memorisation": 0.25})
    assert command in results.text
    results.add("gaussian", "memorisation", {"memorisation": 0.25})
    assert command not in results.text
