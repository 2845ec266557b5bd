"""Each failure signature speaks of what was planted for it, and of nothing healthy."""

import pytest
from boards import Results

from benchmark.report import signatures
from benchmark.report.signatures import COVERED, EFFECTIVE, REPAIRABLE, REPLAY_TOLD
from benchmark.report.tables import make_tables

SEEDS = 3
NOISE = (-0.01, 0.0, 0.01)
HEALTHY = {
    "gaussian": {"fd": 10.0, "mmd_imq_p": 0.002, "c2st_auc": 0.8, "latent_coverage": 0.3, "latent_memorisation": 0.1},
    "aggregate_posterior": {
        "fd": 2.0,
        "latent_coverage": 0.95,
        "latent_recall": 0.8,
        "coverage": 0.9,
        "recall": 0.7,
        "latent_memorisation": 0.9,
    },
    "reconstruction": {"fd": 1.9, "coverage": 0.92},
    "ncp": {
        "fd": 3.0,
        "latent_coverage": 0.8,
        "latent_recall": 0.7,
        "coverage": 0.7,
        "recall": 0.6,
        "latent_memorisation": 0.5,
        "effective_sample_size": 200.0,
    },
}


#: who says what
SOURCES = {
    "mmd": ("mmd_imq_p",),
    "c2st": ("c2st_auc",),
    "latent_neighbours": ("latent_coverage", "latent_recall"),
    "neighbours": ("coverage", "recall"),
    "sampling_time": ("effective_sample_size",),
    "fit": ("runaway",),
}


def table_of(tmp_path, changes=(), config=None):
    """The one table of healthy rows with changed values, (label, metric, value), None for not measured."""
    results = Results(tmp_path / "results")
    rows = {label: dict(values) for label, values in HEALTHY.items()}
    for label, metric, value in changes:
        rows[label][metric] = value
    kinds = {name: kind for kind, names in SOURCES.items() for name in names}
    for label, values in rows.items():
        for seed in range(SEEDS):
            by_kind = {}
            for name, value in values.items():
                if value is not None:
                    shown = value if isinstance(value, str) else value * (1 + NOISE[seed])
                    by_kind.setdefault(kinds.get(name, name), {})[name] = shown
            for kind, shown in by_kind.items():
                results.add(label, kind, shown, seed, config=config or {"proposals": 5_000})
    ((table,), *_) = make_tables(results.folder)
    return table


def test_a_healthy_table_has_no_note(tmp_path):
    assert signatures.find_signatures(table_of(tmp_path)) == []


def test_a_deterministic_encoder_is_told(tmp_path):
    results = Results(tmp_path / "results")
    results.add("gaussian", "fd", {"fd": 10.0}, deterministic=True)
    ((table,), *_) = make_tables(results.folder)
    (note,) = signatures.find_signatures(table)
    assert note.startswith("deterministic encoder: N(0, I), the 0 % line, was no part of its training")


def test_values_that_were_not_measured_give_no_note(tmp_path):
    results = Results(tmp_path / "results")
    results.scores("ncp", [3.0, 3.1])
    ((table,), *_) = make_tables(results.folder)
    assert signatures.find_signatures(table) == []
    results.add("aggregate_posterior", "latent_neighbours", {"latent_coverage": 0.9})
    results.add("gaussian", "mmd", {"mmd_imq_p": 0.9})
    ((table,), *_) = make_tables(results.folder)
    assert signatures.find_signatures(table) == []


BELOW, ABOVE = 0.97, 1.03
PLANTED = {
    "weak backbone": ([("aggregate_posterior", "fd", 10 * (1 - REPAIRABLE * BELOW))], "weak_backbone"),
    "no hole in FD digit-cnn": ([("aggregate_posterior", "fd", 10.0)], "no_hole"),
    "no hole seen in latents": ([("gaussian", "mmd_imq_p", 0.4), ("gaussian", "c2st_auc", 0.5)], "no_hole"),
    "mode collapse of ncp: it covers 46% of held-out latents": (
        [("ncp", "latent_coverage", COVERED * 0.95 * BELOW), ("ncp", "latent_recall", COVERED * 0.8 * BELOW)],
        "mode_collapse",
    ),
    "mode collapse of ncp: it covers 44% of held-out images": (
        [("ncp", "coverage", COVERED * 0.9 * BELOW), ("ncp", "recall", COVERED * 0.7 * BELOW)],
        "mode_collapse",
    ),
    "runaway of ncp seed 2: the bound rose": ([("ncp", "runaway", "the bound rose")], "runaway"),
    "saturation of ncp: 4.85 of 5,000 proposals": ([("ncp", "effective_sample_size", EFFECTIVE * BELOW)], "saturation"),
    "memorisation by ncp": ([("ncp", "latent_memorisation", 0.9)], "memorisation"),
}


