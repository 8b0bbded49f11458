"""How a model fell to each attack, in Markdown; there is no verdict."""

from __future__ import annotations

from collections.abc import Sequence

from tokenbuncher.evidence import AttackEvidence, SafetyEvidence, UtilityEvidence
from tokenbuncher.report import tables


def red_team_report(evidence: Sequence[AttackEvidence | SafetyEvidence | UtilityEvidence]) -> str:
    """The report on a model that was attacked as it is, as undefended model and as candidate.

    Args:
        evidence: Of the attacks and of the safety evaluation.
    """
    attacks = [piece for piece in evidence if isinstance(piece, AttackEvidence)]
    lines = ["# Red team report", ""]
    for attack in attacks:
        step = attack.control_arm.steps_to_break
        lines.append(f"- {attack.key}: {'held' if step is None else f'broken at step {step}'}")
    for title, table in {
        "Under attack": tables.attacks(attacks),
        "What the attacks spent": tables.budgets(attacks),
        "Before any attack": tables.safety([piece for piece in evidence if isinstance(piece, SafetyEvidence)]),
    }.items():
        rows = [row for row in table.rows if row[1] == tables.BASE]
        cells = [table.header, ["---"] * len(table.header), *rows]
        lines += ["", f"## {title}", "", *(f"| {' | '.join(row[:1] + row[2:])} |" for row in cells)]
    return "\n".join(lines) + "\n"
