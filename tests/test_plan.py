"""What was typed -> rows and jobs: the grammar of --priors, labels, budgets, and the identities of what is done."""

from __future__ import annotations

from typing import get_args

import pytest
from pydantic import Field

from benchmark.bundles.bundle import Bundle, open_bundle
from benchmark.bundles.find import SHIPPED
from benchmark.errors import UsageError
from benchmark.extractors.digit_cnn import DigitCNN
from benchmark.jobs.identity import Job, class_identity
from benchmark.jobs.plan import make_jobs, make_prior_row, make_rows
from benchmark.protocol import PRESETS, PresetName, choose_preset, make_protocol
from benchmark.registry import Registry
from benchmark.request import Request
from benchmark.settings import format_value, parse_named, parse_value
from benchmark.store.records import record_id
from priors.api import LatentPrior, PriorConfig, sampling_setting
from priors.evalp import EVaLP

BUNDLE = open_bundle(SHIPPED / "digits-conv_vae")
ALWAYS = ["aggregate_posterior", "reconstruction", "full_reconstruction", "gaussian"]


def made(priors, budget="quick", bundle=BUNDLE):
    return make_rows(Registry(), Request(priors=priors).priors, bundle, budget)


def labels(priors, budget="quick"):
    return [row.label for row in made(priors, budget)]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("gaussian", [("gaussian", [{}])]),
        ("evalp,gaussian", [("evalp", [{}]), ("gaussian", [{}])]),
        (" evalp , gaussian ", [("evalp", [{}]), ("gaussian", [{}])]),
        ("evalp[steps=20]", [("evalp", [{"steps": 20}])]),
        ("evalp[gp_weight=1,10],gaussian", [("evalp", [{"gp_weight": 1}, {"gp_weight": 10}]), ("gaussian", [{}])]),
        (
            "evalp[gp_weight=1,10,kl_weight=0.5,1]",
            [("evalp", [{"gp_weight": g, "kl_weight": k} for g in (1, 10) for k in (0.5, 1)])],
        ),
        ("evalp[ steps = 20 , weights = release ]", [("evalp", [{"steps": 20, "weights": "release"}])]),
        ("evalp[learning_rate=5e-4]", [("evalp", [{"learning_rate": 0.0005}])]),
        ("evalp[steps=20],evalp[steps=30]", [("evalp", [{"steps": 20}]), ("evalp", [{"steps": 30}])]),
    ],
)
def test_the_grammar_of_priors(text, expected):
    assert parse_named(text, "--priors") == expected


@pytest.mark.parametrize(
    "text",
    [
        "evalp[steps=20",
        "evalp]steps=20[",
        "evalp[steps=20]]",
        "evalp[[steps=20]]",
        "evalp[steps=20]x",
        "evalp[steps=20]gaussian",
        "evalp,,gaussian",
        "evalp,",
        ",evalp",
        "[steps=20]",
        "evalp[]",
        "evalp[steps]",
        "evalp[20]",
        "evalp[steps=]",
        "evalp[steps=20,]",
        "evalp[=20]",
        "evalp[steps=20,steps=30]",
    ],
)
def test_what_the_grammar_does_not_know_is_refused_in_one_line(text):
    with pytest.raises(UsageError) as error:
        made(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, parts",
    [
        ("evlap", ["unknown prior 'evlap'", "did you mean 'evalp'", "gaussian"]),
        ("evalp[step=20]", ["setting of prior evalp", "'step'", "did you mean 'steps'"]),
        ("gaussian[steps=20]", ["setting of prior gaussian", "'steps'"]),
        ("evalp[steps=many]", ["prior evalp", "steps='many'", "integer"]),
        ("evalp[steps=0]", ["prior evalp", "steps=0", "greater than or equal to 1"]),
        ("evalp[steps=2.5]", ["prior evalp", "steps=2.5", "integer"]),
        ("evalp[optimiser=sgd]", ["prior evalp", "optimiser='sgd'", "'adam'", "'rmsprop'"]),
        ("evalp[kl_weight=-1]", ["prior evalp", "kl_weight=-1", "greater than or equal to 0"]),
        ("evalp[kl_weight=NaN]", ["prior evalp", "kl_weight"]),
        ("evalp[gp_weight=Infinity]", ["prior evalp", "gp_weight"]),
        ("aggregate_posterior", ["'aggregate_posterior' is a reference row", "always shown"]),
        ("evalp,reconstruction", ["'reconstruction' is a reference row"]),
        ("lars[conv_widths=wide]", ["conv_widths='wide': expected several numbers: typed, 32x64;"]),
        ("gmm[components=autp]", ["components='autp'", "integer", "or: Input should be 'auto'"]),
    ],
)
def test_a_wrong_name_or_value_is_answered_with_what_is_right(text, parts):
    with pytest.raises(UsageError) as error:
        made(text)
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_labels_show_settings_that_are_not_the_default_and_no_others():
    assert labels("gaussian") == ALWAYS
    assert labels("evalp[gp_weight=10]")[len(ALWAYS) :] == ["evalp"]
    assert labels("evalp[gp_weight=1,10]")[len(ALWAYS) :] == ["evalp[gp_weight=1]", "evalp"]
    assert labels("evalp[gp_weight=1.0,weights=exact]")[len(ALWAYS) :] == ["evalp[gp_weight=1]"]
    assert labels("evalp[kl_weight=1,proposals=4]")[len(ALWAYS) :] == ["evalp[kl_weight=1,proposals=4]"]
    assert labels("evalp[optimiser=rmsprop]")[len(ALWAYS) :] == ["evalp[optimiser=rmsprop]"]


