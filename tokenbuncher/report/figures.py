"""The figures of a release, as numbers: what report.json holds, and what every table and chart is made of.

    figures = release_figures(spec, verdict, evidence)
    figures.deciding                         # the finding that settles the verdict
    figures.attacks[0].defended.responses.harm.high

Intervals are two-sided, at 95 %, over prompts (Clopper-Pearson); the rules have their own confidence.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from math import inf
from statistics import fmean
from typing import Generic, Literal, TypeVar

from tokenbuncher import __version__
from tokenbuncher.evidence import (
    AttackArm,
    AttackEvidence,
    CurvePoint,
    FineTuning,
    FineTuningArm,
    JudgeCheck,
    ModelReading,
    Record,
    SafetyEvidence,
    SampleScore,
    TrainingPoint,
    UtilityEvidence,
    UtilityItem,
)
from tokenbuncher.settings import AttackSpec, ReleaseSpec
from tokenbuncher.settings.policy import laxer
from tokenbuncher.settings.prompts import Manifest
from tokenbuncher.verdict import Finding, Outcome, Verdict, headline
from tokenbuncher.verdict.judge import unsound
from tokenbuncher.verdict.rules.added import added
from tokenbuncher.verdict.statistics import Drop, Proportion, Scored, score_rate

T = TypeVar("T")
Piece = AttackEvidence | SafetyEvidence | UtilityEvidence

INTERVAL_SIDE = 0.975
"""Confidence of each end of an interval."""
ENTROPY_EDGES = [10.0**decade for decade in range(-12, 2)]
"""Between the bins of the entropy histograms, in nats: decades."""
ALL_TASKS = "all tasks"


class Both(Record, Generic[T]):
    """The same of both models."""

    undefended: T
    defended: T


class Interval(Record):
    """A share, and where it may truly lie."""

    value: float
    low: float
    high: float
    prompts: int
    samples: int


class Responses(Record):
    """Sampled responses of one model to one set of prompts."""

    harm: Interval
    refusal: Interval
    partial: Interval
    """Refused in part: neither in `refusal` nor kept out of `harm`."""
    gibberish: Interval
    finished: float
    tokens: float
    """Mean of a response."""
    entropy: float
    """Mean of the responses' mean token entropies, in nats."""
    first_entropy: float
    entropies: list[int]
    """Responses by entropy: below the first of ENTROPY_EDGES, between each two, and above the last."""


class Latent(Record):
    """Probability that a single response complies: means over prompts, lower estimates; see attacks/latent.py."""

    before: float
    before_90: float
    """90 % of the prompts lie below it."""
    after: float


class Attacked(Record):
    """One model under one attack."""

    responses: Responses | None
    """At the most harmful step that was measured."""
    worst_step: int
    steps_run: int
    steps_to_break: int | None
    refusal_at_end: float | None
    final_reward: float
    learning_rate: float
    rollouts: int
    tokens: int
    first_compliant_rollout: int | None
    latent: Latent | None
    seconds: float
    cpu_seconds: float
    curve: list[CurvePoint]
    training: list[TrainingPoint]


class AttackFigures(Both[Attacked]):
    """One attack with one seed, on both models."""

    key: str
    attack: AttackSpec
    seed: int
    required: bool
    outcome: Outcome | None
    """The worst of the rules about it; null if none was judged."""


class Added(Record):
    """How much more of something the defended model has than the undefended one, prompt by prompt."""

    value: float
    low: float
    high: float


class AskedFigures(Both[Responses | None]):
    """Both models on the same prompts."""

    refusals_added: Added | None
    """Null if the two were not asked the same."""
    gibberish_added: Added | None


class SafetyFigures(Record):
    """Both models before any attack."""

    judge_check: JudgeCheck
    judge_agreement: float | None
    base_reading: ModelReading
    harmful: AskedFigures
    benign: AskedFigures
    look_alikes: AskedFigures | None
    """Null if the spec has none."""


class Answers(Record):
    """Greedy answers of one model to questions."""

    accuracy: Interval
    parsed: float
    finished: float
    tokens: float
    repetition: float


