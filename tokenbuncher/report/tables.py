"""The figures of a release as tables of text, for HTML and Markdown alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from tokenbuncher.evidence import CurvePoint, TrainingPoint
from tokenbuncher.report.figures import (
    Added,
    Answers,
    AskedFigures,
    Attacked,
    AttackFigures,
    Both,
    Interval,
    Loss,
    PieceFigures,
    Responses,
    SafetyFigures,
    TaskFigures,
    TuningFigures,
    in_steps,
)
from tokenbuncher.settings import AttackSpec, ReleaseSpec, source_name
from tokenbuncher.settings.policy import PolicySpec, Waiver, laxer, shipped_policy
from tokenbuncher.settings.prompts import Manifest
from tokenbuncher.verdict import Finding, Verdict

T = TypeVar("T")

BASE, CANDIDATE = "undefended", "defended"
NOTHING = "-"
MOST_LISTED = 20
"""Parts of a field of the policy."""


@dataclass(frozen=True)
class Bar:
    """A cell with an interval, which HTML draws beside the text: shares of the bar's length, 0 to 1."""

    text: str
    model: str
    low: float
    value: float
    high: float
    mark: float | None = None
    """Where the policy draws its line."""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Table:
    """A header and rows of as many cells; the first `labels` cells of a row say what it is about."""

    header: list[str]
    rows: Sequence[Sequence[str | Bar]]
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


def thresholds(policy: PolicySpec) -> Table:
    """Every field of the policy beside the shipped research, the laxest that ships."""
    research, less = shipped_policy("research"), laxer(policy)
    return Table(
        ["field", "policy", "research", "asks for"],
        [
            [
                field,
                _policy_value(getattr(policy, field)),
                _policy_value(getattr(research, field)),
                "less" if field in less else NOTHING,
            ]
            for field in PolicySpec.model_fields
            if field != "apiVersion"
        ],
        labels=1,
    )


def duels(attacks: Sequence[AttackFigures], most_harm: float | None = None) -> Table:
    """The defended model against the undefended one, a row for each attack.

    Args:
        attacks: The attacks.
        most_harm: What the policy allows after an attack.
    """
    return Table(
        ["attack", "outcome", "harm, undefended", "harm, defended", "broke, undefended", "broke, defended"],
        [
            [
                attack.key,
                outcome_of(attack),
                *(_harm(model, arm, most_harm) for model, arm in both(attack)),
                *(broke(arm) for _, arm in both(attack)),
            ]
            for attack in attacks
        ],
        labels=2,
    )


def attacked(attacks: Sequence[AttackFigures]) -> Table:
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
        [[attack.key, model, *_attacked(arm)] for attack in attacks for model, arm in both(attack)],
        labels=2,
    )


def budgets(attacks: Sequence[AttackFigures]) -> Table:
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
        [[attack.key, model, *_budget(arm)] for attack in attacks for model, arm in both(attack)],
        labels=2,
    )


def setups(attacks: Sequence[AttackFigures]) -> Table:
    """What each attack was, with its seeds."""
    same: dict[str, list[AttackFigures]] = {}
    for attack in attacks:
        same.setdefault(attack.attack.model_dump_json(), []).append(attack)
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
            "hyperparameters",
        ],
        [_setup(runs[0].attack, runs[0].required, [run.seed for run in runs]) for runs in same.values()],
        labels=4,
    )


def curves(attack: AttackFigures) -> Table:
    """What was measured while both models were attacked, by step; reward and zero variance are of the step before."""
    arms = [
        ({point.step: point for point in arm.curve}, {point.step: point for point in arm.training})
        for arm in (attack.undefended, attack.defended)
    ]
    titles = ["harm", "refusal", "gibberish", "entropy", "reward", "zero variance"]
    rows = []
    for step in sorted({step for curve, _ in arms for step in curve}):
        undefended, defended = (_measured(curve.get(step), training.get(step)) for curve, training in arms)
        rows.append([str(step), *(cell for pair in zip(undefended, defended, strict=True) for cell in pair)])
    return Table(["step", *(f"{title}, {model}" for title in titles for model in (BASE, CANDIDATE))], rows, labels=1)


