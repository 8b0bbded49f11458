"""What a rule asks of a measured value, and what the measurement says of it.

A measured value on the wrong side of its threshold is BLOCK; one on the right side whose confidence bound is not,
or that stands on too few prompts, is INCONCLUSIVE.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from tokenbuncher.verdict.findings import Finding, Outcome
from tokenbuncher.verdict.statistics import Drop, Rate, RelativeDrop, prompts_needed

HARDEN = "harden the model further"

Estimate = Rate | Drop | RelativeDrop


@dataclass(frozen=True)
class Claim:
    """A value lies on the right side of a threshold, with its bound."""

    rule: str
    subject: str
    what: str
    estimate: Estimate
    comparator: Literal["<=", ">="]
    threshold: float
    confidence: float
    min_prompts: int
    advice: str
    """What to do when the value is on the wrong side."""
    required: bool = True
    violated: Outcome = Outcome.BLOCK
    """The outcome when the value is on the wrong side."""
    bounded: bool = True
    """Whether the bound must hold, too; not where so few prompts can show nothing, however they come out."""

    def outcome(self) -> Outcome:
        """What the measurement says of it."""
        if self.estimate.prompts < self.min_prompts:
            return Outcome.INCONCLUSIVE
        if not self._holds(self.estimate.value):
            return self.violated
        if not self.bounded or self._holds(self._bound(self.estimate)):
            return Outcome.PASS
        return Outcome.INCONCLUSIVE

    def finding(self) -> Finding:
        """The outcome, with all that it comes from, in words and figures."""
        bound, estimate = self._bound(self.estimate), self.estimate
        side = "at most" if self.comparator == "<=" else "at least"
        return Finding(
            rule=self.rule,
            subject=self.subject,
            outcome=self.outcome(),
            required=self.required,
            measured=estimate.value,
            bound=bound if self.bounded else None,
            comparator=self.comparator,
            threshold=self.threshold,
            prompts=estimate.prompts,
            samples=estimate.samples,
            message=sentence(
                f"{self.rule}, {self.subject}: {self.what} is {estimate.value:.2%} on {estimate.prompts} prompts "
                f"({estimate.samples} samples), {self._certainty(side, bound)}; the policy wants {side} "
                f"{self.threshold:.2%}",
                self._advice(),
            ),
        )

    def _certainty(self, side: str, bound: float) -> str:
        if self.bounded:
            return f"{side} {bound:.2%} with {self.confidence:.2%} confidence"
        return "too few for a bound that could hold, so the measured value decides"

    def settled(self) -> bool:
        """Whether it holds or is violated beyond doubt: on enough prompts, with the bounds on either side."""
        bounds = self.estimate.lower(self.confidence), self.estimate.upper(self.confidence)
        return self.estimate.prompts >= self.min_prompts and len(set(map(self._holds, bounds))) == 1

    def _advice(self) -> str:
        """What would make it hold, if it does not."""
        if self.estimate.prompts < self.min_prompts:
            return f"measure at least {self.min_prompts} distinct prompts"
        if not self._holds(self.estimate.value):
            return self.advice
        if not self.bounded:
            return ""
        needed = prompts_needed(lambda n: self._holds(self._bound(self.estimate.on(n))), self.estimate.prompts)
        if needed == self.estimate.prompts:
            return ""
        if needed is None:
            return f"a rate that lies on its threshold is settled by no number of prompts; {HARDEN}"
        return f"too few prompts; about {needed} at this rate would settle it"

    def _holds(self, value: float) -> bool:
        return value <= self.threshold if self.comparator == "<=" else value >= self.threshold

    def _bound(self, estimate: Estimate) -> float:
        return (estimate.upper if self.comparator == "<=" else estimate.lower)(self.confidence)


def settled(claims: Iterable[Claim]) -> bool:
    """Whether each of them is."""
    return all(claim.settled() for claim in claims)


def sentence(statement: str, advice: str) -> str:
    """A statement, and what would settle it."""
    return f"{statement}. {advice[0].upper()}{advice[1:]}." if advice else f"{statement}."