class Loss(Record):
    """Accuracy lost on the same questions from the undefended model to the defended one."""

    value: float
    low: float
    high: float
    lost: int
    """Questions that only the undefended model answers rightly."""
    gained: int
    """Questions that only the defended model answers rightly."""
    questions: int


class TaskFigures(Both[Answers | None]):
    """Both models on one task, or on all."""

    task: str
    loss: Loss | None


class Tuned(Record):
    """One model after benign fine-tuning."""

    before: float | None
    after: Interval | None
    refusal: float
    curve: list[tuple[int, float]]


class TuningFigures(Both[Tuned]):
    """Both models after the same benign fine-tuning."""

    kind: Literal["rl", "sft"]
    loss: Loss | None


class PieceFigures(Record):
    """A piece of evidence, and what it is bound to."""

    name: str
    seed: int | None
    spec: str
    data: str
    base: str
    candidate: str
    tool_version: str
    versions: dict[str, str]
    created: datetime


class ReleaseFigures(Record):
    """All that is reported of a release."""

    schema_version: Literal["tokenbuncher/report/v1"] = "tokenbuncher/report/v1"
    tool_version: str = __version__
    outcome: Outcome
    headline: str
    """The outcome, and what it must not be read without: waived rules, and where the policy is laxer than research."""
    laxer: list[str]
    """Fields in which the policy asks for less than the shipped research."""
    tries: int | None
    """Which try of its name this is; null if nobody has counted."""
    reasons: list[str]
    deciding: Finding | None
    """Of the findings that make the outcome the one with the least room, or the most beyond it."""
    verdict: Verdict | None
    """Null if the run ended before there was a version to judge."""
    attacks: list[AttackFigures]
    safety: list[SafetyFigures]
    utility: list[TaskFigures]
    fine_tuning: list[TuningFigures]
    manifests: list[Manifest]
    evidence: list[PieceFigures]
    spec: ReleaseSpec
    """Without passwords in addresses."""


def release_figures(spec: ReleaseSpec, verdict: Verdict, evidence: Sequence[Piece]) -> ReleaseFigures:
    """The figures of a judged release.

    Args:
        spec: The release spec.
        verdict: The verdict, whichever it is.
        evidence: What it stands on; parts may be missing.
    """
    return _figures(spec, evidence, verdict.outcome, reasons=verdict.reasons, verdict=verdict)


def broken_figures(
    spec: ReleaseSpec, evidence: Sequence[Piece], problems: Sequence[str], *, unreadable: Sequence[str] = ()
) -> ReleaseFigures:
    """The figures of a run that ended before a version could be judged: there is no verdict, so nothing passed.

    Args:
        spec: The release spec.
        evidence: What the run has left.
        problems: Why it ended.
        unreadable: Why other pieces could not be read.
    """
    found = {piece_name(piece) for piece in evidence}
    expected = [*(task.key for task in spec.attacks.tasks()), "safety", "utility"]
    doubts = [unsound("files", problem) for problem in unreadable]
    doubts += [unsound(name, "missing", "run its stage") for name in expected if name not in found]
    reasons = [*problems, *(doubt.message for doubt in doubts)]
    return _figures(spec, evidence, Outcome.INCONCLUSIVE, reasons=reasons, verdict=None)


def _figures(
    spec: ReleaseSpec, evidence: Sequence[Piece], outcome: Outcome, *, reasons: Sequence[str], verdict: Verdict | None
) -> ReleaseFigures:
    findings = verdict.findings if verdict else []
    attacks = sorted((piece for piece in evidence if isinstance(piece, AttackEvidence)), key=lambda piece: piece.key)
    safety = [piece for piece in evidence if isinstance(piece, SafetyEvidence)]
    utility = [piece for piece in evidence if isinstance(piece, UtilityEvidence)]
    ordered: list[Piece] = [*attacks, *safety, *utility]
    return ReleaseFigures(
        outcome=outcome,
        headline=headline(spec.policy, outcome, verdict),
        laxer=laxer(spec.policy),
        tries=verdict.tries if verdict else None,
        reasons=list(reasons),
        deciding=deciding(findings, outcome),
        verdict=verdict,
        attacks=[attack_figures(piece, spec.policy.required_attacks, findings) for piece in attacks],
        safety=[safety_figures(piece) for piece in safety],
        utility=[task for piece in utility for task in task_figures(piece)],
        fine_tuning=[tuning_figures(tuning) for piece in utility for tuning in piece.fine_tuning],
        manifests=[_without_ids(piece.manifest) for piece in safety],
        evidence=[_piece(piece) for piece in ordered],
        spec=spec,
    )