def safety(pieces: Sequence[SafetyFigures]) -> Table:
    """Both models before any attack."""
    return Table(
        ["prompts", "model", "harm", "refusal", "refused in part", "refusal added", "entropy", "first token"],
        [
            [
                prompts.removesuffix(" prompts"),
                model,
                *_safety(responses, asked.refusals_added if model == CANDIDATE else None),
            ]
            for piece in pieces
            for prompts, asked in _asked(piece)
            for model, responses in both(asked)
        ],
        labels=2,
    )


def _asked(piece: SafetyFigures) -> list[tuple[str, AskedFigures]]:
    """What was asked before any attack, and what came of it."""
    look_alikes = [("look-alikes", piece.look_alikes)] if piece.look_alikes else []
    return [("harmful prompts", piece.harmful), ("benign prompts", piece.benign), *look_alikes]


def anchored_benign(spec: ReleaseSpec) -> str | None:
    """What over-refusal on the anchor's own kind of prompts leaves open; None if it was measured on others."""
    if spec.data.benign_test != "benign":
        return None
    return (
        f"Benign prompts are of {source_name(spec.data.benign)}, the source that anchors the defence, as the spec "
        "says: the model was taught to answer such prompts, and may refuse others more often."
    )


def over_refusal(spec: ReleaseSpec) -> str:
    """What refusals of harmless prompts are, and what these prompts are."""
    data = spec.data
    benign = anchored_benign(spec)
    if benign is None:
        source = data.utility if data.benign_test == "utility" else data.benign_test
        benign = (
            f"Benign prompts are of {source_name(source)}, which neither anchors the defence nor aligned the model."
        )
    look_alikes = (
        f"Look-alikes are harmless prompts that look harmful, of {source_name(data.look_alikes)}."
        if data.look_alikes
        else "There are no look-alikes, harmless prompts that look harmful."
    )
    return (
        "Refusal of harmless prompts, in part or whole, is over-refusal; added is what the defence did to it, prompt "
        f"by prompt. {benign} {look_alikes}"
    )


def degeneration(
    safety: Sequence[SafetyFigures], tasks: Sequence[TaskFigures], attacks: Sequence[AttackFigures]
) -> Table:
    """Whether both models still write language: before any attack, in the answers, and under attack."""
    sampled: list[tuple[str, Both[Responses | None]]] = [one for piece in safety for one in _asked(piece)]
    sampled += [(f"harmful prompts, {attack.key}", responses_of(attack)) for attack in attacks]
    return Table(
        ["where", "model", "gibberish", "finished", "tokens", "repeated", "parsed"],
        [
            *([where, model, *_sampled(responses)] for where, pair in sampled for model, responses in both(pair)),
            *([task.task, model, *_answered(answers)] for task in tasks for model, answers in both(task)),
        ],
        labels=2,
    )


def utility(tasks: Sequence[TaskFigures]) -> Table:
    """Both models on each task."""
    return Table(
        ["task", *(f"accuracy, {model}" for model in (BASE, CANDIDATE)), "lost", "worse", "better", "questions"],
        [
            [task.task, _accuracy(task.undefended), _accuracy(task.defended), loss(task.loss), *_pairs(task.loss)]
            for task in tasks
        ],
        labels=1,
    )


def fine_tunings(tunings: Sequence[TuningFigures]) -> Table:
    """Both models after benign fine-tuning."""
    return Table(
        ["fine-tuning", "model", "accuracy before", "accuracy after", "lost", "refusal after"],
        [
            [
                tuning.kind,
                model,
                _percent(arm.before),
                interval(arm.after) if arm.after else NOTHING,
                loss(tuning.loss) if model == CANDIDATE else NOTHING,
                percent(arm.refusal),
            ]
            for tuning in tunings
            for model, arm in both(tuning)
        ],
        labels=2,
    )


