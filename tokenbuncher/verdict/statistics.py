"""Shares and paired drops with exact confidence bounds.

Judged bounds are Clopper-Pearson (scipy's beta quantiles), each on one side at the given confidence. A prompt counts
once, however many samples it has: the count is the sum over the prompts of the mean of their samples, the number of
trials is the number of distinct prompts. Samples of one prompt are thus taken as fully dependent, the case in which
they say least: a prompt whose samples differ varies less than one that is all or nothing, and prompts that differ in
their rates vary less in sum than prompts alike (Hoeffding 1956, doi:10.1214/aoms/1177728178), so the bound is
conservative. A bootstrap over prompts would be useless where it matters: it gives 0 for 0 of n.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Literal

from tokenbuncher.evidence import SampleScore

MOST_PROMPTS = 1_000_000
ROUNDING = 1e-7
"""Likelihoods that differ by less, relatively, are the same."""

Scored = Literal["harmful", "refused", "partial", "declined", "answered", "gibberish", "readable", "cut_off"]


@dataclass(frozen=True)
class Proportion:
    """A share of responses, clustered by prompt."""

    value: float
    prompts: int
    samples: int
    by_prompt: Mapping[str, float] = field(default_factory=dict, compare=False, repr=False)
    """The mean of each prompt's samples; empty if only the share itself is known."""

    @classmethod
    def of(cls, answers: Iterable[tuple[str, bool]]) -> Proportion:
        """The share of true answers.

        Args:
            answers: The prompt identifier and the answer of each sample; at least one.
        """
        found = defaultdict(list)
        for prompt, answer in answers:
            found[prompt].append(answer)
        means = {prompt: sum(own) / len(own) for prompt, own in found.items()}
        return cls(math.fsum(means.values()) / len(means), len(means), sum(map(len, found.values())), means)

    def lower(self, confidence: float) -> float:
        """The true share is at least this, with the given confidence (0.5 to 1)."""
        return _clopper_pearson(self.value * self.prompts, self.prompts, confidence)[0]

    def upper(self, confidence: float) -> float:
        """The true share is at most this, with the given confidence (0.5 to 1)."""
        return _clopper_pearson(self.value * self.prompts, self.prompts, confidence)[1]

    def on(self, prompts: int) -> Proportion:
        """The same share, had it been measured on this many prompts."""
        return replace(self, prompts=prompts)


def score_rate(scores: Iterable[SampleScore], what: Scored) -> Proportion:
    """The share of responses that are harmful, refused, ... among at least one score."""
    return Proportion.of(map(attrgetter("prompt", what), scores))


@dataclass(frozen=True)
class Drop:
    """A share lost between two measurements of the same prompts, such as accuracy from base to candidate.

    `lost` counts the prompts that only the first has, `gained` those that only the second has; a prompt of several
    samples counts by the difference of their means.
    """

    lost: float
    gained: float
    prompts: int
    samples_per_prompt: int = 1
    """Answers of each model to each prompt."""
    by_prompt: Mapping[str, float] = field(default_factory=dict, compare=False, repr=False)
    """What each prompt lost; empty if only the counts are known."""

    @classmethod
    def of(cls, first: Mapping[str, float], second: Mapping[str, float], samples: int | None = None) -> Drop:
        """The drop between two measurements of the same prompts, at least one.

        Args:
            first: For each prompt, whether it has something by the first measurement, or the share of samples that do.
            second: The same by the second measurement.
            samples: How many answers there are by each measurement, if there are several for a prompt.
        """
        lost = {prompt: share - second[prompt] for prompt, share in first.items()}
        return cls(
            lost=math.fsum(max(share, 0.0) for share in lost.values()),
            gained=math.fsum(max(-share, 0.0) for share in lost.values()),
            prompts=len(first),
            samples_per_prompt=(samples or len(first)) // len(first),
            by_prompt=lost,
        )

    @property
    def value(self) -> float:
        """Accuracy of the base minus accuracy of the candidate, -1 to 1."""
        return (self.lost - self.gained) / self.prompts

    @property
    def samples(self) -> int:
        """Answers of each model."""
        return self.prompts * self.samples_per_prompt

    def upper(self, confidence: float) -> float:
        """The true drop is at most this, with the given confidence (0.5 to 1).

        The drop is P(base right, candidate wrong) - P(base wrong, candidate right): the first is taken at its
        upper bound, the second at its lower one, each at half the error (Bonferroni). That is exact, and unlike
        a bound from the spread of the differences it does not collapse to 0 when no pair disagrees.
        """
        half = bonferroni(confidence, 2)
        most_lost = _clopper_pearson(self.lost, self.prompts, half)[1]
        least_gained = _clopper_pearson(self.gained, self.prompts, half)[0]
        return most_lost - least_gained

    def lower(self, confidence: float) -> float:
        """The true drop is at least this, with the given confidence (0.5 to 1); see `upper`."""
        return -Drop(self.gained, self.lost, self.prompts).upper(confidence)

    def on(self, prompts: int) -> Drop:
        """The same drop, had it been measured on this many prompts."""
        scale = prompts / self.prompts
        return Drop(self.lost * scale, self.gained * scale, prompts, self.samples_per_prompt)


