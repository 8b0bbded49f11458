"""The gate stage: reads the evidence, judges it, writes verdict.json and report.html."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenbuncher.evidence import read_all_evidence, read_registration
from tokenbuncher.files import whole_folder, write_text
from tokenbuncher.report import render
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.verdict import FILE_NAME, Verdict, judge_release

REPORT_NAME = "report.html"


def gate(spec: ReleaseSpec, evidence: Sequence[Path], registration: Path, out: Path) -> Verdict:
    """Judges a release and prints the verdict.

    Evidence that cannot be read makes the verdict INCONCLUSIVE, like evidence that is missing.

    Args:
        spec: The release spec.
        evidence: Evidence files, or the folders that hold them.
        registration: registration.json, or its folder.
        out: Folder to be written: verdict.json, report.html.

    Returns:
        The verdict.

    Raises:
        UserError: If the registration cannot be read: there is no version to judge.
    """
    registered = read_registration(registration)
    pieces, unreadable = read_all_evidence(evidence)
    verdict = judge_release(spec, pieces, registered, unreadable)
    with whole_folder(out) as folder:
        write_text(folder / FILE_NAME, verdict.model_dump_json(indent=1) + "\n")
        write_text(folder / REPORT_NAME, render(verdict, pieces))
    for line in [*verdict.reasons, f"{verdict.outcome}: {verdict.name} version {verdict.version}"]:
        print(line)
    return verdict
