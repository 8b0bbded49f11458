"""Moves the alias to a registered version, after a PASS that it has checked again itself."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tokenbuncher.attestation import FILE_NAME as ATTESTATION_NAME
from tokenbuncher.attestation import TAG, refusal
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import listing_digest
from tokenbuncher.core.log import RESULT, event
from tokenbuncher.evidence import Registration, only_below, read_all_evidence, read_registration
from tokenbuncher.registry._aliases import NotMoved, move_alias, named
from tokenbuncher.registry._refused import Refused, registry_at
from tokenbuncher.registry._tries import uncounted
from tokenbuncher.registry._versions import tag, untag, version_files
from tokenbuncher.report import CARD_NAME, HTML_NAME, JSON_NAME, MARKDOWN_NAME, card
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.settings.tracking_uri import absolute
from tokenbuncher.storage.tracking import alias_holder, failures_of, in_words, version_of
from tokenbuncher.verdict import FILE_NAME, Outcome, Verdict, headline, judge_release, read_verdict

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

KEPT = (FILE_NAME, HTML_NAME, MARKDOWN_NAME, JSON_NAME, CARD_NAME, ATTESTATION_NAME)
LONGEST_TAG = 100_000
"""Characters that MLflow's registry takes in a tag."""
LONGEST_DESCRIPTION = 5_000
"""Characters that MLflow's registry takes in a description."""


def promote(
    spec: ReleaseSpec, evidence: Sequence[Path], registration: Path, *, verdict: Path, dry_run: bool = False
) -> None:
    """Moves the alias to the registered version, if its verdict is a PASS that holds.

    The release is judged again from the evidence, and the version's files are downloaded from the registry and
    hashed. The version is tagged with the outcome. A verdict that holds is kept with it, together with report, card and
    attestation; the card becomes its description. If somebody else moves the alias in the meantime, this promotion is
    refused.

    Args:
        spec: The release spec that the evidence was measured under.
        evidence: Evidence files, or folders that hold them at any depth.
        registration: registration.json, or a folder that holds it at any depth.
        verdict: verdict.json, or a folder that holds it at any depth.
        dry_run: Whether to check everything and write nothing: no tag, no file, no alias.

    Raises:
        Refused: On BLOCK, INCONCLUSIVE, or a PASS that does not hold; the alias stays where it is.
        UserError: If registration or verdict cannot be read, or MLflow refuses or cannot be reached.
    """
    registered = _registration(spec, registration)
    name, version, alias = registered.name, registered.version, spec.tracking.alias
    pieces, unreadable = read_all_evidence(evidence)
    judged = judge_release(spec, pieces, registered, unreadable=unreadable)
    with registry_at(spec.tracking_uri()) as client:
        before = alias_holder(client, name, alias)
        decision = _decide(client, registered, judged, path=verdict)
        if dry_run:
            _tell_dry(decision, registered, alias, before=before)
            return
        if decision.refusal:
            _record_refusal(client, registered, decision.refusal)
        if decision.keeps:
            _keep(client, registered, verdict)
            signed = only_below(verdict, FILE_NAME).with_name(ATTESTATION_NAME).is_file()
            client.update_model_version(name, version, _description(card(spec, judged, pieces, signed=signed)))
        tag(client, name, version, verdict=decision.outcome, base=judged.base, data=judged.data)
        tag(client, name, version, headline=headline(spec.policy, decision.outcome, judged))
        if decision.outcome is not Outcome.PASS:
            tag(client, name, version, status="refused")
            told = f"{alias} was not moved to {name} version {version}: {decision.reason}"
            raise Refused(decision.outcome, told + _still_held(client, registered))
        if (now := alias_holder(client, name, alias)) != before:
            raise Refused(
                Outcome.INCONCLUSIVE,
                f"{alias} was not moved to {name} version {version}: it went from {named(before)} to {named(now)} "
                "in the meantime; promote again if this version is still wanted",
            )
        _move(client, registered, alias)
    logger.info(f"{alias} is {name} version {version}", extra=event(RESULT, alias=alias, version=version))


class _Decision(NamedTuple):
    outcome: Outcome
    reason: str
    keeps: bool
    """Whether the verdict that was given is kept with the version."""
    refusal: Verdict | None
    """The verdict that refuses the version, if one does. Missing or changed files do not refuse it."""


