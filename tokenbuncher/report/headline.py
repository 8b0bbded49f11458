"""What a report says first: the verdict, what decided it, and the figures a release stands on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tokenbuncher.report.cells import CANDIDATE, NOTHING, Bar, broke, needed, number, percent
from tokenbuncher.report.figures import Attacked, AttackFigures, Both, ReleaseFigures, Responses
from tokenbuncher.verdict import Finding, Outcome

FIRST_REASONS = 3
"""Reasons that are shown at once; a model without a defence fails every rule under every attack."""


@dataclass(frozen=True)
class Tile:
    """A figure at a glance."""

    title: str
    value: str
    note: str


def title(figures: ReleaseFigures) -> str:
    """What was judged."""
    if figures.verdict is None:
        return f"{figures.spec.tracking.model_name}, no version"
    return f"{figures.verdict.name} version {figures.verdict.version}"


def tries(number: int | None) -> str:
    """Which try of the name this is: with many tries, one passes by chance."""
    return f"Try {number} of this name" if number else "How often this name was tried was not counted"


def deciding_title(figures: ReleaseFigures) -> str:
    """What the deciding finding is called."""
    return "Closest call" if figures.outcome is Outcome.PASS else "Decided by"


def reasons(figures: ReleaseFigures) -> list[str]:
    """Why the outcome is not PASS; what decided it first."""
    first = figures.deciding.message if figures.deciding else ""
    return sorted(figures.reasons, key=lambda reason: reason != first)


def compared(finding: Finding) -> str | None:
    """A finding's number and what it is compared with; None if it has none."""
    at = finding.bound if finding.bound is not None else finding.measured
    if at is None or finding.threshold is None:
        return None
    return f"{number(finding, at)} where {needed(finding)} is needed"


def decided_by(finding: Finding) -> str:
    """The rule, what it was judged on, and its number; or what there is instead of one."""
    told = compared(finding)
    return f"{finding.rule}, {finding.subject}: {told}" if told else finding.message


def deciding_bar(finding: Finding) -> Bar | None:
    """A share, its confidence bound and the policy's threshold; None if the finding has no share."""
    if finding.measured is None or finding.bound is None or finding.threshold is None or finding.counts_steps:
        return None
    shown = [max(0.0, value) for value in (finding.measured, finding.bound, finding.threshold)]
    # Small shares on a short scale: 5 % of the bar's length would hide them.
    scale = 1.0 if max(shown) > 0.5 else 2 * max(*shown, 0.01)
    measured, bound, threshold = (value / scale for value in shown)
    return Bar(decided_by(finding), CANDIDATE, min(measured, bound), measured, max(measured, bound), threshold)


def glance(figures: ReleaseFigures) -> Iterator[Tile]:
    """The figures a release manager asks for first."""
    required = [attack for attack in figures.attacks if attack.required]
    yield _attacks(figures)
    yield _harm(required)
    yield _steps(required)
    safety = next(iter(figures.safety), None)
    yield _refusal("Refusal of harmful prompts", safety.harmful if safety else None)
    yield _refusal("Refusal of benign prompts", safety.benign if safety else None)
    if safety and safety.look_alikes:
        yield _refusal("Refusal of look-alikes", safety.look_alikes)
    yield _loss(figures)
    yield _leaks(figures)
    unasked = [
        attack.key for attack in figures.attacks if not attack.required and attack.defended.steps_to_break is not None
    ]
    if unasked:
        yield Tile("Broken by, reported only", ", ".join(unasked), "attacks that the policy does not require")


def _attacks(figures: ReleaseFigures) -> Tile:
    spec = figures.spec
    runs = sum(task.attack.name in spec.policy.required_attacks for task in spec.attacks.tasks())
    passed = sum(attack.required and attack.outcome is Outcome.PASS for attack in figures.attacks)
    note = "by every rule of the policy" if figures.verdict else "nothing was judged"
    return Tile("Required attacks withstood", f"{passed} of {runs}", note)


def _harm(required: Sequence[AttackFigures]) -> Tile:
    def worst(arms: Iterable[Attacked]) -> str:
        rates = [arm.responses.harm.value for arm in arms if arm.responses]
        return percent(max(rates)) if rates else NOTHING

    return Tile(
        "Harm after the worst attack",
        worst(attack.defended for attack in required),
        f"base model {worst(attack.undefended for attack in required)}",
    )


def _steps(required: Sequence[AttackFigures]) -> Tile:
    if not required:
        return Tile("Broke earliest", NOTHING, "no evidence")

    def earliest(arms: Sequence[Attacked]) -> str:
        return broke(min(arms, key=lambda arm: (arm.steps_to_break is None, arm.steps_to_break or arm.steps_run)))

    base = earliest([attack.undefended for attack in required])
    return Tile("Broke earliest", earliest([attack.defended for attack in required]), f"base model: {base}")


def _refusal(title: str, pair: Both[Responses | None] | None) -> Tile:
    base, candidate = (
        percent(responses.refusal.value) if responses else NOTHING
        for responses in ((pair.undefended, pair.defended) if pair else (None, None))
    )
    return Tile(title, candidate, f"base model {base}")


def _loss(figures: ReleaseFigures) -> Tile:
    loss = figures.utility[-1].loss if figures.utility else None
    if loss is None:
        return Tile("Accuracy lost", NOTHING, "no evidence")
    return Tile(
        "Accuracy lost", percent(loss.value), f"95 % interval to {percent(loss.high)}, {loss.questions} questions"
    )


def _leaks(figures: ReleaseFigures) -> Tile:
    if not figures.manifests:
        return Tile("Leaks between prompt sets", NOTHING, "not recorded")
    leaks = sum(len(manifest.leakage) for manifest in figures.manifests)
    return Tile("Leaks between prompt sets", str(leaks), f"near from {figures.manifests[0].near_duplicate:g} on")
