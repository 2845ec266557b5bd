"""Sampling time: each batch with what explains it, and no warm-up counted."""

import time

import torch
from evaluations import evaluation

from benchmark.metrics.sampling_time import SamplingTime
from priors.api import PriorConfig
from priors.gaussian import Gaussian


def test_the_first_draw_of_each_batch_is_a_warm_up_and_not_counted(held_out):
    class Slow(Gaussian):
        waits = iter([0.4, 0, 0, 0, 0] * 2)

        def sample(self, n, generator):
            time.sleep(next(self.waits))
            return super().sample(n, generator)

    asked = evaluation(Slow((2, 3), PriorConfig()), held_out, timing_batches=(3, 50), timing_repeats=4)
    values = SamplingTime().measure(asked)
    assert all(values[f"prior_seconds_{batch}_quartiles"][1] < 0.05 for batch in (3, 50))


def test_sampling_time_reports_each_batch_with_what_explains_it(held_out):
    asked = []

    class Noting(Gaussian):
        def sample(self, n, generator):
            asked.append(n)
            time.sleep(0.001)
            return super().sample(n, generator)

    source = Noting((2, 3), PriorConfig())
    values = SamplingTime().measure(evaluation(source, held_out, timing_batches=(3, 50), timing_repeats=5))
    assert sorted(set(asked)) == [3, 50]
    for batch in (3, 50):
        for what in ("prior", "decode", "images"):
            low, high = values[f"{what}_seconds_{batch}_quartiles"]
            assert 0 < low <= values[f"{what}_seconds_{batch}"] <= high < 1
        prior, decode, images = (values[f"{what}_seconds_{batch}"] for what in ("prior", "decode", "images"))
        assert prior > 0.001
        assert images == prior + decode
        assert values[f"prior_repeats_{batch}"] == values[f"decode_repeats_{batch}"] == 5
        assert values[f"prior_peak_bytes_{batch}"] == batch * 6 * 4
        assert values[f"decode_peak_bytes_{batch}"] == batch * 6 * 4
    assert len(asked) == 2 * 6, "what is decoded to be timed is not asked of a prior that may be slow"
    assert values["network_evaluations"] == 0
    assert values["parameters"] == 0


def test_the_decoder_is_timed_once_for_all_rows_of_a_seed(held_out):
    calls, shared = [], {}

    def decode(z, generator):
        calls.append(len(z))
        return z.sigmoid()

    values = []
    for seed in (0, 0, 1):
        asked = evaluation(Gaussian((2, 3), PriorConfig()), held_out, seed, timing_batches=(3, 50), timing_repeats=4)
        asked.backbone.decode, asked.decoding = decode, shared
        values.append(SamplingTime().measure(asked))
    assert calls == 2 * [3, 3, 3, 3, 3, 50, 50, 50, 50, 50]  # of two seeds: the peak, and four repeats
    one, other, _ = ([each for name, each in row.items() if name.startswith("decode")] for row in values)
    assert one == other


def test_diagnostics_do_not_hang_on_how_many_draws_the_clock_lets_through(held_out):
    class Telling(Gaussian):
        def diagnostics(self, generator):
            return {"told": torch.rand((), generator=generator).item()}

    source = Telling((2, 3), PriorConfig())
    asked = (evaluation(source, held_out, timing_batches=(3,), timing_repeats=repeats) for repeats in (2, 9))
    one, other = (SamplingTime().measure(each)["told"] for each in asked)
    assert one == other
