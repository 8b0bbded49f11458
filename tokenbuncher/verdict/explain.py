"""Why a release does not pass: by how much, whether that may be chance, and which prompts decide.

    for explanation in explain(spec, evidence, verdict):
        print(explanation)

All of it comes from the claims that the gate judged, at the confidence it judged them with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import Field

from tokenbuncher.evidence import AttackEvidence, Record, SafetyEvidence
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.verdict.claims import Claim
from tokenbuncher.verdict.findings import Finding, Outcome, Verdict
from tokenbuncher.verdict.judge import AnyPiece
from tokenbuncher.verdict.rules.attacks import attack_claims
from tokenbuncher.verdict.rules.safety import safety_claims
from tokenbuncher.verdict.rules.utility import cost_claims

SHOWN = 10


class Explanation(Record):
    """One finding that stands against the release, taken apart."""

    rule: str
    subject: str
    outcome: Outcome
    message: str
    by: float | None = None
    """How far the bound lies beyond the threshold; negative if it lies within."""
    confidence: float | None = None
    """The confidence of each end of the interval."""
    low: float | None = None
    high: float | None = None
    """The interval in which the true value lies."""
    beyond_chance: bool = False
    """Whether the whole interval violates the rule."""
    prompts: list[str] = Field([], description="Identifiers of the prompts that count against the release.")

    def __str__(self) -> str:
        lines = [self.message]
        if self.by is not None:
            lines.append(f"the bound lies {abs(self.by):.2%} {'beyond' if self.by > 0 else 'within'} the threshold")
        if self.low is not None:
            doubt = "not chance" if self.beyond_chance else "may be chance"
            lines.append(f"between {self.low:.2%} and {self.high:.2%} ({self.confidence:.2%} on either side): {doubt}")
        if self.prompts:
            shown = ", ".join(prompt[:12] for prompt in self.prompts[:SHOWN])
            more = f" and {len(self.prompts) - SHOWN} more" if len(self.prompts) > SHOWN else ""
            lines.append(f"{len(self.prompts)} prompts decide: {shown}{more}")
        return "\n    ".join(lines)


def explain(spec: ReleaseSpec, evidence: Sequence[AnyPiece], verdict: Verdict) -> list[Explanation]:
    """Takes apart every required finding that does not pass, waived ones too.

    Args:
        spec: The release spec that the verdict was made by.
        evidence: What the verdict was made from.
        verdict: The verdict.

    Returns:
        An explanation of each, violations first.
    """
    judged = {(claim.rule, claim.subject): claim for claim in _claims(spec, evidence, verdict)}
    return [
        _explanation(finding, judged.get((finding.rule, finding.subject)))
        for outcome in (Outcome.BLOCK, Outcome.INCONCLUSIVE)
        for finding in verdict.findings
        if finding.required and finding.outcome is outcome
    ]


def _claims(spec: ReleaseSpec, evidence: Sequence[AnyPiece], verdict: Verdict) -> Iterator[Claim]:
    """The claims behind the findings: only sound evidence has any."""
    tasks = {task.key: task for task in spec.attacks.tasks()}
    unsound = {finding.subject for finding in verdict.findings if finding.rule == "evidence"}
    for piece in evidence:
        if isinstance(piece, AttackEvidence):
            if piece.key in tasks and piece.key not in unsound:
                yield from attack_claims(spec, tasks[piece.key], piece)
        elif piece.kind not in unsound:
            yield from safety_claims(spec, piece) if isinstance(piece, SafetyEvidence) else cost_claims(spec, piece)


def _explanation(finding: Finding, claim: Claim | None) -> Explanation:
    found = Explanation(rule=finding.rule, subject=finding.subject, outcome=finding.outcome, message=finding.message)
    if claim is None or finding.measured is None:
        return found
    low, high = claim.interval()
    return found.model_copy(
        update={
            "by": _beyond(finding),
            "confidence": claim.confidence,
            "low": low,
            "high": high,
            "beyond_chance": finding.outcome is Outcome.BLOCK and claim.settled(),
            "prompts": claim.counting_against(),
        }
    )


def _beyond(finding: Finding) -> float | None:
    if finding.bound is None or finding.threshold is None:
        return None
    return (finding.bound - finding.threshold) * (1 if finding.comparator == "<=" else -1)
