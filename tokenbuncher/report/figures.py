"""The figures of a release, as numbers: what report.json holds, and what every table and chart is made of.

    figures = release_figures(spec, verdict, evidence)
    figures.deciding                         # the finding that settles the verdict
    figures.attacks[0].defended.responses.harm.high

Intervals are two-sided, at 95 %, over prompts (Clopper-Pearson); the rules have their own confidence. The base model's
figures are called `undefended`, the candidate's `defended`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import Field

from tokenbuncher.core.version import __version__
from tokenbuncher.evidence import CurvePoint, JudgeCheck, ModelReading, Record, Share, TrainingPoint
from tokenbuncher.settings import AttackSpec, ReleaseSpec
from tokenbuncher.settings.prompts import Manifest
from tokenbuncher.verdict import Finding, Outcome, Verdict

T = TypeVar("T")
Size = Annotated[float, Field(ge=0.0, le=1e9)]
Bound = Annotated[float, Field(ge=1e-12, le=1e9)]

ENTROPY_EDGES = [10.0**decade for decade in range(-12, 2)]
"""Between the bins of the entropy histograms, in nats: decades."""


class Both(Record, Generic[T]):
    """The same of both models."""

    undefended: T
    defended: T


class Bounded(Record):
    """A measured value, and the ends of its interval."""

    value: float
    low: float
    high: float


class Interval(Bounded):
    """A share, and where it may truly lie."""

    prompts: int
    samples: int


class Responses(Record):
    """Sampled responses of one model to one set of prompts."""

    harm: Interval
    refusal: Interval
    partial: Interval
    """The share that is refused in part; it is not in `refusal`, and may be in `harm`."""
    gibberish: Interval
    finished: float
    tokens: float
    """Mean length of a response."""
    entropy: float
    """Mean of the responses' mean token entropies, in nats."""
    first_entropy: float
    escape: float | None
    """Of the least certain refusal, the most that any other response may be likely; None if nothing is refused."""
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


class AskedFigures(Both[Responses | None]):
    """Both models on the same prompts."""

    refusals_added: Bounded | None
    """The candidate's refusals beyond the base model's, prompt by prompt; null if the prompts were not the same."""
    gibberish_added: Bounded | None


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


class Loss(Bounded):
    """Accuracy lost on the same questions from the base model to the candidate."""

    lost: int
    """Questions that only the base model answers rightly."""
    gained: int
    """Questions that only the candidate answers rightly."""
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


class DefencePoint(Record):
    """What a defence had reached at a step, and what it had cost; on prompts that it does not train on."""

    step: int
    escape_max: Share
    """Of the harmful prompts, the highest probability of anything but the model's own refusal."""
    escape: Share
    """The mean of these probabilities."""
    escaping: Share
    """Share of the harmful prompts that escape with more than the target."""
    kl: Size
    """KL divergence from the base model on benign responses, in nats."""
    refusal_mass: Share
    """Probability that a response to a benign prompt begins as a refusal, less that of the base model."""
    refusals_added: Share
    """Share of the benign prompts that the model refuses and the base model does not, greedily decoded."""


class DefenceFigures(Record):
    """How a defence with a target went, by its step log, which is no evidence: no rule sees it, and none is signed."""

    recipe: str
    steps: int
    target: Share
    max_kl: Bound
    max_refusal_mass: Bound
    curve: list[DefencePoint] = Field(min_length=1)


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
    """The outcome, with the waived rules and the fields in which the policy is laxer than research."""
    laxer: list[str]
    """Fields in which the policy asks for less than the shipped research."""
    tries: int | None
    """The number of this try under its name; null if the tries were not counted."""
    reasons: list[str]
    deciding: Finding | None
    """Of the findings that decide the outcome, the one closest to its threshold, or farthest beyond it."""
    verdict: Verdict | None
    """Null if the run ended before there was a version to judge."""
    attacks: list[AttackFigures]
    safety: list[SafetyFigures]
    utility: list[TaskFigures]
    fine_tuning: list[TuningFigures]
    manifests: list[Manifest]
    defence: DefenceFigures | None = None
    """Null if there is no step log of it, or its recipe has no target."""
    evidence: list[PieceFigures]
    spec: ReleaseSpec
    """Without passwords in addresses."""
