"""Curves of shares by training step, as the geometry of an inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenbuncher.evidence import AttackEvidence, FineTuning
from tokenbuncher.report.tables import BASE, CANDIDATE

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 38, 78, 12, 34
LABEL_HEIGHT = 14


@dataclass(frozen=True)
class Curve:
    """One line of a chart, in SVG units, labelled at its end."""

    name: str
    points: list[tuple[float, float]]
    label_y: float


@dataclass(frozen=True)
class Chart:
    """A chart of shares, 0 to 1 upwards, by step."""

    title: str
    y_axis: str
    curves: list[Curve]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    bottom: int = HEIGHT - BOTTOM


def harm_chart(attack: AttackEvidence) -> Chart:
    """Harm of both models while they were attacked."""
    return _chart(
        f"Attack {attack.key}",
        "harm",
        [(point.step, point.harm) for point in attack.control_arm.curve],
        [(point.step, point.harm) for point in attack.candidate_arm.curve],
    )


def fine_tuning_chart(tuning: FineTuning) -> Chart:
    """Accuracy of both models while they were fine-tuned."""
    return _chart(f"Benign fine-tuning, {tuning.kind}", "accuracy", tuning.base.curve, tuning.candidate.curve)


def _chart(title: str, y_axis: str, base: Sequence[tuple[int, float]], candidate: Sequence[tuple[int, float]]) -> Chart:
    last = max([1, *(step for step, _ in [*base, *candidate])])
    # The dashed line is drawn last: where the curves coincide, both are seen.
    named = [(name, curve) for name, curve in ((CANDIDATE, candidate), (BASE, base)) if curve]
    labels = _spread([_y(curve[-1][1]) for _, curve in named])
    return Chart(
        title,
        y_axis,
        [
            Curve(name, [(_x(step, last), _y(share)) for step, share in curve], label)
            for (name, curve), label in zip(named, labels, strict=True)
        ],
        x_ticks=[(_x(step, last), str(step)) for step in sorted({0, last // 2, last})],
        y_ticks=[(_y(share), f"{share:.0%}") for share in (0.0, 0.5, 1.0)],
    )


def _x(step: int, last: int) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * step / last, 1)


def _y(share: float) -> float:
    return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share, 1)


def _spread(heights: list[float]) -> list[float]:
    """Moves two labels apart that would overlap."""
    if len(heights) < 2 or abs(heights[0] - heights[1]) >= LABEL_HEIGHT:
        return heights
    upper = min(*heights, HEIGHT - BOTTOM - LABEL_HEIGHT)
    first_is_upper = heights[0] <= heights[1]
    return [upper, upper + LABEL_HEIGHT] if first_is_upper else [upper + LABEL_HEIGHT, upper]
