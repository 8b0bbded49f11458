"""A run that ended before its gate came to a verdict: INCONCLUSIVE, and what is missing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.passwords import without_passwords
from tokenbuncher.evidence import DEFENCE_STEPS, found_below, read_all_evidence, read_defence_steps
from tokenbuncher.evidence import FILE_NAME as EVIDENCE
from tokenbuncher.report import HTML_NAME, ReleaseFigures, broken_figures, defence_figures, documents
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.storage import bring_records
from tokenbuncher.verdict import FILE_NAME as VERDICT
from tokenbuncher.verdict import Verdict, read_verdict

logger = logging.getLogger(__name__)

_JUDGED = "<!DOCTYPE html>\n<title>Judged</title>\n<p>{verdict}. The report is an output of the task gate.</p>\n"


def unfinished_figures(
    spec: ReleaseSpec,
    evidence: Sequence[Path],
    failure: str,
    *,
    unknown: Sequence[str] = (),
    steps: Sequence[Path] = (),
) -> ReleaseFigures:
    """The figures of a run that ended without a verdict.

    Args:
        spec: The release spec.
        evidence: Evidence files, or folders that hold them at any depth.
        failure: Why the run ended.
        unknown: Why there may be more evidence than was found.
        steps: Step log of the defence; if there is none, the one in the folders of the evidence.
    """
    there = [path for given in evidence for path in found_below(given, EVIDENCE) if path.exists()]
    pieces, unreadable = read_all_evidence(there)
    return broken_figures(
        spec,
        pieces,
        [without_passwords(failure)],
        unreadable=[*unreadable, *unknown],
        defence=defence_figures(spec.defence, read_defence_steps(steps or evidence)),
    )


def conclude(spec: ReleaseSpec, outputs: str, failure: str, *, report: Path, recorded: str = "") -> None:
    """Reports the verdict of a run that has ended; if there is none, INCONCLUSIVE and what is missing.

    Args:
        spec: The release spec.
        outputs: The local folder, or the URI, with the outputs of the run's tasks.
        failure: Why the run ended, if it failed.
        report: The HTML file to write.
        recorded: Where the evidence is, if it is not among the outputs.
    """
    with TemporaryDirectory() as scratch:
        unknown = []
        try:
            verdicts = _found(outputs, VERDICT, Path(scratch, "verdict"))
            evidence = _found(recorded or outputs, EVIDENCE, Path(scratch, "evidence"))
        except UserError as error:
            verdicts, evidence = [], []
            unknown = [f"what is there cannot be seen from here, a verdict included: {error}"]
        if verdicts:
            text = _told(read_verdict(verdicts[0]))
            report.write_text(_JUDGED.format(verdict=escape(text)), encoding="utf-8")
            logger.info(text)
            return
        steps = _steps(recorded or outputs, Path(scratch, "steps"))
        figures = unfinished_figures(spec, evidence, failure, unknown=unknown, steps=steps)
        report.write_text(documents(figures)[HTML_NAME], encoding="utf-8")
    logger.info(
        f"{figures.outcome}: {'no verdict can be seen' if unknown else 'there is no verdict'}, so nothing passed"
    )
    for reason in figures.reasons:
        logger.info(reason)


def _steps(uri: str, folder: Path) -> list[Path]:
    try:
        return _found(uri, DEFENCE_STEPS, folder)
    except UserError as error:
        logger.warning(f"WARNING: the step log of the defence is left out, it cannot be fetched: {error}")
        return []


def _found(uri: str, name: str, folder: Path) -> list[Path]:
    return [path for path in found_below(bring_records(uri, [name], folder), name) if path.exists()]


def _told(verdict: Verdict) -> str:
    return f"{verdict.outcome}: {verdict.name} version {verdict.version}"
