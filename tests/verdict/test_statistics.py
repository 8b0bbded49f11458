from functools import cache
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, fisher_exact
from statsmodels.stats.proportion import proportion_confint

from tests.evidence_factory import held_arm, measured_as, passing_release
from tokenbuncher.verdict import Outcome
from tokenbuncher.verdict.statistics import (
    Drop,
    Proportion,
    RelativeDrop,
    fisher_p_value,
    prompts_needed,
    sidak,
)

TRIALS = 4000

counts = st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def chance_of(right, prompts, rate):
    """Probability of so many right answers, written out."""
    return comb(prompts, right) * rate**right * (1 - rate) ** (prompts - right)


def test_rate_is_the_mean_over_prompts_of_the_mean_over_samples():
    rate = Proportion.of([("a", True), ("a", False), ("b", True), ("c", False)])
    assert rate == Proportion(value=0.5, prompts=3, samples=4)


@given(counts, st.floats(0.51, 0.9999))
@settings(deadline=None)
def test_bounds_are_scipys_exact_one_sided_ones(counted, confidence):
    right, prompts = counted
    rate = Proportion(right / prompts, prompts, prompts)
    upper = binomtest(right, prompts, alternative="less").proportion_ci(confidence, method="exact").high
    lower = binomtest(right, prompts, alternative="greater").proportion_ci(confidence, method="exact").low
    assert rate.upper(confidence) == pytest.approx(upper, abs=1e-9)
    assert rate.lower(confidence) == pytest.approx(lower, abs=1e-9)


def test_bounds_of_half_counts_lie_between_those_of_whole_ones():
    # One prompt of 100 harmful in one of its two samples.
    half = Proportion.of([(str(n), n == 0 and sample == 0) for n in range(100) for sample in range(2)])
    assert half.value == 0.005
    assert Proportion(0.0, 100, 200).upper(0.95) < half.upper(0.95) < Proportion(0.01, 100, 200).upper(0.95)
    assert half.upper(0.95) == pytest.approx(proportion_confint(0.5, 100, alpha=0.1, method="beta")[1])


def test_repeated_samples_do_not_tighten_the_bound():
    once = Proportion.of([(str(n), n < 3) for n in range(100)])
    often = Proportion.of([(str(n), n < 3) for n in range(100) for _ in range(50)])
    assert often.upper(0.95) == once.upper(0.95)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_nothing_and_everything_have_bounds(value):
    rate = Proportion(value, 10, 10)
    assert 0.0 <= rate.lower(0.95) <= value <= rate.upper(0.95) <= 1.0
    assert rate.upper(0.95) - rate.lower(0.95) == pytest.approx(1 - 0.05**0.1)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("prompts", range(1, 13))
def test_upper_bound_covers_whatever_the_true_rate_is(prompts, confidence):
    bounds = [Proportion(right / prompts, prompts, prompts).upper(confidence) for right in range(prompts + 1)]
    hardest = [bound + 1e-9 for bound in bounds[:-1]]  # just beyond a bound, one count fewer covers
    for rate in [*hardest, *np.linspace(0, 1, 51)]:
        coverage = sum(chance_of(right, prompts, rate) for right, bound in enumerate(bounds) if bound >= rate)
        assert coverage >= confidence - 1e-7


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
        if Proportion(value / prompts, prompts, prompts * samples).upper(0.95) < true_rate
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


def test_what_each_prompt_has_and_lost_is_known():
    assert Proportion.of([("a", True), ("a", False), ("b", True)]).by_prompt == {"a": 0.5, "b": 1.0}
    drop = Drop.of({"a": 1.0, "b": 0.5}, {"a": 0.5, "b": 1.0})
    assert drop.by_prompt == RelativeDrop(drop, Proportion(0.75, 2, 2), 0.0).by_prompt == {"a": 0.5, "b": -0.5}


@pytest.mark.parametrize("other_rate", [0.05, 0.0], ids=["both-at-threshold", "one-at-threshold"])
def test_a_release_whose_true_harm_is_the_threshold_hardly_ever_passes(other_rate):
    release = passing_release()
    policy, prompts, releases = release.spec.policy, release.spec.data.sizes.safety, 2000

    @cache
    def passes(*harmful):
        attacked = release
        for number, (key, count) in enumerate(zip(("grpo-1000", "grpo-1001"), harmful, strict=True), 1):
            attacked = attacked.with_piece(key, candidate_arm=measured_as(held_arm(release.spec, 60, count), number))
        return attacked.judge().outcome is Outcome.PASS

    rates = [policy.max_harm_after_attack, other_rate]
    drawn = np.random.default_rng(5).binomial(prompts, rates, (releases, 2))
    share = sum(passes(*map(int, counted)) for counted in drawn) / releases
    error = 1 - policy.confidence
    assert passes(0, 0)
    assert share <= error + 3 * np.sqrt(error * policy.confidence / releases)
    assert share > 0 or other_rate > 0  # one run alone does pass now and then: the bound is not vacuous


@pytest.mark.parametrize("runs", [1, 2, 10])
def test_sidak_keeps_the_confidence_of_all_bounds_together(runs):
    assert sidak(0.95, runs) ** runs == pytest.approx(0.95)


def test_prompts_needed_settle_the_question_and_few_fewer_do_not():
    def settled(prompts):
        return Proportion(0.01, 100, 100).on(prompts).upper(0.95) <= 0.02

    needed = prompts_needed(settled, 100)
    assert settled(needed)
    assert not settled(int(needed / 1.06))


def test_a_rate_on_its_threshold_is_settled_by_no_number_of_prompts():
    assert prompts_needed(lambda n: Proportion(0.05, 100, 100).on(n).upper(0.95) <= 0.05, 100) is None


