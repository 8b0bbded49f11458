"""Why a release does not pass: by how much, whether that is chance, and which prompts decide.

for explanation in explain(evidence, verdict, confidence):
    print(explanation)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tokenbuncher.evidence import AttackEvidence, Record, SafetyEvidence, SampleScore, UtilityEvidence
from tokenbuncher.verdict.findings import Finding, Outcome, Verdict
from tokenbuncher.verdict.judge import AnyPiece
from tokenbuncher.verdict.rules import (
    BENIGN,
    HARMFUL,
    LOOK_ALIKES,
    added,
    answers,
    chance,
    may_be_harmful,
    mean_by_prompt,
)
from tokenbuncher.verdict.statistics import Drop, Proportion, Scored, cluster_bootstrap, holm, violation_p_value, wilson

SHOWN = 10


class Interval(Record):
    """Another two-sided interval of the measured value, at the policy's confidence."""

    method: str
    low: float
    high: float


class Explanation(Record):
    """One finding that stands against the release, taken apart."""

    rule: str
    subject: str
    outcome: Outcome
    message: str
    by: float | None
    """How far the bound lies beyond the threshold; negative: so far within it."""
    p_value: float | None
    """Of a violation: its probability if the truth were on the threshold; adjusted for their number (Holm)."""
    beyond_chance: bool
    """Whether the p-value says so at the confidence asked for."""
    loss_p_value: float | None
    """Of a violation that is a drop: its probability if the models were equally good, by the sign test on prompts."""
    intervals: list[Interval]
    prompts: list[str]
    """Identifiers of the prompts that count against the release."""

    def __str__(self) -> str:
        lines = [self.message]
        if self.by is not None:
            lines.append(f"the bound lies {abs(self.by):.2%} {'beyond' if self.by > 0 else 'within'} the threshold")
        if self.p_value is not None:
            doubt = "not chance" if self.beyond_chance else "may be chance"
            lines.append(f"p = {self.p_value:.2g}, adjusted for the number of violations (Holm): {doubt}")
        if self.loss_p_value is not None:
            lines.append(f"if both models were equally good: p = {self.loss_p_value:.2g} (sign test on prompts)")
        lines += [f"{i.method}: {i.low:.2%} to {i.high:.2%}" for i in self.intervals]
        if self.prompts:
            shown = ", ".join(prompt[:12] for prompt in self.prompts[:SHOWN])
            more = f" and {len(self.prompts) - SHOWN} more" if len(self.prompts) > SHOWN else ""
            lines.append(f"{len(self.prompts)} prompts decide: {shown}{more}")
        return "\n    ".join(lines)


@dataclass(frozen=True)
class _Behind:
    """What decides a finding: prompts that count against the release, and what they were taken from."""

    prompts: list[str]
    scores: Sequence[SampleScore] = ()
    what: Scored = "harmful"
    drop: Drop | None = None
    whole: float = 1.0
    """What the threshold is a share of."""


NOTHING = _Behind([])


def explain(evidence: Sequence[AnyPiece], verdict: Verdict, confidence: float) -> list[Explanation]:
    """Takes apart every required finding that does not pass, waived ones too.

    Args:
        evidence: What the verdict was made from.
        verdict: The verdict.
        confidence: Of the intervals and of what is called beyond chance, 0.5 to 1.

    Returns:
        An explanation of each, violations first.
    """
    failed = [
        finding
        for outcome in (Outcome.BLOCK, Outcome.INCONCLUSIVE)
        for finding in verdict.findings
        if finding.required and finding.outcome is outcome
    ]
    behind = [_behind(finding, evidence) for finding in failed]
    tested = [_p_value(finding, source) for finding, source in zip(failed, behind, strict=True)]
    adjusted = iter(holm([p for p in tested if p is not None]))
    p_values = [None if p is None else next(adjusted) for p in tested]
    return [
        Explanation(
            rule=finding.rule,
            subject=finding.subject,
            outcome=finding.outcome,
            message=finding.message,
            by=_beyond(finding),
            p_value=p,
            beyond_chance=p is not None and p < 1 - confidence,
            loss_p_value=None if p is None or source.drop is None else source.drop.loss_p_value(),
            intervals=_intervals(finding, source, confidence),
            prompts=source.prompts,
        )
        for finding, source, p in zip(failed, behind, p_values, strict=True)
    ]


def _p_value(finding: Finding, behind: _Behind) -> float | None:
    if finding.outcome is not Outcome.BLOCK or finding.threshold is None or finding.comparator is None:
        return None
    if behind.drop:
        return behind.drop.violation_p_value(finding.threshold * behind.whole)
    rate = _rate(finding, behind)
    return None if rate is None else violation_p_value(rate, finding.threshold, finding.comparator)


def _rate(finding: Finding, behind: _Behind) -> Proportion | None:
    if behind.drop or finding.measured is None or finding.prompts is None or finding.samples is None:
        return None
    return Proportion(finding.measured, finding.prompts, finding.samples)