def test_a_label_is_the_same_in_whatever_order_its_settings_were_typed():
    assert labels("evalp[gp_weight=1,kl_weight=2]") == labels("evalp[kl_weight=2,gp_weight=1]")
    assert len(labels("evalp[gp_weight=1,kl_weight=2],evalp[kl_weight=2,gp_weight=1]")) == len(ALWAYS) + 1


def test_different_settings_have_different_labels():
    values = [1, 1.0000001, 1.0000002, 1e-7, 1.0000001e-7]
    configs = {
        row.label: row.config["gp_weight"]
        for row in made(f"evalp[gp_weight={','.join(map(repr, values))}]")[len(ALWAYS) :]
    }
    assert list(configs.values()) == values


def test_evalp_by_its_bare_name_brings_the_objective_as_written():
    assert labels("evalp") == [*ALWAYS, "evalp", "evalp[kl_weight=1]"]
    assert labels("evalp[steps=20]") == [*ALWAYS, "evalp[steps=20]"]
    assert {"evalp", "evalp[kl_weight=1]"} <= set(labels(None))


@pytest.mark.parametrize("priors", ["evalp[steps=20]", "gaussian", "gaussian,gaussian", None])
def test_gaussian_and_the_reference_rows_are_always_there_and_once(priors):
    shown = labels(priors)
    assert shown[: len(ALWAYS)] == ALWAYS
    assert len(shown) == len(set(shown))


def test_all_is_every_prior_at_hand_a_group_its_members_and_the_default_a_handful():
    registry = Registry()
    priors = registry.all("prior")
    assert {row.name for row in made("all") if row.prior} == set(priors)
    groups = {"closed_form", "flows", "energy", "many_pass", "one_pass"}
    assert {cls.group for cls in priors.values()} == groups
    for group in groups:
        members = {name for name, cls in priors.items() if cls.group == group}
        assert {row.name for row in made(group) if row.prior} == members | {"gaussian"}
    flows = {name for name, cls in priors.items() if cls.group == "flows"}
    assert {row.name for row in made("flows,gmm") if row.prior} == {"gaussian", "gmm"} | flows
    handful = {row.name for row in made(None) if row.prior}
    assert handful == {name for name, cls in priors.items() if cls.by_default}
    assert {"gaussian", "evalp", "ncp", "gmm"} <= handful < set(priors)
    with pytest.raises(
        UsageError, match="'energy' is a group: it takes no settings; its priors are energy_matching, evalp"
    ):
        made("energy[steps=3]")


@pytest.mark.parametrize("word", ["closed-form", "flow", "ALL"])
def test_a_group_that_is_spelled_otherwise_is_told_the_groups(word):
    groups = "groups: all, closed_form, energy, flows, many_pass, one_pass"
    with pytest.raises(UsageError, match=f"unknown prior '{word}'.*{groups}"):
        made(word)


@pytest.mark.parametrize("words", [" ", "gmm, ", "gmm, [steps=3]"])
def test_a_blank_stands_for_no_priors(words):
    with pytest.raises(UsageError, match="expected a name"):
        made(words)


