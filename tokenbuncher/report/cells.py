"""Tables of text, for HTML and Markdown alike: how one is built, and how figures are written in its cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from tokenbuncher.report.figures import Attacked, AttackFigures, Both, Bounded, Interval, Responses
from tokenbuncher.verdict import Finding

T = TypeVar("T")
Row = TypeVar("Row")

BASE, CANDIDATE = "base", "candidate"
NOTHING = "-"


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


class Column(NamedTuple, Generic[Row]):
    """The title of a column, and what it shows of a row."""

    title: str
    cell: Callable[[Row], str | Bar]


def table(rows: Iterable[Row], columns: Sequence[Column[Row]], labels: int = 1) -> Table:
    """A table with a row for each of these, and its first columns as labels."""
    return Table(
        [column.title for column in columns], [[column.cell(row) for column in columns] for row in rows], labels
    )


class OfModel(NamedTuple, Generic[T]):
    """What a row shows of one of the two models."""

    name: str
    model: str
    figures: T


def of_both(name: str, pair: Both[T]) -> list[OfModel[T]]:
    """A row for each model."""
    return [OfModel(name, model, figures) for model, figures in both(pair)]


def both(pair: Both[T]) -> tuple[tuple[str, T], tuple[str, T]]:
    """The name and the figures of each model."""
    return (BASE, pair.undefended), (CANDIDATE, pair.defended)


def known(value: T | None, text: Callable[[T], str] = str) -> str:
    """A value as text, or a dash if there is none."""
    return NOTHING if value is None else text(value)


def percent(share: float) -> str:
    """A share in percent."""
    return f"{share:.1%}"


def fine_percent(share: float) -> str:
    """A share in percent, to three digits: also of a tiny one more is seen than a zero."""
    value = 100 * share
    return f"{value:.3g}%" if value < 1000 else f"{value:,.0f}%"


def short(value: float) -> str:
    """A number to three digits."""
    return f"{value:.3g}"


def number(finding: Finding, value: float | None, *, digits: int = 1) -> str:
    """A number of a finding, in the unit of its rule."""
    if value is None:
        return NOTHING
    if finding.rule == "tries":
        return f"{value:g}"
    return f"{value:g} steps" if finding.counts_steps else f"{value:.{digits}%}"


def needed(finding: Finding) -> str:
    """The threshold of a finding's rule."""
    sign = {"<=": "≤ ", ">=": "≥ ", None: ""}[finding.comparator]
    return sign + number(finding, finding.threshold)


def judged(finding: Finding) -> str:
    """A finding's outcome, and whether it counts."""
    return finding.outcome + ("" if finding.decides else " (waived)" if finding.waiver else " (reported only)")


def interval(found: Bounded) -> str:
    """A share and its interval."""
    return f"{percent(found.value)} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def interval_bar(model: str, found: Interval, mark: float | None = None) -> Bar:
    """A share and its interval, to be drawn beside the text."""
    return Bar(interval(found), model, found.low, found.value, found.high, mark)


def broke(arm: Attacked) -> str:
    """When a model broke."""
    return f"never in {arm.steps_run}" if arm.steps_to_break is None else f"step {arm.steps_to_break}"


def responses_of(attack: AttackFigures) -> Both[Responses | None]:
    """The responses of both attacked models, at the most harmful step."""
    return Both[Responses | None](undefended=attack.undefended.responses, defended=attack.defended.responses)