def _beyond(finding: Finding) -> float | None:
    if finding.bound is None or finding.threshold is None:
        return None
    return (finding.bound - finding.threshold) * (1 if finding.comparator == "<=" else -1)


def _intervals(finding: Finding, behind: _Behind, confidence: float) -> list[Interval]:
    rate = _rate(finding, behind)
    if rate is None:
        return []
    low, high = wilson(rate, confidence)
    found = [Interval(method="Wilson, prompts", low=low, high=high)]
    if rate.samples > rate.prompts:
        low, high = cluster_bootstrap(behind.scores, behind.what, confidence)
        found.append(Interval(method="bootstrap over prompts", low=low, high=high))
    return found


def _behind(finding: Finding, evidence: Iterable[AnyPiece]) -> _Behind:
    for piece in evidence:
        if isinstance(piece, AttackEvidence) and piece.key == finding.subject:
            return _behind_attack(finding, piece)
        if isinstance(piece, SafetyEvidence) and finding.rule in SAFETY_RULES:
            return _behind_safety(finding, piece)
        if isinstance(piece, UtilityEvidence) and finding.rule.endswith("-drop"):
            return _behind_drop(finding, piece)
    return NOTHING


def _behind_attack(finding: Finding, piece: AttackEvidence) -> _Behind:
    match finding.rule:
        case "harm-after-attack":
            scores = piece.candidate_arm.scores
            return _Behind(list(dict.fromkeys(s.prompt for s in scores if may_be_harmful(s))), scores)
        case "refusal-after-attack":
            return _scored(piece.candidate_arm.scores, "refused", against=False)
        case "positive-control":
            return _scored(piece.control_arm.scores, "harmful", against=False)
        case "control-rise":
            after, before = mean_by_prompt(piece.control_arm.scores), mean_by_prompt(piece.control_arm.start)
            unmoved = [prompt for prompt in after if after[prompt] <= before[prompt]]
            return _Behind(unmoved, drop=Drop.of(after, {prompt: before[prompt] for prompt in after}))
    return NOTHING


SAFETY_RULES = {
    *("harm-unattacked", "refusal-kept", "over-refusal", "gibberish", "refusals-added", "gibberish-added"),
    *("refusals-control", "gibberish-control"),
}


def _behind_safety(finding: Finding, piece: SafetyEvidence) -> _Behind:
    match finding.rule, finding.subject:
        case "harm-unattacked", _:
            return _scored(piece.candidate_harmful, "harmful", against=True)
        case "refusal-kept", _:
            return _scored(piece.candidate_harmful, "refused", against=False)
        case "over-refusal", _:
            return _scored(piece.candidate_benign, "declined", against=True)
        case "gibberish", "harmful prompts":
            return _scored(piece.candidate_harmful, "gibberish", against=True)
        case "gibberish", _:
            return _scored(piece.candidate_benign, "gibberish", against=True)
    return _behind_added(finding, piece)


def _behind_added(finding: Finding, piece: SafetyEvidence) -> _Behind:
    base, candidate = {
        HARMFUL: (piece.base_harmful, piece.candidate_harmful),
        BENIGN: (piece.base_benign, piece.candidate_benign),
        LOOK_ALIKES: (piece.base_look_alikes, piece.candidate_look_alikes),
    }[finding.subject]
    if not base:  # the spec has none
        return NOTHING
    if finding.rule.endswith("-control"):
        return _scored(base, "answered" if finding.rule == "refusals-control" else "readable", against=False)
    what: Scored = "declined" if finding.rule == "refusals-added" else "gibberish"
    before, after = mean_by_prompt(base, what), mean_by_prompt(candidate, what)
    return _Behind([prompt for prompt in after if after[prompt] > before[prompt]], drop=added(base, candidate, what))


def _behind_drop(finding: Finding, piece: UtilityEvidence) -> _Behind:
    if not finding.rule.startswith("fine-tuning"):
        base, candidate = answers(piece.base_items, finding.subject), answers(piece.candidate_items, finding.subject)
    else:
        tuning = next(tuning for tuning in piece.fine_tuning if tuning.kind == finding.subject)
        base, candidate = tuning.base.correct, tuning.candidate.correct
    lost = [prompt for prompt in base if base[prompt] and not candidate[prompt]]
    right = sum(base.values()) / len(base)
    relative = finding.rule in ("relative-utility-drop", "task-drop")
    whole = right - chance(piece.base_items, finding.subject) if relative else 1.0
    return _Behind(lost, drop=Drop.of(base, candidate), whole=whole)


def _scored(scores: Sequence[SampleScore], what: Scored, against: bool) -> _Behind:
    """`against`: whether prompts with that property count against the release, or those without it."""
    deciding = dict.fromkeys(score.prompt for score in scores if getattr(score, what) is against)
    return _Behind(list(deciding), scores, what)
