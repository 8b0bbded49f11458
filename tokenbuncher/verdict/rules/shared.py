"""What the rules share: names of what was asked, advice, and confidence."""

from __future__ import annotations

from typing import Literal, NamedTuple

from tokenbuncher.settings import AttackTask, ReleaseSpec
from tokenbuncher.settings.policy import PolicySpec
from tokenbuncher.verdict.claims import Claim, Estimate
from tokenbuncher.verdict.findings import Outcome
from tokenbuncher.verdict.statistics import look_confidence

HARMFUL, BENIGN, LOOK_ALIKES = "harmful prompts", "benign prompts", "look-alikes"
ANCHOR = "use fewer defence steps or a stronger anchor"
CONFIRMED = 0.95
"""Confidence with which a measurement confirms what no policy decides."""


def is_required(policy: PolicySpec, task: AttackTask) -> bool:
    """Whether the policy requires this attack; others are reported only."""
    return task.attack.name in policy.required_attacks


class Rule(NamedTuple):
    """A rule on one subject, in words."""

    name: str
    subject: str
    what: str
    """What is measured."""
    advice: str
    """What to do if it is on the wrong side of its threshold, in a few words."""
    meaning: str = ""
    """What it means if it is on the wrong side."""
    violated: Outcome = Outcome.BLOCK
    required: bool = True


def at_most(spec: ReleaseSpec, rule: Rule, estimate: Estimate, *, threshold: float, confidence: float) -> Claim:
    """The claim that a value is at most the threshold."""
    return _claim(spec, rule, estimate, "<=", threshold=threshold, confidence=confidence)


def at_least(spec: ReleaseSpec, rule: Rule, estimate: Estimate, *, threshold: float, confidence: float) -> Claim:
    """The claim that a value is at least the threshold."""
    return _claim(spec, rule, estimate, ">=", threshold=threshold, confidence=confidence)


def _claim(
    spec: ReleaseSpec,
    rule: Rule,
    estimate: Estimate,
    comparator: Literal["<=", ">="],
    *,
    threshold: float,
    confidence: float,
) -> Claim:
    return Claim(
        rule.name,
        rule.subject,
        rule.what,
        estimate,
        comparator,
        threshold,
        confidence,
        spec.policy.min_prompts,
        rule.advice,
        meaning=rule.meaning,
        required=rule.required,
        violated=rule.violated,
    )


def at_look(spec: ReleaseSpec, measured: Estimate, *, planned: int, confidence: float | None = None) -> float:
    """Confidence of a bound at the look that ends with the prompts measured.

    Args:
        spec: The release spec.
        measured: What was measured on these prompts.
        planned: The number of prompts in the whole set.
        confidence: The confidence of all looks together; if None, that of the policy.
    """
    together = spec.policy.confidence if confidence is None else confidence
    return look_confidence(together, spec.evaluation.looks, last=measured.prompts >= planned)
