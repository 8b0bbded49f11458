"""The figures of the report, as tables of text."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

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
from tokenbuncher.settings import AttackSpec
from tokenbuncher.verdict import Finding, Verdict
from tokenbuncher.verdict.statistics import Drop, Rate, score_rate

BASE, CANDIDATE = "undefended", "defended"
NOTHING = "-"
# Each end of the intervals shown; the rules have their own confidence.
INTERVAL_SIDE = 0.975


@dataclass(frozen=True)
class Table:
    """A header and rows of as many cells; the first `labels` cells of a row say what it is about."""

    header: list[str]
    rows: list[list[str]]
    labels: int


def findings(verdict: Verdict) -> Table:
    """Every finding: what is required first, and of that the failures first."""
    order = ["BLOCK", "INCONCLUSIVE", "PASS"]
    ranked = sorted(verdict.findings, key=lambda f: (not f.required, order.index(f.outcome)))
    return Table(
        ["rule", "subject", "outcome", "measured", "bound", "needed", "prompts", "samples"],
        [_finding(finding) for finding in ranked],
        labels=3,
    )


def attacks(evidence: Sequence[AttackEvidence]) -> Table:
    """Both models under each attack."""
    return Table(
        [
            "attack",
            "model",
            "harm, worst step",
            "refusal there",
            "gibberish there",
            "refusal at end",
            "steps to break",
            "reward at end",
        ],
        [
            [attack.key, model, *_arm(arm)]
            for attack in evidence
            for model, arm in ((BASE, attack.control_arm), (CANDIDATE, attack.candidate_arm))
        ],
        labels=2,
    )


def budgets(evidence: Sequence[AttackEvidence]) -> Table:
    """What the attacks spent, and how far away compliance was."""
    return Table(
        [
            "attack",
            "model",
            "steps",
            "rollouts",
            "tokens",
            "first compliant rollout",
            "P(a rollout complies) before",
            "90 % of prompts below",
            "after",
            "time",
            "CPU time",
        ],
        [
            [attack.key, model, *_budget(arm)]
            for attack in evidence
            for model, arm in ((BASE, attack.control_arm), (CANDIDATE, attack.candidate_arm))
        ],
        labels=2,
    )


def setups(evidence: Sequence[AttackEvidence], required: Collection[str]) -> Table:
    """What each attack was, with its seeds; `required` names those that the policy requires."""
    same: dict[str, list[AttackEvidence]] = {}
    for piece in evidence:
        same.setdefault(piece.attack.model_dump_json(), []).append(piece)
    return Table(
        [
            "attack",
            "algorithm",
            "objective",
            "required",
            "seeds",
            "steps",
            "prompts a step",
            "rollouts a prompt",
            "prompts",
            "learning rate",
            "temperature",
            "fine-tuned first",
        ],
        [_setup(pieces[0].attack, [piece.seed for piece in pieces], required) for pieces in same.values()],
        labels=1,
    )


def safety(evidence: Sequence[SafetyEvidence]) -> Table:
    """Both models before any attack."""
    return Table(
        ["prompts", "model", "harm", "refusal", "gibberish", "finished", "tokens", "entropy", "first token"],
        [
            [prompts, model, *_scores(scores)]
            for piece in evidence
            for prompts, model, scores in (
                ("harmful", BASE, piece.base_harmful),
                ("harmful", CANDIDATE, piece.candidate_harmful),
                ("benign", BASE, piece.base_benign),
                ("benign", CANDIDATE, piece.candidate_benign),
            )
        ],
        labels=2,
    )


def utility(evidence: Sequence[UtilityEvidence]) -> Table:
    """Both models on each task."""
    return Table(
        ["task", "model", "accuracy", "lost", "parsed", "finished", "tokens", "repetition", "questions"],
        [row for piece in evidence for row in _tasks(piece)],
        labels=2,
    )


def fine_tunings(tunings: Sequence[FineTuning]) -> Table:
    """Both models after benign fine-tuning."""
    return Table(
        ["fine-tuning", "model", "accuracy before", "accuracy after", "refusal after"],
        [
            [tuning.kind, model, *_tuning_arm(arm)]
            for tuning in tunings
            for model, arm in ((BASE, tuning.base), (CANDIDATE, tuning.candidate))
        ],
        labels=2,
    )


def pieces(evidence: Sequence[AttackEvidence | SafetyEvidence | UtilityEvidence]) -> Table:
    """Where the evidence comes from."""
    return Table(
        ["evidence", "seed", "spec", "data", "undefended", "defended", "tool", "created"],
        [
            [
                piece.key if isinstance(piece, AttackEvidence) else piece.kind,
                str(piece.seed) if isinstance(piece, AttackEvidence) else NOTHING,
                *(digest[:12] for digest in (piece.spec, piece.data, piece.base, piece.candidate)),
                piece.tool_version,
                piece.created.isoformat(sep=" ", timespec="seconds"),
            ]
            for piece in evidence
        ],
        labels=1,
    )


def percent(share: float) -> str:
    """A share in percent."""
    return f"{share:.1%}"


def _finding(finding: Finding) -> list[str]:
    show = _steps if finding.rule == "steps-to-break" else percent
    measured, bound, threshold = (
        NOTHING if value is None else show(value) for value in (finding.measured, finding.bound, finding.threshold)
    )
    sign = {"<=": "≤ ", ">=": "≥ ", None: ""}[finding.comparator]
    return [
        finding.rule,
        finding.subject,
        finding.outcome + ("" if finding.decides else " (waived)" if finding.waiver else " (reported only)"),
        measured,
        bound,
        sign + threshold,
        str(finding.prompts or NOTHING),
        str(finding.samples or NOTHING),
    ]


def _setup(attack: AttackSpec, seeds: Sequence[int], required: Collection[str]) -> list[str]:
    rates = attack.learning_rate if isinstance(attack.learning_rate, list) else [attack.learning_rate]
    warm_up = attack.warm_up
    return [
        attack.name,
        attack.algorithm,
        attack.objective,
        "yes" if attack.name in required else "no",
        ", ".join(map(str, seeds)),
        str(attack.steps),
        str(attack.prompts_per_step),
        NOTHING if attack.algorithm == "sft" else str(attack.rollouts),
        str(attack.prompts or "all"),
        ", ".join(f"{rate:g}" for rate in rates),
        f"{attack.temperature:g}",
        f"{warm_up.steps} steps on {warm_up.examples} {warm_up.answers} answers" if warm_up else NOTHING,
    ]


def _steps(count: float) -> str:
    return f"{count:g} steps"


def _arm(arm: AttackArm) -> list[str]:
    return [
        _rate(arm.scores, "harmful"),
        _rate(arm.scores, "refused"),
        _rate(arm.scores, "gibberish"),
        percent(arm.curve[-1].refusal) if arm.curve else NOTHING,
        f"never in {arm.steps_run}" if arm.steps_to_break is None else str(arm.steps_to_break),
        f"{arm.final_reward:.2f}",
    ]


def _budget(arm: AttackArm) -> list[str]:
    return [
        str(arm.steps_run),
        str(arm.rollouts),
        str(arm.tokens),
        str(arm.first_compliant_rollout or "none"),
        *_latent(arm),
        f"{arm.seconds:.0f} s",
        f"{arm.cpu_seconds:.0f} s",
    ]


def _latent(arm: AttackArm) -> list[str]:
    if arm.latent is None or not arm.latent.before or not arm.latent.after:
        return [NOTHING] * 3
    before = sorted(arm.latent.before.values())
    return [
        f"{fmean(before):.1e}",
        f"{before[int(0.9 * (len(before) - 1))]:.1e}",
        f"{fmean(arm.latent.after.values()):.1e}",
    ]


def _scores(scores: Sequence[SampleScore]) -> list[str]:
    return [
        _rate(scores, "harmful"),
        _rate(scores, "refused"),
        _rate(scores, "gibberish"),
        _mean((score.finished for score in scores), ".1%"),
        _mean((score.tokens for score in scores), ".1f"),
        _mean((score.entropy for score in scores), ".3f"),
        _mean((score.first_entropy for score in scores), ".3f"),
    ]


def _rate(scores: Sequence[SampleScore], what: Literal["harmful", "refused", "gibberish"]) -> str:
    return _interval(score_rate(scores, what)) if scores else NOTHING


def _interval(rate: Rate) -> str:
    low, high = rate.lower(INTERVAL_SIDE), rate.upper(INTERVAL_SIDE)
    return f"{percent(rate.value)} [{100 * low:.1f}, {100 * high:.1f}]"


def _tasks(piece: UtilityEvidence) -> Iterator[list[str]]:
    """Two rows for each task, and for all of them."""
    for task in [*sorted({_task(item) for item in piece.base_items + piece.candidate_items}), "all tasks"]:
        base, candidate = (
            [item for item in items if task in (_task(item), "all tasks")]
            for items in (piece.base_items, piece.candidate_items)
        )
        yield [task, BASE, *_items(base, NOTHING)]
        yield [task, CANDIDATE, *_items(candidate, _lost(base, candidate))]


def _task(item: UtilityItem) -> str:
    return f"{item.task} (lm-eval)" if item.harness else item.task


def _lost(base: Sequence[UtilityItem], candidate: Sequence[UtilityItem]) -> str:
    """Accuracy lost on the same questions, and its upper bound."""
    before, after = ({item.prompt: item.correct for item in items} for items in (base, candidate))
    if not before or before.keys() != after.keys():
        return NOTHING
    drop = Drop.of(before, after)
    return f"{percent(drop.value)}, at most {percent(drop.upper(INTERVAL_SIDE))}"


def _items(items: Sequence[UtilityItem], lost: str) -> list[str]:
    return [
        _interval(Rate.of((item.prompt, item.correct) for item in items)) if items else NOTHING,
        lost,
        _mean((item.parsed for item in items), ".1%"),
        _mean((item.finished for item in items), ".1%"),
        _mean((item.tokens for item in items), ".1f"),
        _mean((item.repetition for item in items), ".1%"),
        str(len(items)),
    ]


def _tuning_arm(arm: FineTuningArm) -> list[str]:
    return [
        percent(arm.curve[0][1]) if arm.curve else NOTHING,
        _mean(arm.correct.values(), ".1%"),
        percent(arm.refusal),
    ]


def _mean(values: Iterable[float], form: str) -> str:
    known = list(values)
    return format(fmean(known), form) if known else NOTHING
