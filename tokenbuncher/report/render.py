"""Fills the report's template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tokenbuncher.evidence import AttackEvidence, SafetyEvidence, UtilityEvidence
from tokenbuncher.report import tables
from tokenbuncher.report.charts import fine_tuning_chart, harm_chart
from tokenbuncher.verdict import Verdict

TEMPLATE = "report.html.jinja"


def render(verdict: Verdict, evidence: Sequence[AttackEvidence | SafetyEvidence | UtilityEvidence]) -> str:
    """The report on a verdict.

    Args:
        verdict: The verdict.
        evidence: What it stands on; parts may be missing.

    Returns:
        A self-contained HTML document. It holds figures and digests, never the text of a prompt or response.
    """
    attacks = sorted((piece for piece in evidence if isinstance(piece, AttackEvidence)), key=lambda a: a.key)
    safety = [piece for piece in evidence if isinstance(piece, SafetyEvidence)]
    utility = [piece for piece in evidence if isinstance(piece, UtilityEvidence)]
    tunings = [tuning for piece in utility for tuning in piece.fine_tuning]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(
        verdict=verdict,
        findings=tables.findings(verdict),
        attacks=tables.attacks(attacks),
        budgets=tables.budgets(attacks),
        harm_charts=[harm_chart(attack) for attack in attacks],
        safety=tables.safety(safety),
        utility=tables.utility(utility),
        tunings=tables.fine_tunings(tunings),
        tuning_charts=[fine_tuning_chart(tuning) for tuning in tunings],
        pieces=tables.pieces([*attacks, *safety, *utility]),
    )
