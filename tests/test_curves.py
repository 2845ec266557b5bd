"""Learning curves are what the fits logged, and the step that was kept."""

import pytest
from boards import Results

from benchmark.report.curves import MOST, curves_figure, describe_curves, find_curves
from benchmark.report.tables import make_tables


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path / "results")


def fitted(results, label, logs, code="one", **values):
    """A row whose seeds logged this, with a score each."""
    for seed, log in enumerate(logs):
        content = {"status": "ok", "values": {"fit_seconds": 1.0, **values}, "parameters": 3, "log": log}
        results.add(label, "fit", content, seed, code=code)
        results.add(label, "fd", {"fd": 3.0 + seed}, seed, code=code)


def curves(results):
    (table,) = make_tables(results.folder)[0]
    return find_curves(table)


def loss(*values):
    return [{"step": 10 * i, "nll": value - 1, "held_out_nll": value} for i, value in enumerate(values, 1)]


def test_of_a_validation_loss_all_seeds_and_the_step_that_was_kept_are_shown(results):
    fitted(results, "nsf", [loss(3.0, 1.0, 2.0), loss(4.0, 2.0, 2.5)], best_step=20)
    (curve,) = curves(results)
    assert (curve.label, curve.name) == ("nsf", "held_out_nll")
    assert curve.points == {0: [(10, 3.0), (20, 1.0), (30, 2.0)], 1: [(10, 4.0), (20, 2.0), (30, 2.5)]}
    assert curve.fitted[0] == [(10, 2.0), (20, 0.0), (30, 1.0)]
    assert curve.best == {0: (20, 1.0), 1: (20, 2.0)}


def test_a_step_that_was_kept_and_not_logged_lies_on_the_line(results):
    fitted(results, "nsf", [loss(3.0, 1.0)], best_step=15)
    assert curves(results)[0].best == {0: (15, 2.0)}


def test_without_a_validation_loss_the_first_values_are_shown_each_by_itself(results):
    log = [{"step": step, **{f"value{i}": float(i * step) for i in range(MOST + 2)}} for step in (1, 2)]
    fitted(results, "evalp", [log])
    assert [curve.name for curve in curves(results)] == [f"value{i}" for i in range(MOST)]
    assert curves(results)[1].points == {0: [(1, 1.0), (2, 2.0)]}


def test_what_is_no_number_is_no_point_and_one_point_no_curve(results):
    log = [*loss(3.0, 2.0), {"step": 30, "held_out_nll": "nan"}, {"step": None, "held_out_nll": 1.0}, {"nll": 1.0}]
    fitted(results, "nsf", [log])
    fitted(results, "maf", [loss(3.0)])
    fitted(results, "radial", [[]])
    (curve,) = curves(results)
    assert curve.points == {0: [(10, 3.0), (20, 2.0)]}


@pytest.mark.parametrize("odd", [None, True, 1e308, 10**400, "text", [], [1], {"a": 1}])
def test_a_log_of_anybody_s_is_shown_as_far_as_it_is_numbers(odd, results):
    name = "\ud800\n|<b>\x1b[31m$x_{"
    log = [{"step": 1, name: 3.0}, {"step": odd, name: 1.0}, {"step": 2, name: odd}, {}, {"step": 3, name: 2.0}]
    fitted(results, "odd", [log])
    (curve,) = curves(results)
    assert {(1, 3.0), (3, 2.0)} <= set(curve.points[0])
    curves_figure([curve]).draw_without_rendering()


def test_a_log_that_is_no_list_of_points_is_damage_and_named(results):
    fitted(results, "nsf", ["text", [1], loss(2.0, 1.0)])
    _, damaged, _ = make_tables(results.folder)
    assert sum("log" in sentence for sentence in damaged) == 2
    assert list(curves(results)[0].points) == [2]


def test_the_log_is_that_of_the_configuration_in_the_table(results):
    fitted(results, "nsf", [loss(9.0, 8.0)])
    fitted(results, "nsf", [loss(3.0, 2.0)], code="two")
    assert curves(results)[0].points[0][0] == (10, 3.0)


def test_the_figure_has_a_panel_a_curve_and_first_values_that_are_far_off_do_not_flatten_the_rest(results):
    fitted(results, "nsf", [loss(1e6, *(2.0 + 0.01 * step for step in range(80)))] * 2, best_step=20)
    fitted(results, "a$b_{[x=1]", [loss(3.0, 2.0)] * 3)
    found = curves(results)
    figure = curves_figure(found)
    assert [panel.get_title() for panel in figure.axes] == ["nsf", "a$b_{[x=1]"]
    figure.draw_without_rendering()  # words of strangers are no formulas
    low, high = figure.axes[0].get_ylim()
    assert low < 1.0
    assert 2.8 < high < 5
    assert "nsf: held_out_nll of 2 seeds ends at 2.79, kept at step 20, 20" in describe_curves(found)