def config(priors, budget):
    return EVaLP.Config(**made(priors, budget)[-1].config)


def test_quick_caps_the_recipe_and_explicit_settings_override_the_cap():
    full, quick = prior_config("full"), prior_config("quick")
    cap = EVaLP.quick["steps"]
    assert full.steps > cap
    assert quick.steps == cap
    assert full.model_copy(update={"steps": cap}) == quick
    assert config("evalp[steps=20]", "quick").steps == 20
    assert config(f"evalp[steps={cap + 1}]", "quick").steps == cap + 1
    assert labels(f"evalp[steps={cap + 1}]", "quick")[-1] == f"evalp[steps={cap + 1}]"
    assert labels(f"evalp[steps={cap}]", "quick")[len(ALWAYS)] == "evalp"
    assert labels(f"evalp[steps={cap}]", "full")[len(ALWAYS)] == f"evalp[steps={cap}]"


def prior_config(budget, bundle=BUNDLE, **settings):
    return EVaLP.Config(**make_prior_row(Registry(), "evalp", settings, bundle, budget).config)


def test_a_cap_never_raises_what_a_recipe_asks_for(monkeypatch):
    monkeypatch.setitem(EVaLP.recipes, "digits", (16, {"steps": 30}))
    assert prior_config("quick").steps == 30


def of_dataset(name, latent_shape):
    card = {**BUNDLE.card, "dataset": {**BUNDLE.card["dataset"], "name": name}, "latent_shape": list(latent_shape)}
    return Bundle(BUNDLE.path, card)


@pytest.mark.parametrize(
    "dataset, size, from_dataset",
    [("mnist", 3, None), ("owls", 20, "mnist"), ("owls", 60, "celeba64"), ("owls", 500, "cifar10")],
)
def test_an_unknown_data_set_gets_the_recipe_of_the_nearest_latent_size_and_says_so(dataset, size, from_dataset):
    row = make_prior_row(Registry(), "evalp", {}, of_dataset(dataset, (size,)), "full")
    assert row.label == "evalp"
    settings = EVaLP.recipes[from_dataset or dataset][1]
    assert {name: row.config[name] for name in settings} == settings
    if from_dataset is None:
        assert row.note is None
    else:
        assert "owls" in row.note
        assert from_dataset in row.note


def test_full_reconstructions_are_a_row_of_one_seed_and_none_against_training_images():
    there = make_rows(Registry(), [("gaussian", {})], BUNDLE, "quick")
    assert [row.label for row in there] == ALWAYS
    todo = make_jobs(there, BUNDLE, range(2), "quick", "cpu")
    assert [job.seed for job in todo if job.row.label == "full_reconstruction"] == [0]
    assert len(todo) == 7
    against_train = make_rows(Registry(), [("gaussian", {})], BUNDLE, "full", "train")
    assert [row.label for row in against_train] == ["aggregate_posterior", "gaussian"]


def test_jobs_go_seed_by_seed_over_all_rows():
    todo = make_jobs(made("evalp"), BUNDLE, range(3), "quick", "cpu")
    assert [job.seed for job in todo] == [0] * 6 + [1] * 5 + [2] * 5
    assert [job.row.label for job in todo[:6]] == labels("evalp")


def job(budget="quick", bundle=BUNDLE, seed=0, device="cpu", **settings):
    return Job(make_prior_row(Registry(), "evalp", settings, bundle, budget), bundle, seed, budget, device)


def other_bundle():
    return Bundle(BUNDLE.path, {**BUNDLE.card, "seal": "0" * 64})


@pytest.mark.parametrize(
    "change",
    [
        {"bundle": other_bundle()},
        {"budget": "full", "steps": 4000},  # the same settings, under another budget
        {"seed": 1},
        {"device": "cuda"},
        {"kl_weight": 1.0},
        {"batch_size": 65},
    ],
    ids=lambda change: ",".join(change),
)
def test_a_fit_id_changes_with_all_that_decides_a_fit(change):
    assert job(**change).fit_id != job().fit_id


def test_a_fit_id_changes_with_the_version_of_the_prior(monkeypatch):
    before = job().fit_id
    monkeypatch.setattr(EVaLP, "version", EVaLP.version + 1)
    assert job().fit_id != before