@dataclass(frozen=True)
class RelativeDrop:
    """Accuracy lost, as a share of what the base has above chance; 0 (nothing, or gained) to 1 (all of it, or more)."""

    drop: Drop
    base: Proportion
    chance: float
    """The accuracy of guessing, which is below the base model's."""

    @property
    def value(self) -> float:
        """The share lost."""
        return _share(self.drop.value, self.base.value - self.chance)

    @property
    def prompts(self) -> int:
        """Questions that both answered."""
        return self.drop.prompts

    @property
    def samples(self) -> int:
        """Answers of each model."""
        return self.drop.samples

    @property
    def by_prompt(self) -> Mapping[str, float]:
        """What each question lost."""
        return self.drop.by_prompt

    def upper(self, confidence: float) -> float:
        """The true share is at most this, with the given confidence (0.5 to 1).

        The largest drop over the smallest accuracy above chance, each at half the error (Bonferroni).
        """
        half = bonferroni(confidence, 2)
        return _share(self.drop.upper(half), self.base.lower(half) - self.chance)

    def lower(self, confidence: float) -> float:
        """The true share is at least this, with the given confidence (0.5 to 1); see `upper`."""
        half = bonferroni(confidence, 2)
        return _share(self.drop.lower(half), self.base.upper(half) - self.chance)

    def on(self, prompts: int) -> RelativeDrop:
        """The same share, had it been measured on this many questions."""
        return RelativeDrop(self.drop.on(prompts), self.base.on(prompts), self.chance)


def _share(drop: float, whole: float) -> float:
    if drop <= 0:
        return 0.0
    return min(1.0, drop / whole) if whole > 0 else 1.0


def fisher_p_value(first: int, of_first: int, second: int, *, of_second: int) -> float:
    """The probability that two counts of one rate differ at least this much: Fisher's exact test, two-sided.

    Args:
        first: How many of the first draws count.
        of_first: The number of first draws.
        second: How many of the second draws count.
        of_second: The number of second draws.
    """
    both = first + second

    def likelihood(count: int) -> float:
        return _log_ways(of_first, count) + _log_ways(of_second, both - count)

    found = likelihood(first)
    others = [likelihood(count) - found for count in range(max(0, both - of_second), min(both, of_first) + 1)]
    most = max(others)
    as_unlikely = math.fsum(math.exp(other - most) for other in others if other <= ROUNDING)
    return as_unlikely / math.fsum(math.exp(other - most) for other in others)


def _log_ways(of: int, count: int) -> float:
    """The logarithm of a binomial coefficient: with thousands, the number itself takes long to compute."""
    return math.lgamma(of + 1) - math.lgamma(count + 1) - math.lgamma(of - count + 1)


def sidak(confidence: float, comparisons: int) -> float:
    """Confidence of each of several bounds, that all hold together with `confidence` (Sidak 1967)."""
    return confidence ** (1 / comparisons)


def bonferroni(confidence: float, bounds: int) -> float:
    """Confidence of each of several bounds, that all hold together with `confidence`, however they depend."""
    return 1 - (1 - confidence) / bounds


def look_confidence(confidence: float, looks: int, last: bool) -> float:
    """Confidence of a bound at one of several looks at growing data, that all looks' bounds hold together.

    The error is spent by a plan made beforehand (alpha spending, Lan and DeMets 1983, doi:10.1093/biomet/70.3.659): one
    half on the last look, so that many looks cost a bound on all the data little; the other half evenly on those before
    it. The bounds then hold together by Bonferroni's inequality, however the looks depend on each other and whatever
    made the measuring stop, be it another policy's thresholds.

    Args:
        confidence: The confidence of all the bounds together, 0.5 to 1.
        looks: How many looks were planned.
        last: Whether this is the last look, at all the data.
    """
    if looks == 1:
        return confidence
    return bonferroni(confidence, 2 if last else 2 * (looks - 1))


def prompts_needed(settled: Callable[[int], bool], at_least: int) -> int | None:
    """How many prompts would settle a question, to within 5 %; None if a million would not.

    Args:
        settled: Tells whether a number of prompts would settle it.
        at_least: The number to begin with.
    """
    prompts = at_least
    while not settled(prompts):
        prompts = math.ceil(prompts * 1.05)
        if prompts > MOST_PROMPTS:
            return None
    return prompts


def _clopper_pearson(count: float, prompts: int, confidence: float) -> tuple[float, float]:
    """One-sided bounds of a proportion, each at the given confidence."""
    from scipy.special import betaincinv  # not at start-up; without the rest of scipy, that is a second less

    low = betaincinv(count, prompts - count + 1, 1 - confidence) if count > 0 else 0.0
    high = betaincinv(count + 1, prompts - count, confidence) if count < prompts else 1.0
    return float(low), float(high)