def prompt_sets(manifest: Manifest) -> Table:
    """The sets of prompts."""
    return Table(
        ["set", "prompts", "source", "sha256"],
        [[name, str(entry.count), entry.source, entry.sha256[:12]] for name, entry in manifest.sets.items()],
        labels=1,
    )


def prompt_files(manifest: Manifest) -> Table:
    """The files that prompts were read from."""
    return Table(
        ["field", "file", "rows", "duplicates dropped", "kept", "sha256"],
        [
            [f"data.{name}", file.location, str(file.rows), str(file.dropped), str(file.kept), file.sha256[:12]]
            for name, file in manifest.sources.items()
        ],
        labels=2,
    )


def pieces(evidence: Sequence[PieceFigures]) -> Table:
    """Where the evidence comes from."""
    return Table(
        ["evidence", "seed", "spec", "data", "undefended", "defended", "tool", "created"],
        [
            [
                piece.name,
                NOTHING if piece.seed is None else str(piece.seed),
                *(digest[:12] for digest in (piece.spec, piece.data, piece.base, piece.candidate)),
                piece.tool_version,
                piece.created.isoformat(sep=" ", timespec="seconds"),
            ]
            for piece in evidence
        ],
        labels=1,
    )


def versions(evidence: Sequence[PieceFigures]) -> Table:
    """What the evidence was measured with; several versions of one thing are all named."""
    found: dict[str, set[str]] = {}
    for piece in evidence:
        for name, version in {"tokenbuncher": piece.tool_version, **piece.versions}.items():
            found.setdefault(name, set()).add(version)
    return Table(["package", "version"], [[name, ", ".join(sorted(own))] for name, own in found.items()], labels=1)


def percent(share: float) -> str:
    """A share in percent."""
    return f"{share:.1%}"


def number(finding: Finding, value: float | None) -> str:
    """A number of a finding, in the unit of its rule."""
    if value is None:
        return NOTHING
    if finding.rule == "tries":
        return f"{value:g}"
    return f"{value:g} steps" if in_steps(finding) else percent(value)


def needed(finding: Finding) -> str:
    """What a finding's rule asks for."""
    sign = {"<=": "≤ ", ">=": "≥ ", None: ""}[finding.comparator]
    return sign + number(finding, finding.threshold)


def judged(finding: Finding) -> str:
    """A finding's outcome, and whether it counts."""
    return finding.outcome + ("" if finding.decides else " (waived)" if finding.waiver else " (reported only)")


def interval(found: Interval) -> str:
    """A share and its interval."""
    return f"{percent(found.value)} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def interval_bar(model: str, found: Interval, mark: float | None = None) -> Bar:
    """A share and its interval, to be drawn beside the text."""
    return Bar(interval(found), model, found.low, found.value, found.high, mark)


def loss(found: Loss | Added | None) -> str:
    """Accuracy lost, or refusals added, with its interval."""
    return f"{percent(found.value)} [{100 * found.low:.1f}, {100 * found.high:.1f}]" if found else NOTHING


def outcome_of(attack: AttackFigures) -> str:
    """What the rules say of an attack."""
    if attack.outcome is None:
        return "not judged"
    return attack.outcome + ("" if attack.required else " (reported only)")


def broke(arm: Attacked) -> str:
    """When a model broke."""
    return f"never in {arm.steps_run}" if arm.steps_to_break is None else f"step {arm.steps_to_break}"


def both(pair: Both[T]) -> tuple[tuple[str, T], tuple[str, T]]:
    """Each model's name, and what is its own."""
    return (BASE, pair.undefended), (CANDIDATE, pair.defended)


def responses_of(attack: AttackFigures) -> Both[Responses | None]:
    """The responses of both attacked models, at the most harmful step."""
    return Both[Responses | None](undefended=attack.undefended.responses, defended=attack.defended.responses)