def test_a_fit_id_changes_between_priors_and_is_stable():
    ids = [Job(row, BUNDLE, 0, "quick", "cpu").fit_id for row in made("evalp")]
    assert len(set(ids)) == len(ids)
    assert ids == [Job(row, BUNDLE, 0, "quick", "cpu").fit_id for row in made("evalp")]
    assert all(len(id) == 32 and set(id) <= set("0123456789abcdef") for id in ids)


@pytest.mark.parametrize("sampling", [{"proposals": 4}, {"weights": "release"}])
def test_a_sampling_setting_is_no_part_of_a_fit_but_of_its_measurements_and_its_row(sampling):
    plain, changed = job(), job(**sampling)
    assert plain.fit_id == changed.fit_id
    ids = [record_id(j.measurement_identity({"name": "fd", "version": 1}, {}, None)) for j in (plain, changed)]
    assert ids[0] != ids[1]
    assert plain.facts()["config_hash"] != changed.facts()["config_hash"]


def test_seeds_of_a_row_share_its_config_hash_and_rows_do_not():
    by_label = {}
    for each in make_jobs(made("evalp"), BUNDLE, range(3), "quick", "cpu"):
        by_label.setdefault(each.row.label, set()).add(each.facts()["config_hash"])
    assert all(len(hashes) == 1 for hashes in by_label.values())
    assert len(set.union(*by_label.values())) == len(by_label)


class Split(LatentPrior):
    class Config(PriorConfig):
        fit_one: int = Field(1, ge=0)
        draw_one: int = sampling_setting(1, ge=0)

    name = "split"

    def fit(self, posterior, generator, progress): ...

    def sample(self, n, generator): ...


def test_sampling_settings_are_told_apart_and_still_validated():
    config = Split.Config(draw_one=3)
    assert config.fit_settings() == {"fit_one": 1}
    assert config.sampling_settings() == {"draw_one": 3}
    with pytest.raises(ValueError, match=r"draw_one\n *Input should be greater than or equal to 0"):
        Split.Config(draw_one=-1)


def protocol(**change):
    return make_protocol(BUNDLE, PRESETS["quick"], "test", DigitCNN(), features=64).model_copy(update=change)


def measurement_id(metric, given=None, machine=None):
    registry, given = Registry(), given or protocol()
    cls = registry.get("metric", metric)
    machine = (machine or {"device": "a", "threads": 1, "dtype": "float32"}) if cls.machine_bound else None
    return record_id(job().measurement_identity(class_identity(registry, cls), given.part(cls.reads), machine))


METRICS = set(Registry().all("metric"))
OF_IMAGES = {"fd", "fd_infinity", "kid", "neighbours", "memorisation", "fld", "redraws"}
OF_MMD = {"mmd", "mmd_pca64"}
TIMINGS = {"sampling_time", "extraction_time"}
OF_LATENTS = METRICS - (OF_IMAGES - {"redraws"}) - {"samples"} - TIMINGS


@pytest.mark.parametrize(
    "field, value, metrics",
    [
        ("generated", 7, OF_IMAGES),
        ("extractor", {"name": "inception", "version": 1, "weights": "1" * 64}, {*OF_IMAGES, "extraction_time"}),
        ("extractor", {"name": "digit-cnn", "version": 1, "weights": "1" * 64}, {*OF_IMAGES, "extraction_time"}),
        ("reference_split", "train", OF_IMAGES),
        ("rounding", "none", {*OF_IMAGES, "samples"}),
        ("split", "val", METRICS - TIMINGS),
        ("mmd_latents", 7, OF_LATENTS),
        ("mmd_bandwidths", (1.0,), {*OF_MMD, "redraws"}),
        ("mmd_permutations", 7, OF_MMD),
        ("timing_batches", (7,), {"sampling_time"}),
        ("timing_seconds", 7.0, TIMINGS),
        ("redraws", 7, {"redraws"}),
        ("features", 7, set()),
        ("grid_columns", 7, {"samples"}),
    ],
)
def test_a_measurement_id_changes_with_the_settings_that_its_metric_reads_and_no_others(field, value, metrics):
    changed = protocol(**{field: value})
    for metric in METRICS:
        assert (measurement_id(metric, changed) != measurement_id(metric)) == (metric in metrics)
    assert changed.hash != protocol().hash


