"""Whose a value is: what a fit, a draw or a metric says of itself never stands in the place of what was measured."""

from __future__ import annotations

import itertools
import json
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from commands import the_record

from benchmark.bundles.bundle import open_bundle
from benchmark.extractors.digit_cnn import DigitCNN
from benchmark.jobs.claims import _own
from benchmark.protocol import PRESETS, make_protocol, read_protocols
from benchmark.registry import Registry

METRIC = """
from benchmark.metrics.api import Column, Metric, hookimpl

class Mine(Metric):
    name = "mine"
    reads = ("split",)
    {declared}
    def measure(self, evaluation):
        return {returned}

@hookimpl
def register_metrics():
    return [Mine]
"""
DECLARED = """
    @classmethod
    def columns(cls, protocol):
        return [Column("{value}", "mine", "main", digits=2)]
"""


@pytest.fixture
def run(small_bundle, tmp_path, cli):
    def call(source, metrics, priors="gaussian"):
        (tmp_path / "plugin.py").write_text(source)
        words = ["--bundle", small_bundle, "--seeds", 1, "--device", "cpu", "--plugin", tmp_path / "plugin.py"]
        return cli("run", *words, "--priors", priors, "--metrics", metrics, "--results", tmp_path / "results")

    return call


@pytest.mark.parametrize(
    "value, owner", [("fd", "fd"), ("rate", "cross_entropy"), ("fd_redraws", "redraws"), ("gap_closed", "the suite")]
)
def test_two_metrics_cannot_claim_one_value(value, owner, run, tmp_path):
    done = run(METRIC.format(declared=DECLARED.format(value=value), returned="{}"), "mine")
    assert done.code == 2
    said = f"error: the metrics mine ({tmp_path / 'plugin.py'}) and {owner} both claim the value '{value}'"
    assert said in done.err
    assert not (tmp_path / "results").exists()


def test_a_metric_that_is_not_asked_for_takes_nothing_from_a_built_in(run, tmp_path):
    done = run(METRIC.format(declared=DECLARED.format(value="fd"), returned="{}"), "fd")
    assert done.code == 0, done.err
    assert the_record(tmp_path / "results", "fd", "gaussian")[0]["status"] == "ok"


@pytest.mark.parametrize(
    "value, owner",
    [("mmd_imq_p", "mmd"), ("prior_seconds_1000_quartiles", "sampling_time"), ("png", "samples"), ("fd", "fd")],
)
def test_what_is_returned_without_a_word_is_its_owner_s_too(value, owner, run, tmp_path):
    done = run(METRIC.format(declared="", returned={value: 0.01}), "mine")
    assert done.code == 1
    record, _ = the_record(tmp_path / "results", "mine", "gaussian")
    assert (record["status"], "values" in record) == ("failed", False)
    assert f"it returned '{value}', which is a value of {owner}" in record["reason"]


PRIOR = """
import torch
from priors.api import LatentPrior, hookimpl

class Boaster(LatentPrior):
    name = "boaster"
    def fit(self, posterior, generator, progress): ...
    def sample(self, n, generator):
        return torch.randn(n, *self.latent_shape, generator=generator)
    def diagnostics(self, generator):
        return {told}

@hookimpl
def register_priors():
    return [Boaster]
"""


@pytest.mark.parametrize("name", ["prior_seconds_4", "replayed_seconds_4_quartiles", "parameters", "fd", "fit_seconds"])
def test_a_draw_s_diagnostics_are_no_measurement(name, run, tmp_path):
    done = run(PRIOR.format(told={name: 1e-9}), "sampling_time", "boaster")
    assert done.code == 1
    record, _ = the_record(tmp_path / "results", "sampling_time", "boaster")
    assert record["status"] == "failed"
    assert name in record["reason"]


def test_what_no_metric_measures_is_a_draw_s_own(run, tmp_path):
    assert run(PRIOR.format(told={"acceptance": 0.5}), "sampling_time", "boaster").code == 0
    assert the_record(tmp_path / "results", "sampling_time", "boaster")[0]["values"]["acceptance"] == 0.5


@pytest.mark.parametrize("preset", PRESETS)
def test_no_two_built_ins_claim_one_value(preset, small_bundle):
    registry = Registry()
    protocol = make_protocol(open_bundle(small_bundle), PRESETS[preset], "test", DigitCNN(), features=64)
    protocol = protocol.model_copy(update={"groups": {"chosen": [0, 1]}})  # with which every metric has columns
    own = {name: set(_own(registry.get("metric", name), protocol)) for name in registry.at_hand("metric")}
    assert all(own.values())
    assert [(one, other) for one, other in itertools.combinations(own, 2) if own[one] & own[other]] == []


def test_every_recorded_value_is_claimed_by_the_metric_that_measured_it():
    """Those of the shipped results: what a metric returns and does not claim another could take."""
    results, registry = Path(__file__).parents[1] / "results", Registry()
    protocols = [protocol for _, protocol in read_protocols(results)[0]]
    own = {
        name: {each for protocol in protocols for each in _own(registry.get("metric", name), protocol)}
        for name in registry.at_hand("metric")
    }
    returned = {
        (record["kind"], name)
        for record in (json.loads(path.read_bytes()) for path in (results / "records").rglob("*.json"))
        if record["status"] == "ok" and record["kind"] in own
        for name in record["values"]
    }
    of_diagnostics = {("sampling_time", "effective_sample_size")}
    assert len(returned) > 50
    assert [
        (kind, name)
        for kind, name in sorted(returned - of_diagnostics)
        if not any(fnmatchcase(name, each) for each in own[kind])
    ] == []
