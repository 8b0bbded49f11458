"""Moves the alias to a registered version, on nothing but a PASS that it has re-checked itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tokenbuncher.attestation import FILE_NAME as ATTESTATION_NAME
from tokenbuncher.errors import UserError
from tokenbuncher.evidence import Registration, only_below, read_all_evidence, read_registration
from tokenbuncher.files import listing_digest
from tokenbuncher.log import RESULT, tell
from tokenbuncher.registry._tries import uncounted
from tokenbuncher.registry._versions import champion, tag, version_files
from tokenbuncher.report import CARD_NAME, HTML_NAME, JSON_NAME, MARKDOWN_NAME, card
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.tracking import Refused, connected
from tokenbuncher.verdict import FILE_NAME, Outcome, Verdict, judge_release, read_verdict

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEPT = (FILE_NAME, HTML_NAME, MARKDOWN_NAME, JSON_NAME, CARD_NAME, ATTESTATION_NAME)
LONGEST_TAG = 100_000
"""Characters that MLflow's registry takes in a tag."""
LONGEST_DESCRIPTION = 5_000
"""Characters that MLflow's registry takes in a description."""


def promote(
    spec: ReleaseSpec, evidence: Sequence[Path], registration: Path, verdict: Path, dry_run: bool = False
) -> None:
    """Moves the alias to the registered version, if its verdict is a PASS that holds.

    The release is judged again from the evidence, and the version's files are downloaded from the registry and
    hashed. The outcome is tagged on the version, and a verdict that holds is kept with it, report, card and attestation
    beside it; the card is its description. Who moves the alias in the meantime wins: this promotion is then refused.

    Args:
        spec: The release spec that the evidence was measured under.
        evidence: Evidence files, or folders that hold them at any depth.
        registration: registration.json, or a folder that holds it at any depth.
        verdict: verdict.json, or a folder that holds it at any depth.
        dry_run: Whether to check all of this and to write nothing: no tag, no file, no alias.

    Raises:
        Refused: On BLOCK, INCONCLUSIVE, or a PASS that does not hold; the alias stays where it is.
        UserError: If registration or verdict cannot be read, or MLflow refuses or cannot be reached.
    """
    registered = read_registration(registration)
    if (registered.name, registered.tracking_uri) != (spec.tracking.model_name, spec.tracking_uri()):
        raise UserError(
            f"{registration} is about {registered.name} at {registered.tracking_uri}, but the spec about "
            f"{spec.tracking.model_name} at {spec.tracking_uri()}; promote with the spec it was registered with"
        )
    name, version, alias = registered.name, registered.version, spec.tracking.alias
    pieces, unreadable = read_all_evidence(evidence)
    judged = judge_release(spec, pieces, registered, unreadable)
    with connected(spec.tracking_uri()) as client:
        before = champion(client, name, alias)
        differing = list(_differences(verdict, judged))
        doubts = [*differing, *_changes(client, registered), *uncounted(client, registered)]
        outcome = Outcome.INCONCLUSIVE if doubts and judged.outcome is Outcome.PASS else judged.outcome
        reason = "; ".join(doubts) or "the verdict tells why"
        if dry_run:
            if outcome is not Outcome.PASS:
                raise Refused(outcome, f"{alias} would not be moved to {name} version {version}: {reason}")
            tell(
                f"would move {alias} from {_named(before)} to version {version} of {name}; nothing was written", RESULT
            )
            return
        if not differing:
            _keep(client, registered, verdict)
            signed = only_below(verdict, FILE_NAME).with_name(ATTESTATION_NAME).is_file()
            client.update_model_version(name, version, _description(card(spec, judged, pieces, signed)))
        tag(client, name, version, verdict=outcome, base=judged.base, data=judged.data)
        if outcome is not Outcome.PASS:
            tag(client, name, version, status="refused")
            raise Refused(outcome, f"{alias} was not moved to {name} version {version}: {reason}")
        if (now := champion(client, name, alias)) != before:
            raise Refused(
                Outcome.INCONCLUSIVE,
                f"{alias} was not moved to {name} version {version}: it went from {_named(before)} to {_named(now)} "
                "in the meantime; promote again if this version is still wanted",
            )
        client.set_registered_model_alias(name, alias, version)
        # Each version's record is written by its own promotion alone, so that two of them cannot contradict.
        tag(client, name, version, **{"status": "promoted", f"promoted.{alias}": datetime.now(UTC).isoformat()})
    tell(f"{alias} is {name} version {version}", RESULT, alias=alias, version=version)


def _named(version: str | None) -> str:
    return f"version {version}" if version else "no version"


def _differences(path: Path, judged: Verdict) -> Iterator[str]:
    """Why the verdict of that file is not the one that the evidence gives."""
    try:
        given = read_verdict(path)
    except UserError as error:
        yield str(error)
        return
    ours, theirs = judged.model_dump(exclude={"created"}), given.model_dump(exclude={"created"})
    differing = [field for field in ours if ours[field] != theirs[field]]
    if differing:
        yield f"{path} is not the verdict on this release, other {', '.join(differing)}; run gate again"


def _changes(client: MlflowClient, registered: Registration) -> Iterator[str]:
    """Why the files in the registry are not the ones that were registered and judged."""
    digest = listing_digest(version_files(client, registered.name, registered.version))
    if digest != registered.digest:
        yield (
            f"the files of {registered.name} version {registered.version} have sha256 {digest[:12]}, not the "
            f"registered {registered.digest[:12]}: they were changed; register the candidate again"
        )


def _keep(client: MlflowClient, registered: Registration, verdict: Path) -> None:
    """Keeps the verdict, and what lies beside it, with the run of the version; the attestation as a tag, too."""
    run = client.get_model_version(registered.name, registered.version).run_id
    verdict = only_below(verdict, FILE_NAME)
    for path in (verdict.with_name(name) for name in KEPT):
        if path.is_file():
            client.log_artifact(run, str(path))
    attestation = verdict.with_name(ATTESTATION_NAME)
    if attestation.is_file():
        text = attestation.read_text()
        if len(text) > LONGEST_TAG:
            raise UserError(f"{attestation} has {len(text)} characters; MLflow keeps {LONGEST_TAG} in a tag")
        tag(client, registered.name, registered.version, attestation=text)


def _description(text: str) -> str:
    """The card, or as many of its sections from the first as a description takes."""
    if len(text) <= LONGEST_DESCRIPTION:
        return text
    more = f"\n\nMore in {CARD_NAME}, among the artifacts of the run.\n"
    room = LONGEST_DESCRIPTION - len(more)
    end = text.rfind("\n### ", 0, room)
    return text[: end if end > 0 else room].rstrip() + more
