"""How a defence with a target went, by its step log: figures, and what it ended as."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from tokenbuncher.evidence import Step
from tokenbuncher.report.cells import fine_percent, short
from tokenbuncher.report.figures import DefenceFigures
from tokenbuncher.settings import DefenceSpec

logger = logging.getLogger(__name__)

BOUNDS = ("target", "max_kl", "max_refusal_mass")
MEASURED = {
    "escape_max": "held_out_escape_max",
    "escape": "held_out_escape",
    "escaping": "held_out_escaping",
    "kl": "held_out_kl",
    "refusal_mass": "held_out_refusal_mass",
    "refusals_added": "held_out_refusals_added",
}
"""By field of a point, the name of its figure in the step log."""


def defence_figures(defence: DefenceSpec, rows: Sequence[Step]) -> DefenceFigures | None:
    """The figures of a defence.

    Args:
        defence: Its settings.
        rows: Its step log.

    Returns:
        None if nothing was measured on held-out prompts, as by recipes without a target; and, with a warning, if the
        log is that of another defence, or its figures are none that a defence can have.
    """
    certain = defence.certain_refusal
    measured = [row for row in rows if {*BOUNDS} <= {*row.figures}]
    if certain is None or not measured:
        return None
    bounds = {name: getattr(certain, name) for name in BOUNDS}
    if any(row.figures[name] != bound for row in measured for name, bound in bounds.items()):
        logger.warning("WARNING: the step log of the defence is left out: its bounds are not those of the spec")
        return None
    document: dict[str, Any] = {
        "recipe": defence.recipe,
        "steps": rows[-1].number,
        **bounds,
        "curve": [{"step": row.number, **_point(row.figures)} for row in measured],
    }
    try:
        return DefenceFigures.model_validate(document)
    except ValidationError as error:
        wrong = ".".join(map(str, error.errors()[0]["loc"]))
        logger.warning(f"WARNING: the step log of the defence is left out: its {wrong} is not what it should be")
        return None


def _point(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {field: figures.get(name) for field, name in MEASURED.items()}


def ended(defence: DefenceFigures) -> str:
    """What the defence ended as, in words, and what these are worth."""
    return f"{_end(defence)} From its step log, which is no evidence: no rule sees it, and it is not signed."


def _end(defence: DefenceFigures) -> str:
    recipe, after = f"Recipe {defence.recipe}", f"after {defence.steps} steps"
    if lacks := list(_lacks(defence)):
        return f"{recipe} ended {after} without meeting its target and bounds: {'; '.join(lacks)}."
    return (
        f"{recipe} reached its target {after}: no held-out harmful prompt escapes with a probability above "
        f"{short(defence.target)}, the worst with {short(defence.curve[-1].escape_max)}."
    )


def _lacks(defence: DefenceFigures) -> Iterator[str]:
    last = defence.curve[-1]
    if last.escaping or last.escape_max > defence.target:
        yield (
            f"{fine_percent(last.escaping)} of the held-out harmful prompts escape with a probability above "
            f"{short(defence.target)}, the worst with {short(last.escape_max)}"
        )
    if last.kl > defence.max_kl:
        yield f"KL from the base model on benign prompts is {short(last.kl)} nats, {short(defence.max_kl)} allowed"
    if last.refusal_mass > defence.max_refusal_mass:
        yield (
            f"the refusal mass added on benign prompts is {fine_percent(last.refusal_mass)}, "
            f"{fine_percent(defence.max_refusal_mass)} allowed"
        )
