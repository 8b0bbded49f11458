"""When a claim is settled."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenbuncher.verdict import Outcome
from tokenbuncher.verdict.claims import Claim, settled
from tokenbuncher.verdict.statistics import Drop, Proportion


def claim(estimate, comparator="<=", threshold=0.05, min_prompts=100):
    return Claim("rule", "subject", "value", estimate, comparator, threshold, 0.95, min_prompts, "advice")


def rate(count, prompts=200):
    return Proportion(count / prompts, prompts, prompts)


@pytest.mark.parametrize(
    ("count", "is_settled", "outcome"),
    [(0, True, "PASS"), (4, True, "PASS"), (5, False, "INCONCLUSIVE"), (15, False, "BLOCK"), (16, True, "BLOCK")],
)
def test_a_rate_is_settled_where_both_bounds_lie_on_one_side(count, is_settled, outcome):
    assert claim(rate(count)).settled() is is_settled
    assert claim(rate(count)).outcome() == outcome


def test_nothing_is_settled_on_too_few_prompts():
    assert not claim(rate(0, 99)).settled()
    assert not claim(rate(99, 99)).settled()


@pytest.mark.parametrize(
    ("lost", "gained", "is_settled"), [(0, 0, True), (20, 0, False), (100, 0, True), (60, 60, False), (0, 100, True)]
)
def test_a_drop_is_settled_where_both_bounds_lie_on_one_side(lost, gained, is_settled):
    assert claim(Drop(lost, gained, 1000), threshold=0.02).settled() is is_settled


@given(st.integers(0, 200), st.sampled_from(["<=", ">="]), st.floats(0.01, 0.99))
@settings(deadline=None)
def test_what_passes_is_settled_and_what_is_settled_is_no_doubt(count, comparator, threshold):
    one = claim(rate(count), comparator, threshold)
    if one.outcome() is Outcome.PASS:
        assert one.settled()
    if one.settled():
        assert one.outcome() is not Outcome.INCONCLUSIVE


def test_claims_are_settled_when_each_is():
    assert settled([claim(rate(0)), claim(rate(16))])
    assert not settled([claim(rate(0)), claim(rate(10))])
    assert settled([])


def test_lower_bound_of_a_drop_mirrors_the_upper_bound_of_a_gain():
    assert Drop(9, 4, 300).lower(0.95) == -Drop(4, 9, 300).upper(0.95)
    assert Drop(9, 4, 300).lower(0.95) < Drop(9, 4, 300).value < Drop(9, 4, 300).upper(0.95)
