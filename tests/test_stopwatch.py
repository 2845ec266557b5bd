"""How often is timed: the repeats, the limit of seconds, and three at least."""

import time

from draws import CPU

from benchmark.machine.stopwatch import measure_durations


def test_durations_take_three_repeats_even_over_the_limit():
    calls = []

    def slow():
        calls.append(time.sleep(0.01))

    taken = measure_durations(slow, CPU, repeats=20, seconds=0.0)
    assert len(taken) == len(calls) == 3
    assert all(0.01 <= seconds < 1 for seconds in taken)


def test_durations_stop_at_the_repeats():
    assert len(measure_durations(lambda: None, CPU, repeats=7, seconds=1e9)) == 7
    assert len(measure_durations(lambda: None, CPU, repeats=1, seconds=1e9)) == 3


def test_durations_stop_at_the_time_limit():
    taken = measure_durations(lambda: time.sleep(0.02), CPU, repeats=1000, seconds=0.1)
    assert 3 <= len(taken) <= 5
    assert sum(taken[:-1]) < 0.1
