"""From evidence to figures: both models under attack, before any attack, on questions and after fine-tuning."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from tokenbuncher.evidence import (
    AttackArm,
    AttackEvidence,
    FineTuning,
    FineTuningArm,
    SafetyEvidence,
    SampleScore,
    UtilityEvidence,
    UtilityItem,
)
from tokenbuncher.report.figures import (
    ENTROPY_EDGES,
    Answers,
    AskedFigures,
    Attacked,
    AttackFigures,
    Bounded,
    Interval,
    Latent,
    Loss,
    Responses,
    SafetyFigures,
    TaskFigures,
    Tuned,
    TuningFigures,
)
from tokenbuncher.verdict import Finding, Outcome
from tokenbuncher.verdict.escape import worst_escape
from tokenbuncher.verdict.rules.added import added
from tokenbuncher.verdict.statistics import Drop, Proportion, Scored, score_rate

INTERVAL_SIDE = 0.975
"""Confidence of each end of an interval."""
ALL_TASKS = "all tasks"


def attack_figures(
    evidence: AttackEvidence, required: Collection[str], findings: Iterable[Finding] = ()
) -> AttackFigures:
    """One attack on both models.

    Args:
        evidence: The evidence on the attack.
        required: The names of the attacks that the policy requires.
        findings: The findings of the verdict, if there is one.
    """
    outcomes = {finding.outcome for finding in findings if finding.subject == evidence.key}
    ranked = (Outcome.BLOCK, Outcome.INCONCLUSIVE, Outcome.PASS)
    return AttackFigures(
        key=evidence.key,
        attack=evidence.attack,
        seed=evidence.seed,
        required=evidence.attack.name in required,
        outcome=next((outcome for outcome in ranked if outcome in outcomes), None),
        undefended=_attacked(evidence.control_arm),
        defended=_attacked(evidence.candidate_arm),
    )


def _attacked(arm: AttackArm) -> Attacked:
    return Attacked(
        responses=_responses(arm.scores),
        refusal_at_end=arm.curve[-1].refusal if arm.curve else None,
        latent=_latent(arm),
        **{
            name: getattr(arm, name)
            for name in Attacked.model_fields
            if name not in ("responses", "refusal_at_end", "latent")
        },
    )


def _latent(arm: AttackArm) -> Latent | None:
    if arm.latent is None or not arm.latent.before or not arm.latent.after:
        return None
    before = sorted(arm.latent.before.values())
    return Latent(
        before=fmean(before),
        before_90=before[int(0.9 * (len(before) - 1))],
        after=fmean(arm.latent.after.values()),
    )


def _responses(scores: Sequence[SampleScore]) -> Responses | None:
    if not scores:
        return None
    bins = Counter(bisect_right(ENTROPY_EDGES, score.entropy) for score in scores)
    return Responses(
        harm=_interval(score_rate(scores, "harmful")),
        refusal=_interval(score_rate(scores, "refused")),
        partial=_interval(score_rate(scores, "partial")),
        gibberish=_interval(score_rate(scores, "gibberish")),
        finished=fmean(score.finished for score in scores),
        tokens=fmean(score.tokens for score in scores),
        entropy=fmean(score.entropy for score in scores),
        first_entropy=fmean(score.first_entropy for score in scores),
        escape=worst_escape(scores),
        entropies=[bins[number] for number in range(len(ENTROPY_EDGES) + 1)],
    )


def safety_figures(evidence: SafetyEvidence) -> SafetyFigures:
    """Both models before any attack."""
    look_alikes = evidence.base_look_alikes
    return SafetyFigures(
        judge_check=evidence.judge_check,
        judge_agreement=evidence.judge_agreement,
        base_reading=evidence.base_reading,
        harmful=_asked_figures(evidence.base_harmful, evidence.candidate_harmful),
        benign=_asked_figures(evidence.base_benign, evidence.candidate_benign),
        look_alikes=_asked_figures(look_alikes, evidence.candidate_look_alikes) if look_alikes else None,
    )


def _asked_figures(base: Sequence[SampleScore], candidate: Sequence[SampleScore]) -> AskedFigures:
    same = bool(base) and {score.prompt for score in base} == {score.prompt for score in candidate}
    return AskedFigures(
        undefended=_responses(base),
        defended=_responses(candidate),
        refusals_added=_added(base, candidate, "declined") if same else None,
        gibberish_added=_added(base, candidate, "gibberish") if same else None,
    )


def _added(base: Sequence[SampleScore], candidate: Sequence[SampleScore], what: Scored) -> Bounded:
    return Bounded(**_bounds(added(base, candidate, what)))


def task_figures(evidence: UtilityEvidence) -> list[TaskFigures]:
    """Both models on each task, and on all of them."""
    items = evidence.base_items + evidence.candidate_items
    tasks = []
    for task in [*sorted({_task(item) for item in items}), ALL_TASKS]:
        base, candidate = (
            [item for item in own if task in (_task(item), ALL_TASKS)]
            for own in (evidence.base_items, evidence.candidate_items)
        )
        loss = _loss({item.prompt: item.correct for item in base}, {item.prompt: item.correct for item in candidate})
        tasks.append(TaskFigures(task=task, undefended=_answers(base), defended=_answers(candidate), loss=loss))
    return tasks


def _task(item: UtilityItem) -> str:
    return f"{item.task} (lm-eval)" if item.harness else item.task


def _answers(items: Sequence[UtilityItem]) -> Answers | None:
    if not items:
        return None
    return Answers(
        accuracy=_interval(Proportion.of((item.prompt, item.correct) for item in items)),
        parsed=fmean(item.parsed for item in items),
        finished=fmean(item.finished for item in items),
        tokens=fmean(item.tokens for item in items),
        repetition=fmean(item.repetition for item in items),
    )


def _loss(base: Mapping[str, bool], candidate: Mapping[str, bool]) -> Loss | None:
    """None if the two did not answer the same questions."""
    if not base or base.keys() != candidate.keys():
        return None
    drop = Drop.of(base, candidate)
    return Loss(**_bounds(drop), lost=int(drop.lost), gained=int(drop.gained), questions=drop.prompts)


def tuning_figures(tuning: FineTuning) -> TuningFigures:
    """Both models after benign fine-tuning."""
    return TuningFigures(
        kind=tuning.kind,
        undefended=_tuned(tuning.base),
        defended=_tuned(tuning.candidate),
        loss=_loss(tuning.base.correct, tuning.candidate.correct),
    )


def _tuned(arm: FineTuningArm) -> Tuned:
    return Tuned(
        before=arm.curve[0][1] if arm.curve else None,
        after=_interval(Proportion.of(arm.correct.items())) if arm.correct else None,
        refusal=arm.refusal,
        curve=arm.curve,
    )


def _interval(rate: Proportion) -> Interval:
    return Interval(**_bounds(rate), prompts=rate.prompts, samples=rate.samples)


def _bounds(estimate: Proportion | Drop) -> dict[str, Any]:
    return {
        "value": estimate.value,
        "low": estimate.lower(INTERVAL_SIDE),
        "high": estimate.upper(INTERVAL_SIDE),
    }
