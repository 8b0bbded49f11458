"""report.md: a release in Markdown, as GitHub and GitLab show it in a pull request or a step's summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tokenbuncher.report import tables
from tokenbuncher.report.defence import ended
from tokenbuncher.report.figures import ReleaseFigures
from tokenbuncher.report.headline import FIRST_REASONS, decided_by, deciding_title, reasons, title, tries
from tokenbuncher.report.markdown import inline, table_lines
from tokenbuncher.verdict import Outcome, Verdict

MOST_REASONS, MOST_FINDINGS = 40, 200
"""So that it fits into a comment (65,536 characters) whatever goes wrong."""


def markdown_report(figures: ReleaseFigures) -> str:
    """The verdict, what decided it, both models under each attack, what the defence cost, and every finding."""
    sign = {Outcome.PASS: "✅", Outcome.BLOCK: "⛔", Outcome.INCONCLUSIVE: "❔"}[figures.outcome]
    policy, verdict = figures.spec.policy, figures.verdict
    lines = [f"## {sign} {inline(figures.headline)}: {inline(title(figures))}", ""]
    if figures.deciding:
        lines += [f"**{deciding_title(figures)}:** {inline(decided_by(figures.deciding))}", ""]
    told = reasons(figures)
    bullets = _bullets(told[:FIRST_REASONS])
    if verdict:
        bullets += _bullets([f"waived: {waived}" for waived in verdict.waived])
    lines += [*bullets, ""] if bullets else []
    if others := told[FIRST_REASONS:]:
        lines += [f"<details><summary>{len(others)} more</summary>", "", *_bullets(others), "", "</details>", ""]
    if figures.attacks:
        lines += [*table_lines(tables.duels(figures.attacks, policy.max_harm_after_attack)), ""]
    if figures.utility:
        lines += [*table_lines(tables.utility(figures.utility)), ""]
    if figures.defence:
        lines += [inline(ended(figures.defence)), ""]
    lines += _judged(figures, verdict) if verdict else []
    return "\n".join(lines)


def _judged(figures: ReleaseFigures, verdict: Verdict) -> list[str]:
    """Every finding, the policy, and what was judged."""
    return [
        "<details><summary>Every finding</summary>",
        "",
        *_findings(verdict),
        "",
        "</details>",
        "",
        f"<details><summary>Policy {inline(figures.spec.policy.name)}</summary>",
        "",
        *table_lines(tables.thresholds(figures.spec.policy)),
        "",
        "</details>",
        "",
        f"{tries(figures.tries)}.",
        "",
        f"Valid until {verdict.expires:%Y-%m-%d %H:%M %Z}. Model sha256 `{verdict.candidate[:12]}`, "
        f"policy `{verdict.policy[:12]}`, evidence of spec `{verdict.spec[:12]}`, "
        f"tokenbuncher {verdict.tool_version}.",
        "",
    ]


def _findings(verdict: Verdict) -> list[str]:
    table = tables.findings(verdict)
    shown, left = table_lines(replace(table, rows=table.rows[:MOST_FINDINGS])), len(table.rows) - MOST_FINDINGS
    return [*shown, "", f"and {left} more, in report.html"] if left > 0 else shown


def _bullets(statements: Sequence[str]) -> list[str]:
    shown = [f"- {inline(statement)}" for statement in statements[:MOST_REASONS]]
    left = len(statements) - len(shown)
    return [*shown, f"- and {left} more, in report.html"] if left else shown
