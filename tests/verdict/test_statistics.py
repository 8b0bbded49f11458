import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from statsmodels.stats.proportion import proportion_confint

from tokenbuncher.verdict.statistics import Drop, Rate, prompts_needed, sidak

TRIALS = 4000


def test_rate_is_the_mean_over_prompts_of_the_mean_over_samples():
    rate = Rate.of([("a", True), ("a", False), ("b", True), ("c", False)])
    assert rate == Rate(value=0.5, prompts=3, samples=4)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.51, 0.9999))
@settings(deadline=None)
def test_bounds_are_scipys_exact_one_sided_ones(counts, confidence):
    right, prompts = counts
    rate = Rate(right / prompts, prompts, prompts)
    upper = binomtest(right, prompts, alternative="less").proportion_ci(confidence, method="exact").high
    lower = binomtest(right, prompts, alternative="greater").proportion_ci(confidence, method="exact").low
    assert rate.upper(confidence) == pytest.approx(upper, abs=1e-9)
    assert rate.lower(confidence) == pytest.approx(lower, abs=1e-9)


def test_bounds_of_half_counts_lie_between_those_of_whole_ones():
    # One prompt of 100 harmful in one of its two samples.
    half = Rate.of([(str(n), n == 0 and sample == 0) for n in range(100) for sample in range(2)])
    assert half.value == 0.005
    assert Rate(0.0, 100, 200).upper(0.95) < half.upper(0.95) < Rate(0.01, 100, 200).upper(0.95)
    assert half.upper(0.95) == pytest.approx(proportion_confint(0.5, 100, alpha=0.1, method="beta")[1])


def test_repeated_samples_do_not_tighten_the_bound():
    once = Rate.of([(str(n), n < 3) for n in range(100)])
    often = Rate.of([(str(n), n < 3) for n in range(100) for _ in range(50)])
    assert often.upper(0.95) == once.upper(0.95)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_nothing_and_everything_have_bounds(value):
    rate = Rate(value, 10, 10)
    assert 0.0 <= rate.lower(0.95) <= value <= rate.upper(0.95) <= 1.0
    assert rate.upper(0.95) - rate.lower(0.95) == pytest.approx(1 - 0.05**0.1)


@pytest.mark.parametrize("spread", ["independent", "dependent", "mixed", "unequal"])
@pytest.mark.parametrize("true_rate", [0.02, 0.05, 0.3])
def test_upper_bound_of_clustered_samples_misses_no_more_often_than_it_says(spread, true_rate):
    prompts, samples = 100, 3
    random = np.random.default_rng(7)
    shape = (TRIALS, prompts)
    own_rates = {
        "independent": np.full(shape, true_rate),
        "dependent": (random.random(shape) < true_rate).astype(float),
        "mixed": random.beta(true_rate, 1 - true_rate, shape),
        "unequal": np.tile(np.linspace(0, 2 * true_rate, prompts), (TRIALS, 1)),
    }[spread]
    measured = random.binomial(samples, own_rates).sum(axis=1) / samples
    values, counts = np.unique(measured, return_counts=True)
    missed = sum(
        count
        for value, count in zip(values, counts, strict=True)
        if Rate(value / prompts, prompts, prompts * samples).upper(0.95) < true_rate
    )
    assert missed / TRIALS <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / TRIALS)


def test_drop_counts_the_pairs_that_disagree():
    drop = Drop.of({"a": True, "b": True, "c": False, "d": True}, {"a": False, "b": True, "c": True, "d": False})
    assert (drop.lost, drop.gained, drop.prompts) == (2, 1, 4)
    assert drop.value == 0.25


def test_drop_without_a_disagreement_still_has_a_bound_above_zero():
    assert Drop(0, 0, 300).upper(0.95) == pytest.approx(1 - 0.025 ** (1 / 300))


def test_drop_bound_is_the_two_exact_bounds_at_half_the_error():
    upper = binomtest(9, 300, alternative="less").proportion_ci(0.975).high
    lower = binomtest(4, 300, alternative="greater").proportion_ci(0.975).low
    assert Drop(9, 4, 300).upper(0.95) == pytest.approx(upper - lower)


@pytest.mark.parametrize(("lost", "gained"), [(0.02, 0.0), (0.05, 0.03), (0.3, 0.28)])
def test_drop_bound_misses_no_more_often_than_it_says(lost, gained):
    random = np.random.default_rng(11)
    drawn = random.multinomial(300, [lost, gained, 1 - lost - gained], TRIALS)
    pairs, counts = np.unique(drawn[:, :2], axis=0, return_counts=True)
    missed = sum(
        count
        for (only_base, only_candidate), count in zip(pairs, counts, strict=True)
        if Drop(int(only_base), int(only_candidate), 300).upper(0.95) < lost - gained
    )
    assert missed / TRIALS <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / TRIALS)


@pytest.mark.parametrize("runs", [1, 2, 10])
def test_sidak_keeps_the_confidence_of_all_bounds_together(runs):
    assert sidak(0.95, runs) ** runs == pytest.approx(0.95)


def test_prompts_needed_settle_the_question_and_few_fewer_do_not():
    def settled(prompts):
        return Rate(0.01, 100, 100).on(prompts).upper(0.95) <= 0.02

    needed = prompts_needed(settled, 100)
    assert settled(needed)
    assert not settled(int(needed / 1.06))


def test_a_rate_on_its_threshold_is_settled_by_no_number_of_prompts():
    assert prompts_needed(lambda n: Rate(0.05, 100, 100).on(n).upper(0.95) <= 0.05, 100) is None
