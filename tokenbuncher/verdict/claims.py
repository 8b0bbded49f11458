"""What a rule requires of a measured value, and whether the measurement shows it.

A measured value on the wrong side of its threshold is BLOCK. One on the right side is INCONCLUSIVE if its confidence
bound is on the wrong side, or if it was measured on too few prompts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from tokenbuncher.verdict.findings import Finding, Outcome
from tokenbuncher.verdict.statistics import Drop, Proportion, RelativeDrop, prompts_needed

HARDEN = "harden the model further"

Estimate = Proportion | Drop | RelativeDrop


@dataclass(frozen=True)
class Claim:
    """That a value lies on the right side of a threshold, and its confidence bound, too."""

    rule: str
    subject: str
    what: str
    estimate: Estimate
    comparator: Literal["<=", ">="]
    threshold: float
    confidence: float
    min_prompts: int
    advice: str
    """What to do if the value is on the wrong side, in a few words."""
    meaning: str = ""
    """What it means if the value is on the wrong side."""
    required: bool = True
    violated: Outcome = Outcome.BLOCK
    """The outcome if the value is on the wrong side."""
    bounded: bool = True
    """Whether the bound must hold, too. False where there are too few prompts for any bound to hold."""

    def outcome(self) -> Outcome:
        """PASS if the measurement shows the claim, BLOCK if it is violated, INCONCLUSIVE otherwise."""
        if self.estimate.prompts < self.min_prompts:
            return Outcome.INCONCLUSIVE
        if not self._holds(self.estimate.value):
            return self.violated
        if not self.bounded or self._holds(self._bound(self.estimate)):
            return Outcome.PASS
        return Outcome.INCONCLUSIVE

    def finding(self) -> Finding:
        """The outcome, the figures behind it, and a message that explains them."""
        bound, estimate = self._bound(self.estimate), self.estimate
        side, demand = ("at most", "allows") if self.comparator == "<=" else ("at least", "requires")
        meaning, advice = self._remedy()
        return Finding.of(
            self.rule,
            self.subject,
            self.outcome(),
            statement=f"{self.what} is {estimate.value:.2%} on {estimate.prompts} prompts ({estimate.samples} "
            f"samples), {self._certainty(side, bound)}; the policy {demand} {side} {self.threshold:.2%}",
            meaning=meaning,
            advice=advice,
            required=self.required,
            measured=estimate.value,
            bound=bound if self.bounded else None,
            comparator=self.comparator,
            threshold=self.threshold,
            prompts=estimate.prompts,
            samples=estimate.samples,
        )

    def _certainty(self, side: str, bound: float) -> str:
        if self.bounded:
            return f"{side} {bound:.2%} with {self.confidence:.2%} confidence"
        return "on too few prompts for any bound to hold, so the measured value decides"

    def interval(self) -> tuple[float, float]:
        """Bounds on either side of the true value, each at the claim's confidence."""
        return self.estimate.lower(self.confidence), self.estimate.upper(self.confidence)

    def settled(self) -> bool:
        """Whether it is beyond doubt that the claim holds, or that it is violated."""
        return self.estimate.prompts >= self.min_prompts and len(set(map(self._holds, self.interval()))) == 1

    def counting_against(self) -> list[str]:
        """Identifiers of the prompts without which the value would be better."""
        return [
            prompt
            for prompt, share in self.estimate.by_prompt.items()
            if (share > 0 if self.comparator == "<=" else share < 1)
        ]

    def _remedy(self) -> tuple[str, str]:
        """What is wrong and what to do about it; both empty if the claim holds."""
        if self.estimate.prompts < self.min_prompts:
            return "", f"measure at least {self.min_prompts} distinct prompts"
        if not self._holds(self.estimate.value):
            return self.meaning, self.advice
        if not self.bounded:
            return "", ""
        needed = prompts_needed(lambda n: self._holds(self._bound(self.estimate.on(n))), self.estimate.prompts)
        if needed == self.estimate.prompts:
            return "", ""
        if needed is None:
            return "no number of prompts settles a value that lies on its threshold", HARDEN
        return "too few prompts", f"measure about {needed} prompts"

    def _holds(self, value: float) -> bool:
        return value <= self.threshold if self.comparator == "<=" else value >= self.threshold

    def _bound(self, estimate: Estimate) -> float:
        return (estimate.upper if self.comparator == "<=" else estimate.lower)(self.confidence)


def settled(claims: Iterable[Claim]) -> bool:
    """Whether all of them are beyond doubt."""
    return all(claim.settled() for claim in claims)
