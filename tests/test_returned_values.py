"""What a metric or a fit returned: what tables and means can use, or a failure that says what it was."""

import pytest

from benchmark.jobs.contract import check_facts, check_values
from benchmark.jobs.failures import Broken


@pytest.mark.parametrize("value", [None, {"a": 1}, [1.0, None], [[{}]], 10**400, [-(10**400)]])
def test_a_value_that_no_table_can_use_is_refused(value):
    with pytest.raises(Broken, match=r"measure returned it="):
        check_values({"it": value})
    with pytest.raises(Broken, match=r"fit returned it"):
        check_facts({"it": value})


@pytest.mark.parametrize("name", ["gap_closed", "fit_seconds"])
def test_a_fit_says_nothing_under_a_name_of_the_suite(name):
    with pytest.raises(Broken, match=f"fit returned {name}, which is the suite's own name"):
        check_facts({name: 0.99})


@pytest.mark.parametrize("value", [1.5, 3, "words", [1.0, 2], [["a"], []], 10**300])
def test_numbers_sentences_and_lists_of_them_are_values(value):
    assert check_values({"it": value}) == {"it": value}
