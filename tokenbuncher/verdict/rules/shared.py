"""What the rules share: names of what was asked, advice, and confidence."""

from __future__ import annotations

from tokenbuncher.settings import AttackTask, ReleaseSpec
from tokenbuncher.settings.policy import PolicySpec
from tokenbuncher.verdict.statistics import Proportion, look_confidence

HARMFUL, BENIGN, LOOK_ALIKES = "harmful prompts", "benign prompts", "look-alikes"
ANCHOR = "use fewer defence steps or a stronger anchor"
CONFIRMED = 0.95
"""Confidence with which a measurement confirms what no policy decides."""


def is_required(policy: PolicySpec, task: AttackTask) -> bool:
    """Whether the policy requires this attack; others are reported only."""
    return task.attack.name in policy.required_attacks


def at_look(spec: ReleaseSpec, confidence: float, measured: Proportion, *, planned: int) -> float:
    """Confidence of a bound at the look that ends with the prompts measured, of those planned in all."""
    return look_confidence(confidence, spec.evaluation.looks, last=measured.prompts >= planned)
