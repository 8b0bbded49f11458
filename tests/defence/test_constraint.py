import math
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbuncher.core.errors import UserError
from tokenbuncher.defence.constraint import MULTIPLIERS, SLOWEST, Constraint


def after(usages, **start):
    constraint = Constraint(**start)
    for usage in usages:
        constraint.observe(usage, fastest=1e-3)
    return constraint


def test_the_multiplier_grows_above_the_bound_and_shrinks_below_it():
    assert after([1.5] * 20).multiplier > Constraint().multiplier > after([0.5] * 20).multiplier
    assert after([1.0] * 20).multiplier == pytest.approx(Constraint().multiplier)


def test_the_multiplier_stays_within_its_bounds():
    assert after([1e9] * 1000).multiplier == MULTIPLIERS[1]
    assert after([0.0] * 1000).multiplier == MULTIPLIERS[0]


def test_the_rate_grows_until_steps_cost_something_and_never_above_the_fastest():
    assert after([0.0] * 10).rate > Constraint().rate
    assert after([0.0] * 1000).rate == 1e-3
    assert after([1.0] * 10, rate=1e-4).rate == 1e-4
    assert after([3.0] * 10, rate=1e-4).rate < 1e-4


def test_the_rate_shrinks_while_steps_cost_too_much_but_not_to_nothing():
    slowest = SLOWEST * after([0.0] * 12).highest
    assert after([0.0] * 12 + [30.0] * 1000).rate == pytest.approx(slowest)
    assert after([0.0] * 12 + [30.0] * 1000 + [0.1] * 60).rate > 2 * slowest


def test_one_bad_batch_does_not_count_for_much():
    assert after([0.1] * 10 + [3.0], rate=1e-4).usage < 1.0


def test_no_rate_is_above_the_fastest():
    assert after([3.0, 1.0], rate=1e-2).rate <= 1e-3


@pytest.mark.parametrize("cost", [math.nan, math.inf])
def test_a_cost_that_is_no_number_is_refused(cost):
    with pytest.raises(UserError, match=r"lower defence\.learning_rate"):
        after([1.0, cost])


COSTS = st.one_of(st.floats(0.0, 1.0), st.floats(0.0, 1e6))


@given(st.lists(COSTS, min_size=1, max_size=200), st.floats(1e-8, 1.0), st.floats(1e-8, 1.0))
def test_whatever_steps_cost_rate_and_multiplier_stay_within_bounds(costs, first, fastest):
    constraint = Constraint(rate=min(first, fastest))
    for cost in costs:
        constraint.observe(cost, fastest=fastest)
        assert 0.0 < constraint.rate <= fastest
        assert MULTIPLIERS[0] <= constraint.multiplier <= MULTIPLIERS[1]
        assert 0.0 <= constraint.usage <= max(costs)


@given(st.lists(COSTS, max_size=50), st.sampled_from([math.nan, math.inf, -math.inf]))
def test_whatever_came_before_a_cost_that_is_no_number_changes_nothing(costs, cost):
    constraint = after(costs)
    before = asdict(constraint)
    with pytest.raises(UserError):
        constraint.observe(cost, fastest=1e-3)
    assert asdict(constraint) == before


@given(st.lists(st.floats(0.0, 50.0), max_size=40), st.floats(0.0, 0.45))
def test_after_a_burst_the_rate_recovers_while_steps_cost_less_than_half_of_the_bound(burst, cost):
    burdened = after([0.0] * 60 + burst)
    assert after([cost] * 300, **asdict(burdened)).rate == 1e-3


@given(st.floats(0.5, 2.0), st.integers(1, 300))
def test_between_half_of_the_bound_and_twice_it_the_rate_stays(cost, steps):
    assert after([cost] * steps, rate=1e-4, usage=cost).rate == 1e-4