@pytest.mark.parametrize("said", PLANTED)
def test_a_planted_failure_is_said_by_its_signature(said, tmp_path):
    changes, name = PLANTED[said]
    table = table_of(tmp_path, changes)
    assert any(sentence.startswith(said) for sentence in getattr(signatures, name)(table))
    silent = {"weak_backbone", "no_hole", "mode_collapse", "runaway", "blow_up", "saturation", "memorisation"} - {name}
    if said != "no hole in FD digit-cnn":  # without a gap there is nothing a prior could repair, either
        assert not [each for other in silent for each in getattr(signatures, other)(table)]


@pytest.mark.parametrize(
    "changes",
    [
        [("aggregate_posterior", "fd", 10 * (1 - REPAIRABLE * ABOVE))],
        [("gaussian", "mmd_imq_p", 0.4)],  # the classifier tells
        [("gaussian", "c2st_auc", 0.5)],  # the MMD tells
        [("gaussian", "mmd_imq_p", 0.4), ("gaussian", "c2st_auc", 0.55)],
        [("gaussian", "mmd_imq_p", 0.4), ("gaussian", "c2st_auc", None)],
        [("ncp", "latent_coverage", COVERED * 0.95 * ABOVE), ("ncp", "latent_recall", 0.01)],
        [("ncp", "latent_coverage", 0.01)],  # spread between the data, not collapsed
        [("ncp", "latent_coverage", 0.01), ("ncp", "latent_recall", COVERED * 0.8 * ABOVE)],
        [("ncp", "latent_coverage", 0.01), ("ncp", "latent_recall", None)],
        [("ncp", "coverage", COVERED * 0.9 * ABOVE), ("ncp", "recall", 0.01)],
        [("gaussian", "coverage", 0.01)],  # the hole itself, not a collapse
        [
            ("ncp", "coverage", 0.001),
            ("ncp", "recall", 0.0),
            ("aggregate_posterior", "coverage", 0.06),
        ],  # the decoder's
        [("ncp", "effective_sample_size", EFFECTIVE * ABOVE)],
        [("ncp", "latent_memorisation", 0.9 * BELOW)],
        [("ncp", "latent_memorisation", 0.7), ("aggregate_posterior", "latent_memorisation", REPLAY_TOLD * BELOW)],
        [("ncp", "latent_memorisation", 0.95), ("aggregate_posterior", "latent_memorisation", None)],
    ],
    ids=str,
)
def test_what_lies_on_the_other_side_of_a_threshold_is_not_said(changes, tmp_path):
    assert signatures.find_signatures(table_of(tmp_path, changes)) == []


@pytest.mark.parametrize("factor, says", [(BELOW, 1), (ABOVE, 0)])
def test_a_few_effective_proposals_are_saturation_whatever_their_share(factor, says, tmp_path):
    changes = [("ncp", "effective_sample_size", EFFECTIVE * factor)]
    for number, config in enumerate(({"proposals": 20}, {"other": 1})):
        table = table_of(tmp_path / str(number), changes, config)
        assert len(signatures.saturation(table)) == says


@pytest.mark.parametrize("of, says", [({"reference": 64}, 1), ({"generated": 64}, 1), ({"reference": 65}, 0)])
def test_fewer_images_than_features_have_no_covariance_of_full_rank(of, says, tmp_path):
    results = Results(tmp_path / "results", **of)
    results.references()
    ((table,), *_) = make_tables(results.folder)
    found = signatures.rank_deficient(table)
    assert len(found) == says
    assert all("64 " in sentence and "at most 63 of 64 dimensions" in sentence for sentence in found)


