"""DSSE envelopes around statements: made from evidence that is judged again, and verified part by part."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from tokenbuncher.attestation.statement import Statement, statement_of
from tokenbuncher.documents import digest_of, first_problem
from tokenbuncher.errors import UserError
from tokenbuncher.evidence import Registration
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.verdict import AnyPiece, Verdict, judge_release

if TYPE_CHECKING:
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner, SSlibKey

FILE_NAME = "attestation.json"
TAG = "tokenbuncher.attestation"
"""Tag of a registered model version that holds its attestation, as JSON text."""
PAYLOAD_TYPE = "application/vnd.in-toto+json"
CLOCK_SKEW = timedelta(minutes=5)


def sign(
    spec: ReleaseSpec,
    evidence: Sequence[AnyPiece],
    registration: Registration,
    verdict: Verdict,
    signer: CryptoSigner,
    unreadable: Sequence[str] = (),
) -> str:
    """The signed attestation of a verdict, as the JSON text of a DSSE envelope.

    Args:
        spec: The release spec.
        evidence: Every piece there is.
        registration: The registered version.
        verdict: What the gate made of them.
        signer: The private key.
        unreadable: Why other pieces could not be read.

    Raises:
        UserError: If the verdict is not what the evidence gives: nobody's key is put to that.
    """
    from securesystemslib.dsse import Envelope

    if judge_release(spec, evidence, registration, unreadable, now=verdict.created) != verdict:
        raise UserError("the verdict is not what this evidence gives under this spec and policy; run gate again")
    payload = statement_of(spec, registration, verdict).model_dump_json(by_alias=True).encode()
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return json.dumps(envelope.to_dict())


def verify(
    text: str | bytes,
    keys: Sequence[SSlibKey],
    now: datetime | None = None,
    policy: str | None = None,
    model: str | None = None,
    version: str | None = None,
) -> tuple[Statement, list[str]]:
    """Verifies an attestation: signature, outcome, validity and, if given, policy, model and version.

    Args:
        text: The JSON text of the envelope.
        keys: Public keys that are trusted.
        now: The present, unless given.
        policy: Digest of the policy it must be about.
        model: Name of the registered model it must be about.
        version: The version of it.

    Returns:
        The statement, and what is wrong with it, in words; nothing means that it holds. Its files are another
        matter: see `verify_files`.

    Raises:
        UserError: If it is no attestation, or no trusted key has signed it: then it says nothing at all.
    """
    now = now or datetime.now(UTC)
    envelope = _envelope(text)
    if envelope.payload_type != PAYLOAD_TYPE:
        raise UserError(f"the envelope holds {envelope.payload_type}, not {PAYLOAD_TYPE}")
    _check_signature(envelope, keys)
    try:
        statement = Statement.model_validate_json(envelope.payload)
    except ValidationError as error:
        raise UserError(f"the attestation is not valid: {first_problem(error)}") from error
    return statement, list(_problems(statement, now, policy, model, version))


def verify_files(statement: Statement, files: Mapping[str, str]) -> list[str]:
    """What differs between the files that were judged and these, in words; nothing means all are the same.

    Args:
        statement: A verified statement.
        files: sha256 of every file there is, by relative POSIX path.
    """
    judged = statement.files()
    return [
        *(f"file {name} is missing" for name in judged if name not in files),
        *(f"file {name} was not judged" for name in files if name not in judged),
        *(
            f"file {name} has sha256 {files[name][:12]}, not the judged {judged[name][:12]}"
            for name in judged
            if name in files and files[name] != judged[name]
        ),
    ]


class _Signature(BaseModel):
    keyid: str
    sig: str


class _Form(BaseModel):
    """What the library does not check: that an envelope is made of text."""

    model_config = ConfigDict(strict=True)

    payload: str
    payloadType: str
    signatures: list[_Signature]


def _envelope(text: str | bytes) -> Envelope:
    from securesystemslib.dsse import Envelope

    try:
        _Form.model_validate_json(text)
        return Envelope.from_dict(json.loads(text))
    except ValidationError as error:
        raise UserError(f"this is not a DSSE envelope: {first_problem(error)}") from error
    except Exception as error:  # the library lets many kinds through
        raise UserError(f"this is not a DSSE envelope: {type(error).__name__}: {error}") from error


def _check_signature(envelope: Envelope, keys: Sequence[SSlibKey]) -> None:
    from securesystemslib.exceptions import VerificationError

    signed_by = ", ".join(keyid[:12] for keyid in envelope.signatures) or "nobody"
    trusted = ", ".join(key.keyid[:12] for key in keys) or "none"
    if not keys:
        raise UserError(f"no key is trusted; the attestation is signed by {signed_by}")
    try:
        envelope.verify(list(keys), threshold=1)
    except VerificationError as error:
        raise UserError(
            f"no trusted key has signed this attestation: it names {signed_by}, trusted are {trusted}"
        ) from error


def _problems(
    statement: Statement, now: datetime, policy: str | None, model: str | None, version: str | None
) -> Iterator[str]:
    predicate = statement.predicate
    if predicate.result != "PASSED":
        yield f"the verdict is {predicate.result}: {'; '.join(predicate.reasons) or 'no reason told'}"
    if predicate.failedTests:
        yield f"failed: {', '.join(predicate.failedTests)}"
    if predicate.created > now + CLOCK_SKEW:
        yield f"it says it was made at {predicate.created.isoformat()}, in the future"
    if now >= predicate.expires:
        yield f"it expired at {predicate.expires.isoformat()}"
    if policy is not None and predicate.configured("policy") != policy:
        yield f"it was judged by policy {(predicate.configured('policy') or 'none')[:12]}, not {policy[:12]}"
    if predicate.policy and predicate.configured("policy") != digest_of(predicate.policy):
        yield "the policy that it shows is not the one that it was judged by"
    if model is not None and predicate.model != model:
        yield f"it is about model {predicate.model}, not {model}"
    if version is not None and predicate.version != version:
        yield f"it is about version {predicate.version}, not {version}"
    names = [file.name for file in statement.subject]
    if len(set(names)) != len(names) or sorted(names) != sorted(file.name for file in predicate.files):
        yield "its files are listed twice, or otherwise than its subjects"
