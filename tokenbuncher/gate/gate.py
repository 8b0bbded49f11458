"""The gate stage: reads the evidence, judges it, writes the verdict and its report, and signs it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tokenbuncher.attestation import FILE_NAME as ATTESTATION_NAME
from tokenbuncher.attestation import sign
from tokenbuncher.core.files import check_output, whole_folder, write_text
from tokenbuncher.core.log import RESULT, event
from tokenbuncher.evidence import read_all_evidence, read_defence_steps, read_registration
from tokenbuncher.report import CARD_NAME, card, defence_figures, documents, failures, junit, release_figures
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.verdict import FILE_NAME, Verdict, headline, judge_release

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner

logger = logging.getLogger(__name__)

JUNIT_NAME = "junit.xml"


def gate(
    spec: ReleaseSpec,
    evidence: Sequence[Path],
    registration: Path,
    *,
    out: Path | None = None,
    signer: CryptoSigner | None = None,
    steps: Path | None = None,
) -> Verdict:
    """Judges a release and logs the verdict.

    Evidence that cannot be read makes the verdict INCONCLUSIVE, like evidence that is missing.

    Args:
        spec: The release spec.
        evidence: Evidence files, or folders that hold them at any depth.
        registration: registration.json, or a folder that holds it at any depth.
        out: Folder to be written: verdict.json, report.html, report.md, report.json, card.md, junit.xml; and
            attestation.json, if signed. Without it the verdict is printed and nothing is written.
        signer: The private key that signs the attestation, whatever the verdict.
        steps: Step log of the defence, or a folder that holds it, for the report alone; if None, the one in the folders
            of the evidence. One that cannot be read is left out.

    Returns:
        The verdict.

    Raises:
        UserError: If the output would replace something else, or the registration cannot be read, so that there is no
            version to judge.
    """
    if out:
        check_output(out)
    registered = read_registration(registration)
    pieces, unreadable = read_all_evidence(evidence)
    verdict = judge_release(spec, pieces, registered, unreadable=unreadable)
    if out:
        defence = defence_figures(spec.defence, read_defence_steps([steps] if steps else evidence))
        with whole_folder(out) as folder:
            write_text(folder / FILE_NAME, verdict.model_dump_json(indent=1) + "\n")
            for name, text in documents(release_figures(spec, verdict, pieces, defence=defence)).items():
                write_text(folder / name, text)
            write_text(folder / CARD_NAME, card(spec, verdict, pieces, signed=signer is not None, defence=defence))
            write_text(folder / JUNIT_NAME, junit(spec.policy, verdict))
            if signer:
                write_text(
                    folder / ATTESTATION_NAME,
                    sign(spec, pieces, registered, verdict=verdict, signer=signer, unreadable=unreadable),
                )
    for line in failures(verdict):
        logger.info(line)
    result = {"outcome": verdict.outcome, "version": verdict.version, "reasons": verdict.reasons}
    told = headline(spec.policy, verdict.outcome, verdict)
    logger.info(f"{told}: {verdict.name} version {verdict.version}", extra=event(RESULT, **result))
    return verdict