def test_a_measurement_id_changes_with_its_metric_and_the_version_of_it(monkeypatch):
    names = sorted(METRICS)
    before = {name: measurement_id(name) for name in names}
    assert len(set(before.values())) == len(names)
    monkeypatch.setattr(Registry().get("metric", "fd"), "version", 2)
    assert {name for name in names if measurement_id(name) != before[name]} == {"fd"}


def test_only_timings_belong_to_a_machine():
    other = {"device": "b", "threads": 1, "dtype": "float32"}
    for metric in METRICS:
        assert (measurement_id(metric, machine=other) != measurement_id(metric)) == (metric in TIMINGS)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
@pytest.mark.parametrize("split", ["val", "test"])
def test_a_protocol_draws_no_more_than_the_posteriors_there_are(preset, split):
    counts = BUNDLE.card["posterior_counts"]
    made = make_protocol(BUNDLE, preset, split, DigitCNN(), features=64)
    compared_with = "train" if preset.name == "nvae" else split
    assert made.images == compared_with
    assert made.generated == min(preset.generated, counts["train"], counts[compared_with])
    assert made.mmd_latents == min(preset.mmd_latents, counts["train"], counts[split])
    assert made.reference == counts[compared_with]
    assert (made.preset, made.version, made.budget) == (preset.name, preset.version, preset.budget)


def test_presets_say_what_their_papers_compare():
    counts = {name: (preset.generated, preset.reference_split, preset.budget) for name, preset in PRESETS.items()}
    assert counts["rae"] == (10_000, None, "full")
    assert counts["nvae"] == (50_000, "train", "full")


@pytest.mark.parametrize(
    "name, budget, preset",
    [
        (None, None, "quick"),
        (None, "quick", "quick"),
        (None, "full", "rae"),
        ("nvae", None, "nvae"),
        ("nvae", "full", "nvae"),
        ("quick", "quick", "quick"),
    ],
)
def test_a_budget_has_a_usual_preset(name, budget, preset):
    assert choose_preset(name, budget, "test") is PRESETS[preset]


def test_a_preset_and_another_budget_are_refused_in_one_line():
    with pytest.raises(UsageError, match="--protocol rae has the full budget: leave --budget quick out"):
        choose_preset("rae", "quick", "test")


def test_nothing_is_chosen_by_a_protocol_that_sees_no_split_but_train():
    with pytest.raises(UsageError, match="--protocol nvae compares with training images"):
        choose_preset("nvae", None, "val")


def test_the_command_line_names_the_presets_there_are():
    assert set(get_args(PresetName)) == set(PRESETS)


def test_a_protocol_covers_what_was_measured_under_its_own_settings_alone():
    against_test, reads = protocol(), Registry().get("metric", "fd").reads
    against_train = protocol(reference_split="train")
    for one, other in ((against_test, against_train), (against_train, against_test)):
        assert one.covers(one.part(reads))
        assert not other.covers(one.part(reads))
    latents, machine = (Registry().get("metric", name).reads for name in ("mmd", "extraction_time"))
    assert against_train.covers(against_test.part(machine))
    assert against_train.covers(against_test.part(latents))  # those are held-out whatever images are compared with
    assert "reference_split" not in against_test.part(reads)  # so that records from before it was a field are found


@pytest.mark.parametrize(
    "value", [None, True, False, 1, 0.5, 1e-8, "mlp", "None", "true", "1", (2, 3), (0.02, 1e-08, 2.0)]
)
def test_a_value_can_be_typed_again(value):
    assert repr(parse_value(format_value(value))) == repr(value)


@pytest.mark.parametrize("word, value", [("None", None), ("True", True), ("False", False), ("none", "none")])
def test_words_of_python_are_its_own(word, value):
    assert repr(parse_value(word)) == repr(value)


@pytest.mark.parametrize("temperatures, values", [("0.1", [0.1]), ("0.02x0.3", [0.02, 0.3])])
def test_numbers_that_are_no_sizes_can_be_typed_too(temperatures, values):
    label = f"drifting[temperatures={temperatures}]"
    assert labels(label)[-1] == label
    assert made(label)[-1].config["temperatures"] == values


@pytest.mark.parametrize("widths", ["64", "64x32"])
def test_a_label_can_be_typed_again(widths):
    label = f"ncp[conv_widths={widths}]"
    assert labels(label)[-1] == label
    assert made(label)[-1].config["conv_widths"] == list(map(int, widths.split("x")))
