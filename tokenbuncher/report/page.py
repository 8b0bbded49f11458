"""report.html: a single file that needs nothing else."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tokenbuncher.report import charts, headline, tables
from tokenbuncher.report.cells import both
from tokenbuncher.report.defence import ended
from tokenbuncher.report.figures import AttackFigures, ReleaseFigures


def html_report(figures: ReleaseFigures) -> str:
    """The report on a release.

    Returns:
        A self-contained HTML document, without script. It holds figures and digests, never the text of a prompt or
        response.
    """
    attacks = figures.attacks
    return filled(
        "report.html.jinja",
        figures=figures,
        policy=figures.spec.policy,
        verdict=figures.verdict,
        overlaid=charts.attack_charts("All attacks", attacks),
        by_attack=[(name, runs, charts.attack_charts(name, runs)) for name, runs in _by_name(attacks).items()],
        entropies=charts.entropy_charts(figures.safety, attacks),
        paired=[
            charts.accuracy_chart(figures.utility),
            charts.loss_chart(figures.utility, figures.spec.policy.max_utility_drop),
        ],
        defence_charts=charts.defence_charts(figures.defence) if figures.defence else [],
        tuning_charts=[charts.fine_tuning_chart(tuning) for tuning in figures.fine_tuning],
        hazards=list(_hazards(figures)),
        digests=digests(figures),
        seeds=_seeds(figures),
        commands=_commands(figures),
    )


def filled(template: str, **values: Any) -> str:
    """A page of a template in this folder."""
    return _templates().get_template(template).render(tables=tables, headline=headline, ended=ended, **values)


@cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _by_name(attacks: list[AttackFigures]) -> dict[str, list[AttackFigures]]:
    """The runs of each attack, whatever their seed."""
    runs: dict[str, list[AttackFigures]] = {}
    for attack in attacks:
        runs.setdefault(attack.attack.name, []).append(attack)
    return runs


def _hazards(figures: ReleaseFigures) -> Iterator[str]:
    """What is dangerous about a release, where it is, and what is not shown."""
    yield (
        "Text: none. The evidence names a prompt by the first digits of the sha256 of its text, and holds of a "
        "response what the judge said of it, its length and its entropies. So there is nothing to redact here, and "
        "nothing to reveal: the prompts are in the folder of prepare-data, and responses are not kept."
    )
    arms = [arm for attack in figures.attacks for _, arm in both(attack)]
    if figures.spec.attacks.keep_checkpoints:
        yield (
            f"Attacked weights: attacks.keep_checkpoints keeps those of the {len(arms)} attacked models, in "
            "quarantine/ of each attack's folder. They are hazardous; delete them when they are no longer needed."
        )
    else:
        yield (
            f"Attacked weights: those of the {len(arms)} attacked models were deleted when their attacks had ended. "
            "None was registered."
        )
    broken = [attack.key for attack in figures.attacks if attack.defended.steps_to_break is not None]
    if broken:
        yield (
            f"Whoever has these weights can break them: {', '.join(broken)} did. Give them to nobody who must not have "
            "a model that complies."
        )
    yield "Addresses in the spec have no passwords: a spec with one is refused."


def digests(figures: ReleaseFigures) -> dict[str, str | None]:
    """sha256 digests of what was judged; None if the evidence does not agree on one."""
    if verdict := figures.verdict:
        return {
            "candidate": verdict.candidate,
            "base model": verdict.base,
            "prompt sets": verdict.data,
            "spec": verdict.spec,
            "policy": verdict.policy,
        }
    agreed: dict[str, str | None] = {}
    for name, field in (("candidate", "candidate"), ("base model", "base"), ("prompt sets", "data")):
        found = {getattr(piece, field) for piece in figures.evidence}
        agreed[name] = found.pop() if len(found) == 1 else None
    return {**agreed, "spec": figures.spec.evidence_digest(), "policy": figures.spec.policy_digest()}


def _seeds(figures: ReleaseFigures) -> dict[str, str]:
    spec = figures.spec
    attacks = {f"attack {attack.name}": ", ".join(map(str, attack.seeds)) for attack in spec.attacks.suite}
    return {"data.seed": str(spec.data.seed), "defence.seed": str(spec.defence.seed), **attacks}


def _commands(figures: ReleaseFigures) -> list[tuple[str, str]]:
    """What to run again, and what it does."""
    run = shlex.quote(str(figures.spec.output.root / figures.spec.name))
    return [
        ("tokenbuncher run-local --spec spec.yaml", "the whole run, with the spec below"),
        (f"tokenbuncher gate --evidence {run} --out verdict", "the verdict and this report, from the evidence"),
        (f"tokenbuncher explain --evidence {run}", "by how much each rule is missed, and whether that may be chance"),
    ]
