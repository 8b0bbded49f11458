"""What keeps a release from a PASS, as a table for the terminal: a short line for each rule, the worst first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from tokenbuncher.report.cells import number
from tokenbuncher.report.deciding import room
from tokenbuncher.verdict import Finding, Outcome, Verdict

WIDTH = 118
SHORTEST_SUBJECT = 16
FIGURES = ("measured", "bound", "needed")


def failures(verdict: Verdict) -> list[str]:
    """The findings that do not pass: what blocks, what is undecided, what is waived. No lines if all of them pass."""
    failed = [finding for finding in verdict.findings if finding.required and finding.outcome is not Outcome.PASS]
    lines: list[str] = []
    for outcome in (Outcome.BLOCK, Outcome.INCONCLUSIVE):
        found = [finding for finding in failed if finding.decides and finding.outcome is outcome]
        lines += _section(outcome, found, "what to do", remark=lambda finding: finding.advice)
    waived = [finding for finding in failed if not finding.decides]
    lines += _section("waived", waived, "waiver", remark=lambda finding: finding.waiver or "")
    return [*lines, "`tokenbuncher explain` says more about each of them.", ""] if lines else []


def _section(
    title: str, findings: Sequence[Finding], remarked: str, *, remark: Callable[[Finding], str]
) -> Iterator[str]:
    """A table of findings. A remark that all of them share is given once, below it."""
    if not findings:
        return
    ranked = sorted(findings, key=room)
    remarks = list(map(remark, ranked))
    shared = remarks[0] if len(remarks) > 1 and len(set(remarks)) == 1 else ""
    yield f"{title}, {len(ranked)} finding{'s' if len(ranked) > 1 else ''}:"
    yield from _aligned(
        [("rule", "subject"), *((finding.rule, finding.subject) for finding in ranked)],
        [FIGURES, *(_figures(finding, shared) for finding in ranked)],
        ["" if shared else remarked, *("" if shared else remark for remark in remarks)],
    )
    yield from [f"  {remarked}: {shared}", ""] if shared else [""]


def _figures(finding: Finding, shared: str) -> tuple[str, ...]:
    """The figures of a finding; if it has none, its statement, which takes their place and that of the remark."""
    if finding.measured is None:
        statement = finding.message.removeprefix(f"{finding.rule}, {finding.subject}: ")
        if shared:
            statement = statement.removesuffix(f" {shared[0].upper()}{shared[1:]}.")
        return (" ".join(statement.split()),)
    needed = f"{finding.comparator} {number(finding, finding.threshold, digits=2)}"
    return number(finding, finding.measured, digits=2), number(finding, finding.bound, digits=2), needed


def _aligned(
    names: Sequence[tuple[str, str]], figures: Sequence[tuple[str, ...]], remarks: Sequence[str]
) -> Iterator[str]:
    """Rows in columns, none of them too long: subjects give way first, in their middle, and then the ends of lines."""
    whole = [(*cells, remark) for cells, remark in zip(figures, remarks, strict=True) if len(cells) > 1]
    measured, bound, needed, last = (max(map(len, column)) for column in zip(*whole, strict=True))
    rule, subject = (max(map(len, column)) for column in zip(*names, strict=True))
    spare = WIDTH - sum(width + 2 for width in (rule, measured, bound, needed, last, 0))
    subject = min(subject, max(SHORTEST_SUBJECT, spare))
    for name, cells, remark in zip(names, figures, remarks, strict=True):
        row = [name[0].ljust(rule), _middle_cut(name[1], subject).ljust(subject)]
        if len(cells) > 1:
            row += [cells[0].rjust(measured), cells[1].rjust(bound), cells[2].ljust(needed), remark]
        else:
            row += cells
        line = f"  {'  '.join(row)}".rstrip()
        yield line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}..."


def _middle_cut(text: str, width: int) -> str:
    """A name of at most this width. Most of its end stays, because it holds the seed."""
    if len(text) <= width:
        return text
    end = (width - 3) * 2 // 3
    return f"{text[: width - 3 - end]}...{text[-end:]}"
