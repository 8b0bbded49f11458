import math

import pytest

from tokenbuncher.core.errors import UserError
from tokenbuncher.defence.constraint import FIRST_RATE, MULTIPLIERS, Constraint


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
    assert after([30.0] * 1000, rate=1e-4).rate == FIRST_RATE
    assert after([30.0] * 1000 + [0.1] * 60, rate=1e-4).rate > 2 * FIRST_RATE


def test_one_bad_batch_does_not_count_for_much():
    assert after([0.1] * 10 + [3.0], rate=1e-4).usage < 1.0


def test_no_rate_is_above_the_fastest():
    assert after([3.0, 1.0], rate=1e-2).rate <= 1e-3


@pytest.mark.parametrize("cost", [math.nan, math.inf])
def test_a_cost_that_is_no_number_is_refused(cost):
    with pytest.raises(UserError, match=r"lower defence\.learning_rate"):
        after([1.0, cost])
