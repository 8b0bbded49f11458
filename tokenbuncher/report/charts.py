"""The charts of a release: attacks and defence by step, entropies, utility by question, benign fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log10

from tokenbuncher.report.cells import BASE, CANDIDATE, both, fine_percent, percent, responses_of, short
from tokenbuncher.report.drawing import Chart, Series, by_bin, by_name, by_step
from tokenbuncher.report.figures import (
    ENTROPY_EDGES,
    Attacked,
    AttackFigures,
    Both,
    DefenceFigures,
    DefencePoint,
    Responses,
    SafetyFigures,
    TaskFigures,
    TuningFigures,
)

Points = Sequence[tuple[float, float]]

LEAST_ESCAPE = 1e-12
"""Lower ones are drawn here: a logarithm needs a floor."""


@dataclass(frozen=True)
class Measure:
    """A figure of every attack that is measured by step."""

    title: str
    of: Callable[[Attacked], Points]
    text: Callable[[float], str]
    is_share: bool = False


MEASURES = [
    Measure("harm", lambda arm: [(point.step, point.harm) for point in arm.curve], percent, is_share=True),
    Measure("reward", lambda arm: [(p.step, p.reward) for p in arm.training if p.reward is not None], short),
    Measure("entropy, nats", lambda arm: [(point.step, point.entropy) for point in arm.curve], short),
    Measure(
        "zero-variance share",
        lambda arm: [(p.step, p.zero_variance) for p in arm.training if p.zero_variance is not None],
        percent,
        is_share=True,
    ),
]


def attack_charts(title: str, attacks: Sequence[AttackFigures]) -> list[Chart]:
    """A chart for each of MEASURES, both models under all these attacks overlaid."""
    # The dashed lines are drawn last: where curves coincide, both are seen.
    arms = [(CANDIDATE, attack.defended) for attack in attacks] + [(BASE, attack.undefended) for attack in attacks]
    return [arm_chart(title, measure, arms) for measure in MEASURES]


def arm_chart(title: str, measure: Measure, arms: Sequence[tuple[str, Attacked]]) -> Chart:
    """One measure of attacked models by step, overlaid; each with the name that says how it is drawn."""
    series = [Series(model, measure.of(arm)) for model, arm in arms]
    return by_step(title, measure.title, series, text=measure.text, is_share=measure.is_share)


def defence_charts(defence: DefenceFigures) -> list[Chart]:
    """What the defence reached on held-out prompts, and what it cost there, by step."""
    return [
        by_step(
            "Defence",
            "probability of escape",
            [
                Series("worst", [(point.step, _decade(point.escape_max)) for point in defence.curve]),
                Series("mean", [(point.step, _decade(point.escape)) for point in defence.curve]),
                _limit(defence, _decade(defence.target)),
            ],
            text=lambda exponent: short(10**exponent),
        ),
        _cost_chart(defence, "KL, share of its bound", lambda point: point.kl / defence.max_kl, limit=1.0),
        _cost_chart(defence, "refusal mass added", lambda point: point.refusal_mass, limit=defence.max_refusal_mass),
        _cost_chart(defence, "refusals added", lambda point: point.refusals_added),
    ]


def _cost_chart(
    defence: DefenceFigures, title: str, of: Callable[[DefencePoint], float], *, limit: float | None = None
) -> Chart:
    series = [Series("measured", [(point.step, of(point)) for point in defence.curve])]
    series += [_limit(defence, limit)] if limit is not None else []
    return by_step("Defence", title, series, text=fine_percent)


def _limit(defence: DefenceFigures, value: float) -> Series:
    return Series("limit", [(0, value), (defence.steps, value)], dots=False)


def _decade(escape: float) -> float:
    return log10(max(escape, LEAST_ESCAPE))


def fine_tuning_chart(tuning: TuningFigures) -> Chart:
    """Accuracy of both models while they were fine-tuned."""
    series = [Series(CANDIDATE, tuning.defended.curve), Series(BASE, tuning.undefended.curve)]
    return by_step("Benign fine-tuning", f"accuracy, {tuning.kind}", series, text=percent, is_share=True)


def entropy_charts(safety: Sequence[SafetyFigures], attacks: Sequence[AttackFigures]) -> list[Chart]:
    """How many responses have which entropy: before any attack, and of all attacked models together."""
    found: dict[str, Sequence[Both[Responses | None]]] = {
        "Harmful prompts, before any attack": [piece.harmful for piece in safety],
        "Benign prompts, before any attack": [piece.benign for piece in safety],
        "Look-alikes, before any attack": [piece.look_alikes for piece in safety if piece.look_alikes],
        "Harmful prompts, attacked, at the most harmful step": [responses_of(attack) for attack in attacks],
    }
    return [_entropy_chart(title, pairs) for title, pairs in found.items()]


def _entropy_chart(title: str, pairs: Sequence[Both[Responses | None]]) -> Chart:
    counts: dict[str, list[int]] = {}
    for model, responses in (one for pair in pairs for one in both(pair)):
        if responses:
            known = counts.get(model, [0] * len(responses.entropies))
            counts[model] = [sum(pair) for pair in zip(known, responses.entropies, strict=True)]
    edges = [f"{edge:g}" for edge in ENTROPY_EDGES]
    told = [f"{model}: half of the responses {_half(own, edges)} nats" for model, own in counts.items()]
    return by_bin(title, ["less", *edges], edges[::3], counts=counts, told=told)


def _half(counts: Sequence[int], edges: Sequence[str]) -> str:
    """Where at least half of the responses lie."""
    for number, edge in enumerate(edges):
        if sum(counts[: number + 1]) >= sum(counts) / 2:
            return f"lie below {edge}"
    return f"lie above {edges[-1]}"


def accuracy_chart(tasks: Sequence[TaskFigures]) -> Chart:
    """Accuracy of both models on each task, joined."""
    known = [
        (task.task, task.undefended.accuracy, task.defended.accuracy)
        for task in tasks
        if task.undefended and task.defended
    ]
    rows = list(enumerate(reversed(known)))
    return by_name(
        "Accuracy on the same questions",
        [name for _, (name, *_) in rows],
        [
            *(
                Series("joined", [(base.value, row), (candidate.value, row)], dots=False)
                for row, (_, base, candidate) in rows
            ),
            Series(BASE, [(base.value, row) for row, (_, base, _) in rows], line=False),
            Series(CANDIDATE, [(candidate.value, row) for row, (_, _, candidate) in rows], line=False),
        ],
        told=[
            f"{name} {BASE} {percent(base.value)}, {CANDIDATE} {percent(candidate.value)}"
            for name, base, candidate in known
        ],
    )


def loss_chart(tasks: Sequence[TaskFigures], most: float) -> Chart:
    """Accuracy lost on each task with its interval, and the most that the policy allows."""
    known = [(task.task, task.loss) for task in tasks if task.loss]
    rows = list(enumerate(reversed(known)))
    limit = Series("limit", [(most, -0.5), (most, len(known) - 0.5)], dots=False)
    return by_name(
        "Accuracy lost, question by question",
        [name for _, (name, _) in rows],
        [
            *(Series("interval", [(loss.low, row), (loss.high, row)], dots=False) for row, (_, loss) in rows),
            Series(CANDIDATE, [(loss.value, row) for row, (_, loss) in rows], line=False),
            limit,
        ],
        told=[
            f"{name} {percent(loss.value)}, between {percent(loss.low)} and {percent(loss.high)}"
            for name, loss in known
        ]
        + [f"the policy allows {percent(most)}"],
    )
