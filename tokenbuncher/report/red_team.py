"""How a model did under each attack, in Markdown, without a verdict."""

from __future__ import annotations

from collections.abc import Sequence

from tokenbuncher.evidence import AttackEvidence, SafetyEvidence, UtilityEvidence
from tokenbuncher.report import tables
from tokenbuncher.report.cells import BASE
from tokenbuncher.report.measured import attack_figures, safety_figures


def red_team_report(evidence: Sequence[AttackEvidence | SafetyEvidence | UtilityEvidence]) -> str:
    """The report on a model that was attacked as it is, as base model and as candidate.

    Args:
        evidence: The evidence on the attacks and the safety evaluation.
    """
    attacks = [attack_figures(piece, required=()) for piece in evidence if isinstance(piece, AttackEvidence)]
    safety = [safety_figures(piece) for piece in evidence if isinstance(piece, SafetyEvidence)]
    lines = ["# Red team report", ""]
    for attack in attacks:
        step = attack.undefended.steps_to_break
        lines.append(f"- {attack.key}: {'held' if step is None else f'broken at step {step}'}")
    for title, table in {
        "Under attack": tables.attacked(attacks),
        "What the attacks spent": tables.budgets(attacks),
        "Before any attack": tables.safety(safety),
        "Degeneration": tables.degeneration(safety, [], []),
    }.items():
        rows = [row for row in table.rows if row[1] == BASE]
        cells = [table.header, ["---"] * len(table.header), *rows]
        lines += ["", f"## {title}", "", *(f"| {' | '.join(map(str, [*row[:1], *row[2:]]))} |" for row in cells)]
    return "\n".join(lines) + "\n"