def _decide(client: MlflowClient, registered: Registration, judged: Verdict, *, path: Path) -> _Decision:
    differing = list(_differences(path, judged))
    given = judged if differing else read_verdict(path)
    ended = list(_later_refusals(client, registered, given))
    doubts = [*differing, *ended, *_changes(client, registered), *uncounted(client, registered)]
    refuses = judged.outcome is Outcome.BLOCK or (judged.outcome is not Outcome.PASS and not differing)
    return _Decision(
        outcome=Outcome.INCONCLUSIVE if doubts and judged.outcome is Outcome.PASS else judged.outcome,
        reason="; ".join(doubts) or "see the verdict",
        keeps=not differing and not ended,
        refusal=given if refuses else None,
    )


def _registration(spec: ReleaseSpec, path: Path) -> Registration:
    registered = read_registration(path)
    if (registered.name, absolute(registered.tracking_uri)) != (spec.tracking.model_name, spec.tracking_uri()):
        raise UserError(
            f"{path} is about {registered.name} at {registered.tracking_uri}, but the spec about "
            f"{spec.tracking.model_name} at {spec.tracking_uri()}; promote with the spec it was registered with"
        )
    return registered


def _tell_dry(decision: _Decision, registered: Registration, alias: str, *, before: str | None) -> None:
    name, version = registered.name, registered.version
    if decision.outcome is not Outcome.PASS:
        raise Refused(decision.outcome, f"{alias} would not be moved to {name} version {version}: {decision.reason}")
    would = f"would move {alias} from {named(before)} to version {version} of {name}"
    logger.info(f"{would}; nothing was written", extra=event(RESULT))


def _move(client: MlflowClient, registered: Registration, alias: str) -> None:
    """Moves the alias, and writes down what came of it.

    Each version's record is written by its own promotion alone, so that two of them cannot contradict.
    """
    name, version = registered.name, registered.version
    try:
        move_alias(client, name, alias, version=version)
    except NotMoved as refused:
        if refused.denied:
            tag(client, name, version, status="refused")
        raise
    try:
        tag(client, name, version, **{"status": "promoted", f"promoted.{alias}": datetime.now(UTC).isoformat()})
    except failures_of(client.tracking_uri) as error:
        raise UserError(
            f"{alias} is {name} version {version}, but this could not be written down with the version: "
            f"{in_words(error)}; promote it again"
        ) from error


def _record_refusal(client: MlflowClient, registered: Registration, verdict: Verdict) -> None:
    """Writes down that a verdict has refused the version: from now on, no attestation made until then counts."""
    name, version = registered.name, registered.version
    known = refusal(version_of(client, name, version).tags)
    if known is None or not _is_later(known, verdict.created):
        tag(client, name, version, refused_at=verdict.created.isoformat())
    untag(client, name, version, key=TAG)


def _later_refusals(client: MlflowClient, registered: Registration, verdict: Verdict) -> Iterator[str]:
    """Whether a verdict on record has refused the version since this one. A PASS is then no longer valid."""
    known = refusal(version_of(client, registered.name, registered.version).tags)
    if verdict.outcome is Outcome.PASS and known is not None and _is_later(known, verdict.created):
        yield f"a verdict of {known} has refused the version; run gate again, with all the evidence there is by now"


def _is_later(record: str, created: datetime) -> bool:
    """Whether a refusal on record is not earlier than a verdict; one that cannot be read counts as later."""
    try:
        return datetime.fromisoformat(record) >= created
    except (ValueError, TypeError):
        return True


def _still_held(client: MlflowClient, registered: Registration) -> str:
    """What to do about the aliases that a refused version has."""
    aliases = version_of(client, registered.name, registered.version).aliases
    if not aliases:
        return ""
    return f". It still has {', '.join(sorted(aliases))}: go back with `tokenbuncher rollback`, or take the alias away"


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
        yield f"{path} is not the verdict on this release: it differs in {', '.join(differing)}; run gate again"


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
    run = version_of(client, registered.name, registered.version).run_id
    verdict = only_below(verdict, FILE_NAME)
    for path in (verdict.with_name(name) for name in KEPT):
        if path.is_file():
            client.log_artifact(run, str(path))
    attestation = verdict.with_name(ATTESTATION_NAME)
    if attestation.is_file():
        text = attestation.read_text(encoding="utf-8")
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
