"""Two releases side by side, in one HTML file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from tokenbuncher.report import charts, headline, tables
from tokenbuncher.report.cells import (
    NOTHING,
    Bar,
    Column,
    Table,
    broke,
    interval,
    interval_bar,
    judged,
    known,
    needed,
    number,
    table,
)
from tokenbuncher.report.drawing import Chart
from tokenbuncher.report.figures import Attacked, AttackFigures, ReleaseFigures, Responses, TaskFigures
from tokenbuncher.report.page import digests, filled
from tokenbuncher.verdict import Finding, Outcome

T = TypeVar("T")
Row = tuple[Any, tuple[Any, Any]]
"""What a row is about, and what each release has on it."""

MARK = "<!-- two releases, by tokenbuncher compare -->"
"""Stands in every such page."""
SIDES = ("first", "second")
"""How the page draws what is of each release."""


def compare_report(first: ReleaseFigures, second: ReleaseFigures, names: Sequence[str]) -> str:
    """Two releases side by side: verdicts, rules, attacks, utility, and what differs in spec, policy and digests.

    Args:
        first: The release to compare with, such as the one that has the alias.
        second: The other release.
        names: What the releases are called.

    Returns:
        A self-contained HTML document, like the report's.
    """
    both = (first, second)
    attacks = _matched([one.attacks for one in both], key=lambda attack: attack.key)
    return filled(
        "compare.html.jinja",
        mark=MARK,
        releases=list(zip(SIDES, names, both, strict=True)),
        glance=_glance(both),
        rules=_rules(both),
        attacks=_attacks(attacks),
        overlaid=[_curves("all attacks", measure, attacks) for measure in charts.MEASURES],
        by_attack=[replace(_curves(key, charts.MEASURES[0], {key: pair}), title=key) for key, pair in attacks.items()],
        safety=_safety(both),
        utility=_utility(_matched([one.utility for one in both], key=lambda task: task.task)),
        spec=_differences(*(one.spec.model_dump(mode="json") for one in both)),
        digests=_side_by_side("digest (sha256)", digests(first), digests(second), shown=12),
        versions=_side_by_side("package", _versions(first), _versions(second)),
    )


def _matched(both: Sequence[Sequence[T]], key: Callable[[T], Any]) -> dict[Any, tuple[T | None, T | None]]:
    """The items of both by their keys, None where one has none; in the order of the first."""
    one, other = ({key(item): item for item in items} for items in both)
    return {name: (one.get(name), other.get(name)) for name in dict.fromkeys([*one, *other])}


def _sides(title: str, text: Callable[[Any], str]) -> list[Column[Row]]:
    """A column for each release."""

    def shown(number: int) -> Callable[[Row], str]:
        return lambda row: known(row[1][number], text)

    return [Column(title.format(side=side), shown(number)) for number, side in enumerate(SIDES)]


def _glance(both: Sequence[ReleaseFigures]) -> Table:
    """The figures that each report begins with."""
    tiles = _matched([list(headline.glance(one)) for one in both], key=lambda tile: tile.title)
    columns = [Column[Row]("figure", lambda row: row[0]), *_sides("{side}", lambda tile: f"{tile.value} ({tile.note})")]
    return table(tiles.items(), columns, labels=3)


def _rules(both: Sequence[ReleaseFigures]) -> Table:
    """Every rule in both verdicts; those with different outcomes first."""
    pairs = _matched([one.verdict.findings if one.verdict else [] for one in both], key=lambda f: (f.rule, f.subject))
    columns = [
        Column[Row]("rule", lambda row: row[0][0]),
        Column[Row]("subject", lambda row: row[0][1]),
        Column[Row]("second is", lambda row: _change(*row[1])),
        *_sides("outcome, {side}", judged),
        *_sides("bound, {side}", _bound),
        *_sides("needed, {side}", needed),
    ]
    return table(sorted(pairs.items(), key=lambda row: _change(*row[1]) == "alike"), columns, labels=5)


def _change(first: Finding | None, second: Finding | None) -> str:
    """How the second compares with the first."""
    if first is None or second is None:
        return "not judged" if second is None else "new"
    ranks = [Outcome.BLOCK, Outcome.INCONCLUSIVE, Outcome.PASS]
    before, after = (ranks.index(finding.outcome) for finding in (first, second))
    return "alike" if before == after else "better" if after > before else "worse"


def _bound(finding: Finding) -> str:
    return number(finding, finding.measured if finding.bound is None else finding.bound)


def _attacks(attacks: dict[str, tuple[AttackFigures | None, AttackFigures | None]]) -> Table:
    """Both candidates under each attack, and how strong it was on the base model."""
    columns = [
        Column[Row]("attack", lambda row: row[0]),
        Column[Row]("harm, first", lambda row: _harm("first", row[1][0])),
        Column[Row]("harm, second", lambda row: _harm("second", row[1][1])),
        *_sides("broke, {side}", lambda attack: broke(attack.defended)),
        *_sides("base broke, {side}", lambda attack: broke(attack.undefended)),
    ]
    return table(attacks.items(), columns)


def _harm(side: str, attack: AttackFigures | None) -> str | Bar:
    if attack is None or attack.defended.responses is None:
        return NOTHING
    return interval_bar(side, attack.defended.responses.harm)


def _curves(
    title: str, measure: charts.Measure, attacks: dict[str, tuple[AttackFigures | None, AttackFigures | None]]
) -> Chart:
    arms: list[tuple[str, Attacked]] = [
        (side, attack.defended) for pair in attacks.values() for side, attack in zip(SIDES, pair, strict=True) if attack
    ]
    return charts.arm_chart(title, measure, arms)


def _safety(both: Sequence[ReleaseFigures]) -> Table:
    """Both candidates before any attack."""
    figures = [next(iter(one.safety), None) for one in both]
    rows = []
    for prompts in ("harmful", "benign", "look_alikes"):
        asked = [getattr(one, prompts) if one else None for one in figures]
        sampled: list[Responses | None] = [one.defended if one else None for one in asked]
        if not any(sampled) and prompts == "look_alikes":
            continue
        prompts = prompts.replace("_", "-")
        for what in ("harm", "refusal", "partial", "gibberish"):
            title = "refused in part" if what == "partial" else what
            rows.append([prompts, title, *(interval(getattr(own, what)) if own else NOTHING for own in sampled)])
        rows.append([prompts, "entropy, nats", *(f"{own.entropy:.3g}" if own else NOTHING for own in sampled)])
    return Table(["prompts", "figure", *SIDES], rows, labels=2)


def _utility(tasks: dict[str, tuple[TaskFigures | None, TaskFigures | None]]) -> Table:
    """Accuracy of both candidates, and what each lost against its own base model."""
    columns = [
        Column[Row]("task", lambda row: row[0]),
        *_sides("accuracy, {side}", lambda task: known(task.defended, lambda answers: interval(answers.accuracy))),
        *_sides("lost, {side}", lambda task: known(task.loss, interval)),
    ]
    return table(tasks.items(), columns)


def _versions(figures: ReleaseFigures) -> dict[str, str | None]:
    return {str(name): str(version) for name, version in tables.versions(figures.evidence).rows}


def _side_by_side(what: str, first: dict[str, str | None], second: dict[str, str | None], *, shown: int = 20) -> Table:
    """The values of both, cut to their first characters, and whether they agree."""
    rows = []
    for name in dict.fromkeys([*first, *second]):
        one, other = first.get(name), second.get(name)
        agree = "unknown" if None in (one, other) else "the same" if one == other else "different"
        rows.append([name, *(NOTHING if value is None else value[:shown] for value in (one, other)), agree])
    return Table([what, *SIDES, "they are"], rows, labels=4)


def _differences(first: dict[str, Any], second: dict[str, Any]) -> Table:
    """The fields of the spec, policy included, that differ."""
    one, other = dict(_fields(first)), dict(_fields(second))
    return Table(
        ["field", *SIDES],
        [
            [path, one.get(path, NOTHING), other.get(path, NOTHING)]
            for path in dict.fromkeys([*one, *other])
            if one.get(path) != other.get(path)
        ],
        labels=3,
    )


def _fields(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every field of a document by its path; what is named in a list, such as an attack, by its name."""
    if isinstance(value, list) and value and all(isinstance(item, dict) and "name" in item for item in value):
        value = {item["name"]: item for item in value}
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _fields(inner, f"{path}.{key}" if path else key)
    else:
        yield path, value if isinstance(value, str) else json.dumps(value)