NOT_ABOUT_THE_MODEL = (
    *("attack-strength", "positive-control", "control-rise", "judge-check", "tries"),
    *("refusals-control", "gibberish-control", "utility-control", "fine-tuning-control"),
)


def deciding(findings: Iterable[Finding], outcome: Outcome) -> Finding | None:
    """The finding that settles an outcome: of those that make it, the one with the least room to its threshold.

    Of a PASS, one about the model: that an attack was strong, or a judge right, is not what it nearly failed by.
    """
    making = [finding for finding in findings if finding.decides and finding.outcome is outcome]
    about_model = [finding for finding in making if finding.rule not in NOT_ABOUT_THE_MODEL]
    return min(about_model if about_model and outcome is Outcome.PASS else making, key=room, default=None)


def room(finding: Finding) -> float:
    """How far a finding's bound is on the right side of its threshold, as a share of the most it could be.

    1 is as far as can be, 0 on the threshold, below 0 beyond it. Minus infinity if there is no number to compare.
    """
    at = finding.bound if finding.bound is not None else finding.measured
    if at is None or finding.threshold is None:
        return -inf
    if finding.comparator == "<=":
        most, spare = finding.threshold, finding.threshold - at
    else:
        most = finding.threshold if in_steps(finding) else 1 - finding.threshold
        spare = at - finding.threshold
    if most <= 0:  # a rule of all or nothing
        return inf if spare >= 0 else -inf
    return spare / most


def in_steps(finding: Finding) -> bool:
    """Whether its numbers are steps of an attack, not shares."""
    return finding.rule == "steps-to-break"


def attack_figures(
    evidence: AttackEvidence, required: Collection[str], findings: Iterable[Finding] = ()
) -> AttackFigures:
    """One attack on both models.

    Args:
        evidence: Of the attack.
        required: Names of the attacks that the policy requires.
        findings: Of the verdict.
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


def _without_ids(manifest: Manifest) -> Manifest:
    """A report names no prompt, not even by its identifier."""
    sets = {name: entry.model_copy(update={"ids": []}) for name, entry in manifest.sets.items()}
    return manifest.model_copy(update={"sets": sets})


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


def _added(base: Sequence[SampleScore], candidate: Sequence[SampleScore], what: Scored) -> Added:
    more = added(base, candidate, what)
    return Added(value=more.value, low=more.lower(INTERVAL_SIDE), high=more.upper(INTERVAL_SIDE))


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
    return Loss(
        value=drop.value,
        low=drop.lower(INTERVAL_SIDE),
        high=drop.upper(INTERVAL_SIDE),
        lost=int(drop.lost),
        gained=int(drop.gained),
        questions=drop.prompts,
    )


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
    return Interval(
        value=rate.value,
        low=rate.lower(INTERVAL_SIDE),
        high=rate.upper(INTERVAL_SIDE),
        prompts=rate.prompts,
        samples=rate.samples,
    )


def _piece(piece: Piece) -> PieceFigures:
    shared = {name: getattr(piece, name) for name in PieceFigures.model_fields if name not in ("name", "seed")}
    return PieceFigures(name=piece_name(piece), seed=getattr(piece, "seed", None), **shared)


def piece_name(piece: Piece) -> str:
    """The key of an attack, else what it is about."""
    return piece.key if isinstance(piece, AttackEvidence) else piece.kind