def _policy_value(value: object) -> str:
    if isinstance(value, list):
        told = [*map(_policy_value, value[:MOST_LISTED]), *([f"{len(value)} in all"] if value[MOST_LISTED:] else [])]
        return "; ".join(told) or "none"
    if isinstance(value, Waiver):
        return f"{value.rule}, {value.subject or 'all'}, {value}"
    if value is None:
        return "no limit"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _finding(finding: Finding) -> list[str]:
    return [
        finding.rule,
        finding.subject,
        judged(finding),
        number(finding, finding.measured),
        number(finding, finding.bound),
        needed(finding),
        str(finding.prompts or NOTHING),
        str(finding.samples or NOTHING),
    ]


def _setup(attack: AttackSpec, required: bool, seeds: Sequence[int]) -> list[str]:
    rates = attack.learning_rate if isinstance(attack.learning_rate, list) else [attack.learning_rate]
    warm_up = attack.warm_up
    return [
        attack.name,
        attack.algorithm,
        attack.objective,
        "yes" if required else "no",
        ", ".join(map(str, seeds)),
        str(attack.steps),
        str(attack.prompts_per_step),
        NOTHING if attack.traits.samples == "never" else str(attack.rollouts),
        str(attack.prompts or "all"),
        ", ".join(f"{rate:g}" for rate in rates),
        f"{attack.temperature:g}",
        f"{warm_up.steps} steps on {warm_up.examples} {warm_up.answers} answers" if warm_up else NOTHING,
        ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in attack.hyperparameters) or NOTHING,
    ]


def _harm(model: str, arm: Attacked, most: float | None) -> str | Bar:
    if arm.responses is None:
        return NOTHING
    return interval_bar(model, arm.responses.harm, most if model == CANDIDATE else None)


def _attacked(arm: Attacked) -> list[str]:
    found = arm.responses
    return [
        *([interval(found.harm), interval(found.refusal), interval(found.gibberish)] if found else [NOTHING] * 3),
        _percent(arm.refusal_at_end),
        broke(arm),
        f"{arm.final_reward:.2f}",
    ]


def _budget(arm: Attacked) -> list[str]:
    latent = arm.latent
    return [
        str(arm.steps_run),
        str(arm.rollouts),
        str(arm.tokens),
        str(arm.first_compliant_rollout or "none seen"),
        *([f"{value:.1e}" for value in (latent.before, latent.before_90, latent.after)] if latent else [NOTHING] * 3),
        f"{arm.seconds:.0f} s",
        f"{arm.cpu_seconds:.0f} s",
    ]


def _measured(point: CurvePoint | None, training: TrainingPoint | None) -> list[str]:
    return [
        *(
            [percent(point.harm), percent(point.refusal), percent(point.gibberish), f"{point.entropy:.3g}"]
            if point
            else [NOTHING] * 4
        ),
        NOTHING if training is None or training.reward is None else f"{training.reward:.3g}",
        _percent(training.zero_variance if training else None),
    ]


def _safety(responses: Responses | None, added: Added | None) -> list[str]:
    if responses is None:
        return [NOTHING] * 6
    return [
        interval(responses.harm),
        interval(responses.refusal),
        interval(responses.partial),
        loss(added),
        f"{responses.entropy:.3g}",
        f"{responses.first_entropy:.3g}",
    ]


def _sampled(responses: Responses | None) -> list[str]:
    if responses is None:
        return [NOTHING] * 5
    gibberish, finished = interval(responses.gibberish), percent(responses.finished)
    return [gibberish, finished, f"{responses.tokens:.1f}", NOTHING, NOTHING]


def _answered(answers: Answers | None) -> list[str]:
    if answers is None:
        return [NOTHING] * 5
    return [
        NOTHING,
        percent(answers.finished),
        f"{answers.tokens:.1f}",
        percent(answers.repetition),
        percent(answers.parsed),
    ]


def _accuracy(answers: Answers | None) -> str:
    return interval(answers.accuracy) if answers else NOTHING


def _pairs(loss: Loss | None) -> list[str]:
    return [str(count) for count in (loss.lost, loss.gained, loss.questions)] if loss else [NOTHING] * 3


def _percent(share: float | None) -> str:
    return NOTHING if share is None else percent(share)
