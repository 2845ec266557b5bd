"""Pictures of latents are of the very draws that a run measured; where the cache has none, none is shown."""

import shutil

import numpy as np
import pytest
import torch
from draws import CPU, normal
from sklearn.decomposition import PCA

import benchmark
from benchmark.bundles.bundle import open_bundle
from benchmark.bundles.find import note_bundle
from benchmark.metrics.c2st import classifier_auc
from benchmark.registry import Registry
from benchmark.report.draws import Draws, find_draws
from benchmark.report.html.page import report_html
from benchmark.report.paths import STEPS, decode_paths, spherical_path, straight_path
from benchmark.report.tables import make_tables
from benchmark.report.views import SHOWN, find_views, views_figure
from benchmark.store.places import cache_root
from benchmark.streams import stream
from priors.api import PosteriorSplit


@pytest.fixture
def run(small_bundle, tmp_path):
    note_bundle(small_bundle)
    results = tmp_path / "results"
    priors = "latent_flow[steps=30],fitted_gaussian"
    benchmark.run(priors=priors, seeds=2, bundle=str(small_bundle), device="cpu", metrics="fd,c2st", results=results)
    return results


def table_of(results):
    (table,) = make_tables(results)[0]
    return table


def test_they_are_the_draws_that_the_classifier_test_was_given(run, small_bundle):
    table = table_of(run)
    draws = find_draws(table)
    assert list(draws.of_rows) == ["gaussian", *(row.label for row in table.priors)]
    assert draws.missing == []
    held_out = PosteriorSplit(*open_bundle(small_bundle).posterior("test", CPU))
    real = held_out.one_each(table.protocol.mmd_latents, stream(CPU, "c2st held-out", 0)).flatten(1)
    for label, drawn in draws.of_rows.items():
        area = classifier_auc(real, drawn.flatten(1), stream(CPU, "c2st", 0))
        assert area == table.rows[label].values["c2st", "c2st_auc"][0]


def test_rows_without_draws_are_named_and_the_report_is_made_from_records_alone(run, monkeypatch):
    monkeypatch.setattr("benchmark.report.standing._without_a_gap", lambda table: "")  # of so small a VAE there is none
    text = report_html(run)
    assert "Latents of each prior against q_agg" in text
    assert 'alt="path between draws of fitted_gaussian"' in text
    assert 'class="missing"' not in text
    missing = []
    for path in (cache_root() / "latents").iterdir():
        path.unlink()
        draws = find_draws(table_of(run))
        missing.append(draws and draws.missing)
    assert any(missing)
    assert missing[-1] is None
    bare = report_html(run)
    assert "Latents of each prior" not in bare
    assert "for want of draws in this machine&#39;s cache." in bare


def test_a_bundle_that_is_not_here_and_draws_of_another_shape_are_no_draws(run, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("benchmark.report.draws.find_latents", lambda *given: torch.zeros(60, 3))
        assert find_draws(table_of(run)) is None
    shutil.rmtree(cache_root() / "elsewhere")
    assert find_draws(table_of(run)) is None


def made_up(*, shape=(6,), n=400, **rows):
    return Draws(None, rows.pop("held_out", normal(n, 6, 0)).view(-1, *shape), rows, [])


def test_principal_axes_are_those_of_scikit_learn_and_shared_by_all_rows():
    scale = torch.tensor([1, 5, 1, 1, 3, 1])
    real = normal(400, 6, 0) * scale + 7
    drawn = {"one": normal(400, 6, 1) * scale + 7, "two": normal(400, 6, 2)}
    principal, _ = find_views(made_up(held_out=real, **drawn))
    theirs = PCA(2).fit(real.double().numpy())
    for view in principal.panels:
        for points, of in ((view.held_out, real), (view.drawn, drawn[view.title])):
            expected = theirs.transform(of.double().numpy())[:SHOWN]
            assert np.allclose(points.abs().numpy(), np.abs(expected), atol=1e-3)


def test_the_telling_plane_shows_the_difference_and_no_latent_that_it_was_learned_from():
    real, drawn = normal(400, 6, 0), normal(400, 6, 1)
    drawn[:, 3] += 3
    _, telling = find_views(made_up(held_out=real, far=drawn, alike=normal(400, 6, 2)))
    far, alike = telling.panels
    assert float(far.title.removeprefix("far, AUC ")) > 0.95
    assert 0.35 < float(alike.title.removeprefix("alike, AUC ")) < 0.65
    assert (far.drawn[:, 0] - far.held_out[:, 0].mean()).mean().abs() > 2, "the first direction is where they differ"
    assert len(far.drawn) == 200, "one half"
    deviation = real[:200].std(0, unbiased=False)
    norms = ((real[200:] - real[:200].mean(0)) / deviation).norm(dim=1)
    assert (far.held_out.norm(dim=1) <= norms + 1e-4).all(), "a projection of the second half"


def test_latents_of_one_dimension_have_no_plane():
    assert find_views(made_up(held_out=normal(40, 1, 0), shape=(1,), one=normal(40, 1, 1))) == []


def test_a_figure_has_a_panel_a_row_that_reaches_as_far_as_q_agg_whatever_the_prior_draws():
    far = normal(400, 6, 1) * 1e4
    principal, _ = find_views(made_up(far=far, near=normal(400, 6, 2)))
    figure = views_figure(principal)
    assert [panel.get_title() for panel in figure.axes] == ["far", "near"]
    assert max(map(abs, figure.axes[0].get_xlim())) < 10
    figure.draw_without_rendering()


def test_paths_lead_from_one_draw_to_the_other_and_keep_the_norm_along_a_great_circle():
    start, end = torch.tensor([[2.0, 0, 0], [0, 0, 0]]), torch.tensor([[0, 2.0, 0], [0, 0, 0]])
    straight, round = straight_path(start, end, 5), spherical_path(start, end, 5)
    for path in (straight, round):
        assert path.shape == (5, 2, 3)
        assert torch.allclose(path[0], start, atol=1e-6)
        assert torch.allclose(path[-1], end, atol=1e-6)
    assert torch.allclose(straight[2], (start + end) / 2)
    assert torch.allclose(round.flatten(1).norm(dim=1), torch.tensor(2.0))
    assert torch.allclose(round[2, 0], torch.tensor([2**0.5, 2**0.5, 0]))
    assert torch.allclose(spherical_path(start, start, 3)[1], start), "no angle between them"
    assert spherical_path(start, -start, 3).isfinite().all()


def test_paths_are_decoded_those_of_the_gaussian_on_a_sphere(run, monkeypatch):
    draws = find_draws(table_of(run))
    taken = []
    monkeypatch.setattr("benchmark.report.paths.spherical_path", lambda *of: taken.append(of) or straight_path(*of))
    paths = decode_paths(draws, Registry())
    assert list(paths) == list(draws.of_rows)
    assert len(taken) == 1
    assert torch.equal(taken[0][0], draws.of_rows["gaussian"][0])
    assert {picture.size for picture in paths.values()} == {(STEPS * 16, 16)}