@pytest.mark.parametrize("of_q_agg, says", [(0.55, True), (0.54, False), (None, False)])
def test_a_classifier_tells_no_hole_that_it_sees_in_draws_of_q_agg_too(of_q_agg, says, tmp_path):
    """An AUC of 0.55 is above 1/2, and not above what the aggregate posterior itself has."""
    areas = [("gaussian", "c2st_auc", 0.55), ("aggregate_posterior", "c2st_auc", of_q_agg)]
    found = signatures.no_hole(table_of(tmp_path, [("gaussian", "mmd_imq_p", 0.4), *areas]))
    assert any(sentence.startswith("no hole seen in latents") for sentence in found) is says


def test_one_seed_tells_of_no_missing_hole(tmp_path):
    results = Results(tmp_path / "results")
    results.references([3.0], [3.0])
    results.add("gaussian", "mmd", {"mmd_imq_p": 0.9, "c2st_auc": 0.5})
    ((table,), *_) = make_tables(results.folder)
    assert signatures.no_hole(table) == []


def test_a_fit_that_diverged_is_a_blow_up_and_one_that_failed_is_not(tmp_path):
    results = Results(tmp_path / "results")
    results.references()
    results.scores("mcmc_ebm", [4.0, 4.1])
    for seed in (3, 2):
        results.add("mcmc_ebm", "fit", {"status": "diverged", "reason": "energies parted"}, seed)
    results.add("evalp", "fit", {"status": "diverged", "reason": "energies parted"}, 1)
    results.add("ncp", "fit", {"status": "failed", "reason": "ValueError: no"})
    ((table,), *_) = make_tables(results.folder)
    assert signatures.blow_up(table) == [
        "blow-up of evalp: its fit diverged with seed 1",
        "blow-up of mcmc_ebm: its fit diverged with seeds 2, 3, its numbers are of the others",
    ]
    assert "Note: blow-up of evalp: its fit diverged with seed 1\n" in results.text


def test_a_hole_that_latents_do_not_show_is_said_with_the_gap_that_images_show(tmp_path):
    (found,) = signatures.no_hole(table_of(tmp_path, [("gaussian", "mmd_imq_p", 0.4), ("gaussian", "c2st_auc", 0.5)]))
    assert "images tells a gap of 8" in found
    changes = [("gaussian", "mmd_imq_p", 0.4), ("gaussian", "c2st_auc", 0.5), ("aggregate_posterior", "fd", 10.0)]
    assert len(found := signatures.no_hole(table_of(tmp_path / "none", changes))) == 2
    assert "tells a gap" not in found[1]


def test_a_weak_hierarchy_is_not_its_decoder_alone(tmp_path):
    weak = [("aggregate_posterior", "fd", 10 * (1 - REPAIRABLE * BELOW))]
    (found,) = signatures.weak_backbone(table_of(tmp_path, weak))
    assert "the decoder's" in found
    assert "lower groups" not in found
    results = Results(tmp_path / "results")
    results.add("full_reconstruction", "fd", {"fd": 1.25}, 0)
    ((table,), *_) = make_tables(results.folder)
    (found,) = signatures.weak_backbone(table)
    assert "the lower groups' and the decoder's (1.25 is left where every group is inferred)" in found


@pytest.mark.parametrize("ceiling", [10.0, 12.0])
def test_a_backbone_with_nothing_to_repair_is_told_so(ceiling, tmp_path):
    (found,) = signatures.weak_backbone(table_of(tmp_path, [("aggregate_posterior", "fd", ceiling)]))
    assert found == (
        "weak backbone: the aggregate posterior's FD digit-cnn is no lower than N(0, I)'s: there is nothing to repair"
    )


def test_rows_of_one_prior_by_several_versions_of_its_code_are_told(tmp_path):
    results = Results(tmp_path / "results")
    results.references()
    for label, source in (("mine", "edited"), ("mine[steps=5]", "first"), ("other", "first")):
        results.add(label, "fit", {"fit_seconds": 1.0}, source=source)
        results.scores(label, [3.0], source=source)
    (table,) = make_tables(results.folder)[0]
    (sentence,) = signatures.several_sources(table)
    assert sentence.startswith("several sources of mine: its rows were made by 2 versions of its code")
    assert "(mine; mine[steps=5])" in sentence
    assert sentence in results.text