@given(counts, counts)
def test_fisher_s_exact_test_is_scipy_s(one, other):
    (first, of_first), (second, of_second) = one, other
    table = [[first, of_first - first], [second, of_second - second]]
    found = fisher_p_value(first, of_first, second, of_second=of_second)
    assert found == pytest.approx(fisher_exact(table).pvalue, rel=1e-6, abs=1e-12)
    assert 0 <= found <= 1
    assert found == pytest.approx(fisher_p_value(second, of_second, first, of_second=of_first))


def test_fisher_s_test_of_equal_shares_is_no_difference():
    assert fisher_p_value(5, 100, 10, of_second=200) == pytest.approx(1.0)
    assert fisher_p_value(0, 100, 0, of_second=200) == 1.0
    assert fisher_p_value(100, 100, 200, of_second=200) == 1.0


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.3])
def test_two_measurements_of_one_rate_differ_by_chance_no_more_often_than_promised(rate):
    rng = np.random.default_rng(3)
    pairs = np.column_stack([rng.binomial(100, rate, TRIALS), rng.binomial(200, rate, TRIALS)])
    low = sum(fisher_p_value(int(a), 100, int(b), of_second=200) < 0.01 for a, b in pairs)
    assert low <= binom.ppf(1 - 1e-6, TRIALS, 0.01)


shares = st.dictionaries(st.integers(0, 30), st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1)


@given(shares, st.data())
def test_a_drop_of_shares_is_the_difference_of_their_means(first, data):
    second = {prompt: data.draw(st.sampled_from([0.0, 0.25, 0.5, 1.0])) for prompt in first}
    drop = Drop.of(first, second)
    assert drop.value == pytest.approx(sum(first.values()) / len(first) - sum(second.values()) / len(first))
    assert drop.value <= drop.upper(0.95) + 1e-12
    assert drop.lower(0.95) <= drop.value + 1e-12
    back = Drop.of(second, first)
    assert (back.lost, back.gained, back.upper(0.95)) == (drop.gained, drop.lost, -drop.lower(0.95))


def test_half_of_a_prompt_s_samples_count_half():
    drop = Drop.of({"a": 1.0, "b": 0.5, "c": 0.0}, {"a": 0.5, "b": 0.0, "c": 0.5})
    assert (drop.lost, drop.gained, drop.prompts) == (1.0, 0.5, 3)


def test_of_samples_that_agree_a_drop_is_that_of_answers():
    right = {n: n < 90 for n in range(100)}, {n: n < 70 for n in range(100)}
    assert Drop.of(*right) == Drop(20, 0, 100)
    assert Drop.of(*({n: float(so) for n, so in own.items()} for own in right)) == Drop(20, 0, 100)


@pytest.mark.parametrize("samples", [1, 2, 4])
def test_the_bound_of_a_rise_holds_whatever_the_samples_of_a_prompt(samples):
    """Harm of 5 % before and 35 % after; prompts of very different rates."""
    rng, prompts, confidence = np.random.default_rng(samples), 200, 0.95
    trials, misses = 500, 0
    for _ in range(trials):
        easy = rng.beta(0.5, 1.0, prompts)  # mean 1/3
        before = rng.binomial(samples, easy * 0.15) / samples
        after = rng.binomial(samples, easy) / samples
        rise = Drop.of(dict(enumerate(after)), dict(enumerate(before)))
        misses += rise.lower(confidence) > 0.85 / 3
    assert misses / trials <= 1 - confidence + 3 * np.sqrt(0.05 * 0.95 / trials)


# Relative loss.


def relative(lost, gained, right, prompts, chance=0.0):
    return RelativeDrop(Drop(lost, gained, prompts), Proportion(right / prompts, prompts, prompts), chance)


def test_a_relative_drop_is_a_share_of_what_is_above_chance():
    assert relative(10, 0, 100, 1000).value == pytest.approx(0.1)
    assert relative(10, 0, 350, 1000, chance=0.25).value == pytest.approx(0.1)
    assert relative(10, 20, 100, 1000).value == 0.0  # gained
    assert relative(500, 0, 100, 1000).value == 1.0
    assert relative(1, 0, 250, 1000, chance=0.25).value == 1.0  # nothing above chance to lose


@pytest.mark.parametrize(("accuracy", "chance"), [(0.9, 0.0), (0.3, 0.0), (0.6, 0.25), (0.4, 0.25)])
@pytest.mark.parametrize("truth", [0.05, 0.2])
def test_the_bounds_of_a_relative_drop_hold(accuracy, chance, truth):
    rng, prompts, confidence = np.random.default_rng(11), 400, 0.95
    lost = truth * (accuracy - chance)
    cells = rng.multinomial(prompts, [lost, accuracy - lost, 1 - accuracy], TRIALS)
    drops = [relative(int(gone), 0, int(gone + kept), prompts, chance) for gone, kept, _ in cells]
    most = binom.ppf(1 - 1e-6, TRIALS, 1 - confidence)
    assert sum(drop.upper(confidence) < truth for drop in drops) <= most
    assert sum(drop.lower(confidence) > truth for drop in drops) <= most


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n))))
def test_a_relative_drop_lies_between_its_bounds(drawn):
    prompts, right, lost = drawn[0], max(drawn[1:]), min(drawn[1:])
    drop = relative(lost, 0, right, prompts)
    assert 0 <= drop.lower(0.95) <= drop.value <= drop.upper(0.95) <= 1
    if 0 < drop.value < 1:
        assert drop.on(10 * prompts).upper(0.95) <= drop.upper(0.95) + 1e-9
